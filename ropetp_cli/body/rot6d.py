"""Torch twins of the rotation functions the networks and their losses differentiate through."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ropetp_cli.body.skeleton import PARENTS


def rot6d_to_matrix(rot6d: Tensor) -> Tensor:
    """[..., 6] (first column, second column) -> [..., 3, 3] by Gram-Schmidt."""
    x = F.normalize(rot6d[..., :3], dim=-1)
    b = rot6d[..., 3:]
    y = F.normalize(b - (x * b).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.cross(x, y, dim=-1)], dim=-1)


def matrix_to_rot6d(matrix: Tensor) -> Tensor:
    """[..., 3, 3] -> [..., 6]: the first column, then the second."""
    return torch.cat([matrix[..., 0], matrix[..., 1]], dim=-1)


def forward_kinematics(local: Tensor, rest_joints: Tensor) -> tuple[Tensor, Tensor]:
    """Posed joints without a mesh.

    ``local`` [B, 24, 3, 3], ``rest_joints`` [B, 24, 3] m. Returns positions with the pelvis at
    ``rest_joints[:, 0]`` [B, 24, 3] and accumulated rotations [B, 24, 3, 3].
    """
    turned, placed = [local[:, 0]], [rest_joints[:, 0]]
    for joint, parent in enumerate(PARENTS[1:], start=1):
        offset = rest_joints[:, joint] - rest_joints[:, parent]
        placed.append(placed[parent] + (turned[parent] @ offset[..., None])[..., 0])
        turned.append(turned[parent] @ local[:, joint])
    return torch.stack(placed, 1), torch.stack(turned, 1)
