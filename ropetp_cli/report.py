"""What a capture says of itself: ``report.json``, figures a user can check."""

from typing import Any

import numpy as np

from ropetp_cli.body.skeleton import ANKLES, FEET, LIMB_KEYPOINTS, LIMBS
from ropetp_cli.motion import Motion

CONFIDENT = 0.5
FLOOR_MARGIN = 0.02  # m below the floor before a frame counts


def joint_agreement(
    joints2d: np.ndarray, keypoints: np.ndarray, boxes: np.ndarray, threshold: float = 0.1
) -> dict[str, float | int]:
    """How well projected joints agree with a detector's confident keypoints.

    ``joints2d`` [N, 24, 2] px, ``keypoints`` [N, 17, 3] COCO (x, y, confidence), ``boxes``
    [N, 4] xyxy px. ``share`` of the confident limb keypoints (shoulders to ankles) lie within
    ``threshold`` x the box height; ``mean`` is their mean distance in box heights.
    """
    coco = list(LIMB_KEYPOINTS)
    height = np.maximum(boxes[:, 3] - boxes[:, 1], 1.0)[:, None]
    distance = np.linalg.norm(joints2d[:, LIMBS] - keypoints[:, coco, :2], axis=-1) / height
    confident = keypoints[:, coco, 2] > CONFIDENT
    count = int(confident.sum())
    if count == 0:
        return {"share": 0.0, "mean": 0.0, "keypoints": 0}
    errors = distance[confident]
    return {
        "share": round(float((errors < threshold).mean()), 4),
        "mean": round(float(errors.mean()), 4),
        "keypoints": count,
    }


def motion_figures(motion: Motion) -> dict[str, Any]:
    """Figures of a motion that need no truth.

    jitter: mean third difference of the joints x fps^3 / 10, as the field reports it (10 m/s^3);
    foot_sliding: mean horizontal speed of the lower foot while it is marked as standing, m/s;
    below_floor: share of frames with a foot or ankle joint under the floor; path: length m,
    straightness (net distance over length), mean speed m/s, facing (mean cosine between where
    the body faces and where it goes, while it goes faster than 0.3 m/s).
    """
    fps = motion.fps
    joints = motion.joints
    third = np.diff(joints, n=3, axis=0) * fps**3 if len(joints) > 3 else np.zeros((1, 24, 3))
    feet = joints[:, FEET]
    speed = np.linalg.norm(np.gradient(feet, axis=0)[..., [0, 2]], axis=-1) * fps \
        if len(joints) > 1 else np.zeros((1, 2))  # fmt: skip
    standing = motion.contacts > 0.5
    lowest = joints[:, list(FEET + ANKLES), 1].min(axis=1)
    return {
        "jitter": round(float(np.linalg.norm(third, axis=-1).mean() / 10), 3),
        "foot_sliding_m_per_s": round(float(speed[standing].mean()), 4) if standing.any() else None,
        "standing_share": round(float(standing.any(axis=1).mean()), 4),
        "below_floor_share": round(float((lowest < -FLOOR_MARGIN).mean()), 4),
        "path": _path_figures(motion),
    }


def _path_figures(motion: Motion) -> dict[str, float | None]:
    way = motion.way
    steps = np.diff(way, axis=0)
    length = float(np.linalg.norm(steps, axis=1).sum())
    net = way[-1] - way[0]
    figures: dict[str, float | None] = {
        "length_m": round(length, 3),
        "net_m": round(float(np.linalg.norm(net)), 3),
        "mean_speed_m_per_s": round(length / max(motion.duration, 1e-6), 3),
        "sideways_m": None,
        "facing_along_path": None,
    }
    if np.linalg.norm(net) > 0.5:
        direction = net / np.linalg.norm(net)
        sideways = (way - way[0]) @ np.array([-direction[1], direction[0]])
        figures["sideways_m"] = round(float(np.abs(sideways).max()), 3)
    facing = motion.rotations[:-1, 0, :, 2][:, [0, 2]]
    velocity = steps * motion.fps
    moving = np.linalg.norm(velocity, axis=1) > 0.3
    if moving.any():
        cosine = (facing * velocity).sum(1) / np.maximum(
            np.linalg.norm(facing, axis=1) * np.linalg.norm(velocity, axis=1), 1e-9
        )
        figures["facing_along_path"] = round(float(cosine[moving].mean()), 3)
    return figures
