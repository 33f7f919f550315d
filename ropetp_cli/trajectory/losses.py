"""TrajDenoiser's losses (paper Equation 10).

L_simple is the Huber loss of the clean path. A second Huber loss, on the path's velocity, is ours:
an error of a centimetre a frame is a wrong gait, and the position hardly shows it.

L_foot is printed as the length of the path's own step times the contact f_i, which would stop a
walker whenever a foot is down. It is read as the step of the *foot* in the world (path plus
root-relative foot): a foot in contact does not move. f_i is 1 where the foot's height changes
slower than ``CONTACT_RATE`` throughout five frames; a single frame would also catch a foot at the
top of its swing.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ropetp_cli.body.skeleton import FEET

CONTACT_RATE = 0.12  # m/s
CONTACT_SPAN = 5  # frames


@dataclass(frozen=True)
class TrajLossWeights:
    """The factors of the terms, which the paper leaves open."""

    simple: float = 1.0
    velocity: float = 1.0
    foot: float = 0.1


def foot_positions(path: Tensor, joints: Tensor) -> Tensor:
    """Path [..., N, 3] and joints minus pelvis [..., N, 24, 3] -> left and right foot in the
    world, m, [..., N, 2, 3]."""
    return path[..., None, :] + joints[..., list(FEET), :]


def foot_contact(feet: Tensor, fps: float) -> Tensor:
    """f_i of Equation 10 for every step: feet [B, N, 2, 3] m -> [B, N - 1, 2] of 0 and 1."""
    rate = feet[..., 1].diff(dim=1).abs() * fps
    worst = F.max_pool1d(rate.transpose(1, 2), CONTACT_SPAN, 1, CONTACT_SPAN // 2)
    return (worst < CONTACT_RATE).float().transpose(1, 2)


def foot_loss(path: Tensor, truth: Tensor, joints: Tensor, fps: float) -> Tensor:
    """L_foot, m/s: the mean speed of the feet that the truth has on the ground.

    ``path``, ``truth`` [B, N, 3] m and ``joints`` [B, N, 24, 3] m, as they truly were.
    """
    contact = foot_contact(foot_positions(truth, joints), fps)
    steps = foot_positions(path, joints).diff(dim=1)
    speed = (steps.square().sum(-1) + 1e-8).sqrt() * fps
    return (speed * contact).mean()


def trajectory_loss(
    path: Tensor, truth: Tensor, joints: Tensor, fps: float, weights: TrajLossWeights
) -> tuple[Tensor, dict[str, float]]:
    """The weighted sum and its terms. ``path``, ``truth`` [B, N, 3] m; ``joints`` [B, N, 24, 3] m,
    the true ones, whatever the condition was."""
    velocity, true_velocity = path.diff(dim=1) * fps, truth.diff(dim=1) * fps
    terms = {
        "simple": F.huber_loss(path, truth, delta=0.1) * 10,
        "velocity": F.huber_loss(velocity, true_velocity, delta=0.1) * 10,
        "foot": foot_loss(path, truth, joints, fps),
    }
    total = sum(getattr(weights, name) * term for name, term in terms.items())
    return torch.as_tensor(total), {name: float(term.detach()) for name, term in terms.items()}
