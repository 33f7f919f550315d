"""Rope's losses (paper Equation 9): L_SMPL + L_3D + L_2D + L_Att.

A batch mixes pictures with different labels; every term is a mean over what is labelled.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ropetp_cli.body.skeleton import LEVEL_SIZES, LEVELS
from ropetp_cli.rope.network import RopeOutput, farther

IGNORED = 255
#: 1 / m: no camera is nearer.
NEAREST = 0.8


@dataclass
class RopeTargets:
    """Labels of a batch.

    rotations [B, 24, 3, 3]; betas [B, 10]; joints [B, 24, 3] m, pelvis at 0; joints2d [B, 24, 2]
    in -1..1; has_pose [B] 0/1, for the three before; weight2d [B, 24] 0..1; part [B, H, W] index
    of the joint a pixel belongs to, 24 background, 255 unlabelled.
    """

    rotations: Tensor
    betas: Tensor
    joints: Tensor
    joints2d: Tensor
    has_pose: Tensor
    weight2d: Tensor
    part: Tensor


@dataclass(frozen=True)
class LossWeights:
    """The factors of Equation 9's terms, which the paper leaves open. ``attention`` goes to 0
    after the first phase (paper section 3.4)."""

    pose: float = 1.0
    betas: float = 0.02
    joints: float = 5.0
    joints2d: float = 5.0
    attention: float = 0.2
    points: float = 0.1
    confidence: float = 0.05


def level_masks(part: Tensor, level: str) -> Tensor:
    """Joint-index masks [B, H, W] (24 background, 255 unlabelled) -> the level's part masks,
    background = J_x."""
    lookup = torch.full((256,), IGNORED, dtype=torch.long, device=part.device)
    lookup[:24] = torch.as_tensor(LEVELS[level], device=part.device)
    lookup[24] = LEVEL_SIZES[level]
    return lookup[part.long()]


def attention_loss(attention: dict[str, Tensor], part: Tensor) -> Tensor:
    """L_Att: cross-entropy of every place over the parts of each level, mean of the levels."""
    total = 0.0
    for level, logits in attention.items():
        grid = logits.shape[-1]
        step = part.shape[-1] // grid
        target = level_masks(part[:, step // 2 :: step, step // 2 :: step], level)
        if (target != IGNORED).any():
            total = total + F.cross_entropy(logits.float(), target, ignore_index=IGNORED)
    return total / len(attention)


def nearness(targets: RopeTargets) -> Tensor:
    """How near the camera of rendered people was, [B] 1 / m, from where it saw their joints:
    u (1 + n z) = s (x + t) is linear in s, s t and n. Photographs say nothing of it: 0."""
    joints, seen = targets.joints, targets.joints2d
    system = torch.zeros(*seen.shape, 4, device=seen.device)
    system[..., 0] = joints[..., :2]
    system[..., 1:3] = torch.eye(2, device=seen.device)
    system[..., 3] = -seen * joints[..., 2:]
    system = system.flatten(1, 2)
    with torch.autocast(seen.device.type, enabled=False):
        normal = system.mT @ system + 1e-6 * torch.eye(4, device=seen.device)
        found = torch.linalg.solve(normal, system.mT @ seen.flatten(1)[..., None])[:, 3, 0]
    return found.clamp(0, NEAREST) * targets.has_pose * is_rendered(targets)


def is_rendered(targets: RopeTargets) -> Tensor:
    """Which rows [B] of a batch have parts, and so shapes and cameras, that are known: 0 or 1."""
    return (targets.part != IGNORED).flatten(1).any(1).float()


def rope_loss(
    output: RopeOutput, targets: RopeTargets, weights: LossWeights
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum and its terms. Squared errors become absolute ones beyond 3 cm and a
    tenth of the crop, because some real labels are wrong, and because where a limb may point
    either at the camera or away the mean of both is neither."""
    has = targets.has_pose
    count = has.sum().clamp(min=1)
    # A pose fitted to a photograph's joints says little of the shape; rendered crops know theirs.
    shaped = has * is_rendered(targets)
    terms = {
        "pose": (
            (output.rotations - targets.rotations).square().sum((-1, -2)).mean(-1) * has
        ).sum() / count,
        "betas": (
            (output.betas - targets.betas).square().sum(-1) * shaped
        ).sum() / shaped.sum().clamp(min=1),
        "joints": (
            F.smooth_l1_loss(output.joints, targets.joints, beta=0.03, reduction="none")
            .sum(-1).mean(-1) * has
        ).sum() / count,
    }  # fmt: skip
    image = output.joints2d / farther(output.joints, nearness(targets))
    error2d = F.huber_loss(image, targets.joints2d, delta=0.1, reduction="none").sum(-1)
    labelled = targets.weight2d.sum().clamp(min=1)
    terms["joints2d"] = (error2d * targets.weight2d).sum() * 10 / labelled
    # Where the picture shows a joint: the likelihood of a Laplace distribution.
    off = (output.points - targets.joints2d).abs().sum(-1)
    likelihood = off * torch.exp(-output.log_spread) + 2 * output.log_spread
    terms["points"] = (likelihood * targets.weight2d).sum() / labelled
    # Confidence: how likely the joint lies within a tenth of the person's size of the truth.
    with torch.no_grad():
        span = targets.joints2d.amax(1) - targets.joints2d.amin(1)
        size = span.amax(-1, keepdim=True).clamp(min=0.2)
        near = ((image - targets.joints2d).norm(dim=-1) < 0.1 * size).float()
    terms["confidence"] = (
        F.binary_cross_entropy_with_logits(output.confidence_logit, near, reduction="none")
        * targets.weight2d
    ).sum() / labelled
    if weights.attention:
        terms["attention"] = torch.as_tensor(attention_loss(output.attention, targets.part))
    total = sum(getattr(weights, name) * term for name, term in terms.items())
    return total, terms
