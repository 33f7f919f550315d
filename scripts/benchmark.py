"""How fast a capture is and how much memory it takes: python scripts/benchmark.py CLIP [--loops 10]

Captures CLIP, then the same clip played several times over, without previews, each in a process of
its own. Prints milliseconds a person-frame for each stage and the peak memory of both; then what
the previews add to CLIP's processor time, which a busy machine changes little.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ropetp_cli.video.reader import VideoReader
from ropetp_cli.video.writer import VideoWriter


def loop(clip: Path, out: Path, times: int) -> None:
    """CLIP ``times`` times over."""
    with VideoReader(clip) as first:
        size, fps = first.info.size, first.info.fps
    with VideoWriter(out, size, fps) as writer:
        for _ in range(times):
            with VideoReader(clip) as reader:
                for _, _, frame in reader:
                    writer.write(frame)


def measure(
    clip: Path, out: Path, extra: list[str], previews: str = "none"
) -> tuple[dict, float, float]:
    """The report of a capture, its peak memory in GB and its processor seconds."""
    command = "from ropetp_cli.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "capture", str(clip), "-o", str(out), "--preview",
         previews, "--json", *extra],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"the capture of {clip} failed")
    return json.loads(output), usage.ru_maxrss / 1e6, usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--loops", type=int, default=10)
    parser.add_argument("rest", nargs="*", help="more options for capture, after --")
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        runs = {"once": options.clip}
        if options.loops > 1:
            runs[f"x{options.loops}"] = work / "looped.mp4"
            loop(options.clip, work / "looped.mp4", options.loops)
        seconds = {}
        for name, clip in runs.items():
            report, peak, seconds[name] = measure(clip, work / name, options.rest)
            frames = sum(person["frames"] for person in report["people"])
            stages = {k: v["ms_per_person_frame"] for k, v in report["stages"].items()}
            parts = ", ".join(f"{stage} {ms:.1f}" for stage, ms in stages.items())
            print(
                f"{name}: {report['video']['frames']} frames, {len(report['people'])} people, "
                f"{frames} person-frames; {sum(stages.values()):.1f} ms a person-frame ({parts}); "
                f"peak memory {peak:.2f} GB"
            )
        *_, drawn = measure(options.clip, work / "drawn", options.rest, "overlay,viewer")
        print(
            f"once with overlay and viewer: {drawn:.1f} s of processor time instead of "
            f"{seconds['once']:.1f} s, {100 * (drawn / seconds['once'] - 1):.0f} % more"
        )


if __name__ == "__main__":
    main()
