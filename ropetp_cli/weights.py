"""The weights that ship with the tool: where they are, what they are, whether they are whole."""

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path

from ropetp_cli.errors import RopeTPError

PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class WeightFile:
    """One entry of ``manifest.toml``: ``role`` is what asks for it (``rope``, ``trajectory``)."""

    role: str
    path: Path
    sha256: str
    size: int
    licence: str


def default_directory() -> Path:
    """``weights/`` inside the installed package, or beside it in a source checkout."""
    inside = PACKAGE / "weights"
    return inside if (inside / "manifest.toml").is_file() else PACKAGE.parent / "weights"


def read_manifest(directory: Path | None = None) -> list[WeightFile]:
    """The entries of a weights directory. RopeTPError when there is no readable manifest."""
    directory = Path(directory) if directory else default_directory()
    manifest = directory / "manifest.toml"
    try:
        entries = tomllib.loads(manifest.read_text())["file"]
        return [
            WeightFile(e["role"], _inside(directory, e["name"]), e["sha256"], e["size"],
                       e["licence"])
            for e in entries
        ]  # fmt: skip
    except (OSError, UnicodeDecodeError) as error:
        raise RopeTPError(f"{manifest}: cannot be read; give --weights a directory with one") from (
            error
        )
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise RopeTPError(f"{manifest}: not a weights manifest ({error})") from error


def _inside(directory: Path, name: str) -> Path:
    path = (directory / name).resolve()
    if directory.resolve() not in path.parents:
        raise RopeTPError(f"{directory / 'manifest.toml'}: {name!r} lies outside the directory")
    return path


def find_weights(role: str, directory: Path | None = None) -> Path:
    """The file that plays ``role``, its sha256 checked."""
    for entry in read_manifest(directory):
        if entry.role == role:
            problem = _problem(entry)
            if problem:
                raise RopeTPError(f"{entry.path}: {problem}; run `ropetp doctor`")
            return entry.path
    where = directory or default_directory()
    raise RopeTPError(f"{where}: the manifest names no weights for {role!r}")


def verify(directory: Path | None = None) -> list[tuple[str, bool, str]]:
    """(name, whole?, one line about it) for every file of the manifest."""
    rows = []
    for entry in read_manifest(directory):
        problem = _problem(entry)
        message = problem or f"{entry.role}, {entry.size / 1e6:.1f} MB, {entry.licence}"
        rows.append((entry.path.name, problem is None, message))
    return rows


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _problem(entry: WeightFile) -> str | None:
    if not entry.path.is_file():
        return "missing; reinstall ropetp"
    if sha256_of(entry.path) != entry.sha256:
        return "its sha256 is not the manifest's, the file is damaged or changed; reinstall ropetp"
    return None
