"""The stage cache: what a stage found, kept until one of its ingredients changes.

A stage's key is a digest of every ingredient of the run but those that only matter from a later
stage on, so an ingredient nobody assigned to a stage counts for all of them. Values are
dataclasses, arrays and plain values, stored as npz with a JSON table beside the arrays: nothing
in a cache file is ever executed, and one that does not fit is computed anew. What a stage hands
on as it was given is not stored again but pointed to.
"""

import dataclasses
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ropetp_cli.allocator import give_back_freed_memory
from ropetp_cli.arrays import open_npz
from ropetp_cli.files import atomic_path, discard_drafts, writable_directory
from ropetp_cli.runs import digest

T = TypeVar("T")

#: By this file backup programs know that a directory need not be kept, and `clean` that it is ours.
TAG = "CACHEDIR.TAG"
TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# Stages of a RopeTP capture.\n"
#: Steps of a long stage are stored this often, s: so much work is lost at most.
STORE_SECONDS = 20.0


class StageCache:
    """Runs stages, or recalls what they gave before.

    ``begins`` lists the stages in order with the ingredients that matter from each on;
    ``classes`` are the dataclasses their results are made of. ``reused`` names the stages that
    were recalled. With ``force`` nothing is recalled.
    """

    def __init__(
        self,
        directory: Path,
        made_of: Mapping[str, Any],
        begins: Mapping[str, tuple[str, ...]],
        classes: Iterable[type],
        force: bool = False,
    ):
        self.directory = writable_directory(directory)
        self.made_of, self.begins, self.force = made_of, begins, force
        self.classes = {kind.__name__: kind for kind in classes}
        self.reused: list[str] = []
        discard_drafts(directory)
        with atomic_path(directory / TAG) as temporary:
            temporary.write_text(TAG_TEXT)

    def __call__(self, stage: str, work: Callable[..., T], *args: Any) -> T:
        """What ``work(*args)`` gives."""
        path, key = self.directory / f"{stage}.npz", self.key(stage)
        if not self.force:
            try:
                value = load(path, key, self.classes, args)
                self.reused.append(stage)
                return value
            except NotStored:
                pass
        value = work(*args)
        save(path, key, value, self.classes, args)
        give_back_freed_memory()
        for part in self._parts(stage):
            part.unlink(missing_ok=True)
        return value

    def key(self, stage: str) -> str:
        """The digest of what ``stage`` depends on."""
        order = list(self.begins)
        later = {name for s in order[order.index(stage) + 1 :] for name in self.begins[s]}
        return digest([stage, {n: v for n, v in self.made_of.items() if n not in later}])

    def steps(self, stage: str, **told: Any) -> "Steps":
        """A memory for the repeated work inside ``stage``; ``told`` says how it is cut up."""
        if self.force:
            for part in self._parts(stage):
                part.unlink(missing_ok=True)
        return Steps(self.directory / stage, digest([self.key(stage), told]), self.classes)

    def _parts(self, stage: str) -> list[Path]:
        return sorted(self.directory.glob(f"{stage}.part*.npz"))


class Steps:
    """Repeated work whose results are stored now and then, so that a killed stage goes on.

    Called in the same order every time, it recalls the steps stored before and runs the others.
    """

    def __init__(self, stem: Path, key: str, classes: Mapping[str, type]):
        self._stem, self._key, self._classes = stem, key, classes
        self._part = 0
        self._recalled: deque[Any] = deque()
        self._fresh: list[Any] = []
        self._stored_at = time.monotonic()
        self._load_next()

    def __call__(self, work: Callable[..., T], *args: Any) -> T:
        """What ``work(*args)`` gives."""
        if self._recalled:
            value = self._recalled.popleft()
            if not self._recalled:
                self._load_next()
            return value
        value = work(*args)
        self._fresh.append(value)
        if time.monotonic() - self._stored_at >= STORE_SECONDS:
            save(self._path(), self._key, self._fresh, self._classes)
            give_back_freed_memory()
            self._part, self._fresh, self._stored_at = self._part + 1, [], time.monotonic()
        return value

    def _path(self) -> Path:
        return self._stem.with_name(f"{self._stem.name}.part{self._part:04d}.npz")

    def _load_next(self) -> None:
        try:
            self._recalled.extend(load(self._path(), self._key, self._classes))
            self._part += 1
        except (NotStored, TypeError):
            pass


class NotStored(Exception):
    """There is no such value, or none that can be read."""


def save(
    path: Path, key: str, value: Any, classes: Mapping[str, type], given: tuple[Any, ...] = ()
) -> None:
    """Store ``value`` under ``key``, in one step; parts that are in ``given`` by their place."""
    packer = _Packer(classes, given)
    table = json.dumps({"key": key, "value": packer.pack(value)})
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, table=np.array(table), **packer.arrays)


def load(
    path: Path, key: str, classes: Mapping[str, type], given: tuple[Any, ...] = ()
) -> Any:  # fmt: skip
    """The value stored under ``key``. NotStored when there is another, a damaged one or none."""
    try:
        with open_npz(path) as file:
            table = json.loads(str(file["table"]))
            if table["key"] != key:
                raise NotStored("made of something else")
            return _unpack(table["value"], file, classes, list(_things(given)))
    except NotStored:
        raise
    except Exception as error:  # whatever is wrong with it, the stage can be run again
        raise NotStored(str(error)) from error


def _things(value: Any) -> Iterator[Any]:
    """The arrays and dataclasses in ``value``, outer before inner, in a fixed order."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _things(item)
    elif dataclasses.is_dataclass(value):
        yield value
        for field in dataclasses.fields(value):
            yield from _things(getattr(value, field.name))


class _Packer:
    """Turns values into JSON; ``arrays`` collects the arrays by the name they leave."""

    def __init__(self, classes: Mapping[str, type], given: tuple[Any, ...]):
        self.arrays: dict[str, np.ndarray] = {}
        self._classes = classes
        self._places = {id(thing): place for place, thing in enumerate(_things(given))}

    def pack(self, value: Any) -> Any:
        if (place := self._places.get(id(value))) is not None:
            return {"given": place}
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            self.arrays[name := f"array{len(self.arrays)}"] = value
            return {"array": name}
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list | tuple):
            return {type(value).__name__: [self.pack(item) for item in value]}
        if isinstance(value, dict):
            return {"dict": [[name, self.pack(item)] for name, item in value.items()]}
        name = type(value).__name__
        if self._classes.get(name) is not type(value):
            raise TypeError(f"a stage's result holds a {name}, which the cache does not know")
        fields = dataclasses.fields(value)
        return {name: {field.name: self.pack(getattr(value, field.name)) for field in fields}}


def _unpack(
    table: Any, arrays: Mapping[str, np.ndarray], classes: Mapping[str, type], given: list[Any]
) -> Any:
    if not isinstance(table, dict):
        return table
    ((kind, content),) = table.items()
    if kind == "given":
        return given[content]
    if kind == "array":
        return arrays[content]
    if kind in ("list", "tuple"):
        items = [_unpack(item, arrays, classes, given) for item in content]
        return items if kind == "list" else tuple(items)
    if kind == "dict":
        return {name: _unpack(item, arrays, classes, given) for name, item in content}
    made = classes[kind]
    if {field.name for field in dataclasses.fields(made)} != set(content):
        raise NotStored(f"{kind} has other fields now")
    values = {name: _unpack(item, arrays, classes, given) for name, item in content.items()}
    return made(**values)


def remove_cache(directory: Path) -> int | None:
    """Remove a stage cache; the bytes freed, None when ``directory`` is no cache of ours."""
    tag = directory / TAG
    if directory.is_symlink() or not tag.is_file() or tag.read_text() != TAG_TEXT:
        return None
    freed = discard_drafts(directory)
    for path in [*directory.glob("*.npz"), tag]:
        freed += path.lstat().st_size
        path.unlink()
    if not any(directory.iterdir()):
        directory.rmdir()
    return freed
