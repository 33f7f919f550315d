"""Many videos: which there are, which are finished, and worker processes for the others.

Nothing heavy is imported here until a video has to be captured, and then in the workers: each
loads the models once, and one that dies takes no other video with it. Videos and runs may lie
behind URLs (:mod:`ropetp_cli.storage`).
"""

import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from multiprocessing.connection import Connection, wait
from pathlib import Path, PurePosixPath
from typing import Any

from ropetp_cli import __version__
from ropetp_cli.errors import NobodyFound, RopeTPError, first_line
from ropetp_cli.runs import fingerprint, ingredients, is_finished, last_report, run_key
from ropetp_cli.storage import (
    AtHand,
    Far,
    at_hand,
    is_safe,
    place,
    put_json,
    same_object,
    stamp_of,
    sweep,
)
from ropetp_cli.weights import sha256_of

SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
SUMMARY = "batch.json"
#: A worker tells of its progress this often, s.
NEWS_SECONDS = 0.25
#: Reports are read so many at a time: behind a URL each takes a while.
READERS = 16
#: What a video may come to.
DONE, BEFORE, NOBODY, FAILED = "done", "finished before", "nobody found", "failed"


@dataclass
class Job:
    """One video and the run directory its files go to, paths or URLs.

    ``name`` is the video's below the directory; ``stamp`` what its store says of it, for a far
    one. Without a ``run`` it may not be touched: ``name`` leads elsewhere.
    """

    video: str
    run: str
    name: str = ""
    stamp: dict[str, Any] = field(default_factory=dict)


@dataclass
class Outcome:
    """What became of a job. ``key`` and ``source`` recognise it the next time."""

    result: str
    people: int = 0
    frames: int = 0
    seconds: float = 0.0
    message: str = ""
    key: str = ""
    source: dict[str, Any] = field(default_factory=dict)


@dataclass
class News:
    """Something about job ``number``: how far its stage is, or its outcome."""

    number: int
    stage: str = ""
    share: float | None = None
    outcome: Outcome | None = None


def find_jobs(directory: Path | Far, out: Path | Far | None = None) -> list[Job]:
    """Every video below ``directory`` outside run directories, in order.

    Runs go beside each video, or to the same places below ``out``. Videos that differ in their
    suffix alone keep it in the run's name.
    """
    stamps: dict[str, dict[str, Any]] = {}
    if isinstance(directory, Far):
        stamps = {name: stamp_of(info) for name, info in directory.listed().items()}
        names = filter(_is_video, stamps)
    else:
        if not directory.is_dir():
            raise RopeTPError(f"{directory}: not a directory")
        paths = directory.rglob("*")
        names = filter(_is_video, (path.relative_to(directory).as_posix() for path in paths))
        names = (name for name in names if not (directory / name).is_dir())
    videos = sorted(names, key=lambda name: name.split("/"))
    if not videos:
        raise RopeTPError(f"{directory}: holds no video ({', '.join(SUFFIXES)})")
    alike = Counter(PurePosixPath(name).with_suffix("") for name in videos)
    home, far = out or directory, isinstance(directory, Far) or isinstance(out, Far)
    jobs = []
    for name in videos:
        video = PurePosixPath(name)
        stem = video.stem if alike[video.with_suffix("")] == 1 else video.name
        run = str(home / str(video.parent / f"{stem}_ropetp")) if not far or is_safe(name) else ""
        jobs.append(Job(str(directory / name), run, name, stamps.get(name, {})))
    return jobs


def _is_video(name: str) -> bool:
    path = PurePosixPath(name)
    return (
        path.suffix.lower() in SUFFIXES
        and not path.name.startswith(".")
        and not any(part.endswith("_ropetp") for part in path.parts)
    )


class Ledger:
    """What is known of the jobs: earlier runs' reports, the last summary, outcomes of today."""

    def __init__(self, jobs: list[Job], told: Mapping[str, Any], home: Path | Far):
        self.jobs, self.home = jobs, home
        self.outcomes: dict[int, Outcome] = {
            number: Outcome(FAILED, message=f"{job.video!r}: its name leads elsewhere; rename it")
            for number, job in enumerate(jobs)
            if not job.run
        }
        self._made_of = ingredients(told)
        self._sources: dict[int, dict[str, Any]] = {}
        self._last = _last_summary(home / SUMMARY)

    def settle_finished(self) -> None:
        """Outcomes for what needs no work: finished before with nothing changed since, nobody
        found in the very same file, or a file that cannot be read. No far video is read: one that
        looks other than before is left to a worker."""
        numbers = self.open
        there = set(self.home.listed()) if isinstance(self.home, Far) else None
        with ThreadPoolExecutor(READERS) as readers:
            runs = [place(self.jobs[number].run) for number in numbers]
            reports = list(readers.map(last_report, runs))
        for number, run, report in zip(numbers, runs, reports, strict=True):
            last = self._last.get(self.jobs[number].video, {})
            try:
                source = self._source(number, report.get("source") or last.get("source"))
            except RopeTPError as error:
                self.outcomes[number] = Outcome(FAILED, message=str(error))
                continue
            if source is None:
                continue
            key = self._key(source)
            if is_finished(report, key, _holds(run, self.home, there)):
                self.outcomes[number] = Outcome(BEFORE, **_figures(report), key=key, source=source)
            elif last.get("result") == NOBODY and last.get("key") == key:
                message = str(last.get("message", ""))
                self.outcomes[number] = Outcome(NOBODY, message=message, key=key, source=source)

    def settle(self, number: int, outcome: Outcome) -> None:
        """Take in an outcome, with what recognises it the next time."""
        if outcome.result in (DONE, NOBODY) and not outcome.source:
            report = last_report(place(self.jobs[number].run))
            with suppress(RopeTPError):  # the video is gone by now
                outcome.source = self._source(number, report.get("source")) or {}
        if outcome.source:
            outcome.key = self._key(outcome.source)
        self.outcomes[number] = outcome

    @property
    def open(self) -> list[int]:
        """The numbers of the jobs without an outcome."""
        return [number for number in range(len(self.jobs)) if number not in self.outcomes]

    @property
    def counts(self) -> dict[str, int]:
        """How many came to what."""
        return dict(Counter(outcome.result for outcome in self.outcomes.values()))

    def summary(self) -> dict[str, Any]:
        """Everything, for machines."""
        places = [{"video": job.video, "run": job.run} for job in self.jobs]
        rows = [
            {**places[number], **asdict(outcome)}
            for number, outcome in sorted(self.outcomes.items())
        ]
        rows += [{**places[number], "result": "not run"} for number in self.open]
        return {"ropetp_version": __version__, "counts": self.counts, "videos": rows}

    def write(self) -> None:
        """The summary as ``batch.json``."""
        put_json(self.summary(), self.home / SUMMARY)

    def _source(self, number: int, known: Any) -> dict[str, Any] | None:
        """What recognises a video; None for a far one that may have changed."""
        job = self.jobs[number]
        if job.stamp:
            return dict(known) if same_object(job.stamp, known) else None
        if number not in self._sources:
            self._sources[number] = fingerprint(Path(job.video), known)
        return self._sources[number]

    def _key(self, source: Mapping[str, Any]) -> str:
        return run_key(self._made_of | {"video": source["sha256"]})


def _holds(run: Path | Far, home: Path | Far, there: set[str] | None) -> Callable[[str], bool]:
    """Whether a file is in ``run``, by what was listed ``there`` below ``home`` if that is far."""
    if there is None:
        return lambda name: (run / name).is_file()
    below = str(run).removeprefix(f"{home}/")
    return lambda name: f"{below}/{name}" in there


def _last_summary(path: Path | Far) -> dict[str, dict[str, Any]]:
    """The rows of the last summary by video; none where it cannot be read."""
    try:
        return {row["video"]: dict(row) for row in json.loads(path.read_text())["videos"]}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}


def _figures(report: Mapping[str, Any]) -> dict[str, int]:
    try:
        return {"people": len(report["people"]), "frames": int(report["video"]["frames"])}
    except (KeyError, TypeError, ValueError):
        return {}


def capture_one(
    job: Job, told: Mapping[str, Any], force: bool = False, progress: Callable | None = None
) -> Outcome:
    """Capture one video, fetched first if it is far; whatever goes wrong is in the outcome."""
    began, source = time.monotonic(), {}
    try:
        with at_hand(job.video, job.run, job.stamp.get("size"), progress) as here:
            if job.stamp:
                source = {**job.stamp, "sha256": sha256_of(here.video)}
            outcome = _capture_at_hand(job, here, told, force, source)
    except NobodyFound as error:
        outcome = Outcome(NOBODY, message=str(error))
    except RopeTPError as error:
        outcome = Outcome(FAILED, message=str(error))
    except Exception as error:
        outcome = Outcome(
            FAILED, message=f"{job.video}: {type(error).__name__}: {first_line(error)}"
        )
    outcome.seconds, outcome.source = round(time.monotonic() - began, 2), source
    return outcome


def _capture_at_hand(
    job: Job, here: AtHand, told: Mapping[str, Any], force: bool, source: dict[str, Any]
) -> Outcome:
    """The capture itself, unless the far run turns out to be finished."""
    if here.far_run is not None and not force:
        report = last_report(here.far_run)
        made_of = ingredients(told) | {"video": (source or fingerprint(here.video))["sha256"]}
        if is_finished(report, run_key(made_of), set(here.far_run.listed()).__contains__):
            here.publish_report(report | ({"source": source} if source else {}))
            return Outcome(BEFORE, **_figures(report))
    from ropetp_cli.pipeline import CaptureOptions, capture

    models = _models(tuple(sorted(told.items())))
    done = capture(here.video, here.run, CaptureOptions(**told), here.progress, force, models)
    report = done.report
    if source:
        report |= {"source": source, "video": {**report["video"], "path": job.video}}
    if source or here.far_run is not None:
        here.publish(report)
    return Outcome(DONE, **_figures(report))


#: What a worker does with a job: ``work(job, told, force, progress)``.
Work = Callable[[Job, Mapping[str, Any], bool, Callable | None], Outcome]


@lru_cache(maxsize=1)
def _models(told: tuple[tuple[str, Any], ...]) -> Any:
    """The models of this process, kept from video to video."""
    from ropetp_cli.pipeline import CaptureOptions, Models

    return Models(CaptureOptions(**dict(told)))


def capture_here(
    jobs: Mapping[int, Job],
    told: Mapping[str, Any],
    force: bool = False,
    workers: int = 1,
    work: Work = capture_one,
) -> Generator[News, None, None]:
    """Have ``work`` done on ``jobs`` by processes on this machine, which share its cores.

    A worker that dies costs the video it was at; another takes its place. Closing the iterator
    stops the workers; what they had stored is gone on with the next time.
    """
    waiting = list(jobs.items())[::-1]
    threads = max(1, usable_cores() // max(1, min(workers, len(waiting))))
    busy: dict[Connection, _Worker] = {}
    try:
        for _ in range(min(workers, len(waiting))):
            worker = _Worker(work, told, force, threads)
            worker.begin(*waiting.pop())
            busy[worker.pipe] = worker
        while busy:
            for pipe in wait(list(busy)):
                worker = busy[pipe]
                news = worker.read()
                yield news
                if news.outcome is None:
                    continue
                if not worker.alive:
                    del busy[pipe]
                    if waiting:
                        worker = _Worker(work, told, force, threads)
                        busy[worker.pipe] = worker
                if waiting:
                    worker.begin(*waiting.pop())
                elif worker.alive:
                    worker.stop()
                    del busy[pipe]
    finally:
        for worker in busy.values():
            worker.stop()
        sweep()


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Worker:
    """A process that captures one video after another."""

    def __init__(self, work: Work, told: Mapping[str, Any], force: bool, threads: int):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, str(threads))  # read by the child's numpy and torch
        self._process = context.Process(
            target=_serve, args=(theirs, work, dict(told), force, threads), daemon=True
        )
        self._process.start()
        theirs.close()
        self.alive = True

    def begin(self, number: int, job: Job) -> None:
        self._number, self._job = number, job
        try:
            self.pipe.send((number, job))
        except OSError:
            pass  # it has died; read() says so

    def read(self) -> News:
        """The next thing it tells; a failure when it has died."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.alive = False
            self._process.join()
            how = self._process.exitcode or 0
            name = signal.Signals(-how).name if how < 0 else f"exit code {how}"
            hint = "; perhaps memory ran out, try fewer --jobs" if how == -9 else ""
            message = f"{self._job.video}: its process died ({name}){hint}"
            return News(self._number, outcome=Outcome(FAILED, message=message))

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()
        self.pipe.close()


def _serve(pipe: Connection, work: Work, told: dict[str, Any], force: bool, threads: int) -> None:
    """A worker's life: jobs in, news out, until it is terminated or nobody listens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops us
    with suppress(ImportError):  # where it cannot be loaded, the outcome says so
        import cv2

        cv2.setNumThreads(threads)
    try:
        while True:
            number, job = pipe.recv()
            tell = _reporter(lambda news: pipe.send(news), number)
            pipe.send(News(number, outcome=work(job, told, force, tell)))
    except (EOFError, BrokenPipeError):
        pass


def _reporter(send: Callable[[News], None], number: int) -> Callable:
    """``progress(stage, total)`` for a capture, which sends news now and then."""

    @contextmanager
    def stage(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        done, sent = 0, time.monotonic()
        send(News(number, name))

        def advance(count: int = 1) -> None:
            nonlocal done, sent
            done += count
            if time.monotonic() - sent >= NEWS_SECONDS:
                sent = time.monotonic()
                send(News(number, name, min(1.0, done / total) if total else None))

        yield advance

    return stage


def follow(news: Generator[News, None, None], ledger: Ledger) -> Iterator[News]:
    """Pass ``news`` on and enter the outcomes; the summary is written whatever happens."""
    try:
        with closing(news):
            for item in news:
                if item.outcome is not None:
                    ledger.settle(item.number, item.outcome)
                yield item
    finally:
        ledger.write()
