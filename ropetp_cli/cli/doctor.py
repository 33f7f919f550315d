"""``ropetp doctor``: what is installed, what is missing, one fix a line."""

import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import click

from ropetp_cli.errors import RopeTPError, first_line

Row = tuple[str, bool, str]

#: Module -> what pip calls it. Each is imported, because a broken binary shows only then.
REQUIRED = {
    "numpy": "numpy", "scipy": "scipy", "PIL": "pillow", "torch": "torch",
    "torchvision": "torchvision", "timm": "timm", "smplx": "smplx", "safetensors": "safetensors",
    "cv2": "opencv-python>=5.0", "ultralytics": "ultralytics", "lap": "lap", "mujoco": "mujoco",
    "pygltflib": "pygltflib", "av": "av",
}  # fmt: skip
#: Modules that cannot be imported where another one is broken: that one is to be mended.
LEANS_ON = {
    "torchvision": ("PIL", "torch"), "timm": ("PIL", "torch", "torchvision"), "smplx": ("torch",),
    "ultralytics": ("PIL", "torch", "torchvision", "cv2"),
}  # fmt: skip
REINSTALL_TORCH = "pip install --force-reinstall torch torchvision"
#: What an import's error says -> the fix that helps where installing it again does not.
CAUSES = {
    "torchvision::nms": f"torch and torchvision are builds that do not match; {REINSTALL_TORCH}",
    "libGL": "apt-get install libgl1 libglib2.0-0, or put opencv-python-headless in its place",
    "libgthread": "apt-get install libglib2.0-0, or put opencv-python-headless in its place",
    "NumPy 1.x": "it was built for another NumPy; pip install --force-reinstall {requirement}",
    "multiarray": "it was built for another NumPy; pip install --force-reinstall {requirement}",
}


@click.command()
@click.option("--weights", type=click.Path(path_type=Path), metavar="DIR",
              help="Weights other than those that ship.")  # fmt: skip
def command(weights: Path | None) -> None:
    """What is installed, what is missing, and the fix, one line each. Exits 1 on a problem."""
    checks = {
        "python": _python, "packages": _packages, "torch": _torch, "opencv": _opencv,
        "video": _video, "weights": lambda: _weights(weights), "detector": _detector,
        "body": _bodies, "settings": _settings, "disk": _disk,
    }  # fmt: skip
    broken = False
    for name, check in checks.items():
        for row, good, message in _guarded(name, check, broken):
            broken |= not good
            mark = click.style("ok " if good else "FIX", fg="green" if good else "red", bold=True)
            click.echo(f"{mark} {row:<22} {message}")
    sys.exit(1 if broken else 0)


def _guarded(name: str, check: Callable[[], Iterator[Row]], broken: bool) -> Iterator[Row]:
    """The rows of a check. One that falls over a package found ``broken`` before says nothing
    more: that package's row has said it."""
    try:
        yield from check()
    except RopeTPError as error:
        yield name, False, str(error)
    except Exception as error:
        if not broken:
            yield name, False, first_line(error)


def _python() -> Iterator[Row]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info[:2] >= (3, 11)
    yield "python", good, version if good else f"{version}; use Python 3.11 or newer"


def _packages() -> Iterator[Row]:
    broken: set[str] = set()
    for module, requirement in REQUIRED.items():
        try:
            found = importlib.import_module(module)
        except Exception as error:
            causes = [fix for sign, fix in CAUSES.items() if sign in str(error)]
            culprits = [name for name in LEANS_ON.get(module, ()) if name in broken]
            fix = f"pip install '{requirement}'"
            if causes:
                fix = causes[0].format(requirement=f"'{requirement}'")
            elif culprits:
                fix = f"mend {culprits[0]} first"
            broken.add(module)
            yield module, False, f"{first_line(error)}; {fix}"
        else:
            yield module, True, str(getattr(found, "__version__", "installed"))


def _torch() -> Iterator[Row]:
    import torch
    import torchvision

    if bool(torch.version.cuda) != bool(torchvision.version.cuda):
        kinds = [f"for CUDA {v}" if v else "for the CPU alone"
                 for v in (torch.version.cuda, torchvision.version.cuda)]  # fmt: skip
        yield (
            "torch and torchvision",
            False,
            f"one is built {kinds[0]}, the other {kinds[1]}; {REINSTALL_TORCH}",
        )
        return
    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    if torch.cuda.is_available():
        yield "device", True, torch.cuda.get_device_name(0)
    elif shutil.which("nvidia-smi"):
        hint = "its driver is older than this PyTorch; see pytorch.org for a build that fits"
        if not torch.version.cuda:
            hint = f"this PyTorch is built for the CPU alone; {REINSTALL_TORCH}"
        yield "device", True, f"runs on the CPU; for the GPU that is here: {hint}"
    else:
        yield "device", True, "no GPU, runs on the CPU"


def _opencv() -> Iterator[Row]:
    import cv2

    builds = sorted(
        {
            name
            for found in metadata.distributions()
            if (name := found.metadata["Name"] or "").startswith("opencv-")
        }
    )
    if len(builds) > 1:
        yield (
            "opencv",
            False,
            f"{' and '.join(builds)} overwrite each other; pip uninstall -y {' '.join(builds)}, "
            "then pip install 'opencv-python>=5.0'",
        )
    if hasattr(cv2, "triangleRasterize"):
        yield "rasterizer", True, "OpenCV draws the previews"
    else:
        fix = f"OpenCV {cv2.__version__} draws no meshes; pip install 'opencv-python>=5.0'"
        yield "rasterizer", False, fix


def _video() -> Iterator[Row]:
    import numpy as np

    from ropetp_cli.video.reader import VideoReader
    from ropetp_cli.video.writer import VideoWriter

    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "two_frames.mp4"
            with VideoWriter(path, (64, 48), 25) as video:
                for _ in range(2):
                    video.write(np.zeros((48, 64, 3), np.uint8))
            with VideoReader(path) as reader:
                count = sum(1 for _ in reader)
        good = count == 2
    except RopeTPError:
        good = False
    fix = (
        "this OpenCV writes or reads no video (no FFmpeg inside, or kept out by an OPENCV_* "
        "variable); unset those, pip install --force-reinstall 'opencv-python>=5.0'"
    )
    yield "video", good, "written and read" if good else fix


def _weights(directory: Path | None) -> Iterator[Row]:
    from ropetp_cli.weights import verify

    yield from verify(directory)


def _detector() -> Iterator[Row]:
    from ropetp_cli.people.detector import default_weights

    yield "detector", True, str(default_weights())


def _bodies() -> Iterator[Row]:
    from ropetp_cli.body.model import INSTALLED, installed_file, load_body

    yield "body", True, load_body().label
    if installed_file() is not None:
        yield "body smpl", True, load_body(INSTALLED).label


def _settings() -> Iterator[Row]:
    """ROPETP_* variables: each must be an option's, with a value it takes."""
    from ropetp_cli.cli import COMMANDS, group

    known: dict[str, click.Parameter] = {}

    def collect(command: click.Command) -> None:
        for child in getattr(command, "commands", {}).values():
            collect(child)
        for param in command.params:
            for name in param.envvar or ():
                known.setdefault(name, param)

    context = click.Context(group)
    for name in COMMANDS:
        collect(group.get_command(context, name))
    for name in sorted(name for name in os.environ if name.startswith("ROPETP_")):
        value = os.environ[name]
        if name not in known:
            yield name, False, f"no option is called so; unset {name}"
            continue
        try:
            known[name].type_cast_value(context, value)
        except click.BadParameter as error:
            yield name, False, f"{value!r}: {error.message} unset or change {name}"
        else:
            yield name, True, value


def _disk() -> Iterator[Row]:
    from ropetp_cli.files import writable_directory

    free = shutil.disk_usage(".").free / 1e9
    yield "disk", free > 1, f"{free:.0f} GB free here" + ("" if free > 1 else "; make room")
    try:
        writable_directory(Path.cwd())
    except RopeTPError as error:
        yield "folder", False, str(error)
