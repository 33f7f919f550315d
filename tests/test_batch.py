"""Whole directories: what is skipped, what happens to workers, and what is told of it."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from ropetp_cli import batch, runs
from ropetp_cli.batch import Job, Ledger, Outcome, capture_here, find_jobs, follow
from ropetp_cli.cli import group, main
from ropetp_cli.errors import RopeTPError
from ropetp_cli.files import write_json

TOLD = {"weights": None, "body": None, "detector": None, "steps": 10, "formats": ("npz",)}


def videos(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode() * 9)
    return paths


def work(job: Job, told, force, progress) -> Outcome:
    """What a worker does in these tests; the video's name says what happens."""
    name, run = Path(job.video).stem, Path(job.run)
    with progress("people", 4) as advance:
        time.sleep(0.3)
        advance(2)
    if name == "dies":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "raises":
        return Outcome(batch.FAILED, message=f"{job.video}: no")
    if name == "empty":
        return Outcome(batch.NOBODY, message=f"{job.video}: nobody")
    run.mkdir(parents=True, exist_ok=True)
    source = runs.fingerprint(Path(job.video))
    made_of = runs.ingredients(told) | {"video": source["sha256"]}
    report = {"key": runs.run_key(made_of), "files": ["person_01.npz"], "source": source,
              "people": [1, 2], "video": {"frames": 7}}  # fmt: skip
    (run / "person_01.npz").write_text(str(os.getpid()))
    write_json(report, run / "report.json")
    return Outcome(batch.DONE, people=2, frames=7)


def run_all(folder: Path, out: Path, told=TOLD, workers: int = 2) -> Ledger:
    out.mkdir(exist_ok=True)
    ledger = Ledger(find_jobs(folder, out), told, out)
    ledger.settle_finished()
    todo = {number: ledger.jobs[number] for number in ledger.open}
    for _ in follow(capture_here(todo, told, workers=workers, work=work), ledger):
        pass
    return ledger


def results(ledger: Ledger) -> dict[str, str]:
    return {
        Path(job.video).name: ledger.outcomes[number].result
        for number, job in enumerate(ledger.jobs)
        if number in ledger.outcomes
    }


def test_which_videos_and_where_their_runs_go(tmp_path):
    videos(tmp_path, "b.mp4", "a/b.MOV", "a/b.avi", ".hidden.mp4", "c_ropetp/overlay.mp4", "x.txt")
    (tmp_path / "folder.mp4").mkdir()
    jobs = find_jobs(tmp_path, tmp_path / "out")
    assert [Path(job.video).relative_to(tmp_path).as_posix() for job in jobs] == [
        "a/b.MOV", "a/b.avi", "b.mp4",
    ]  # fmt: skip
    assert [Path(job.run).relative_to(tmp_path / "out").as_posix() for job in jobs] == [
        "a/b.MOV_ropetp", "a/b.avi_ropetp", "b_ropetp",
    ]  # fmt: skip
    with pytest.raises(RopeTPError, match="holds no video"):
        find_jobs(tmp_path / "folder.mp4")


def test_one_that_dies_or_fails_does_not_stop_the_rest(tmp_path):
    videos(tmp_path / "in", "a.mp4", "dies.mp4", "empty.mp4", "raises.mp4", "z.mp4")
    first = run_all(tmp_path / "in", tmp_path / "out")
    expected = {"a.mp4": batch.DONE, "dies.mp4": batch.FAILED, "empty.mp4": batch.NOBODY,
                "raises.mp4": batch.FAILED, "z.mp4": batch.DONE}  # fmt: skip
    assert results(first) == expected
    assert "SIGSEGV" in first.outcomes[1].message and "dies.mp4" in first.outcomes[1].message
    summary = json.loads((tmp_path / "out" / "batch.json").read_text())
    assert {Path(row["video"]).name: row["result"] for row in summary["videos"]} == expected
    assert summary["counts"] == {batch.DONE: 2, batch.FAILED: 2, batch.NOBODY: 1}

    second = Ledger(find_jobs(tmp_path / "in", tmp_path / "out"), TOLD, tmp_path / "out")
    second.settle_finished()
    assert results(second) == {
        "a.mp4": batch.BEFORE, "empty.mp4": batch.NOBODY, "z.mp4": batch.BEFORE,
    }  # fmt: skip


def test_workers_are_kept_and_stopped(tmp_path):
    videos(tmp_path / "in", *(f"{n}.mp4" for n in range(4)))
    run_all(tmp_path / "in", tmp_path / "out", workers=1)
    assert len({path.read_text() for path in (tmp_path / "out").rglob("person_01.npz")}) == 1
    jobs = dict(enumerate(find_jobs(tmp_path / "in", tmp_path / "out2")))
    news = capture_here(jobs, TOLD, workers=2, work=work)
    assert next(news).stage == "people"
    news.close()
    time.sleep(0.5)
    assert not list((tmp_path / "out2").rglob("report.json"))


@pytest.mark.parametrize("change", ["content", "option", "file", "clock", "clock back", "nothing"])
def test_finished_is_known_by_what_went_in(tmp_path, change):
    (video,) = videos(tmp_path / "in", "a.mp4")
    run_all(tmp_path / "in", tmp_path / "out")
    told = dict(TOLD)
    if change == "content":
        stamp = video.stat()
        video.write_bytes(video.read_bytes()[::-1])  # as long as before, and as old
        os.utime(video, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    elif change == "option":
        told["steps"] = 11
    elif change.startswith("clock"):
        for path in (video, tmp_path / "out" / "a_ropetp" / "report.json"):
            os.utime(path, (0, 0) if change == "clock back" else (0, 2**33))
    elif change == "file":
        (tmp_path / "out" / "a_ropetp" / "person_01.npz").unlink()
    ledger = Ledger(find_jobs(tmp_path / "in", tmp_path / "out"), told, tmp_path / "out")
    ledger.settle_finished()
    assert ledger.open == ([0] if change in ("content", "option", "file") else [])


def test_a_second_run_reads_no_video_and_takes_no_time(tmp_path, monkeypatch):
    videos(tmp_path / "in", *(f"{n:03d}.mp4" for n in range(100)))
    for job in find_jobs(tmp_path / "in", tmp_path / "out"):
        work(job, TOLD, False, lambda *_: _Quick())
    monkeypatch.setattr(runs, "sha256_of", lambda path: pytest.fail(f"{path} was read"))
    began = time.process_time()
    ledger = Ledger(find_jobs(tmp_path / "in", tmp_path / "out"), TOLD, tmp_path / "out")
    ledger.settle_finished()
    assert len(ledger.outcomes) == 100 and ledger.counts == {batch.BEFORE: 100}
    assert time.process_time() - began < 1.0


class _Quick:
    def __enter__(self):
        return lambda count: None

    def __exit__(self, *_):
        pass


def test_a_damaged_summary_or_report_is_no_obstacle(tmp_path):
    videos(tmp_path / "in", "a.mp4")
    for text in ("", "[]", "{", '{"videos": [1]}', "[" * 100_000, '{"videos": [{"video": []}]}'):
        (tmp_path / "out" / "a_ropetp").mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / "batch.json").write_text(text)
        (tmp_path / "out" / "a_ropetp" / "report.json").write_text(text)
        ledger = Ledger(find_jobs(tmp_path / "in", tmp_path / "out"), TOLD, tmp_path / "out")
        ledger.settle_finished()
        assert ledger.open == [0]


def test_the_command_reports_in_words_and_for_machines(tmp_path, monkeypatch):
    videos(tmp_path / "in", "a.mp4", "[red].mp4", "raises.mp4")
    here = batch.capture_here
    monkeypatch.setattr(batch, "capture_here", lambda *args: here(*args, work=work))
    arguments = ["batch", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--jobs", "2"]
    result = CliRunner().invoke(group, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["counts"] == {batch.DONE: 2, batch.FAILED: 1}
    assert "raises.mp4: no" in result.stderr
    again = CliRunner().invoke(group, arguments, catch_exceptions=False)
    assert again.exit_code == 1 and "2 finished before" in again.stdout
    assert "[red].mp4" in again.stdout


def test_ctrl_c_keeps_what_is_done(tmp_path, monkeypatch, capsys):
    videos(tmp_path / "in", "a.mp4", "b.mp4")
    here = batch.capture_here
    stopped = []

    def interrupted(*args):
        for news in here(*args, work=work):
            yield news
            if news.outcome is not None:
                stopped.append(news.number)
                raise KeyboardInterrupt

    monkeypatch.setattr(batch, "capture_here", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["batch", str(tmp_path / "in"), "-o", str(tmp_path / "out")])
    assert ended.value.code == 130 and "stopped" in capsys.readouterr().err
    summary = json.loads((tmp_path / "out" / "batch.json").read_text())
    assert summary["counts"] == {batch.DONE: 1} and stopped == [0]
    assert [row["result"] for row in summary["videos"]] == [batch.DONE, "not run"]
    run_all(tmp_path / "in", tmp_path / "out")
    again = Ledger(find_jobs(tmp_path / "in", tmp_path / "out"), TOLD, tmp_path / "out")
    again.settle_finished()
    assert again.counts == {batch.BEFORE: 2}
