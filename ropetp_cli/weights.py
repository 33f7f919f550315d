"""The weights that ship with the tool: where they are, what they are, whether they are whole."""

import hashlib
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ropetp_cli.errors import RopeTPError
from ropetp_cli.files import atomic_path

PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class WeightFile:
    """One entry of ``manifest.toml``: ``role`` is what asks for it (``rope``, ``keypoints``,
    ``pinpoint``, ``temporal``, ``trajectory``).

    ``url``, where there is one, is an https address that `ropetp setup weights` may fetch it
    from; nothing else ever does.
    """

    role: str
    path: Path
    sha256: str
    size: int
    licence: str
    url: str | None = None


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
            WeightFile(e["role"], _inside(directory, e["name"]), e["sha256"], int(e["size"]),
                       e["licence"], e.get("url"))
            for e in entries
        ]  # fmt: skip
    except (OSError, UnicodeDecodeError) as error:
        raise RopeTPError(f"{manifest}: cannot be read; give --weights a directory with one") from (
            error
        )
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError, AttributeError,
            RecursionError) as error:  # fmt: skip
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


def fetch_missing(
    directory: Path | None = None, read: Callable[[str], BinaryIO] | None = None
) -> list[Path]:
    """Fetch the files that are missing or damaged and have an address; those fetched.

    ``read`` opens an https address (the default one follows redirects to https only). A file
    takes its place only when its size and sha256 are the manifest's. RopeTPError otherwise.
    """
    fetched = []
    for entry in read_manifest(directory):
        if entry.url is not None and _problem(entry):
            _fetch(entry, read or _open_https)
            fetched.append(entry.path)
    return fetched


def _fetch(entry: WeightFile, read: Callable[[str], BinaryIO]) -> None:
    if not entry.url.startswith("https://"):
        raise RopeTPError(f"{entry.url}: not an https address; weights are fetched from those only")
    digest, left = hashlib.sha256(), entry.size
    with atomic_path(entry.path) as temporary, open(temporary, "wb") as file:
        try:
            with read(entry.url) as answer:
                while left >= 0 and (block := answer.read(1 << 20)):
                    digest.update(block)
                    file.write(block)
                    left -= len(block)
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", None) or error
            raise RopeTPError(f"{entry.url}: could not be fetched ({reason})") from error
        if left or digest.hexdigest() != entry.sha256:
            raise RopeTPError(
                f"{entry.url}: not the file of the manifest (size or sha256); refused"
            )


def _open_https(url: str) -> BinaryIO:
    """Nothing but https, whatever the address is redirected to."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener.open(url, timeout=60)


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _problem(entry: WeightFile) -> str | None:
    if not entry.path.is_file():
        return f"missing; {_remedy(entry)}"
    if sha256_of(entry.path) != entry.sha256:
        return "its sha256 is not the manifest's, the file is damaged or changed; " + _remedy(entry)
    return None


def _remedy(entry: WeightFile) -> str:
    return "run `ropetp setup weights`" if entry.url else "reinstall ropetp"
