"""Writing files so that a half-written one never stands under its final name."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ropetp_cli.errors import RopeTPError


def writable_directory(path: Path) -> Path:
    """Make ``path`` a directory one can write to. RopeTPError says why it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        reason = error.strerror or error
        raise RopeTPError(f"{path}: cannot be written ({reason}); choose another with -o") from (
            error
        )


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it when the block ends well."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise RopeTPError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(value: Any, path: Path) -> Path:
    """``value`` as indented JSON at ``path``."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")
    return path
