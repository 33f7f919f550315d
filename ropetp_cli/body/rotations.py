"""Rotations in numpy: axis-angle, matrices acting on columns, quaternions wxyz, rot6d.

Every function takes leading batch axes. Torch's twins live in :mod:`ropetp_cli.body.rot6d`.
"""

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from ropetp_cli.body.skeleton import JOINT_INDEX, MIRROR, PARENTS

_KNEES = [JOINT_INDEX["left_knee"], JOINT_INDEX["right_knee"]]


def axis_angle_to_matrix(axis_angle: np.ndarray) -> np.ndarray:
    """[..., 3] radians -> [..., 3, 3]."""
    flat = np.asarray(axis_angle, dtype=np.float64).reshape(-1, 3)
    return Rotation.from_rotvec(flat).as_matrix().reshape(*np.shape(axis_angle)[:-1], 3, 3)


def matrix_to_axis_angle(matrix: np.ndarray) -> np.ndarray:
    """[..., 3, 3] -> [..., 3] radians, angles within [0, pi]."""
    flat = np.asarray(matrix, dtype=np.float64).reshape(-1, 3, 3)
    return Rotation.from_matrix(flat).as_rotvec().reshape(*np.shape(matrix)[:-2], 3)


def matrix_to_quaternion(matrix: np.ndarray) -> np.ndarray:
    """[..., 3, 3] -> wxyz [..., 4], real part >= 0."""
    flat = np.asarray(matrix, dtype=np.float64).reshape(-1, 3, 3)
    xyzw = Rotation.from_matrix(flat).as_quat(canonical=True)
    return np.roll(xyzw, 1, axis=-1).reshape(*np.shape(matrix)[:-2], 4)


def quaternion_to_matrix(quaternion: np.ndarray) -> np.ndarray:
    """wxyz [..., 4] of any non-zero length -> [..., 3, 3]."""
    flat = np.roll(np.asarray(quaternion, dtype=np.float64).reshape(-1, 4), -1, axis=-1)
    return Rotation.from_quat(flat).as_matrix().reshape(*np.shape(quaternion)[:-1], 3, 3)


def matrix_to_rot6d(matrix: np.ndarray) -> np.ndarray:
    """[..., 3, 3] -> [..., 6]: the first column, then the second."""
    matrix = np.asarray(matrix)
    return np.concatenate([matrix[..., 0], matrix[..., 1]], axis=-1)


def rot6d_to_matrix(rot6d: np.ndarray) -> np.ndarray:
    """[..., 6] -> [..., 3, 3] by Gram-Schmidt on the two columns."""
    a, b = np.asarray(rot6d, dtype=np.float64)[..., :3], np.asarray(rot6d)[..., 3:]
    x = a / np.linalg.norm(a, axis=-1, keepdims=True)
    y = b - (x * b).sum(-1, keepdims=True) * x
    y = y / np.linalg.norm(y, axis=-1, keepdims=True)
    return np.stack([x, y, np.cross(x, y)], axis=-1)


def yaw_matrix(angle: float | np.ndarray) -> np.ndarray:
    """Rotation about the world's y axis by ``angle`` radians, [..., 3, 3]."""
    axis_angle = np.zeros((*np.shape(angle), 3))
    axis_angle[..., 1] = angle
    return axis_angle_to_matrix(axis_angle)


def local_to_global(local: np.ndarray) -> np.ndarray:
    """Parent-relative joint rotations [..., 24, 3, 3] -> rotations in the root's frame of
    reference (the pelvis rotation is kept as it is), [..., 24, 3, 3]."""
    out = np.array(local, dtype=np.float64)
    for joint, parent in enumerate(PARENTS[1:], start=1):
        out[..., joint, :, :] = out[..., parent, :, :] @ out[..., joint, :, :]
    return out


def global_to_local(turned: np.ndarray) -> np.ndarray:
    """The way back from :func:`local_to_global`, [..., 24, 3, 3] to the same."""
    local = turned.copy()
    local[..., 1:, :, :] = (
        turned[..., list(PARENTS[1:]), :, :].swapaxes(-1, -2) @ turned[..., 1:, :, :]
    )
    return local


def knee_bends(local: np.ndarray) -> np.ndarray:
    """How far the knees of parent-relative rotations [N, 24, 3, 3] are bent, [N, 2] rad."""
    return np.linalg.norm(matrix_to_axis_angle(local[:, _KNEES]), axis=-1)


def forward_kinematics(
    local: np.ndarray, rest_joints: np.ndarray, trans: np.ndarray | None = None
) -> np.ndarray:
    """Joint positions of posed bodies.

    ``local`` [..., 24, 3, 3]; ``rest_joints`` [..., 24, 3] m (may lack the batch axes);
    ``trans`` [..., 3] m, SMPL's: the pelvis lands at ``trans + rest_joints[0]``.
    Returns [..., 24, 3] m.
    """
    turned = local_to_global(local)
    rest = np.broadcast_to(rest_joints, (*local.shape[:-3], 24, 3))
    out = np.array(rest, dtype=np.float64)
    for joint, parent in enumerate(PARENTS[1:], start=1):
        offset = rest[..., joint, :] - rest[..., parent, :]
        turned_offset = np.einsum("...ij,...j->...i", turned[..., parent, :, :], offset)
        out[..., joint, :] = out[..., parent, :] + turned_offset
    return out if trans is None else out + trans[..., None, :]


def mirror_pose(axis_angle: np.ndarray) -> np.ndarray:
    """The pose seen in a mirror across the body's x = 0 plane, axis-angle [..., 24, 3]."""
    return np.asarray(axis_angle)[..., list(MIRROR), :] * np.array([1.0, -1.0, -1.0])


def slerp(times: np.ndarray, matrices: np.ndarray, new_times: np.ndarray) -> np.ndarray:
    """Rotations [N, ..., 3, 3] at ``times`` [N] s -> [M, ..., 3, 3] at ``new_times`` [M] s.

    Times outside the range take the nearest end.
    """
    new_times = np.clip(new_times, times[0], times[-1])
    if len(times) == 1:
        return np.repeat(matrices, len(new_times), axis=0)
    flat = matrices.reshape(len(times), -1, 3, 3)
    out = np.stack(
        [
            Slerp(times, Rotation.from_matrix(flat[:, k]))(new_times).as_matrix()
            for k in range(flat.shape[1])
        ],
        axis=1,
    )
    return out.reshape(len(new_times), *matrices.shape[1:])
