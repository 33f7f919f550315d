"""Videos and runs behind URLs: fetched, put back whole, recognised, never outside their place."""

import json
import os
import signal
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
from click.testing import CliRunner
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from ropetp_cli import batch, runs, storage
from ropetp_cli.batch import Job, Ledger, capture_here, capture_one, find_jobs, follow
from ropetp_cli.cli import group
from ropetp_cli.errors import NobodyFound, RopeTPError
from ropetp_cli.files import write_json
from ropetp_cli.storage import Far, at_hand, is_safe, place

TOLD = {"weights": None, "body": None, "detector": None, "steps": 10}
MEMORY = MemoryFileSystem()


class Bucket(LocalFileSystem):
    """A store that other processes see, too; the variable BUCKET says where."""

    protocol = "bucket"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("bucket://", f"{os.environ['BUCKET']}/"))


fsspec.register_implementation("bucket", Bucket, clobber=True)


#: What it writes.
FILES = ["person_01.npz", "person_01.bvh"]


def fake_capture(video, run, options, progress, force, models) -> SimpleNamespace:
    """Writes what a capture writes; the video's first word says what happens to it."""
    video, run = Path(video), Path(run)
    word, made_of = video.read_text().split()[0], runs.ingredients(options.told)
    source = runs.fingerprint(video)
    (run / "cache").mkdir(parents=True, exist_ok=True)
    reused = [path.stem for path in (run / "cache").glob("*.npz")]
    stage = progress or (lambda name, total: nullcontext())
    with stage("people", 4):
        (run / "cache" / "people.npz").write_text("stage")
    with stage("pose", 4):
        if word == "dies" and not reused:
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "empty":
            raise NobodyFound(f"no people found in {video}")
    for name in FILES:
        (run / name).write_text(f"{video.name} {options.told['steps']}")
    report = {
        "key": runs.run_key(made_of | {"video": source["sha256"]}), "files": FILES,
        "motion": f"{source['sha256']} {options.told['steps']}", "source": source,
        "people": [1], "video": {"frames": 7, "path": str(video)}, "reused": reused,
    }  # fmt: skip
    write_json(report, run / "report.json")
    return SimpleNamespace(report=report)


FAKE = SimpleNamespace(
    capture=fake_capture, CaptureOptions=lambda **told: SimpleNamespace(told=told), Models=id
)


@pytest.fixture
def store(monkeypatch, tmp_path):
    """An empty memory store, and a place of its own for temporary folders."""
    monkeypatch.setitem(sys.modules, "ropetp_cli.pipeline", FAKE)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    MEMORY.store.clear()
    MEMORY.pseudo_dirs[:] = [""]
    yield MEMORY
    assert list((tmp_path / "temporary").iterdir()) == []
    MEMORY.store.clear()


def fill(**videos: str) -> None:
    for name, text in videos.items():
        MEMORY.pipe(f"/clips/{name.replace('__', '/')}.mp4", text.encode())


def run_all(
    source: str = "memory://clips", out: str | None = "memory://out", told=TOLD
) -> tuple[dict[str, str], Ledger]:
    """One batch; what every video came to, and the ledger."""
    home = place(out) if out else None
    ledger = Ledger(find_jobs(place(source), home), told, home or place(source))
    ledger.settle_finished()
    for number in ledger.open:
        ledger.settle(number, capture_one(ledger.jobs[number], told))
    ledger.write()
    return {ledger.jobs[n].name: o.result for n, o in ledger.outcomes.items()}, ledger


def refuse(*_, **__):
    pytest.fail("a video was fetched")


def test_a_far_directory_is_captured_and_recognised(store, monkeypatch):
    fill(a="one", b__c="two", empty="empty")
    store.pipe("/clips/a_ropetp/overlay.mp4", b"ours")
    store.pipe("/clips/.hidden.mp4", b"no")
    results, _ = run_all()
    assert results == {"a.mp4": "done", "b/c.mp4": "done", "empty.mp4": "nobody found"}
    run = {Path(path).name for path in store.find("/out/b/c_ropetp")}
    assert run == {"person_01.npz", "person_01.bvh", "report.json", "people.npz"}
    report = json.loads(store.cat("/out/b/c_ropetp/report.json"))
    assert report["video"]["path"] == "memory://clips/b/c.mp4"
    summary = json.loads(store.cat("/out/batch.json"))
    assert summary["counts"] == {"done": 2, "nobody found": 1}

    monkeypatch.setattr(MemoryFileSystem, "get_file", refuse)
    results, ledger = run_all()
    assert results == {"a.mp4": batch.BEFORE, "b/c.mp4": batch.BEFORE, "empty.mp4": batch.NOBODY}
    assert ledger.outcomes[1].frames == 7


def test_what_changed_is_captured_again_and_a_copy_is_not(store):
    fill(a="one", b="two")
    run_all()
    fill(a="one", b="other")  # a: the same bytes with another time
    before = store.cat("/out/a_ropetp/report.json")
    assert run_all()[0] == {"a.mp4": batch.BEFORE, "b.mp4": batch.DONE}
    after = store.cat("/out/a_ropetp/report.json")
    assert before != after and json.loads(before)["key"] == json.loads(after)["key"]
    assert run_all(told=TOLD | {"steps": 20})[0] == {"a.mp4": batch.DONE, "b.mp4": batch.DONE}
    store.rm_file("/out/a_ropetp/person_01.bvh")
    assert run_all(told=TOLD | {"steps": 20})[0] == {"a.mp4": batch.DONE, "b.mp4": batch.BEFORE}


def test_far_files_of_other_motions_go_and_others_of_the_same_stay(store):
    fill(a="one")
    run_all()
    report = json.loads(store.cat("/out/a_ropetp/report.json"))
    report["files"].append("overlay.mp4")
    store.pipe("/out/a_ropetp/overlay.mp4", b"drawn")
    store.pipe("/out/a_ropetp/report.json", json.dumps(report).encode())
    run_all(told=TOLD | {"up": "y"})
    report = json.loads(store.cat("/out/a_ropetp/report.json"))
    assert report["files"] == [*FILES, "overlay.mp4"] and store.exists("/out/a_ropetp/overlay.mp4")
    run_all(told=TOLD | {"steps": 20})
    report = json.loads(store.cat("/out/a_ropetp/report.json"))
    assert report["files"] == FILES and not store.exists("/out/a_ropetp/overlay.mp4")


@pytest.mark.parametrize("fails_at", [*FILES, "people.npz", "report.json"])
def test_what_is_put_back_in_part_is_not_finished(store, monkeypatch, fails_at):
    fill(a="one")
    run_all()
    put = MemoryFileSystem.put_file

    def broken(self, local, remote, **told):
        if remote.endswith(fails_at) and "_ropetp" in remote:
            raise OSError("the line is dead\nsecond line")
        put(self, local, remote, **told)

    monkeypatch.setattr(MemoryFileSystem, "put_file", broken)
    results, ledger = run_all(told=TOLD | {"steps": 20})
    message = ledger.outcomes[0].message
    assert results == {"a.mp4": batch.FAILED} and "line is dead" in message and "\n" not in message
    monkeypatch.setattr(MemoryFileSystem, "put_file", put)
    # Where files may have been replaced the old report must not vouch for them.
    old = batch.BEFORE if fails_at == "people.npz" else batch.DONE
    assert run_all()[0] == {"a.mp4": old}
    assert store.cat("/out/a_ropetp/person_01.npz") == b"a.mp4 10"


def test_near_videos_to_a_store_and_far_ones_to_a_directory(store, tmp_path):
    fill(a="one")
    folder = tmp_path / "near"
    folder.mkdir()
    (folder / "a.mp4").write_text("one")
    for source, out in ((str(folder), "memory://out"), ("memory://clips", str(tmp_path / "out"))):
        assert run_all(source, out)[0] == {"a.mp4": batch.DONE}
        assert run_all(source, out)[0] == {"a.mp4": batch.BEFORE}
    near = json.loads((tmp_path / "out" / "a_ropetp" / "report.json").read_text())
    assert near["video"]["path"] == "memory://clips/a.mp4"
    assert (tmp_path / "out" / "a_ropetp" / "person_01.npz").read_bytes() == store.cat(
        "/out/a_ropetp/person_01.npz"
    )
    assert run_all(out=None)[0] == {"a.mp4": batch.DONE}  # beside the videos
    assert store.exists("/clips/a_ropetp/report.json")


@pytest.mark.parametrize(
    "name",
    ["../../up.mp4", "..", "a/../../b.mp4", "./a.mp4", "a//b.mp4", "/etc/x.mp4", "a\\..\\b.mp4",
     "x::file:a.mp4", "nul\0.mp4", "a/./b.mp4"],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(store, monkeypatch, tmp_path, name):
    assert not is_safe(name) and is_safe("a b/ü*?[x].mp4")
    fill(good="one")
    listed = Far.listed

    def hostile(self):
        return listed(self) | ({name: {"size": 1}} if str(self) == "memory://clips" else {})

    monkeypatch.setattr(Far, "listed", hostile)
    out = tmp_path / "out" / "deep"
    out.mkdir(parents=True)
    results, ledger = run_all(out=str(out))
    assert results.pop("good.mp4") == batch.DONE
    assert set(results.values()) <= {batch.FAILED} and (name == "..") == (not results)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["deep"]
    assert {path.name for path in out.iterdir()} == {"good_ropetp", "batch.json"}


def test_a_video_that_came_in_part_fails(store):
    fill(a="one")
    with pytest.raises(RopeTPError, match="3 of 4 bytes"):
        with at_hand("memory://clips/a.mp4", "memory://out/a_ropetp", 4):
            pass


@pytest.mark.parametrize(
    ("url", "words"),
    [("nonsense://x", "nonsense"), ("s3://a::file://b", "chained"), ("missing://x", "pip install")],
)
def test_a_url_that_cannot_be_followed_is_one_line(store, url, words):
    fsspec.register_implementation("missing", "no_such_package.Store", clobber=True)
    with pytest.raises(RopeTPError, match=words) as error:
        place(url)
    assert "\n" not in str(error.value)
    result = CliRunner().invoke(group, ["batch", url])
    assert isinstance(result.exception, RopeTPError)


def test_fsspec_itself_may_be_missing(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(RopeTPError, match="ropetp\\[cloud\\]"):
        place("s3://bucket/clips")
    assert place("file:///data/clips") == Path("/data/clips") and place("a:b") == Path("a:b")


def test_no_such_far_directory(store):
    with pytest.raises(RopeTPError, match="holds no video"):
        find_jobs(place("memory://nowhere"))


def work(job: Job, told, force, progress):
    """What a worker process of these tests does."""
    sys.modules["ropetp_cli.pipeline"] = FAKE
    return capture_one(job, told, force, progress)


def test_a_killed_worker_leaves_nothing_and_its_stages_are_recalled(tmp_path, monkeypatch):
    (tmp_path / "store" / "in").mkdir(parents=True)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("BUCKET", str(tmp_path / "store"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    for name in ("dies", "lives"):
        (tmp_path / "store" / "in" / f"{name}.mp4").write_text(name)

    def go() -> dict[str, str]:
        out = place("bucket://out")
        ledger = Ledger(find_jobs(place("bucket://in"), out), TOLD, storage.writable(out))
        ledger.settle_finished()
        todo = {number: ledger.jobs[number] for number in ledger.open}
        for _ in follow(capture_here(todo, TOLD, work=work), ledger):
            pass
        assert list((tmp_path / "temporary").iterdir()) == []
        return {ledger.jobs[n].name: o.result for n, o in ledger.outcomes.items()}

    assert go() == {"dies.mp4": batch.FAILED, "lives.mp4": batch.DONE}
    assert not (tmp_path / "store" / "out" / "dies_ropetp" / "report.json").exists()
    assert go() == {"dies.mp4": batch.DONE, "lives.mp4": batch.BEFORE}
    report = json.loads((tmp_path / "store" / "out" / "dies_ropetp" / "report.json").read_text())
    assert report["reused"] == ["people"]


def test_the_command_takes_urls(store, monkeypatch):
    fill(a="one", b__a="two")

    def here(jobs, told, force, workers):
        for number, job in jobs.items():
            yield batch.News(number, outcome=capture_one(job, told, force))

    monkeypatch.setattr(batch, "capture_here", here)
    result = CliRunner().invoke(group, ["batch", "memory://clips", "-o", "memory://out"])
    assert result.exit_code == 0 and "b/a.mp4" in result.stdout
    again = CliRunner().invoke(group, ["batch", "memory://clips", "-o", "memory://out", "--json"])
    assert json.loads(again.stdout)["counts"] == {batch.BEFORE: 2}
