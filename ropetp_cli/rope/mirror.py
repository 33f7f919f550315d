"""A second opinion from the mirror (beyond the paper).

A network that was trained on people and their mirror images should say of one what it says of the
other, mirrored, and is off in each in its own way. The mean of both answers is nearer to the truth.
"""

import torch
from torch import Tensor

from ropetp_cli.body.rot6d import matrix_to_rot6d, rot6d_to_matrix
from ropetp_cli.body.skeleton import MIRROR
from ropetp_cli.rope.network import Rope, RopeOutput, weak_perspective

#: For each COCO keypoint, the one on the other side.
COCO_MIRROR = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]


def look_twice(rope: Rope, images: Tensor, keypoints: Tensor) -> RopeOutput:
    """Rope's answer to ``images`` [B, 3, 256, 256] and ``keypoints`` [B, 17, 3], and to both in a
    mirror, as one answer without attention maps."""
    across = keypoints.new_tensor([-1.0, 1.0, 1.0])
    both = rope(
        torch.cat([images, images.flip(-1)]).contiguous(memory_format=torch.channels_last),
        torch.cat([keypoints, keypoints[:, COCO_MIRROR] * across]),
    )
    count = len(images)
    rotations = both.rotations[count:, list(MIRROR)]
    rotations = across[:, None] * rotations * across
    rotations = rot6d_to_matrix(matrix_to_rot6d((both.rotations[:count] + rotations) / 2))
    betas = (both.betas[:count] + both.betas[count:]) / 2
    cam = (both.cam[:count] + both.cam[count:] * across[[1, 0, 1]]) / 2
    # Where each sees a joint counts by how sure it is.
    points = torch.stack([both.points[:count], both.points[count:, list(MIRROR)] * across[:2]])
    log_spread = torch.stack([both.log_spread[:count], both.log_spread[count:, list(MIRROR)]])
    weight = (-2 * log_spread).softmax(dim=0)
    confidence = both.confidence_logit
    with torch.autocast(cam.device.type, enabled=False):
        joints = rope.joints(rotations, betas)
    return RopeOutput(
        rotations, betas, cam, joints, weak_perspective(joints, cam),
        (weight[..., None] * points).sum(dim=0), log_spread.mean(dim=0),
        (confidence[:count] + confidence[count:, list(MIRROR)]) / 2, {},
    )  # fmt: skip
