"""``ropetp doctor``: what is installed, what is missing, one fix a line."""

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator

import click

Row = tuple[str, bool, str]

REQUIRED = {
    "numpy": "numpy", "scipy": "scipy", "torch": "torch", "torchvision": "torchvision",
    "timm": "timm", "smplx": "smplx", "safetensors": "safetensors", "cv2": "opencv-python>=5.0",
    "ultralytics": "ultralytics", "lap": "lap", "mujoco": "mujoco", "pygltflib": "pygltflib",
}  # fmt: skip


@click.command()
def command() -> None:
    """What is installed, what is missing, and the fix, one line each. Exits 1 on a problem."""
    broken = False
    for check in (_python, _packages, _torch, _opencv, _weights, _detector, _body, _disk):
        for name, good, message in _guarded(check):
            broken |= not good
            mark = click.style("ok " if good else "FIX", fg="green" if good else "red", bold=True)
            click.echo(f"{mark} {name:<14} {message}")
    sys.exit(1 if broken else 0)


def _guarded(check: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    try:
        yield from check()
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        yield check.__name__.lstrip("_"), False, first


def _python() -> Iterator[Row]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info[:2] >= (3, 11)
    yield "python", good, version if good else f"{version}; use Python 3.11 or newer"


def _packages() -> Iterator[Row]:
    for module, requirement in REQUIRED.items():
        try:
            found = importlib.import_module(module)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            yield module, False, f"{reason}; pip install '{requirement}'"
        else:
            yield module, True, str(getattr(found, "__version__", "installed"))


def _torch() -> Iterator[Row]:
    import torch
    import torchvision

    cuda_torch, cuda_vision = torch.version.cuda, torchvision.version.cuda
    if bool(cuda_torch) != bool(cuda_vision):
        yield (
            "torch pair",
            False,
            (
                "torch and torchvision are builds of different kinds; "
                "pip install --force-reinstall torch torchvision"
            ),
        )
        return
    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    gpu = torch.cuda.is_available()
    where = torch.cuda.get_device_name(0) if gpu else "no GPU, runs on the CPU"
    yield "device", True, where


def _opencv() -> Iterator[Row]:
    import cv2

    if not hasattr(cv2, "triangleRasterize"):
        yield (
            "rasterizer",
            False,
            (f"OpenCV {cv2.__version__} draws no meshes; pip install 'opencv-python>=5.0'"),
        )
    else:
        yield "rasterizer", True, "OpenCV draws the previews"
    if "FFMPEG" not in cv2.getBuildInformation():
        yield "video", False, "this OpenCV reads no video; pip install opencv-python"
    else:
        yield "video", True, "FFmpeg inside OpenCV"


def _weights() -> Iterator[Row]:
    from ropetp_cli.weights import verify

    yield from verify()


def _detector() -> Iterator[Row]:
    from ropetp_cli.people.detector import default_weights

    yield "detector", True, str(default_weights())


def _body() -> Iterator[Row]:
    from ropetp_cli.body.model import load_body

    yield "body", True, load_body().label


def _disk() -> Iterator[Row]:
    free = shutil.disk_usage(".").free / 1e9
    yield "disk", free > 1, f"{free:.0f} GB free here" + ("" if free > 1 else "; make room")
