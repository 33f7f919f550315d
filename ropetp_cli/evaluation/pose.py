"""How right Rope is on labelled crops: PCK on real ones, millimetres on rendered ones."""

from dataclasses import dataclass

import numpy as np
import torch

from ropetp_cli.body.model import BodyData
from ropetp_cli.body.skeleton import JOINT_INDEX
from ropetp_cli.body.torch_model import BodyModel
from ropetp_cli.evaluation.metrics import mpjpe, pa_mpjpe, pve
from ropetp_cli.training.crops import CropSet

#: LSP's 14 joints; the first twelve are limbs, each at an SMPL joint.
LSP_LIMBS = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
    "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
)  # fmt: skip
LIMB_JOINTS = [JOINT_INDEX[name] for name in LSP_LIMBS]


def pck(
    predicted: np.ndarray, labelled: np.ndarray, visible: np.ndarray, threshold: float
) -> float:
    """Share of labelled joints within ``threshold`` x the person's size.

    ``predicted``, ``labelled`` [N, J, 2] in any one unit, ``visible`` [N, J]. The person's size
    is the longer side of the box around the labelled joints.
    """
    shown = visible > 0
    low = np.where(shown[..., None], labelled, np.inf).min(axis=1)
    high = np.where(shown[..., None], labelled, -np.inf).max(axis=1)
    size = (high - low).max(axis=1)
    usable = np.isfinite(size) & (size > 0)
    near = np.linalg.norm(predicted - labelled, axis=-1) < threshold * size[:, None]
    return float(near[usable][shown[usable]].mean())


@dataclass
class CropPredictions:
    """Rope's answers on a set: joints [N, 24, 3] m, joints2d [N, 24, 2], rotations, betas."""

    joints: np.ndarray
    joints2d: np.ndarray
    rotations: np.ndarray
    betas: np.ndarray


def real_figures(predictions: CropPredictions, crops: CropSet) -> dict[str, float]:
    """PCK at 0.1 and 0.2 on a set with LSP labels (``lsp2d`` [n, 14, 3])."""
    labelled = crops.labels["lsp2d"][:, :12]
    predicted = predictions.joints2d[:, LIMB_JOINTS]
    return {
        f"pck@{threshold}": round(pck(predicted, labelled[..., :2], labelled[..., 2], threshold), 4)
        for threshold in (0.1, 0.2)
    }


@torch.inference_mode()
def rendered_figures(
    predictions: CropPredictions, crops: CropSet, body: BodyData
) -> dict[str, float]:
    """MPJPE, PA-MPJPE and MPVPE in mm on a rendered set."""
    truth = crops.labels["joints3d"]
    model = BodyModel(body)
    vertex_errors = []
    for start in range(0, len(truth), 64):
        part = slice(start, start + 64)
        meshes = [
            model(torch.as_tensor(r[part]).float(), torch.as_tensor(b[part]).float())
            for r, b in (
                (predictions.rotations, predictions.betas),
                (crops.labels["rotations"], crops.labels["betas"]),
            )
        ]
        (ours, our_joints), (theirs, their_joints) = meshes
        vertex_errors.append(
            pve(ours.numpy(), theirs.numpy(), our_joints.numpy(), their_joints.numpy())
        )
    return {
        "mpjpe_mm": round(float(np.mean(mpjpe(predictions.joints, truth))), 2),
        "pa_mpjpe_mm": round(float(np.mean(pa_mpjpe(predictions.joints, truth))), 2),
        "mpvpe_mm": round(float(np.mean(np.concatenate(vertex_errors))), 2),
    }
