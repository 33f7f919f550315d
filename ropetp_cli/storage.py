"""Folders behind fsspec URLs (s3://, gs:// and what else its packages reach), for batches.

A worker fetches its video to a folder of its own, captures it there, and puts the results back:
stages as they are found, so that another worker can go on from them, then the files, and the
report last. A run that was put back in part has no report and never counts as finished.
"""

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ropetp_cli.errors import RopeTPError, first_line
from ropetp_cli.files import is_alive, writable_directory, write_json
from ropetp_cli.runs import REPORT, earlier_files, last_report

#: What a store says of an object that changes with its content, the surest first.
STAMPS = (
    "ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "modified",
    "created",
)  # fmt: skip
#: A report or summary longer than this, bytes, is none of ours.
LONGEST_TEXT = 64_000_000
CACHE = "cache"

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)


def place(text: str | Path) -> "Path | Far":
    """The path or URL ``text``; ``file://`` is a path. RopeTPError for a URL nobody can follow."""
    found = _URL.fullmatch(str(text))
    if found is None:
        return Path(text)
    return Path(found[2]) if found[1] in ("file", "local") else Far(str(text))


def is_safe(name: str) -> bool:
    """Whether an object's name, relative to its folder, stays below that folder wherever it is
    copied to, and means itself alone in a URL."""
    parts = name.split("/")
    odd = any(mark in name for mark in ("\\", "\0", "::"))
    return not odd and all(part not in ("", ".", "..") for part in parts)


class Far:
    """A folder or object behind a URL; ``far / name`` is one below it."""

    def __init__(self, url: str):
        protocol, self._rest = _URL.fullmatch(url).groups()
        self._protocol, self._rest = protocol, self._rest.rstrip("/")
        if "::" in url:
            raise RopeTPError(f"{url}: chained URLs are not followed; name one store")
        try:
            from fsspec.core import url_to_fs

            self.fs, path = url_to_fs(url)
        except ImportError as error:
            package = getattr(error, "name", None) or first_line(error)
            raise RopeTPError(
                f"{url}: {protocol}:// needs another package ({package}); "
                "pip install 'ropetp[cloud]' for s3:// and gs://"
            ) from error
        except Exception as error:
            raise RopeTPError(f"{url}: cannot be reached ({first_line(error)})") from error
        self.path = path.rstrip("/")

    def __truediv__(self, name: str | PurePosixPath) -> "Far":
        below = copy(self)
        below._rest = f"{self._rest}/{name}" if self._rest else str(name)
        below.path = f"{self.path}/{name}"
        return below

    def __str__(self) -> str:
        return f"{self._protocol}://{self._rest}"

    def listed(self) -> dict[str, dict[str, Any]]:
        """Every object below this folder, by its name relative to it, with what the store says of
        it; empty where there is no such folder."""
        try:
            self.fs.invalidate_cache()
            found = self.fs.find(self.path, detail=True)
        except FileNotFoundError:
            return {}
        except Exception as error:
            raise RopeTPError(f"{self}: cannot be listed ({first_line(error)})") from error
        start = f"{self.path}/"
        return {path[len(start) :]: info for path, info in found.items() if path.startswith(start)}

    def read_text(self) -> str:
        """The text of this object. OSError where it cannot be read."""
        try:
            return self.fs.cat_file(self.path, end=LONGEST_TEXT).decode()
        except ValueError:
            raise
        except Exception as error:
            raise OSError(first_line(error)) from error

    def fetch(self, to: Path, advance: Callable[[int], None] | None = None) -> Path:
        """Stream this object to the new file ``to``; ``advance`` is told of the bytes."""
        from fsspec.callbacks import Callback

        class Told(Callback):
            def relative_update(self, inc: int = 1) -> None:
                if advance is not None:
                    advance(inc)

        try:
            self.fs.get_file(self.path, str(to), callback=Told())
        except Exception as error:
            raise RopeTPError(f"{self}: cannot be fetched ({first_line(error)})") from error
        return to

    def put(self, file: Path) -> None:
        """Stream ``file`` to this object."""
        try:
            try:
                self.fs.put_file(str(file), self.path)
            except FileNotFoundError:  # a store with real directories
                self.fs.makedirs(self.path.rpartition("/")[0], exist_ok=True)
                self.fs.put_file(str(file), self.path)
        except Exception as error:
            raise RopeTPError(f"{self}: cannot be written ({first_line(error)})") from error

    def remove(self) -> None:
        """Remove this object, if it is there."""
        try:
            self.fs.rm_file(self.path)
        except FileNotFoundError:
            pass
        except Exception as error:
            raise RopeTPError(f"{self}: cannot be removed ({first_line(error)})") from error


def stamp_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """What recognises an object as unchanged without reading it: its size and, if the store tells
    of one, a tag or time."""
    known = (f"{name} {info[name]}" for name in STAMPS if info.get(name))
    return {"size": info.get("size"), "stamp": next(known, "")}


def same_object(stamp: Mapping[str, Any], known: Any) -> bool:
    """Whether ``known``, the source in a report, is the object with this ``stamp``."""
    told = isinstance(known, Mapping) and isinstance(known.get("sha256"), str)
    return bool(told and stamp["stamp"] and dict(known) == {**stamp, "sha256": known["sha256"]})


def put_json(value: Any, to: "Path | Far") -> None:
    """``value`` as indented JSON, whole or not at all."""
    if isinstance(to, Path):
        write_json(value, to)
        return
    with tempfile.TemporaryDirectory() as folder:
        to.put(write_json(value, Path(folder) / "value.json"))


def writable(folder: "Path | Far") -> "Path | Far":
    """``folder``, made sure that one can write to it; RopeTPError otherwise."""
    if isinstance(folder, Path):
        return writable_directory(folder)
    probe = folder / f".ropetp-{os.getpid()}.part"
    put_json({}, probe)
    probe.remove()
    return folder


@dataclass
class AtHand:
    """A job whose video and run directory are on this machine while it is worked on.

    ``video`` and ``run`` are the local paths; where they stand for a far one, ``progress`` stores
    the stages found so far whenever another begins, and :meth:`publish` the results.
    """

    video: Path
    run: Path
    progress: Callable | None
    far_run: Far | None = None
    _stored: dict[str, int] = field(default_factory=dict)

    def store_stages(self) -> None:
        """Put the stages that are new since the last time beside the far run."""
        for path in sorted((self.run / CACHE).glob("[!.]*.npz")):
            changed = path.stat().st_mtime_ns
            if ".part" not in path.name and self._stored.get(path.name) != changed:
                (self.far_run / CACHE / path.name).put(path)
                self._stored[path.name] = changed

    def fetch_stages(self) -> None:
        """Recall the stages of an earlier, unfinished try."""
        kept = [name for name in self.far_run.listed() if re.fullmatch(r"cache/\w+\.npz", name)]
        for name in kept:
            (self.run / CACHE).mkdir(parents=True, exist_ok=True)
            with suppress(RopeTPError):  # it is computed anew
                path = (self.far_run / name).fetch(self.run / name)
                self._stored[path.name] = path.stat().st_mtime_ns

    def publish(self, report: dict[str, Any]) -> None:
        """Keep the finished run under ``report``: the files first, the report last."""
        if self.far_run is None:
            write_json(report, self.run / REPORT)
            return
        kept, outdated = earlier_files(last_report(self.far_run), report["motion"])
        (self.far_run / REPORT).remove()
        for name in set(outdated).difference(report["files"]):
            (self.far_run / name).remove()
        for name in report["files"]:
            (self.far_run / name).put(self.run / name)
        self.store_stages()
        there = set(self.far_run.listed()).intersection(kept)
        self.publish_report(report | {"files": list(dict.fromkeys([*report["files"], *there]))})

    def publish_report(self, report: dict[str, Any]) -> None:
        """Put the report alone, for a run whose files are there."""
        put_json(report, self.far_run / REPORT)


@contextmanager
def at_hand(
    video: str, run: str, size: int | None = None, progress: Callable | None = None
) -> Iterator[AtHand]:
    """Bring a job here; what was brought is gone afterwards. ``size`` is what the video must have,
    bytes. RopeTPError where it cannot be fetched."""
    there, far_run = place(video), place(run)
    if isinstance(there, Path) and isinstance(far_run, Path):
        yield AtHand(there, far_run, progress)
        return
    with _own_folder() as folder:
        if isinstance(there, Far):
            near = folder / PurePosixPath(there.path).name
            stage = progress or (lambda name, total: nullcontext())
            with stage("fetch", size) as advance:
                there.fetch(near, advance)
            if size is not None and near.stat().st_size != size:
                raise RopeTPError(
                    f"{video}: {near.stat().st_size} of {size} bytes came; run the batch again"
                )
            there = near
        here = AtHand(there, far_run, progress)
        if isinstance(far_run, Far):
            here.run, here.far_run = folder / PurePosixPath(far_run.path).name, far_run
            here.fetch_stages()
            here.progress = _storing(here, progress)
        yield here


def _storing(here: AtHand, progress: Callable | None) -> Callable:
    @contextmanager
    def stage(name: str, total: int | None) -> Iterator[Callable]:
        here.store_stages()
        with progress(name, total) if progress else nullcontext(lambda count=1: None) as advance:
            yield advance

    return stage


@contextmanager
def _own_folder() -> Iterator[Path]:
    """A folder for this process, in the machine's place for such."""
    sweep()
    folder = tempfile.mkdtemp(prefix=f"{_mark()}{os.getpid()}-")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove the folders that killed processes of this machine left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_mark()}*"):
        owner = folder.name.removeprefix(_mark()).split("-")[0]
        if owner.isdigit() and not is_alive(int(owner)) and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)


def _mark() -> str:
    return f"ropetp-{re.sub(r'[^A-Za-z0-9]', '', platform.node())}-"
