"""Rope over time against Rope alone, on what it saw of filmed motion capture."""

import numpy as np

from ropetp_cli.body.model import BodyData
from ropetp_cli.body.rotations import forward_kinematics
from ropetp_cli.body.skeleton import JOINT_INDEX
from ropetp_cli.evaluation import metrics
from ropetp_cli.rope.smoothing import smooth_rotations
from ropetp_cli.rope.temporal import TemporalRefiner, TemporalRope
from ropetp_cli.training.sightings import Sightings

#: What swings against what: the amplitude of their distance over time, true and seen.
SWINGS = {
    "leg swing %": ("left_ankle", "right_ankle"),
    "arm swing %": ("left_wrist", "right_wrist"),
}


def evaluate(
    model: TemporalRope, sightings: Sightings, body: BodyData, device: str = "cpu",
    fps: float = 30.0,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """For Rope alone, over time, over time before a camera that moves, and over time where it is
    known how tall people are: MPJPE and PA-MPJPE, the mean error along the camera's axis, mm;
    acceleration error, m/s^2; how far off up is, degrees (alone: of a camera held as most are); by
    how much straight knees come out bent, degrees (nan where there are none); how much of the true
    swing of legs and arms is left, %."""
    refiner = TemporalRefiner(model, device)
    rows = {
        "alone": (sightings, None, True),
        "over time": (sightings, refiner, True),
        "moving": (sightings, refiner, False),
        "height known": (sightings.sized(body), refiner, True),
    }
    return {
        name: _figures(seen, body, fps, asked, steady)
        for name, (seen, asked, steady) in rows.items()
    }


def _figures(
    sightings: Sightings, body: BodyData, fps: float, refiner: TemporalRefiner | None, steady: bool
) -> dict[str, float]:
    errors: dict[str, list[np.ndarray]] = {}
    swings = {name: np.zeros(2) for name in SWINGS}
    for window in range(len(sightings)):
        rest, true_rest = sightings.rest_joints(window, body)
        seen = sightings.refined(window, refiner, rest, fps, steady)
        confidence = sightings.confidence[sightings.rows(window)]
        smooth = smooth_rotations(seen.rotations, confidence, fps)
        truth = sightings.truth_in_crops(window)
        ours = forward_kinematics(smooth, rest)
        world = sightings.levelled(window, seen, fps) @ sightings.camera[window]
        tilt = np.degrees(np.arccos(np.clip(world[1, 1], -1, 1)))
        theirs = forward_kinematics(truth, true_rest)
        ours, theirs = ours - ours[:, :1], theirs - theirs[:, :1]
        found = {
            "MPJPE mm": metrics.mpjpe(ours, theirs),
            "PA-MPJPE mm": metrics.pa_mpjpe(ours, theirs),
            "depth mm": np.abs(ours - theirs)[..., 2].mean(axis=1) * 1000,
            "accel m/s2": metrics.accel(ours, theirs, fps),
            "tilt °": np.full(len(ours), tilt),
            "knees °": metrics.straight_knees(smooth, truth),
        }
        for name, values in found.items():
            errors.setdefault(name, []).append(values)
        for name, (one, other) in SWINGS.items():
            for k, joints in enumerate((ours, theirs)):
                apart = joints[:, JOINT_INDEX[one]] - joints[:, JOINT_INDEX[other]]
                swings[name][k] += np.sqrt(apart.var(axis=0).sum()) * len(apart)
    figures = {name: metrics.mean(values) for name, values in errors.items()}
    return figures | {name: 100 * ours / theirs for name, (ours, theirs) in swings.items()}
