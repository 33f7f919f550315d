"""The field's metrics, as its evaluators code them.

Every function takes one sequence and returns one figure a frame (or a chunk's frame, a foot in
contact), in the unit it names; :func:`mean` of all sequences' figures laid end to end is what the
tables print. ``pred`` and ``truth`` are [N, J, 3] m unless said otherwise.
"""

from collections.abc import Iterable

import numpy as np

from ropetp_cli.body.rotations import knee_bends
from ropetp_cli.body.skeleton import FEET, JOINT_INDEX

HIPS = (JOINT_INDEX["left_hip"], JOINT_INDEX["right_hip"])
CHUNK = 100
STATIC = 0.01  # m a frame
#: rad: a knee bent by less is straight.
STRAIGHT = 0.35


def mean(parts: Iterable[np.ndarray]) -> float:
    """The mean of all figures of all sequences; nan if there are none."""
    values = np.concatenate([np.asarray(part, dtype=np.float64).ravel() for part in parts])
    return float(values.mean()) if len(values) else float("nan")


def align(
    source: np.ndarray, target: np.ndarray, scale: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The similarity (rigid without ``scale``) that brings points nearest to others (Umeyama).

    ``source``, ``target`` [..., P, 3] -> s [...], R [..., 3, 3], t [..., 3] with
    target ~ s R source + t. Points that all coincide are only moved.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    center, aim = source.mean(-2, keepdims=True), target.mean(-2, keepdims=True)
    a, b = source - center, target - aim
    u, values, vt = np.linalg.svd(np.swapaxes(b, -1, -2) @ a)
    sign = np.ones_like(values)
    sign[..., -1] = np.sign(np.linalg.det(u) * np.linalg.det(vt))
    rotation = (u * sign[..., None, :]) @ vt
    spread = (a**2).sum((-1, -2))
    factor = np.ones(spread.shape)
    if scale:
        np.divide((values * sign).sum(-1), spread, out=factor, where=spread > 1e-12)
    moved = factor[..., None] * np.einsum("...ij,...j->...i", rotation, center[..., 0, :])
    return factor, rotation, aim[..., 0, :] - moved


def apply(transform: tuple[np.ndarray, np.ndarray, np.ndarray], points: np.ndarray) -> np.ndarray:
    """Move points [..., P, 3] by what :func:`align` found."""
    scale, rotation, shift = transform
    turned = points @ np.swapaxes(rotation, -1, -2)
    return np.asarray(scale)[..., None, None] * turned + shift[..., None, :]


def mpjpe(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean joint error with the middle of the hips subtracted, mm [N]."""
    pred = pred - pred[:, HIPS].mean(1, keepdims=True)
    truth = truth - truth[:, HIPS].mean(1, keepdims=True)
    return np.linalg.norm(pred - truth, axis=-1).mean(-1) * 1000


def pa_mpjpe(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean joint error after a similarity Procrustes of each frame, mm [N]."""
    return np.linalg.norm(apply(align(pred, truth), pred) - truth, axis=-1).mean(-1) * 1000


def pve(
    pred_vertices: np.ndarray,
    truth_vertices: np.ndarray,
    pred_joints: np.ndarray,
    truth_joints: np.ndarray,
) -> np.ndarray:
    """Mean vertex error (PVE, MPVPE) with the middle of the hips subtracted, mm [N]. Vertices
    [N, V, 3] m."""
    pred = pred_vertices - pred_joints[:, HIPS].mean(1, keepdims=True)
    truth = truth_vertices - truth_joints[:, HIPS].mean(1, keepdims=True)
    return np.linalg.norm(pred - truth, axis=-1).mean(-1) * 1000


def _chunked(pred: np.ndarray, truth: np.ndarray, chunk: int, lead: int) -> np.ndarray:
    errors = []
    for start in range(0, len(pred), chunk):
        have, want = pred[start : start + chunk], truth[start : start + chunk]
        moved = apply(align(have[:lead].reshape(-1, 3), want[:lead].reshape(-1, 3)), have)
        errors.append(np.linalg.norm(moved - want, axis=-1).mean(-1) * 1000)
    return np.concatenate(errors)


def w_mpjpe(pred: np.ndarray, truth: np.ndarray, chunk: int = CHUNK) -> np.ndarray:
    """World joint error, each chunk aligned by the joints of its first two frames, mm [N]. A
    short last chunk is kept."""
    return _chunked(pred, truth, chunk, 2)


def wa_mpjpe(pred: np.ndarray, truth: np.ndarray, chunk: int = CHUNK) -> np.ndarray:
    """World joint error, each chunk aligned by all of its joints, mm [N]."""
    return _chunked(pred, truth, chunk, chunk)


def rte(pred_root: np.ndarray, truth_root: np.ndarray) -> np.ndarray:
    """Root error after a rigid alignment of the whole path, % of the path's length [N]. Paths
    [N, 3] m; nan where the truth does not move."""
    moved = apply(align(pred_root, truth_root, scale=False), pred_root)
    error = np.linalg.norm(moved - truth_root, axis=-1)
    length = np.linalg.norm(np.diff(truth_root, axis=0), axis=-1).sum()
    return error / length * 100 if length > 0 else np.full(len(error), np.nan)


def accel(pred: np.ndarray, truth: np.ndarray, fps: float) -> np.ndarray:
    """Acceleration error, m/s^2 [N - 2]."""
    return np.linalg.norm(np.diff(pred - truth, n=2, axis=0), axis=-1).mean(-1) * fps**2


def jitter(joints: np.ndarray, fps: float) -> np.ndarray:
    """Third difference, 10 m/s^3 [N - 3]."""
    return np.linalg.norm(np.diff(joints, n=3, axis=0), axis=-1).mean(-1) * fps**3 / 10


def foot_sliding(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Movement of the predicted feet wherever the true foot moves less than 1 cm a frame, mm a
    frame; one figure a foot and step in contact."""
    feet = list(FEET)
    still = np.linalg.norm(np.diff(truth[:, feet], axis=0), axis=-1) < STATIC
    return np.linalg.norm(np.diff(pred[:, feet], axis=0), axis=-1)[still] * 1000


def straight_knees(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """By how many degrees more every knee that is straight is bent, one figure a straight knee, of
    parent-relative rotations ``pred`` and ``truth`` [N, 24, 3, 3]."""
    bent, straight = knee_bends(pred), knee_bends(truth)
    return np.degrees(bent - straight)[straight < STRAIGHT]
