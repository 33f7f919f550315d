"""From a crop's weak-perspective camera to the person's place before the real camera."""

import numpy as np

MIN_DEPTH = 0.2  # m, nearer than any lens would focus


def look_along(centers: np.ndarray, focal: float, center: np.ndarray) -> np.ndarray:
    """Rotations that turn the camera's z axis to the ray through each crop's centre.

    ``centers`` [N, 2] px -> [N, 3, 3]. A crop is seen as if the camera had looked straight at
    it, so what Rope says of it is true in axes turned by this much.
    """
    ray = np.concatenate([(centers - center) / focal, np.ones((len(centers), 1))], axis=1)
    z = ray / np.linalg.norm(ray, axis=1, keepdims=True)
    x = np.cross(np.array([0.0, 1.0, 0.0]), z)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.stack([x, np.cross(z, x), z], axis=-1)


def widths_at_one_metre(
    centers: np.ndarray, sizes: np.ndarray, focal: float, center: np.ndarray
) -> np.ndarray:
    """How wide, [N] m, is what crops with sides ``sizes`` [N] px about ``centers`` [N, 2] px show
    at one metre from the camera, along the ray through each one's middle."""
    away = np.concatenate([(centers - center) / focal, np.ones((len(centers), 1))], axis=1)
    return sizes / (focal * np.linalg.norm(away, axis=1))


def pelvis_in_crops(cam: np.ndarray, width: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """The pelvis before the camera, [N, 3] m, from ``cam`` [N, 3] (s, tx, ty) of crops, the
    ``width`` [N] m of each at one metre and ``turn`` [N, 3, 3] from its axes to the camera's: one
    metre spans s / 2 of a crop, so the depth along its ray is 2 / (s * width)."""
    in_crop_axes = np.stack([cam[:, 1], cam[:, 2], 2.0 / (cam[:, 0] * width)], axis=1)
    return np.einsum("nij,nj->ni", turn, in_crop_axes)


def fit_pelvis(
    joints: np.ndarray,
    joints2d: np.ndarray,
    weights: np.ndarray,
    focal: float,
    center: np.ndarray,
    fallback: np.ndarray,
) -> np.ndarray:
    """The pelvis position whose perspective image agrees best with the 2D joints, [N, 3] m.

    ``joints`` [N, J, 3] m about the pelvis, camera axes; ``joints2d`` [N, J, 2] px; ``weights``
    [N, J]. Linear least squares of f (X + t) - (u - c) (Z + t_z) = 0; a frame whose solution
    lies behind the camera takes ``fallback`` [N, 3].
    """
    offset = (joints2d - center) / focal
    count, size = joints.shape[:2]
    system = np.zeros((count, size, 2, 3))
    system[:, :, 0, 0] = system[:, :, 1, 1] = 1.0
    system[:, :, :, 2] = -offset
    right = offset * joints[..., 2:] - joints[..., :2]
    scale = weights[..., None]
    system = (system * scale[..., None]).reshape(count, -1, 3)
    right = (right * scale).reshape(count, -1, 1)
    transposed = system.transpose(0, 2, 1)
    normal = transposed @ system + 1e-9 * np.eye(3)
    pelvis = np.linalg.solve(normal, transposed @ right)[..., 0]
    good = pelvis[:, 2] + joints[..., 2].min(axis=1) > MIN_DEPTH
    return np.where(good[:, None], pelvis, fallback)
