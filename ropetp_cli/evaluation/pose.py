"""How right Rope is on labelled crops: PCK on real ones, millimetres on rendered ones."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ropetp_cli.body.model import BodyData
from ropetp_cli.body.skeleton import JOINT_INDEX
from ropetp_cli.body.torch_model import BodyModel
from ropetp_cli.evaluation.metrics import mean, mpjpe, pa_mpjpe, pve, straight_knees
from ropetp_cli.rope.blazepose import import_tflite
from ropetp_cli.rope.predictor import CropPoses, RopePredictor, posed_joints
from ropetp_cli.rope.upright import FAR, NEAR
from ropetp_cli.training.crops import CropSet

#: LSP's 14 joints; the first twelve are limbs, each at an SMPL joint.
LSP_LIMBS = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
    "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
)  # fmt: skip
LIMB_JOINTS = [JOINT_INDEX[name] for name in LSP_LIMBS]


#: Joints that nothing covers, of 24, in a crop that counts as clear.
CLEAR = 22


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


#: BlazePose landmark of each LSP limb joint.
BLAZEPOSE_LIMBS = [28, 26, 24, 23, 25, 27, 16, 14, 12, 11, 13, 15]
#: COCO keypoint of each LSP limb joint.
COCO_LIMBS = [16, 14, 12, 11, 13, 15, 10, 8, 6, 5, 7, 9]


def real_figures(poses: CropPoses, crops: CropSet) -> dict[str, float]:
    """PCK at 0.1 and 0.2 on a set with LSP labels (``lsp2d`` [n, 14, 3])."""
    labelled = crops.labels["lsp2d"][:, :12]
    predicted = poses.joints2d[:, LIMB_JOINTS]
    return {
        f"pck@{threshold}": round(pck(predicted, labelled[..., :2], labelled[..., 2], threshold), 4)
        for threshold in (0.1, 0.2)
    }


@torch.inference_mode()
def rendered_figures(poses: CropPoses, crops: CropSet, body: BodyData) -> dict[str, float]:
    """MPJPE, PA-MPJPE and MPVPE in mm on a rendered set: on all of it, on the crops in which
    nearly every joint is free of occluders and inside the picture (``clear_``), on the others
    (``hidden_``). Then by how many degrees straight knees come out bent, nan without any."""
    truth = crops.labels["joints3d"]
    joints = posed_joints(poses.rotations, body.rest_joints(poses.betas))
    model = BodyModel(body)
    vertex_errors = []
    for start in range(0, len(truth), 64):
        part = slice(start, start + 64)
        meshes = [
            model(torch.as_tensor(r[part]).float(), torch.as_tensor(b[part]).float())
            for r, b in (
                (poses.rotations, poses.betas),
                (crops.labels["rotations"], crops.labels["betas"]),
            )
        ]
        (ours, our_joints), (theirs, their_joints) = meshes
        vertex_errors.append(
            pve(ours.numpy(), theirs.numpy(), our_joints.numpy(), their_joints.numpy())
        )
    errors = {
        "mpjpe_mm": mpjpe(joints, truth),
        "pa_mpjpe_mm": pa_mpjpe(joints, truth),
        "mpvpe_mm": np.concatenate(vertex_errors),
    }
    clear = (crops.labels["visible"] > 0).sum(axis=1) >= CLEAR
    groups = {"": np.ones_like(clear), "clear_": clear, "hidden_": ~clear}
    figures = {
        f"{group}{name}": float(each[rows].mean())
        for group, rows in groups.items()
        for name, each in errors.items()
        if rows.any()
    }
    knees = straight_knees(poses.rotations, crops.labels["rotations"])
    figures["straight_knees_deg"] = mean([knees])
    return {name: round(value, 2) for name, value in figures.items()}


@torch.inference_mode()
def evaluate_sets(
    data: Path,
    names: tuple[str, ...],
    weights: Path | None,
    body: BodyData,
    device: str = "cpu",
    teacher: Path | None = None,
    alone: bool = False,
    aligned: bool = True,
    quick: bool = False,
    near: bool = False,
) -> dict[str, dict[str, float]]:
    """The figures of Rope on crop sets; on real ones also the PCK of the detector's keypoints, of
    MoveNet's, of Pinpoint's and, if ``teacher``, a .tflite file, is given, BlazePose's.
    ``weights`` as in
    :meth:`~ropetp_cli.rope.predictor.RopePredictor.from_weights`.

    ``alone``: Rope without keypoints; ``aligned`` False: without the alignment;
    ``quick``: without the mirror; ``near``: looked at as frames of a video are.
    """
    predictor = RopePredictor.from_weights(
        body, weights, device, aligned=aligned, quick=quick, reach=NEAR if near else FAR
    )
    net = import_tflite(teacher).eval().to(device) if teacher else None
    found = {}
    for name in names:
        crops = CropSet.load(data, name)
        poses = CropPoses.joined(
            [
                predictor.predict(
                    np.array(crops.images[rows]), None if alone else crops.keypoints[rows]
                )
                for rows in batches(len(crops))
            ]
        )
        if "lsp2d" not in crops.labels:
            found[name] = rendered_figures(poses, crops, body)
            continue
        found[name] = real_figures(poses, crops)
        others = {"detector": crops.keypoints[:, COCO_LIMBS, :2]}
        if not alone:
            others["pinpoint"] = poses.keypoints[:, COCO_LIMBS, :2]
            others["movenet"] = np.concatenate(
                [
                    predictor.marked(np.array(crops.images[rows]), crops.keypoints[rows])
                    for rows in batches(len(crops))
                ]
            )[:, COCO_LIMBS, :2]
        if net is not None:
            marks = [net.features(_images(crops, rows).to(device), ["landmarks"])["landmarks"].cpu()
                     for rows in batches(len(crops))]  # fmt: skip
            others["blazepose"] = torch.cat(marks)[:, BLAZEPOSE_LIMBS, :2].numpy() / 128 - 1
        labelled = crops.labels["lsp2d"][:, :12]
        for who, theirs in others.items():
            for threshold in (0.1, 0.2):
                figure = pck(theirs, labelled[..., :2], labelled[..., 2], threshold)
                found[name][f"{who}_pck@{threshold}"] = round(figure, 4)
    return found


def batches(count: int, size: int = 32) -> Iterator[slice]:
    """Slices that cover ``count`` rows, ``size`` at a time."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _images(crops: CropSet, rows: slice) -> torch.Tensor:
    """Pictures as floats 0..1, [n, 3, 256, 256]."""
    return torch.from_numpy(np.array(crops.images[rows])).permute(0, 3, 1, 2).float() / 255
