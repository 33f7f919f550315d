"""Writing files so that a half-written one never stands under its final name."""

import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ropetp_cli.errors import RopeTPError

_DRAFT = re.compile(r"\..*\.(\d{1,9})-[0-9a-f]{8}\.part(\..*)?", re.DOTALL)


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


def draft_name(path: Path) -> Path:
    """A name beside ``path`` for what is not finished: no other process's, and hidden."""
    return path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}.part{path.suffix}")


def discard_drafts(directory: Path) -> int:
    """Remove the drafts that killed processes of this machine left here; gives the bytes freed."""
    freed = 0
    for path in directory.glob(".*.part*"):
        owner = _DRAFT.fullmatch(path.name)
        if owner and not is_alive(int(owner[1])):
            freed += path.lstat().st_size
            path.unlink(missing_ok=True)
    return freed


def is_alive(process: int) -> bool:
    """Whether a process of this machine runs under that number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it when the block ends well."""
    path = Path(path)
    temporary = draft_name(path)
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
