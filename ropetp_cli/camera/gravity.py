"""Where down is, told by the people who stand upright and by the floor they walk on."""

import numpy as np

from ropetp_cli.body.skeleton import ANKLES, FEET, JOINT_INDEX

#: World-from-camera of a level camera: x stays, y and z turn over (OpenCV -> y up).
LEVEL = np.diag([1.0, -1.0, -1.0])

MAX_TILT = np.radians(50.0)
#: How sure one is that a camera is level before anybody is seen, in frames of evidence.
LEVEL_PRIOR = 15.0
#: Frames further than this from the common direction (sitting, lying, bending) do not vote.
OUTLIER = np.radians(25.0)
#: How far upright people are from upright, and the most that the floor may say against them.
UPRIGHT_ERROR, MOST_SLOPE = np.radians(3.0), np.radians(10.0)
FLOOR_LAG = 2.0  # s between two places whose heights are compared
FLOOR_NOISE, FLOOR_STEP = 0.06, 0.15  # m: error of a height; a step that says nothing of the slope
FLOOR_MEMORY = 0.5  # s over which these errors stay the same
DEPTH_NOISE = 0.04  # of the distance


def level_rotation(up: np.ndarray) -> np.ndarray:
    """World-from-camera for the direction ``up`` [3] in camera axes, heading kept: [3, 3].

    The rotation is the smallest one that brings ``up`` to the world's y axis after LEVEL.
    """
    source = LEVEL @ (up / np.linalg.norm(up))
    target = np.array([0.0, 1.0, 0.0])
    axis = np.cross(source, target)
    sine, cosine = np.linalg.norm(axis), float(source @ target)
    if sine < 1e-9:
        return LEVEL.copy() if cosine > 0 else np.diag([-1.0, 1.0, -1.0])
    x, y, z = axis / sine
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = np.eye(3) + sine * skew + (1 - cosine) * skew @ skew
    return turn @ LEVEL


def standing_votes(joints: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What one person's frames say of up: directions [N, 3] in camera axes and votes [N].

    ``joints`` [N, 24, 3] m, ``weights`` [N]. An upright body balances: the middle of its trunk is
    above the middle of its feet. A folded body (a short span) says little.
    """
    ankles = [JOINT_INDEX["left_ankle"], JOINT_INDEX["right_ankle"]]
    trunk = [JOINT_INDEX[n] for n in ("left_shoulder", "right_shoulder", "left_hip", "right_hip")]
    span = joints[:, trunk].mean(1) - joints[:, ankles].mean(1)
    length = np.linalg.norm(span, axis=1)
    up = span / np.maximum(length, 1e-6)[:, None]
    return up, weights * np.clip((length - 0.5) / 0.4, 0.0, 1.0)


def fuse_with_gravity(
    rotation: np.ndarray, frame: np.ndarray, up: np.ndarray, votes: np.ndarray
) -> np.ndarray:
    """World-from-camera [N, 3, 3] from one gravity for the whole video; the heading is camera_0's.

    ``rotation`` [N, 3, 3] camera_0-from-camera_i (one identity for a camera that stands still);
    ``up`` [K, 3] what bodies say of up, each in the axes of camera ``frame`` [K], with ``votes``
    [K]. They are averaged in camera_0's axes, without outliers, and drawn to the mean up of a
    camera held level by LEVEL_PRIOR frames: a person who never stands does not tilt the world.
    """
    level = np.einsum("nij,j->ni", rotation, np.array([0.0, -1.0, 0.0])).mean(axis=0)
    level /= max(np.linalg.norm(level), 1e-9)
    told = np.einsum("kij,kj->ki", rotation[frame], up)
    mean, limit = level, MAX_TILT
    for _ in range(10):
        near = told @ mean > np.cos(limit)
        mean = (told * (votes * near)[:, None]).sum(axis=0) + LEVEL_PRIOR * level
        mean /= np.linalg.norm(mean)
        limit = OUTLIER
    return level_rotation(mean) @ rotation


def lowest_foot(joints: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """The lowest of toes and ankles of ``joints`` [N, 24, 3] m, all in camera axes, in a world
    turned by ``rotation`` [N, 3, 3]: [N, 3] m."""
    feet = joints[:, list(FEET + ANKLES)]
    height = np.einsum("nj,nfj->nf", rotation[:, 1], feet)
    return feet[np.arange(len(feet)), height.argmin(axis=1)]


def level_by_floor(
    rotation: np.ndarray, places: list[np.ndarray], trust: list[np.ndarray], fps: float
) -> np.ndarray:
    """World-from-camera [3, 3] in which people walk level, for a camera that stays in its place.

    ``rotation`` [3, 3] is what upright people say, ``places`` [N, 3] m each person's lowest foot
    about the camera in that world, ``trust`` [N] 0..1. Heights FLOOR_LAG apart are compared, so
    that people may stand on different levels and a jump down one counts little. What the noise of
    depths adds to the slope along the line of sight is taken out of the normal equations.
    """
    slope = np.zeros(2)
    for _ in range(10):
        normal, right = np.eye(2) / UPRIGHT_ERROR**2, np.zeros(2)
        for place, sure in zip(places, trust, strict=True):
            lag = min(round(FLOOR_LAG * fps), len(place) // 2)
            if lag < 1:
                continue
            step = place[lag:] - place[:-lag]
            flat, rise = step[:, [0, 2]], step[:, 1]
            weight = np.minimum(sure[lag:], sure[:-lag]) / (FLOOR_MEMORY * fps)
            weight = weight / (1 + ((rise - flat @ slope) / FLOOR_STEP) ** 2) ** 2
            distance = np.linalg.norm(place[lag:], axis=1, keepdims=True)
            ray = place[lag:] / np.maximum(distance, 1e-6)
            noise = 2 * (DEPTH_NOISE * distance[:, 0]) ** 2
            along = ray[:, [0, 2]]
            error = FLOOR_NOISE**2 + noise * ray[:, 1] ** 2
            weight = weight / error
            spread = np.einsum("n,ni,nj->ij", weight, flat, flat)
            spread -= np.einsum("n,n,ni,nj->ij", weight, noise, along, along)
            climb = weight * rise @ flat - weight * noise * ray[:, 1] @ along
            values, axes = np.linalg.eigh(spread)
            axes = axes[:, values > 0]
            normal += axes * values[values > 0] @ axes.T
            right += axes @ (axes.T @ climb)
        slope = np.linalg.solve(normal, right)
    if np.linalg.norm(slope) > np.tan(MOST_SLOPE):
        return rotation
    return level_rotation(rotation.T @ np.array([-slope[0], 1.0, -slope[1]]))
