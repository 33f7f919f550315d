"""What `ropetp batch` saves: python scripts/benchmark_batch.py CLIP [--clips 10] [--seconds 1.5]

Cuts short clips from CLIP, captures each with a `ropetp capture` of its own, one after another as
a shell loop would, then all of them with one `ropetp batch`, and a second time with nothing left
to do. Prints wall time and processor time of each and whether the motions are the same bytes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ropetp_cli.video.reader import VideoReader
from ropetp_cli.video.writer import VideoWriter


def cut(clip: Path, out: Path, count: int, seconds: float) -> list[Path]:
    """``count`` clips, evenly spread over CLIP."""
    with VideoReader(clip) as reader:
        size, fps = reader.info.size, reader.info.fps
        length, frames = round(seconds * fps), reader.info.frame_count
    starts = [round(k * max(frames - length, 0) / max(count - 1, 1)) for k in range(count)]
    paths = []
    for number, start in enumerate(starts):
        paths.append(out / f"clip_{number:02d}.mp4")
        with VideoReader(clip) as reader, VideoWriter(paths[-1], size, fps) as writer:
            for index, _, frame in reader:
                if index >= start + length:
                    break
                if index >= start:
                    writer.write(frame)
    return paths


def timed(name: str, commands: list[list[str]]) -> float:
    """Run commands one after another; prints and gives the wall time, s."""
    before, began = os.times(), time.monotonic()
    for command in commands:
        done = subprocess.run([sys.executable, "-c", RUN, *command], stdout=subprocess.DEVNULL)
        if done.returncode:
            sys.exit(f"ropetp {' '.join(command)} failed")
    wall, after = time.monotonic() - began, os.times()
    spent = after.children_user + after.children_system
    spent -= before.children_user + before.children_system
    print(f"{name}: {wall:.1f} s, {spent:.1f} s of processor time", flush=True)
    return wall


RUN = "from ropetp_cli.cli import main; main()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--jobs", default="1")
    parser.add_argument("rest", nargs="*", help="more options for capture, after --")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "in").mkdir()
        clips = cut(told.clip, work / "in", told.clips, told.seconds)
        loop = [["capture", str(clip), "-o", str(work / "loop" / f"{clip.stem}_ropetp"),
                 *told.rest] for clip in clips]  # fmt: skip
        batch = ["batch", str(work / "in"), "-o", str(work / "batch"), "--jobs", told.jobs]
        alone = timed(f"capture, {len(clips)} times", loop)
        together = timed("batch", [[*batch, *told.rest]])
        timed("batch again", [[*batch, *told.rest]])
        motions = sorted((work / "loop").rglob("*.npz"))
        motions = [path for path in motions if path.parent.name != "cache"]
        same = sum(
            path.read_bytes() == (work / "batch" / path.relative_to(work / "loop")).read_bytes()
            for path in motions
        )
        print(f"batch is {alone / together:.2f} times as fast; {same} of {len(motions)} motions "
              "are the same bytes")  # fmt: skip


if __name__ == "__main__":
    main()
