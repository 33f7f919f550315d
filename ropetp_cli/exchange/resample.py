"""A motion at another constant rate."""

from dataclasses import replace

import numpy as np

from ropetp_cli.body.rotations import (
    axis_angle_to_matrix,
    forward_kinematics,
    matrix_to_axis_angle,
    slerp,
)
from ropetp_cli.exchange import rest_joints
from ropetp_cli.motion import Motion, frames_within

LINEAR = (
    "trans", "boxes", "confidence", "joint_confidence", "contacts", "joints2d", "camera_trans",
)  # fmt: skip


def resampled(motion: Motion, fps: float) -> Motion:
    """``motion`` at ``fps`` frames a second over the same stretch of time.

    Rotations go by slerp, positions linearly; the joints follow from both, so that the answer
    is as consistent as a capture's own.
    """
    times = motion.timestamps
    count = frames_within(times[-1] - times[0], fps)
    wanted = np.minimum(times[0] + np.arange(count) / fps, times[-1])
    nearest = np.abs(np.subtract.outer(wanted, times)).argmin(axis=1) if count else None
    rotations = slerp(times, motion.rotations, wanted)
    camera = axis_angle_to_matrix(motion.camera_poses.reshape(-1, 24, 3))
    between = {}
    for name in LINEAR:
        values = getattr(motion, name)
        flat = values.reshape(len(values), -1)
        columns = [np.interp(wanted, times, column) for column in flat.T]
        between[name] = np.stack(columns, axis=1).reshape(count, *values.shape[1:])
    return replace(
        motion,
        poses=matrix_to_axis_angle(rotations).reshape(-1, 72),
        fps=fps,
        joints=forward_kinematics(rotations, rest_joints(motion), between["trans"]),
        timestamps=times[0] + np.arange(count) / fps,
        frame_index=motion.frame_index[nearest],
        camera_poses=matrix_to_axis_angle(slerp(times, camera, wanted)).reshape(-1, 72),
        camera_rotation=slerp(times, motion.camera_rotation, wanted),
        **between,
    )
