"""Memory of a long capture: python scripts/benchmark_memory.py CLIP [--minutes 10] [--plot OUT.png]

Plays CLIP there and back until it is so long, at 1920 x 1080, so that people stay in view from end
to end, captures it in a process of its own and samples that process's memory twice a second.
Prints each stage's memory and what a thousand frames more add to it, and draws the curve.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
import psutil

from ropetp_cli.video.reader import VideoReader
from ropetp_cli.video.writer import VideoWriter

SIZE = 1920, 1080
SAMPLE_SECONDS = 0.5


def there_and_back(clip: Path, out: Path, minutes: float) -> None:
    """CLIP forwards, backwards, forwards ... for ``minutes``."""
    with VideoReader(clip) as reader:
        fps = reader.info.fps
        frames = [cv2.resize(frame, SIZE, interpolation=cv2.INTER_AREA) for _, _, frame in reader]
    order = cycle([*range(len(frames)), *range(len(frames) - 2, 0, -1)])
    with VideoWriter(out, SIZE, fps) as writer:
        for _ in range(round(minutes * 60 * fps)):
            writer.write(frames[next(order)])


def watch(video: Path, out: Path, log: Path, told: dict) -> None:
    """Capture ``video`` and log [s, stage, frames of it done, MB of this process]."""
    from ropetp_cli.pipeline import CaptureOptions, capture

    now = {"stage": "start", "done": 0}
    rows, over = [], threading.Event()

    @contextmanager
    def progress(stage, total):
        now.update(stage=stage, done=0)
        yield lambda count=1: now.update(done=now["done"] + count)
        now.update(stage=f"after {stage}", done=0)

    def sample() -> None:
        process, began = psutil.Process(), time.monotonic()
        while not over.wait(SAMPLE_SECONDS):
            megabytes = process.memory_info().rss / 1e6
            rows.append([time.monotonic() - began, now["stage"], now["done"], megabytes])

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        report = capture(video, out, CaptureOptions(**told), progress, force=True).report
    finally:
        over.set()
        sampler.join()
    people = [person["frames"] for person in report["people"]]
    used = psutil.Process().cpu_times()
    log.write_text(
        json.dumps({"rows": rows, "frames": report["video"]["frames"], "people": people,
                    "cpu": used.user + used.system})
    )  # fmt: skip


def tell(measured: dict) -> None:
    """Figures of each stage; the growth is from the third quarter of its frames to the last."""
    rows, frames = measured["rows"], measured["frames"]
    print(
        f"{frames} frames, people in {measured['people']} of them; {rows[-1][0]:.0f} s by the "
        f"clock, {measured['cpu']:.0f} s of processor time"
    )
    for stage in dict.fromkeys(row[1] for row in rows):
        done, memory = np.array([row[2:] for row in rows if row[1] == stage]).T
        line = f"{stage:>16}: at most {memory.max():6.0f} MB, at its end {memory[-1]:6.0f} MB"
        third, last = (memory[(done > a * done.max()) & (done <= b * done.max())]
                       for a, b in ((0.5, 0.75), (0.75, 1.0)))  # fmt: skip
        if len(third) > 4 and len(last) > 4:
            growth = 4000 / frames * (np.median(last) - np.median(third))
            line += f", {growth:+.1f} MB a thousand frames"
        print(line)
    print(f"at most {max(row[3] for row in rows):.0f} MB")


def draw(measured: dict, out: Path) -> None:
    """The curve as a picture, a colour a stage."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = measured["rows"]
    times = np.array([row[0] for row in rows]) / 60
    memory = np.array([row[3] for row in rows]) / 1000
    figure, axes = pyplot.subplots(figsize=(9, 3.6), dpi=120)
    named = [stage for stage in dict.fromkeys(r[1] for r in rows) if not stage.startswith("after")]
    for number, stage in enumerate(named):
        inside = np.flatnonzero([row[1] == stage for row in rows])
        span = times[inside[0]], times[inside[-1]]
        axes.axvspan(*span, color=f"C{number}", alpha=0.2, label=stage)
    axes.plot(times, memory, color="black", linewidth=1)
    axes.set(xlabel="minutes by the clock", ylabel="memory, GB", xlim=(0, times[-1]))
    axes.set_ylim(bottom=0)
    axes.set_title(f"ropetp capture of {measured['frames']:,} frames of 1920 x 1080")
    axes.legend(loc="lower right", ncols=len(named), fontsize=8)
    figure.tight_layout()
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--plot", type=Path)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        child = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path; import benchmark_memory as b; work = Path({folder!r})
"""
        make = f"b.there_and_back(Path({str(told.clip)!r}), work / 'long.mp4', {told.minutes})"
        run = f"b.watch(work / 'long.mp4', work / 'run', work / 'log', dict(steps={told.steps}))"
        for command in (make, run):  # so that neither process counts the other's memory
            subprocess.run([sys.executable, "-c", child + command], check=True)
        measured = json.loads((work / "log").read_text())
    tell(measured)
    if told.plot:
        draw(measured, told.plot)
        print(told.plot)


if __name__ == "__main__":
    main()
