"""What a run is made of, and whether it was finished before.

Runs and their stages are recognised by what went into them, not by files that happen to exist:
the video's bytes, the options, the weights, the body and the version.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropetp_cli import __version__
from ropetp_cli.errors import RopeTPError
from ropetp_cli.weights import read_manifest, sha256_of

if TYPE_CHECKING:
    from ropetp_cli.storage import Far

#: What a finished run says of itself.
REPORT = "report.json"
#: Options that change how fast a run is, not what it gives.
SPEED = ("batch_size",)
#: What a capture calls its files.
WRITTEN = re.compile(
    r"(person_\d+|people|overlay|world|world_fixed|side_by_side|paths|viewer)"
    r"\.(npz|bvh|glb|fbx|mp4|png|html)"
)


def digest(value: Any) -> str:
    """The sha256 of a JSON-like value; paths count by their text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def fingerprint(video: Path, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The sha256 of a video's bytes with the size, times and inode it had.

    ``known``, an earlier answer, saves reading a file that has not been touched since.
    RopeTPError when the video cannot be read.
    """
    try:
        status = os.stat(video)
        now = {
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "ctime_ns": status.st_ctime_ns,
            "inode": status.st_ino,
        }
        if isinstance(known, Mapping) and known == {**now, "sha256": known.get("sha256")}:
            return dict(known)
        return {**now, "sha256": sha256_of(Path(video))}
    except OSError as error:
        raise RopeTPError(f"{video}: cannot be read ({error.strerror or error})") from error


def ingredients(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a capture depends on besides its video, by name: the options ``told``, with files by
    their content instead of their name."""
    made_of = {**told, "version": __version__}
    for role in ("body", "detector"):
        if (path := _file(role, told.get(role))) is not None:
            made_of[role] = sha256_of(path)
    weights = {f"{entry.role} weights": entry.sha256 for entry in read_manifest(told["weights"])}
    return {name: value for name, value in made_of.items() if name != "weights"} | weights


def _file(role: str, name: str | None) -> Path | None:
    """The file behind ``--body`` or ``--detector``; None where what ships is used."""
    if role == "body" and name is not None and not Path(name).exists():
        from ropetp_cli.body.model import INSTALLED, installed_file

        return installed_file() if name == INSTALLED else None
    return Path(name) if name is not None and Path(name).is_file() else None


def run_key(made_of: Mapping[str, Any]) -> str:
    """A digest of :func:`ingredients` and the video's sha256."""
    return digest({name: value for name, value in made_of.items() if name not in SPEED})


def last_report(out: "Path | Far") -> dict[str, Any]:
    """The report in ``out``, empty where there is none that can be read."""
    try:
        report = json.loads((out / REPORT).read_text())
        return report if isinstance(report, dict) else {}
    except (OSError, ValueError, RecursionError):  # none, or none of ours
        return {}


def files_of(report: Mapping[str, Any]) -> list[str]:
    """The files a ``report`` speaks of, by name; only such as a capture writes."""
    names = report.get("files")
    names = names if isinstance(names, list) else []
    return [name for name in names if isinstance(name, str) and WRITTEN.fullmatch(name)]


def earlier_files(before: Mapping[str, Any], motion: str) -> tuple[list[str], list[str]]:
    """Of the files that the report ``before`` speaks of: those that show the same ``motion``, such
    as other formats, and may stay; those that do not and have to go."""
    files = files_of(before)
    return (files, []) if before.get("motion") == motion else ([], files)


def is_finished(report: Mapping[str, Any], key: str, there: Callable[[str], bool]) -> bool:
    """Whether ``report`` is that of the run ``key`` and all its files are still ``there``."""
    files = files_of(report)
    return report.get("key") == key and report.get("files") == files and all(map(there, files))
