"""Where down is, told by how people keep their balance, by straight edges, by how cameras are held
and by the floor that is walked on."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize

from ropetp_cli.body.skeleton import ANKLES, FEET

#: World-from-camera of a level camera: x stays, y and z turn over (OpenCV -> y up).
LEVEL = np.diag([1.0, -1.0, -1.0])

#: How cameras are held that film people: a little downwards, and by how much they are off that in
#: roll and in pitch; some of them are off by far more.
DOWN, ROLL, PITCH = np.radians(3.0), np.radians(2.0), np.radians(10.0)
#: What one frame says of roll and of pitch is off by the same in the next ones, s; and one person
#: says no more than so many frames that know nothing of one another.
SAME_FOR, ONE_PERSON = np.array([[1.0], [3.0]]), 2.0
#: What is so many times its own error off counts half: what people's balance says, and how cameras
#: are held.
DOUBTED, ASKEW = 3.0, 1.0
#: However far off up is from what straight edges say, it costs no more: one picture in twenty of
#: them is misread.
MISREAD = 7.0
#: How far off people's balance is on the whole, and the most that the floor may say against it.
UPRIGHT_ERROR, MOST_SLOPE = np.radians(2.0), np.radians(10.0)
FLOOR_LAG = 2.0  # s between two places whose heights are compared
FLOOR_NOISE, FLOOR_STEP = 0.06, 0.15  # m: error of a height; a step that says nothing of the slope
FLOOR_MEMORY = 0.5  # s over which these errors stay the same
DEPTH_NOISE = 0.04  # of the distance

#: What straight edges say of one picture: its camera's number, up [3] in that camera's axes, and by
#: how much, rad, it may be off in roll and in pitch [2].
Vertical = tuple[int, np.ndarray, np.ndarray]


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


def fuse_with_gravity(
    rotation: np.ndarray,
    frames: list[np.ndarray],
    up: list[np.ndarray],
    error: list[np.ndarray],
    fps: float,
    edges: Sequence[Vertical] = (),
) -> np.ndarray:
    """World-from-camera [N, 3, 3] from one gravity for the whole video; the heading is camera_0's.

    ``rotation`` [N, 3, 3] camera_0-from-camera_i (one identity for a camera that stands still). Of
    every person ``up`` [K, 3], a direction in the axes of camera ``frames`` [K], as Rope over time
    says it, and ``error`` [K, 2] rad, by how much that may be off in roll and in pitch. What all
    say is weighed against how cameras are held: up is the direction u of least

        sum_k w_k rho(|u - u_k|^2 / error_k^2) + mean_i rho((x_i . u / ROLL)^2)
            + mean_i rho(((z_i . u + DOWN) / PITCH)^2),

    x_i and z_i being where camera i's right and front point in camera_0's axes. rho grows slowly
    with what is far off, so several answers may each contradict somebody; they are sought from
    what everybody says. What straight ``edges`` of some pictures say, adds the mean over these of

        -log(exp(-|u - u_p|^2 / error_p^2 / 2) + exp(-MISREAD)).
    """
    told = [np.einsum("kij,kj->ki", rotation[f], u) for f, u in zip(frames, up, strict=True)]
    sideways = [_rolls_toward(u, rotation[f]) for f, u in zip(frames, told, strict=True)]
    verticals = _verticals(rotation, edges)

    def cost(up: np.ndarray) -> float:
        up = up / np.linalg.norm(up)
        total = 0.0
        for axis, mean, spread in ((0, 0.0, ROLL), (2, -np.sin(DOWN), PITCH)):
            total += _robust(((rotation[:, :, axis] @ up - mean) / spread) ** 2, ASKEW).mean()
        for balance, side, doubt in zip(told, sideways, error, strict=True):
            total += _imbalance(up, balance, side, doubt, fps)
        if edges:
            total -= np.logaddexp(-_squared(up, *verticals).sum(axis=0) / 2, -MISREAD).mean()
        return total

    starts = [-rotation[0, :, 1], *(balance.mean(axis=0) for balance in told), *verticals[0]]
    found = [minimize(cost, start) for start in starts if np.linalg.norm(start) > 0.1]
    return level_rotation(min(found, key=lambda each: each.fun).x) @ rotation


def edges_agree(world: np.ndarray, edges: Sequence[Vertical]) -> float | None:
    """By how much, rad, the up of ``world`` [N, 3, 3] from camera may be off where straight
    ``edges`` say the same; None where most of them do not."""
    if not edges:
        return None
    told, sideways, error = _verticals(world, edges)
    same = _squared(np.array([0.0, 1.0, 0.0]), told, sideways, error).sum(axis=0) < DOUBTED**2
    return float(error[same].mean()) if same.mean() > 0.5 else None


def _rolls_toward(up: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Which way rolling the cameras ``rotation`` [K, 3, 3] moves ``up`` [K, 3], unit [K, 3]."""
    side = np.cross(up, rotation[:, :, 2])
    return side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-6)


def _verticals(
    rotation: np.ndarray, edges: Sequence[Vertical]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What ``edges`` say is up, where rolling moves it, and its error: [K, 3], [K, 3], [K, 2], the
    first two turned by ``rotation`` [N, 3, 3]."""
    if not edges:
        return np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 2))
    turn = rotation[[frame for frame, _, _ in edges]]
    told = np.einsum("kij,kj->ki", turn, np.stack([up for _, up, _ in edges]))
    return told, _rolls_toward(told, turn), np.stack([error for _, _, error in edges])


def _robust(squared: np.ndarray, doubted: float) -> np.ndarray:
    """Half of a ``squared`` error over its spread; far off, where it is more than ``doubted`` times
    the spread, its logarithm."""
    return doubted**2 / 2 * np.log1p(squared / doubted**2)


def _imbalance(
    up: np.ndarray, told: np.ndarray, sideways: np.ndarray, error: np.ndarray, fps: float
) -> float:
    """What it costs that ``up`` [3] is not as one person has ``told`` [K, 3], off by ``error``
    [K, 2] rad in roll, which moves it ``sideways`` [K, 3], and in pitch."""
    squared = _squared(up, told, sideways, error)
    weight = 1 / (SAME_FOR * fps + len(told) / ONE_PERSON)
    far = squared.sum(axis=0)
    share = (weight * squared).sum(axis=0) / np.maximum(far, 1e-9)
    return float((share * _robust(far, DOUBTED)).sum())


def _squared(
    up: np.ndarray, told: np.ndarray, sideways: np.ndarray, error: np.ndarray
) -> np.ndarray:
    """How far ``up`` [3] is from what is ``told`` [K, 3] in roll and in pitch, over the ``error``
    [K, 2] of either, squared: [2, K]."""
    off = told - up
    rolled = (off * sideways).sum(axis=1) ** 2
    return np.stack([rolled, (off**2).sum(axis=1) - rolled]) / error.T**2


def lowest_foot(joints: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """The lowest of toes and ankles of ``joints`` [N, 24, 3] m, all in camera axes, in a world
    turned by ``rotation`` [N, 3, 3]: [N, 3] m."""
    feet = joints[:, list(FEET + ANKLES)]
    height = np.einsum("nj,nfj->nf", rotation[:, 1], feet)
    return feet[np.arange(len(feet)), height.argmin(axis=1)]


def level_by_floor(
    rotation: np.ndarray,
    places: list[np.ndarray],
    trust: list[np.ndarray],
    fps: float,
    off: float = UPRIGHT_ERROR,
) -> np.ndarray:
    """World-from-camera [3, 3] in which people walk level, for a camera that stays in its place.

    ``rotation`` [3, 3] is what else is known of it and ``off``, rad, by how much that may be;
    ``places`` [N, 3] m each person's lowest foot about the camera in that world, ``trust`` [N]
    0..1. Heights FLOOR_LAG apart are compared, so that people may stand on different levels and a
    jump down one counts little. What the noise of depths adds to the slope along the line of sight
    is taken out of the normal equations.
    """
    slope = np.zeros(2)
    for _ in range(10):
        normal, right = np.eye(2) / off**2, np.zeros(2)
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
