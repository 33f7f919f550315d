"""What the path and physics stages cost: python scripts/benchmark_path.py [--frames 500,1000,2000]

Plays a motion there and back for so many frames and prints the processor seconds per 1,000 frames
of TrajDenoiser with 100 and 20 steps, of fusing the path with the camera and of physics.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from ropetp_cli import load_motion
from ropetp_cli.body.model import BodyData, load_body
from ropetp_cli.body.skeleton import FEET
from ropetp_cli.camera.focal import ASSUMED
from ropetp_cli.motion import Motion
from ropetp_cli.physics import simulate
from ropetp_cli.trajectory.denoiser import TrajDenoiser, load_denoiser
from ropetp_cli.trajectory.fusion import Sight, fuse_people
from ropetp_cli.trajectory.sampling import regenerate_path, there_and_back
from ropetp_cli.weights import find_weights

MOTION = Path(__file__).parent.parent / "examples/rendered_walk_truth.npz"


def costs(count: int, motion: Motion, body: BodyData, model: TrajDenoiser) -> list[float]:
    """Processor seconds per 1,000 frames of each stage."""
    rest = body.rest_joints(motion.betas)
    joints = there_and_back(motion.joints, count)
    rotations = there_and_back(motion.rotations, count)
    about = joints - joints[:, :1]
    feet = about[:, list(FEET), 1].min(axis=1)
    seen = joints[:, 0] + np.array([0.0, -1.5, -6.0])
    sight = Sight(seen, np.tile([0.0, 0.0, -1.0], (count, 1)), np.full(count, 0.8))
    found = regenerate_path(model, about, motion.fps, steps=1)  # and warm up
    work = (
        lambda: regenerate_path(model, about, motion.fps, steps=100),
        lambda: regenerate_path(model, about, motion.fps, steps=20),
        lambda: fuse_people(
            [found.path], [feet], [found.contacts], [sight], motion.fps, ASSUMED, False
        ),
        lambda: simulate(
            rotations, joints[:, 0], rest, found.contacts, motion.fps, body, motion.betas
        ),
    )
    spent = []
    for run in work:
        began = time.process_time()
        run()
        spent.append((time.process_time() - began) / count * 1000)
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", default="500,1000,2000")
    counts = [int(word) for word in parser.parse_args().frames.split(",")]
    motion, body = load_motion(MOTION), load_body()
    model = load_denoiser(find_weights("trajectory", None))
    print(f"{'frames':>8}{'100 steps':>12}{'20 steps':>12}{'fusion':>12}{'physics':>12}")
    for count in counts:
        spent = costs(count, motion, body, model)
        print(f"{count:8}" + "".join(f"{seconds:10.2f} s" for seconds in spent), flush=True)


if __name__ == "__main__":
    main()
