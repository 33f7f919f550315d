"""Sightings made by code: people who turn all their joints, seen a little wrongly."""

import numpy as np

from ropetp_cli.body.rotations import axis_angle_to_matrix
from ropetp_cli.body.skeleton import NUM_JOINTS
from ropetp_cli.camera.gravity import LEVEL
from ropetp_cli.rope.predictor import CropPoses
from ropetp_cli.training.sightings import Sightings, sighting


def turning_rotations(count: int, seed: int = 0) -> np.ndarray:
    """Rotations [N, 24, 3, 3] of somebody who stays upright and sways all over."""
    phase = np.random.default_rng(seed).uniform(0, 6, (NUM_JOINTS, 3))
    angles = 0.3 * np.sin(np.arange(count)[:, None, None] / 9 + phase)
    angles[:, 0, [0, 2]] = 0
    return axis_angle_to_matrix(angles)


def unseen(count: int) -> np.ndarray:
    """No evidence where joints are in so many crops, [N, 24, 3]."""
    return np.concatenate([np.zeros((count, NUM_JOINTS, 2)), np.full((count, NUM_JOINTS, 1), 6e4)],
                          axis=-1)  # fmt: skip


def seen_by(
    true: np.ndarray, name: str = "clip", first: int = 0, off: float = 0.2, seed: int = 0
) -> Sightings:
    """One window of ``true`` [N, 24, 3, 3] before a level camera, every joint off by about ``off``
    rad for good."""
    rng = np.random.default_rng(seed)
    count = len(true)
    seen = true @ axis_angle_to_matrix(off * rng.normal(size=(1, NUM_JOINTS, 3)) / 2)
    seen[:, 0] = LEVEL @ seen[:, 0]
    cam = np.column_stack([np.full(count, 0.8), np.linspace(0, 0.1, count), np.zeros(count)])
    keypoints = np.concatenate(
        [rng.uniform(-1, 1, (1, 17, 2)).repeat(count, 0), np.ones((count, 17, 1))], axis=-1
    )
    keypoints[:, :5] = 0  # nobody looks this way
    answer = CropPoses(
        seen, np.zeros((count, 10)), cam, np.zeros((count, NUM_JOINTS, 2)),
        np.full((count, NUM_JOINTS), 0.9), keypoints, unseen(count),
    )  # fmt: skip
    turn = np.tile(np.eye(3), (count, 1, 1))
    return sighting(answer, turn, np.full(count, 0.6), true, LEVEL, np.zeros(10), name, first)
