"""The last millimetres: a pose bent until its image meets the 2D evidence (beyond the paper).

A network that answers with rotations sums their errors along every limb, so that a wrist lies off
the wrist in the picture although the network sees where it is. Gauss-Newton on

    sum_k |image_k - point_k|^2 / spread_k^2 + sum_j stiffness_j |turn_j|^2

bends the body by small turns of its joints and moves its camera. Joints whose place is a guess
have a wide spread, and stay as the network thinks.

Keypoints that another network saw are such evidence, too. How far off MoveNet's are that it is so
sure of was measured on crops whose joints are known: a hundredth of a crop where it is sure, a
fifth where it is not. Where both networks contradict each other beyond that, one is mistaken
altogether, and its keypoint counts for less.

The network's camera is a weak-perspective one, and the picture is not: what is farther away than
the pelvis lies nearer to the middle. Points are first moved to where a camera from afar would see
them. Without that, feet that a camera looks down on are lifted by bending legs.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ropetp_cli.body.skeleton import (
    JOINT_INDEX,
    JOINTS,
    LIMB_KEYPOINTS,
    LIMBS,
    NUM_JOINTS,
    PARENTS,
)
from ropetp_cli.rope.network import Rope, RopeOutput, farther, weak_perspective

ITERATIONS = 4
#: 1 / rad^2: how much a joint's turn costs, beside evidence in units of its spread.
LIMB_STIFFNESS = 16.0
TRUNK_STIFFNESS = 100.0
ROOT_STIFFNESS = 60.0
#: How far off a keypoint is, in half crops, standard deviation: of one MoveNet is sure of, how much
#: more of one with score 0, and the score over which that fades by e.
KEYPOINT_SPREAD, UNSURE_SPREAD, SCORE_FADES = 0.024, 0.4, 0.2
#: Hips and shoulders of COCO lie so far from the joints.
ELSEWHERE = 0.012
#: Degrees of freedom of Student's distribution of how far both networks are apart.
CONTRADICTION = 6.0
_TOLD = list(LIMB_KEYPOINTS)
_LIMBS = ("hip", "knee", "shoulder", "elbow", "wrist", "ankle")


def with_keypoints(output: RopeOutput, keypoints: Tensor, scale: Tensor) -> RopeOutput:
    """``output`` whose points and spread hold what ``keypoints`` [B, 17, 3] say, too: x, y in the
    units of ``output.points`` and score, 0 where none was seen. ``scale`` [B]: how much larger the
    person is there than in the crop the keypoints were seen in."""
    place, score = keypoints[:, _TOLD, :2], keypoints[:, _TOLD, 2]
    away = torch.tensor(
        [ELSEWHERE * JOINTS[joint].endswith(("hip", "shoulder")) for joint in LIMBS],
        device=score.device,
    )
    spread = KEYPOINT_SPREAD + UNSURE_SPREAD * torch.exp(-score / SCORE_FADES)
    variance = (spread * scale[:, None]) ** 2 + away**2
    own = torch.exp(2 * output.log_spread[:, LIMBS])
    apart = (output.points[:, LIMBS] - place).square().sum(-1) / (variance + own)
    weight = (score > 0) / variance / (1 + apart / CONTRADICTION)
    points, log_spread = output.points.clone(), output.log_spread.clone()
    total = 1 / own + weight
    seen = points[:, LIMBS] / own[..., None] + weight[..., None] * place
    points[:, LIMBS] = seen / total[..., None]
    log_spread[:, LIMBS] = -total.log() / 2
    return replace(output, points=points, log_spread=log_spread)


def _stiffness() -> Tensor:
    limb = torch.tensor([name.split("_")[-1] in _LIMBS for name in JOINTS])
    values = torch.where(limb, LIMB_STIFFNESS, TRUNK_STIFFNESS)
    values[JOINT_INDEX["pelvis"]] = ROOT_STIFFNESS
    return values.repeat_interleave(3)


def _descendants() -> Tensor:
    """[24, 24]: whether joint k (row) hangs from joint j (column) and is not j itself."""
    below = torch.zeros(NUM_JOINTS, NUM_JOINTS, dtype=torch.bool)
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            below[joint] = below[parent]
            below[joint, parent] = True
    return below


_STIFFNESS, _BELOW = _stiffness(), _descendants()


def align(
    rope: Rope, output: RopeOutput, span: Tensor, iterations: int = ITERATIONS
) -> tuple[Tensor, Tensor]:
    """Rotations [B, 24, 3, 3] and cam [B, 3] whose image meets ``output.points`` as far as their
    spread asks for it. ``span`` [B] m as in :func:`~ropetp_cli.rope.network.perspective`."""
    weight = torch.exp(-2 * output.log_spread)
    stiffness = _STIFFNESS.to(weight)
    below = _BELOW.to(weight)
    rotations, cam = output.rotations, output.cam
    turned = torch.zeros(len(cam), 3 * NUM_JOINTS, device=cam.device)
    # The camera is free but for a trace that keeps the equations solvable.
    prior = torch.diag(torch.cat([stiffness, stiffness.new_full((3,), 1e-2)]))
    for _ in range(iterations):
        joints, accumulated = rope.posed(rotations, output.betas)
        image = weak_perspective(joints, cam)
        points = output.points * farther(joints, cam[:, 0] * span)
        jacobian = _jacobian(joints, image, cam, below)
        weighted = jacobian * weight[:, :, None, None]
        normal = torch.einsum("bkcp,bkcq->bpq", weighted, jacobian) + prior
        back = F.pad(stiffness * turned, (0, 3))
        right = torch.einsum("bkcp,bkc->bp", weighted, points - image) - back
        step = torch.linalg.solve(normal, right)
        turns = step[:, : 3 * NUM_JOINTS].clamp(-0.5, 0.5)
        turned = turned + turns
        rotations = _turn(rotations, accumulated, turns.unflatten(1, (-1, 3)))
        scale = cam[:, :1] * torch.exp(step[:, -3:-2].clamp(-0.3, 0.3))
        cam = torch.cat([scale, cam[:, 1:] + step[:, -2:]], dim=1)
    return rotations, cam


def _jacobian(joints: Tensor, image: Tensor, cam: Tensor, below: Tensor) -> Tensor:
    """[B, 24, 2, 75]: how every joint's image moves with the turn of every joint (crop axes, a
    turn w of j moves k by w x (k - j)), with log scale and with tx, ty."""
    arm = (joints[:, :, None] - joints[:, None]) * below[..., None]  # [B, k, j, 3]
    x, y, z = arm.unbind(-1)
    zero = torch.zeros_like(x)
    across = torch.stack([zero, z, -y], -1).flatten(2)
    down = torch.stack([-z, zero, x], -1).flatten(2)
    scale = cam[:, None, :1]
    bend = torch.stack([across, down], dim=2) * scale[..., None]
    shift = torch.eye(2, device=cam.device) * scale[..., None]
    shift = shift.expand(-1, joints.shape[1], -1, -1)
    return torch.cat([bend, image[..., None], shift], dim=-1)


def _turn(rotations: Tensor, accumulated: Tensor, turns: Tensor) -> Tensor:
    """Local ``rotations`` after ``turns`` [B, 24, 3] in crop axes, each before its joint."""
    parents = accumulated[:, [0, *PARENTS[1:]]].clone()
    parents[:, 0] = torch.eye(3, device=rotations.device)
    local = (parents.transpose(-1, -2) @ turns[..., None])[..., 0]
    return torch.linalg.matrix_exp(_skew(local)) @ rotations


def _skew(vector: Tensor) -> Tensor:
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))
