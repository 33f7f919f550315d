"""Rope on batches of crops, as the tool uses it."""

from dataclasses import dataclass

import numpy as np
import torch

from ropetp_cli.body.rotations import forward_kinematics
from ropetp_cli.rope.network import Rope


@dataclass
class CropPoses:
    """Answers for N crops, in crop camera axes: rotations [N, 24, 3, 3], betas [N, 10], cam
    [N, 3] (s, tx, ty), joints2d [N, 24, 2] in -1..1 of the crop, confidence [N, 24] 0..1."""

    rotations: np.ndarray
    betas: np.ndarray
    cam: np.ndarray
    joints2d: np.ndarray
    confidence: np.ndarray

    def __len__(self) -> int:
        return len(self.rotations)

    def take(self, index: np.ndarray) -> "CropPoses":
        """The answers at ``index``, in that order."""
        return CropPoses(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    @classmethod
    def joined(cls, parts: list["CropPoses"]) -> "CropPoses":
        """Several batches as one."""
        return cls(
            *(
                np.concatenate([getattr(p, name) for p in parts])
                for name in cls.__dataclass_fields__
            )
        )


class RopePredictor:
    """Runs a :class:`Rope` on uint8 crops."""

    def __init__(self, rope: Rope, device: str = "cpu"):
        self.device = torch.device(device)
        self.rope = rope.eval().to(self.device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def predict(self, crops: np.ndarray) -> CropPoses:
        """``crops`` uint8 RGB [N, 256, 256, 3] -> N answers."""
        images = torch.from_numpy(np.ascontiguousarray(crops)).to(self.device)
        images = images.permute(0, 3, 1, 2).float().div_(255.0)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            output = self.rope(images)
        return CropPoses(
            *(
                value.float().cpu().numpy().astype(np.float64)
                for value in (
                    output.rotations,
                    output.betas,
                    output.cam,
                    output.joints2d,
                    output.confidence_logit.sigmoid(),
                )
            )
        )


def posed_joints(rotations: np.ndarray, rest_joints: np.ndarray) -> np.ndarray:
    """Joints about the pelvis, [N, 24, 3] m, for ``rotations`` [N, 24, 3, 3]."""
    joints = forward_kinematics(rotations, rest_joints)
    return joints - joints[:, :1]
