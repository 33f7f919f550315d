"""What `ropetp batch` saves: python scripts/benchmark_batch.py CLIP [--clips 10] [--seconds 1.5]
[--ray]

Cuts short clips from CLIP, captures each with a `ropetp capture` of its own, one after another as
a shell loop would, then all of them with one `ropetp batch`, and a second time with nothing left
to do. Prints wall time and processor time of each and how far the motions differ.
With --ray it compares Ray clusters of one node and of two, a core each, instead.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ropetp_cli.exchange.npz import load_motion
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


def on_ray(work: Path, rest: list[str]) -> None:
    """The clips in ``work`` on clusters of one and of two nodes; prints both and their ratio."""
    from ray.cluster_utils import Cluster

    walls = []
    for nodes in (1, 2):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=1)
        out = work / f"ray_{nodes}"
        command = ["batch", str(work / "in"), "-o", str(out), "--ray", cluster.address, *rest]
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", RUN, *command], stdout=subprocess.DEVNULL)
        walls.append(time.monotonic() - began)
        cluster.shutdown()
        if done.returncode:
            sys.exit(f"ropetp {' '.join(command)} failed")
        name = f"Ray, {nodes} node{'s' * (nodes > 1)}"
        print(f"{name}: {walls[-1]:.1f} s by the clock", flush=True)
    same = alike(work / "ray_1", work / "ray_2")
    print(f"two nodes are {walls[0] / walls[1]:.2f} times as fast as one; {same}")


def alike(one: Path, other: Path) -> str:
    """How many motions below ``one`` are the same bytes below ``other``, and how far joints are."""
    motions = [path for path in sorted(one.rglob("*.npz")) if path.parent.name != "cache"]
    same, apart = 0, []
    for path in motions:
        twin = other / path.relative_to(one)
        same += path.read_bytes() == twin.read_bytes()
        offset = load_motion(path).joints - load_motion(twin).joints
        apart.append(1000 * np.linalg.norm(offset, axis=-1).ravel())
    middle, most = np.quantile(np.concatenate(apart), [0.5, 0.99])
    return (
        f"{same} of {len(motions)} motions are the same bytes, "
        f"joints {middle:.1f} mm apart in the middle, 99 % of them within {most:.0f} mm"
    )


RUN = "from ropetp_cli.cli import main; main()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--jobs", default="1")
    parser.add_argument("--ray", action="store_true", help="Needs ropetp[ray].")
    parser.add_argument("rest", nargs="*", help="more options for capture, after --")
    told = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "in").mkdir()
        clips = cut(told.clip, work / "in", told.clips, told.seconds)
        if told.ray:
            on_ray(work, told.rest)
            return
        loop = [["capture", str(clip), "-o", str(work / "loop" / f"{clip.stem}_ropetp"),
                 *told.rest] for clip in clips]  # fmt: skip
        batch = ["batch", str(work / "in"), "-o", str(work / "batch"), "--jobs", told.jobs]
        alone = timed(f"capture, {len(clips)} times", loop)
        together = timed("batch", [[*batch, *told.rest]])
        timed("batch again", [[*batch, *told.rest]])
        same = alike(work / "loop", work / "batch")
        print(f"batch is {alone / together:.2f} times as fast; {same}")


if __name__ == "__main__":
    main()
