"""The whole tool on motion capture filmed in a made-up room: every other clip of a mocap file, seen
from all sides, captured and held against the truth.

usage: python scripts/benchmark_rendered.py MOCAP OUT [--weights DIR] [--path auto|diffusion]
           [--height] [--close]

With --height captures are told how tall the filmed body is; with --close the camera stands so near
that the picture cuts people off. Videos are rendered once (OUT is for one kind of camera); captures
whose options and weights are the same are taken as they are.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ropetp_cli.body.model import load_body
from ropetp_cli.body.rotations import yaw_matrix
from ropetp_cli.errors import RopeTPError
from ropetp_cli.evaluation.motion import compare_run
from ropetp_cli.pipeline import CaptureOptions, Models, capture
from ropetp_cli.training.filming import leg_length
from ropetp_cli.training.mocap import load_turned_clips

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from make_rendered_walk import BETAS, render  # noqa: E402

FRAMES = 150
#: Between one clip's direction and the next one's: the golden angle.
TURN = np.pi * (3 - 5**0.5)
FIGURES = ("mpjpe_mm", "pa_mpjpe_mm", "w_mpjpe_mm", "wa_mpjpe_mm", "rte_percent", "accel_m_per_s2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("mocap", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--path", choices=["auto", "diffusion"], default="auto")
    parser.add_argument("--height", action="store_true")
    parser.add_argument("--close", action="store_true")
    given = parser.parse_args()
    body = load_body()
    options = CaptureOptions(
        formats=("npz",), previews=(), path=given.path, weights=given.weights, person="largest",
        height=((0, body.height(BETAS)),) if given.height else (),
    )  # fmt: skip
    models = Models(options)
    rest = body.rest_joints(BETAS)
    rows, walks = [], []
    for number, clip in enumerate(load_turned_clips(given.mocap)[::2]):
        clip = clip.part(0, FRAMES)
        video = given.out / f"{number:02}.mp4"
        truth = video.with_name(f"{video.stem}_truth.npz")
        if not truth.is_file():
            turn = yaw_matrix(number * TURN)
            rotations = clip.rotations.astype(np.float64)
            rotations[:, 0] = turn @ rotations[:, 0]
            path = clip.on_floor() * leg_length(rest) / leg_length(clip.rest)
            kind = "close" if given.close else "still"
            render(body, rotations, path @ turn.T - rest[0], video, kind, number)
        try:
            run = capture(video, given.out / video.stem, options, models=models).out
        except RopeTPError as error:
            print(f"{video}: {error}")
            continue
        figures = compare_run(run, truth)
        rows.append([figures[name] for name in (*FIGURES, "path_length_ratio")])
        walks.append(clip.speed > 0.5)
        print(video, clip.desc, *(f"{value:.2f}" for value in rows[-1]), flush=True)
    scores, walks = np.array(rows), np.array(walks)
    table = Table("clips", "number", *FIGURES, "length of the way")
    for name, which in (("all", walks | True), ("walks", walks), ("the others", ~walks)):
        means = (f"{value:.1f}" for value in scores[which, :-1].mean(axis=0))
        table.add_row(name, str(which.sum()), *means, f"{np.median(scores[which, -1]):.2f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
