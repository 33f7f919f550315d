"""Fits the body's joints to many labelled photographs at once, in the manner of SMPLify.

Per crop: local rotations (rot6d), shape and a weak-perspective camera (s, tx, ty), so that the
projected joints meet the labelled 2D joints, limbs point as the teacher's do in 3D, and the pose
stays likely under a :class:`PosePrior`. Only the 24 joints are posed, never the mesh.

``python -m ropetp_cli.training.fitting --help`` writes ``real_train`` and ``real_val``.

The correspondence of LSP's joints, BlazePose's landmarks and SMPL's joints is stated here, once.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ropetp_cli.body.model import BodyData, load_body
from ropetp_cli.body.rot6d import forward_kinematics, matrix_to_rot6d, rot6d_to_matrix
from ropetp_cli.body.skeleton import JOINT_INDEX, NUM_BETAS
from ropetp_cli.rope.blazepose import CROP_SIZE, LANDMARKS
from ropetp_cli.training.mocap import some_straightened
from ropetp_cli.training.pose_prior import PosePrior, load_mocap_rotations
from ropetp_cli.training.synthetic import Labels
from ropetp_cli.training.teacher import (
    LSP_JOINTS,
    Lesson,
    RealCrops,
    in_validation,
    load_teacher,
    teach_all,
)

#: LSP joint -> (body point, weight). Limb joints are SMPL's own. LSP's hips are clicked on the
#: surface and its neck at the throat, so they pull less; ``head_top`` is the crown of the skull.
LSP_TO_BODY = {
    **{name: (name, 1.0) for name in LSP_JOINTS if name not in ("neck", "head_top")},
    "left_hip": ("left_hip", 0.4),
    "right_hip": ("right_hip", 0.4),
    "neck": ("neck", 0.3),
    "head_top": ("head_top", 0.6),
}

#: Directions compared in 3D: (name, BlazePose start, end, body start, end, weight). A name in
#: parentheses' stead such as "hips" is the mean of the left and right landmark or joint.
BONES = (
    ("torso", "hips", "shoulders", "hips", "shoulders", 2.0),
    ("hip line", "right_hip", "left_hip", "right_hip", "left_hip", 1.0),
    ("shoulder line", "right_shoulder", "left_shoulder", "right_shoulder", "left_shoulder", 1.5),
    *(
        (f"{side} {name}", f"{side}_{a}", f"{side}_{b}", f"{side}_{c}", f"{side}_{d}", weight)
        for side in ("left", "right")
        for name, a, b, c, d, weight in (
            ("thigh", "hip", "knee", "hip", "knee", 1.0),
            ("shin", "knee", "ankle", "knee", "ankle", 1.0),
            ("upper arm", "shoulder", "elbow", "shoulder", "elbow", 1.0),
            ("forearm", "elbow", "wrist", "elbow", "wrist", 1.0),
            ("foot", "ankle", "foot_index", "ankle", "foot", 0.6),
            ("hand", "wrist", "knuckles", "wrist", "hand", 0.4),
            ("palm", "pinky", "index", "palm_outer", "palm_inner", 0.25),
        )
    ),
    ("face", "ears", "nose", "head", "face_front", 0.8),
    ("ear line", "right_ear", "left_ear", "head", "head_left", 0.8),
)

#: Body points beside the joints: name -> (joint whose frame it turns with, offset m at rest).
_FRAME_POINTS = {
    "face_front": ("head", (0.0, -0.015, 0.1)),
    "head_left": ("head", (0.1, 0.0, 0.0)),
    **{f"{side}_palm_outer": (f"{side}_wrist", (0.0, 0.0, 0.0)) for side in ("left", "right")},
    **{f"{side}_palm_inner": (f"{side}_wrist", (0.0, 0.0, 0.08)) for side in ("left", "right")},
}

#: What weighs how much, stage by stage (see :func:`fit_bodies`). A heavier prior pulls unusual
#: poses (sitting, splits) into the nearest common one and never lets them go.
STAGES = (
    {"prior": 0.03, "rate": 0.06, "robust": 1.0, "flat": 0.03},
    {"prior": 0.1, "rate": 0.03, "robust": 0.15, "flat": 1.0},
    {"prior": 0.1, "rate": 0.015, "robust": 0.08, "flat": 1.0},
)
#: How far (log) the size of a person may lie from what the teacher's 3D says.
_SCALE_DEVIATION = 0.2
_SIDES = ("left", "right")
_LEG_LABELS = ("hip", "knee", "ankle")
_ARM_LABELS = ("shoulder", "elbow", "wrist")


@dataclass
class JointBody:
    """What fitting needs of the body: joints at rest by shape, and the top of the skull.

    ``rest`` [24, 3] m, ``shape`` [24, 3, 10] m per unit of beta, ``crown`` [3] m from the head.
    """

    rest: Tensor
    shape: Tensor
    crown: Tensor

    @classmethod
    def of(cls, body: BodyData) -> JointBody:
        regressor = np.asarray(body.J_regressor, np.float64)
        template = np.asarray(body.v_template, np.float64)
        directions = np.asarray(body.shapedirs, np.float64)[..., :NUM_BETAS]
        rest = regressor @ template
        head = template[np.asarray(body.vertex_joint) == JOINT_INDEX["head"]]
        crown = head[head[:, 1].argmax()] - rest[JOINT_INDEX["head"]]
        crown[0] = 0.0
        shape = np.einsum("jv,vak->jak", regressor, directions)
        return cls(*(torch.from_numpy(a).float() for a in (rest, shape, crown)))

    def joints(self, betas: Tensor) -> Tensor:
        """Rest joints [B, 24, 3] m for betas [B, 10]."""
        return self.rest + torch.einsum("jak,bk->bja", self.shape, betas)


@dataclass
class Evidence:
    """What is known of n crops, normalised to -1..1 across the crop.

    ``points`` [n, 14, 2] LSP joints and ``seen`` [n, 14]; ``size`` [n] the larger side of their
    box; ``bones`` [n, K, 3] unit directions of :data:`BONES` (camera axes) and ``trust`` [n, K];
    ``agreement`` [n] mean trust in the teacher's 2D; ``scale`` [n] crop units per metre, as the
    teacher's 3D lies over the labels.
    """

    points: Tensor
    seen: Tensor
    size: Tensor
    bones: Tensor
    trust: Tensor
    agreement: Tensor
    scale: Tensor


@dataclass
class Fit:
    """Fitted bodies: ``rotations`` [n, 24, 3, 3], ``betas`` [n, 10], ``cam`` [n, 3], ``joints3d``
    [n, 24, 3] m with the pelvis at 0, ``joints2d`` [n, 24, 2]; ``error2d`` [n] mean distance to
    the labelled joints over person size; ``error3d`` [n] rad to the trusted bones (nan without);
    ``unlikely`` [n] the prior's energy."""

    rotations: np.ndarray
    betas: np.ndarray
    cam: np.ndarray
    joints3d: np.ndarray
    joints2d: np.ndarray
    error2d: np.ndarray
    error3d: np.ndarray
    unlikely: np.ndarray


def _columns(landmark: str) -> list[int]:
    """BlazePose columns whose mean is the landmark: 'hips', 'left_knuckles' and single ones."""
    groups = {"hips": "hip", "shoulders": "shoulder", "ears": "ear"}
    if landmark in groups:
        return [LANDMARKS.index(f"{side}_{groups[landmark]}") for side in _SIDES]
    if landmark.endswith("knuckles"):
        side = landmark.split("_")[0]
        return [LANDMARKS.index(f"{side}_{finger}") for finger in ("index", "pinky")]
    return [LANDMARKS.index(landmark)]


def person_size(points: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The larger side of the box of the seen points: [n, J, 2], [n, J] -> [n]."""
    low = np.where(seen[..., None] > 0, points, np.inf).min(1)
    high = np.where(seen[..., None] > 0, points, -np.inf).max(1)
    return (high - low).max(1)


def mend_swaps(joints: np.ndarray, lesson: Lesson) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exchanges left and right labels of arms or legs where the teacher clearly says so.

    ``joints`` [n, 14, 3] px. Returns mended joints, ``swapped`` [n, 2] (legs, arms), and
    ``doubtful`` [n]: both pairs disagree, so labels and teacher face opposite ways and neither
    can be believed.
    """
    joints = joints.copy()
    size = person_size(joints[..., :2], joints[..., 2])
    swapped = np.zeros((len(joints), 2), bool)
    pairs = []
    for column, names in enumerate((_LEG_LABELS, _ARM_LABELS)):
        left, right = ([LSP_JOINTS.index(f"{side}_{n}") for n in names] for side in _SIDES)
        spots = [LANDMARKS.index(f"{side}_{n}") for side in _SIDES for n in names]
        seen = joints[:, left + right, 2] > 0
        seen_swapped = joints[:, right + left, 2] > 0
        both = seen & seen_swapped & (np.minimum(*np.split(lesson.visibility[:, spots], 2, 1)) > 0.4
                                      ).repeat(2, 0).reshape(len(joints), 6)  # fmt: skip
        truth = lesson.landmarks[:, spots]
        count = np.maximum(both.sum(1), 1)
        straight = np.linalg.norm(joints[:, left + right, :2] - truth, axis=-1)
        crossed = np.linalg.norm(joints[:, right + left, :2] - truth, axis=-1)
        straight = (straight * both).sum(1) / count / size
        crossed = (crossed * both).sum(1) / count / size
        enough = (both.sum(1) >= 4) & (lesson.presence > 0.8)
        swapped[:, column] = enough & (straight > 0.07) & (crossed < 0.55 * straight)
        pairs.append((left, right))
    doubtful = swapped.all(1)
    swapped[doubtful] = False
    for column, (left, right) in enumerate(pairs):
        rows = np.flatnonzero(swapped[:, column])
        joints[np.ix_(rows, left + right)] = joints[np.ix_(rows, right + left)]
    return joints, swapped, doubtful


def gather_evidence(joints: np.ndarray, lesson: Lesson) -> Evidence:
    """Labels px [n, 14, 3] and the teacher's lesson, brought together.

    A bone is trusted by the visibility of its ends and by how well the teacher's 2D of them
    agrees with the labels; ends without a label take the crop's mean agreement.
    """
    half = CROP_SIZE / 2
    points, seen = joints[..., :2] / half - 1, joints[..., 2] > 0
    points = np.where(seen[..., None], points, 0)
    size = person_size(points, seen)
    teacher = lesson.landmarks / half - 1
    shared = [name for name in LSP_JOINTS if name in LANDMARKS]
    spots = [LANDMARKS.index(name) for name in shared]
    columns = [LSP_JOINTS.index(name) for name in shared]
    gap = np.linalg.norm(teacher[:, spots] - points[:, columns], axis=-1) / size[:, None]
    reach = np.where([name.endswith("hip") for name in shared], 0.12, 0.08)
    agree = np.exp(-np.square(gap / reach))
    labelled = seen[:, columns]
    mean = (agree * labelled).sum(1) / np.maximum(labelled.sum(1), 1) * (lesson.presence > 0.5)
    trust_of = np.repeat(mean[:, None], len(LANDMARKS), 1)
    trust_of[:, spots] = np.where(labelled, agree, mean[:, None])
    trust_of = trust_of * lesson.visibility * mean[:, None] ** 0.5
    for side in _SIDES:
        wrist, ankle = LANDMARKS.index(f"{side}_wrist"), LANDMARKS.index(f"{side}_ankle")
        for finger in ("index", "pinky"):
            spot = LANDMARKS.index(f"{side}_{finger}")
            trust_of[:, spot] = np.minimum(trust_of[:, spot], trust_of[:, wrist])
        toe = LANDMARKS.index(f"{side}_foot_index")
        trust_of[:, toe] = np.minimum(trust_of[:, toe], trust_of[:, ankle])
    bones, trust = [], []
    for _, start, end, _, _, weight in BONES:
        ends = [_columns(start), _columns(end)]
        span = lesson.world[:, ends[1]].mean(1) - lesson.world[:, ends[0]].mean(1)
        bones.append(span / np.maximum(np.linalg.norm(span, axis=1, keepdims=True), 1e-6))
        trust.append(weight * trust_of[:, ends[0] + ends[1]].min(1))
    weight = (agree * labelled * lesson.visibility[:, spots])[..., None]
    total = np.maximum(weight.sum(1, keepdims=True), 1e-6)
    flat, target = lesson.world[:, spots, :2], points[:, columns]
    flat = flat - (flat * weight).sum(1, keepdims=True) / total
    target = target - (target * weight).sum(1, keepdims=True) / total
    scale = (weight * flat * target).sum((1, 2)) / np.maximum((weight * flat**2).sum((1, 2)), 1e-6)
    scale = np.where(total[:, 0, 0] > 2, np.clip(scale, size / 2.5, size / 0.4), size / 1.5)
    arrays = (points, seen, size, np.stack(bones, 1), np.stack(trust, 1), mean, scale)
    return Evidence(*(torch.from_numpy(np.asarray(a, np.float32)) for a in arrays))


def _place(body: JointBody, local: Tensor, betas: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Joints with the pelvis at 0 [B, 24, 3] and every named body point [B, 3]."""
    joints, turned = forward_kinematics(local, body.joints(betas))
    joints = joints - joints[:, :1]
    points = {name: joints[:, index] for name, index in JOINT_INDEX.items()}
    for name, (joint, offset) in _FRAME_POINTS.items():
        index = JOINT_INDEX[joint]
        points[name] = joints[:, index] + turned[:, index] @ torch.tensor(offset)
    head = JOINT_INDEX["head"]
    points["head_top"] = joints[:, head] + turned[:, head] @ body.crown
    points["hips"] = (points["left_hip"] + points["right_hip"]) / 2
    points["shoulders"] = (points["left_shoulder"] + points["right_shoulder"]) / 2
    return joints, points


def _first_guess(body: JointBody, prior: PosePrior, evidence: Evidence) -> tuple[Tensor, ...]:
    """rot6d [n, 24, 6], betas and cameras (log s, tx, ty): the mean pose,
    facing as the teacher says."""
    names = [bone[0] for bone in BONES]
    up = evidence.bones[:, names.index("torso")]
    left = (
        evidence.bones[:, names.index("hip line")] + evidence.bones[:, names.index("shoulder line")]
    )
    y = F.normalize(up, dim=1)
    x = F.normalize(left - (left * y).sum(1, keepdim=True) * y, dim=1)
    root = torch.stack([x, y, torch.cross(x, y, dim=1)], -1)
    count = len(root)
    pose = matrix_to_rot6d(rot6d_to_matrix(prior.mean.reshape(-1, 6))).expand(count, -1, -1)
    pose = torch.cat([matrix_to_rot6d(root)[:, None], pose], 1).clone()
    betas = torch.zeros(count, NUM_BETAS)
    _, points = _place(body, rot6d_to_matrix(pose), betas)
    drawn = torch.stack([points[LSP_TO_BODY[name][0]] for name in LSP_JOINTS], 1)[..., :2]
    torso = [LSP_JOINTS.index(f"{s}_{j}") for s in _SIDES for j in ("hip", "shoulder")]
    weight = evidence.seen.clone()
    weight[:, torso] *= 4
    total = weight.sum(1, keepdim=True).clamp_min(1)
    scale = evidence.scale
    middle2 = (evidence.points * weight[..., None]).sum(1) / total
    middle3 = (drawn * weight[..., None]).sum(1) / total
    shift = middle2 / scale[:, None] - middle3
    return pose, betas, torch.cat([scale.log()[:, None], shift], 1)


def fit_bodies(
    body: JointBody, prior: PosePrior, evidence: Evidence, steps: tuple[int, ...] = (100, 120, 120)
) -> Fit:
    """Fits every crop of ``evidence`` in one batch: first mostly by the teacher's bones, then with
    the labelled 2D at full weight, then trusting far-off labels less."""
    pose, betas, cam = _first_guess(body, prior, evidence)
    for tensor in (pose, betas, cam):
        tensor.requires_grad_()
    for stage, count in zip(STAGES, steps, strict=True):
        groups = [
            {"params": [pose], "lr": stage["rate"]},
            {"params": [betas], "lr": stage["rate"]},
            {"params": [cam], "lr": stage["rate"]},
        ]
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, count, stage["rate"] / 8)
        for _ in range(count):
            optimizer.zero_grad()
            _cost(body, prior, evidence, pose, betas, cam, stage).sum().backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return _conclude(body, prior, evidence, pose, betas, cam)


def _compare(body: JointBody, evidence: Evidence, pose: Tensor, betas: Tensor, cam: Tensor):
    """Local rotations, joints, 2D gaps over size [n, 14], and 1 - cos of bones [n, K]."""
    local = rot6d_to_matrix(pose)
    joints, points = _place(body, local, betas)
    drawn = torch.stack([points[LSP_TO_BODY[name][0]] for name in LSP_JOINTS], 1)
    flat = cam[:, :1, None].exp() * (drawn[..., :2] + cam[:, None, 1:])
    gaps = (flat - evidence.points) / evidence.size[:, None, None]
    spans = torch.stack([points[end] - points[start] for *_, start, end, _ in BONES], 1)
    away = 1 - (F.normalize(spans, dim=-1) * evidence.bones).sum(-1)
    return local, joints, gaps, away


def _cost(body, prior, evidence, pose, betas, cam, stage) -> Tensor:
    """Negative log posterior of each crop [n]: 2 % of the person's size and 0.2 rad are one
    deviation; gaps beyond ``robust`` times the size count less and less."""
    local, _, gaps, away = _compare(body, evidence, pose, betas, cam)
    weights = torch.tensor([LSP_TO_BODY[name][1] for name in LSP_JOINTS]) * evidence.seen
    squared = gaps.square().sum(-1)
    bound = stage["robust"] ** 2
    cost2d = (weights * squared * bound / (squared + bound)).sum(1) / (2 * 0.02**2)
    cost3d = (evidence.trust * away).sum(1) / 0.2**2
    unlikely = prior.energy(local[:, 1:])
    likely = stage["prior"] * (unlikely * len(prior.mean) / 2 + 40 * prior.excess(local[:, 1:]))
    drift = (cam[:, 0] - evidence.scale.log()) / _SCALE_DEVIATION
    shape = betas.square().sum(1) + evidence.agreement * drift.square()
    return stage["flat"] * cost2d + cost3d + likely + shape


def _conclude(body, prior, evidence, pose, betas, cam) -> Fit:
    local, joints, gaps, away = _compare(body, evidence, pose, betas, cam)
    scale = cam[:, :1].exp()
    joints2d = scale[:, None] * (joints[..., :2] + cam[:, None, 1:])
    distance = gaps.square().sum(-1).sqrt()
    judged = evidence.seen * torch.tensor(
        [float(LSP_TO_BODY[name][1] >= 0.6) for name in LSP_JOINTS]
    )
    error2d = (distance * judged).sum(1) / judged.sum(1).clamp_min(1)
    angle = torch.arccos((1 - away).clamp(-1, 1))
    error3d = (angle * evidence.trust).sum(1) / evidence.trust.sum(1)
    arrays = (
        local, betas, torch.cat([scale, cam[:, 1:]], 1), joints, joints2d,
        error2d, error3d, prior.energy(local[:, 1:]),
    )  # fmt: skip
    return Fit(*(tensor.detach().numpy() for tensor in arrays))


def believable(fit: Fit, evidence: Evidence, doubtful: np.ndarray) -> np.ndarray:
    """Which fits [n] may teach 3D: near the labels, near the teacher, likely, and well seen."""
    with np.errstate(invalid="ignore"):
        return (
            (fit.error2d < 0.05)
            & (fit.error3d < np.radians(30))
            & (fit.unlikely < 3.5)
            & (evidence.agreement.numpy() > 0.35)
            & (evidence.seen.sum(1).numpy() >= 9)
            & ~doubtful
        )


def real_labels(fit: Fit, evidence: Evidence, kept: np.ndarray, doubtful: np.ndarray) -> Labels:
    """The fits as training labels.

    2D of knees, ankles, elbows and wrists are the clicked ones (weight 1), the fit's elsewhere
    (shoulders 1, others 0.5). Crops that are not ``kept`` [n] teach only their clicked limbs, and
    ``doubtful`` ones nothing.
    """
    labels = Labels.empty(len(kept))
    labels.rotations[:] = np.where(kept[:, None, None, None], fit.rotations, np.eye(3))
    labels.betas[kept], labels.joints3d[kept] = fit.betas[kept], fit.joints3d[kept]
    labels.joints2d[:], labels.cam[:] = fit.joints2d, fit.cam
    labels.visible[kept] = 0.5
    seen = evidence.seen.numpy() > 0
    for column, name in enumerate(LSP_JOINTS):
        if name not in JOINT_INDEX or name in ("neck", "left_hip", "right_hip"):
            continue
        joint = JOINT_INDEX[name]
        labels.visible[:, joint] = seen[:, column]
        if not name.endswith("shoulder"):
            clicked = evidence.points[:, column].numpy()
            labels.joints2d[seen[:, column], joint] = clicked[seen[:, column]]
        else:
            labels.visible[~kept, joint] = 0
    labels.visible[doubtful] = 0
    labels.has_pose[:] = kept
    return labels


def build_real_sets(
    out: Path, crops: Path, joints: Path, teacher: Path, mocap: Path, lesson: Path | None = None
) -> dict[str, int]:
    """Writes ``real_train`` and ``real_val`` to ``out``; returns how many crops came how far.

    ``teacher`` is BlazePose-heavy's .tflite. What it says is kept in ``lesson`` and read from
    there the next time.
    """
    out.mkdir(parents=True, exist_ok=True)
    real = RealCrops.open(crops, joints)
    if lesson is not None and lesson.is_file():
        taught = Lesson.load(lesson)
    else:
        taught = teach_all(load_teacher(teacher), real)
        if lesson is not None:
            taught.save(lesson)
    mended, swapped, doubtful = mend_swaps(real.joints, taught)
    evidence = gather_evidence(mended, taught)
    poses = some_straightened(load_mocap_rotations(mocap), 0.5, np.random.default_rng(0))
    prior = PosePrior.learn(poses)
    body = load_body()
    fit = fit_bodies(JointBody.of(body), prior, evidence)
    kept = believable(fit, evidence, doubtful)
    labels = real_labels(fit, evidence, kept, doubtful)
    lsp2d = np.concatenate([evidence.points.numpy(), evidence.seen.numpy()[..., None]], -1)
    more = {
        "ids": real.ids,
        "lsp2d": lsp2d,
        "teacher_world": taught.world,
        "teacher_visibility": taught.visibility,
        "agreement": evidence.agreement.numpy(),
        "error2d": fit.error2d,
        "error3d": fit.error3d,
        "swapped": swapped,
    }
    held_out = in_validation(real.ids)
    usable = labels.visible.sum(1) >= 4
    for name, rows in (
        ("real_train", np.flatnonzero(~held_out & usable)),
        ("real_val", np.flatnonzero(held_out)),
    ):
        draft = out / f"{name}_images.part.npy"
        shape = (len(rows), CROP_SIZE, CROP_SIZE, 3)
        images = np.lib.format.open_memmap(draft, "w+", np.uint8, shape)
        for first in range(0, len(rows), 500):
            images[first : first + 500] = real.images(rows[first : first + 500])
        images.flush()
        os.replace(draft, out / f"{name}_images.npy")
        labels.take(rows).save(
            out / f"{name}_labels.npz",
            body=np.array(body.label),
            **{key: value[rows] for key, value in more.items()},
        )
    return {
        "crops": len(kept),
        "arms or legs exchanged": int(swapped.any(1).sum()),
        "doubtful": int(doubtful.sum()),
        "believable fits": int(kept.sum()),
        "train": int((~held_out & usable).sum()),
        "train with pose": int((~held_out & kept).sum()),
        "validation with pose": int((held_out & kept).sum()),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Fit the body to LSPET's crops.")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--crops", type=Path, required=True, help="LSPET crops (zip)")
    parser.add_argument("--joints", type=Path, required=True, help="LSPET joints (npz)")
    parser.add_argument("--teacher", type=Path, required=True, help="pose_landmark_heavy.tflite")
    parser.add_argument("--mocap", type=Path, required=True, help="poses, mocap_train.npz")
    parser.add_argument("--lesson", type=Path, help="where the teacher's answers are kept (npz)")
    for what, count in build_real_sets(**vars(parser.parse_args(arguments))).items():
        print(f"{what}: {count}")


if __name__ == "__main__":
    main()
