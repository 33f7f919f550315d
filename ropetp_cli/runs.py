"""Finished captures: recognised by what went into them, not by the directory's existence."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ropetp_cli import __version__
from ropetp_cli.errors import RopeTPError
from ropetp_cli.weights import read_manifest, sha256_of


def run_key(video: Path, options: Any) -> str:
    """A digest of the video's bytes, the options, the weights and the version.

    ``options`` is a dataclass. RopeTPError when the video cannot be read.
    """
    try:
        content = sha256_of(Path(video))
    except OSError as error:
        raise RopeTPError(f"{video}: cannot be read ({error.strerror or error})") from error
    told = asdict(options)
    told.pop("batch_size", None)
    files = [entry.sha256 for entry in read_manifest(told.pop("weights", None))]
    parts = json.dumps([content, told, files, __version__], sort_keys=True, default=str)
    return hashlib.sha256(parts.encode()).hexdigest()


def finished_report(out: Path, key: str) -> dict[str, Any] | None:
    """The report of a finished run of ``key`` in ``out``, if all its files are still there."""
    try:
        report = json.loads((out / "report.json").read_text())
        if report["key"] == key and all((out / name).is_file() for name in report["files"]):
            return report
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None
