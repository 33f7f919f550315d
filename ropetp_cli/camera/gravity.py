"""Where down is for a camera that stands still."""

import numpy as np

from ropetp_cli.body.skeleton import JOINT_INDEX

#: World-from-camera of a level camera: x stays, y and z turn over (OpenCV -> y up).
LEVEL = np.diag([1.0, -1.0, -1.0])

MAX_TILT = np.radians(50.0)
#: How sure one is that a camera is level before anybody is seen, in frames of evidence.
LEVEL_PRIOR = 15.0
#: Frames further than this from the common direction (sitting, lying, bending) do not vote.
OUTLIER = np.radians(25.0)


def level_rotation(up: np.ndarray) -> np.ndarray:
    """World-from-camera for the direction ``up`` [3] in camera axes, heading kept: [3, 3].

    The rotation is the smallest one that brings ``up`` to the world's y axis after LEVEL.
    """
    source = LEVEL @ (up / np.linalg.norm(up))
    target = np.array([0.0, 1.0, 0.0])
    axis = np.cross(source, target)
    sine, cosine = np.linalg.norm(axis), float(source @ target)
    if sine < 1e-9:
        return LEVEL.copy()
    x, y, z = axis / sine
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = np.eye(3) + sine * skew + (1 - cosine) * skew @ skew
    return turn @ LEVEL


def up_from_people(joints: list[np.ndarray], weights: list[np.ndarray]) -> np.ndarray:
    """The direction people stand in, a unit vector in camera axes [3].

    ``joints`` one [N, 24, 3] m (pelvis at 0) a person, ``weights`` [N]. Upright bodies balance:
    the middle of the trunk is above the middle of the feet. The weighted mean direction is
    refined without outliers and drawn to the level camera's by a prior, so that a few frames,
    or a person who never stands, do not tilt the world.
    """
    level_up = np.array([0.0, -1.0, 0.0])
    ankles = [JOINT_INDEX["left_ankle"], JOINT_INDEX["right_ankle"]]
    trunk = [JOINT_INDEX[n] for n in ("left_shoulder", "right_shoulder", "left_hip", "right_hip")]
    spans, votes = [], []
    for positions, weight in zip(joints, weights, strict=True):
        span = positions[:, trunk].mean(1) - positions[:, ankles].mean(1)
        length = np.linalg.norm(span, axis=1)
        spans.append(span / np.maximum(length, 1e-6)[:, None])
        # A folded body (short span) says little about up.
        votes.append(weight * np.clip((length - 0.5) / 0.4, 0.0, 1.0))
    span, vote = np.concatenate(spans), np.concatenate(votes)
    up = level_up
    for _ in range(10):
        near = span @ up > np.cos(OUTLIER if up is not level_up else MAX_TILT)
        up = (span * (vote * near)[:, None]).sum(0) + LEVEL_PRIOR * level_up
        up = up / np.linalg.norm(up)
    return up
