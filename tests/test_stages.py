"""The stage cache: what it recalls, what it must not, and what it does with damaged files."""

import dataclasses
import os
import pickle
import subprocess
import sys
import zipfile
from dataclasses import dataclass

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ropetp_cli import stages
from ropetp_cli.cli import group
from ropetp_cli.files import discard_drafts, draft_name
from ropetp_cli.stages import NotStored, StageCache, load, save

BEGINS = {"first": (), "second": ("turn",), "last": ("paper",)}
MADE_OF = {"video": "abc", "turn": 1, "paper": "a4", "unheard_of": 0}


@dataclass
class Inner:
    values: np.ndarray
    name: str = "inner"


@dataclass(frozen=True)
class Outer:
    parts: list[Inner]
    pair: tuple
    notes: dict
    nothing: None = None


@dataclass
class Stranger:
    size: int = 1


CLASSES = {"Inner": Inner, "Outer": Outer}
NUMBERS = arrays(
    st.sampled_from([np.float64, np.float32, np.int64, np.bool_, np.uint8]),
    array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.builds(
    Outer,
    st.lists(st.builds(Inner, NUMBERS, st.text())),
    st.tuples(PLAIN, NUMBERS),
    st.dictionaries(st.text(), PLAIN | st.lists(PLAIN)),
)


def same(one, other) -> bool:
    if isinstance(one, np.ndarray):
        equal = np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
        return equal and one.dtype == other.dtype and one.shape == other.shape
    if dataclasses.is_dataclass(one):
        fields = dataclasses.fields(one)
        return type(one) is type(other) and all(
            same(getattr(one, f.name), getattr(other, f.name)) for f in fields
        )
    if isinstance(one, list | tuple):
        pairs = zip(one, other, strict=True)
        return type(one) is type(other) and all(same(*pair) for pair in pairs)
    return type(one) is type(other) and one == other


@settings(max_examples=100, deadline=None)
@given(value=VALUES)
def test_what_is_stored_comes_back(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("store") / "value.npz"
    save(path, "key", value, CLASSES)
    assert same(value, load(path, "key", CLASSES))


def cache(folder, **changes) -> StageCache:
    force = changes.pop("force", False)
    return StageCache(folder / "cache", MADE_OF | changes, BEGINS, [Inner, Outer], force)


def run(made: StageCache, count: list[str]) -> list[np.ndarray]:
    """All stages; those really run are added to ``count``."""

    def work(name: str) -> np.ndarray:
        count.append(name)
        return np.arange(3)

    return [made(name, work, name) for name in BEGINS]


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({}, []),
        ({"paper": "a3"}, ["last"]),
        ({"turn": 2}, ["second", "last"]),
        ({"unheard_of": 1}, ["first", "second", "last"]),
        ({"new": 1}, ["first", "second", "last"]),
        ({"force": True}, ["first", "second", "last"]),
    ],
)
def test_a_stage_is_run_again_only_for_what_matters_to_it(tmp_path, change, again):
    run(cache(tmp_path), [])
    count: list[str] = []
    made = cache(tmp_path, **change)
    run(made, count)
    assert count == again
    assert made.reused == [name for name in BEGINS if name not in again]


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "pickle", "zip", "array"])
def test_a_damaged_cache_is_computed_anew(tmp_path, damage):
    run(cache(tmp_path), [])
    path, sprung = tmp_path / "cache" / "second.npz", tmp_path / "sprung"
    pickle.loads(pickle.dumps(Trap(sprung)))
    sprung.rmdir()  # was made, so the trap works
    whole = path.read_bytes()
    content = {
        "cut": whole[: len(whole) // 2],
        "noise": whole[:40] + bytes(255 - byte for byte in whole[40:80]) + whole[80:],
        "empty": b"",
        "pickle": pickle.dumps(Trap(sprung)),
    }
    if damage == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("table.npy", pickle.dumps(Trap(sprung)))
    elif damage == "array":
        np.savez(path, table=np.array([Trap(sprung)], dtype=object))
    else:
        path.write_bytes(content[damage])
    count: list[str] = []
    run(cache(tmp_path), count)
    assert count == ["second"]
    assert not sprung.exists()
    count.clear()
    run(cache(tmp_path), count)
    assert count == []


def test_a_class_with_other_fields_is_not_filled_from_an_old_file(tmp_path):
    save(tmp_path / "a.npz", "key", Inner(np.zeros(2)), CLASSES)
    newer = dataclasses.make_dataclass("Inner", ["values", "name", ("more", int, 0)])
    with pytest.raises(NotStored):
        load(tmp_path / "a.npz", "key", {"Inner": newer})
    with pytest.raises(NotStored):
        load(tmp_path / "a.npz", "key", {})
    with pytest.raises(NotStored):
        load(tmp_path / "a.npz", "another key", CLASSES)


def test_what_a_stage_was_given_is_pointed_to(tmp_path):
    def given() -> list[Inner]:
        return [Inner(np.random.default_rng(k).random(50_000), str(k)) for k in range(3)]

    def turn(inner: list[Inner], _: object) -> tuple[list[Inner], dict]:
        first = dataclasses.replace(inner[0], name="new")
        return [first, inner[2], Inner(np.zeros(3))], {"note": 0.5}

    one, other = (cache(tmp_path)("second", turn, given(), object()) for _ in range(2))
    assert same(one, other)
    assert (tmp_path / "cache" / "second.npz").stat().st_size < 5000
    inner = given()
    again = cache(tmp_path)("second", turn, inner, object())
    assert again[0][1] is inner[2] and again[0][0].values is inner[0].values


def test_objects_are_never_stored(tmp_path):
    for value in (object(), np.array([object()]), {1, 2}, Stranger()):
        with pytest.raises(TypeError, match="does not know"):
            save(tmp_path / "a.npz", "key", value, CLASSES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_killed_stage_goes_on_where_it_was(tmp_path, monkeypatch, stop):
    monkeypatch.setattr(stages, "STORE_SECONDS", 0.0)
    ran: list[int] = []

    def step(number: int) -> Inner:
        if len(ran) == stop:
            raise KeyboardInterrupt
        ran.append(number)
        return Inner(np.full(2, number))

    def stage(made: StageCache) -> list[Inner]:
        steps = made.steps("second", batch=4)
        return made("second", lambda: [steps(step, number) for number in range(8)])

    with pytest.raises(KeyboardInterrupt):
        stage(cache(tmp_path))
    first, stop = ran.copy(), -1
    answer = stage(cache(tmp_path))
    assert ran == list(range(8)) and len(first) < 8
    assert [item.values.tolist() for item in answer] == [[n, n] for n in range(8)]
    assert not list((tmp_path / "cache").glob("second.part*"))


def test_steps_cut_up_otherwise_are_not_recalled(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "STORE_SECONDS", 0.0)
    made = cache(tmp_path)
    steps = made.steps("second", batch=4)
    assert steps(int, "7") == 7
    assert made.steps("second", batch=4)(int, "8") == 7
    assert made.steps("second", batch=5)(int, "8") == 8
    assert cache(tmp_path, force=True).steps("second", batch=4)(int, "9") == 9


def test_clean_removes_caches_and_nothing_else(tmp_path):
    run(cache(tmp_path / "a"), [])
    run(cache(tmp_path / "b" / "c"), [])
    kept = [tmp_path / "a" / "person_01.npz", tmp_path / "d" / "cache" / "holiday.npz",
            tmp_path / "b" / "c" / "cache" / "notes.txt"]  # fmt: skip
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "cache").symlink_to(tmp_path / "d" / "cache")
    result = CliRunner().invoke(group, ["clean", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0 and "2 caches removed" in result.output
    assert all(path.read_text() == "mine" for path in kept)
    assert not (tmp_path / "a" / "cache").exists()
    assert [p.name for p in (tmp_path / "b" / "c" / "cache").iterdir()] == ["notes.txt"]


def test_drafts_of_the_dead_are_discarded(tmp_path):
    living = draft_name(tmp_path / "person_01.npz")
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead = living.with_name(living.name.replace(str(os.getpid()), str(process.pid)))
    other = tmp_path / ".partly.part"
    for path in (living, dead, other):
        path.write_text("half")
    assert discard_drafts(tmp_path) == 4
    assert living.exists() and other.exists() and not dead.exists()


def test_freed_memory_between_what_is_in_use_goes_back():
    """Large arrays freed among small ones that stay, as a network's batches leave them."""
    code = """
import numpy as np
from ropetp_cli.allocator import give_back_freed_memory, keep_freed_memory
if keep_freed_memory():
    megabytes = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
    large, small = [], []
    for _ in range(100):
        large.append(np.ones(250_000))
        small.append(np.ones(2_000))
    large.clear()
    kept = megabytes()
    assert give_back_freed_memory()
    print(kept - megabytes())
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if not told.stdout:
        pytest.skip("this C library does not keep freed memory")
    assert float(told.stdout) > 150
