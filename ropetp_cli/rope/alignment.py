"""The last millimetres: a pose bent until its image meets the 2D evidence (beyond the paper).

A network that answers with rotations sums their errors along every limb, so that a wrist lies off
the wrist in the picture although the network sees where it is. Gauss-Newton on

    sum_k |image_k - point_k|^2 / spread_k^2 + |z_k - depth_k|^2 / doubt_k^2
        + turns' stiffness turns

bends the body by small turns of its joints and moves its camera. Joints whose place is a guess
have a wide spread, and stay as the network thinks. The stiffness is the inverse covariance of how
the network errs (``training.stiffness``): limbs that point at the camera give way more easily than
those that lie in the picture, and a shin keeps its direction where its thigh is turned.

Where Pinpoint sees joints is such evidence, too. How far off that is was measured on crops whose
joints are known: a hundredth of a crop where it is sure, a seventh where it is not. Where both
networks contradict each other beyond that, one is mistaken altogether, and its point counts for
less. Where Pinpoint holds several places likely, such as either knee, a first bending tells which
of them a body can have. And it says how much farther away than the pelvis each joint is; as that
errs for all joints together, it counts for less than it is sure of.

The network's camera is a weak-perspective one, and the picture is not: what is farther away than
the pelvis lies nearer to the middle. Points are first moved to where a camera from afar would see
them. Without that, feet that a camera looks down on are lifted by bending legs.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ropetp_cli.body.skeleton import NUM_JOINTS, PARENTS
from ropetp_cli.rope.network import Rope, RopeOutput, farther, perspective, posed, weak_perspective
from ropetp_cli.rope.pinpoint import Pinpointed, expected, pinpointed

ITERATIONS = 4
#: How much more Rope counts than its errors by themselves say: evidence errs together.
TRUST = 2.5
#: How far off what Pinpoint says of a joint is, in half crops, standard deviation: at least, and
#: more by how likely it is that the joint lies elsewhere.
LEAST_SPREAD, PIN_SPREAD, UNSURE = 0.008, 0.011, 3.2
#: How far off Rope's points, beyond their own spread, and a body bent to Pinpoint's may be, in half
#: crops, where one of several places is chosen.
OWN_SPREAD, BENT_SPREAD = 0.05, 0.12
#: Below this mean confidence an answer is in doubt.
DOUBT = 0.5
#: The logarithm of how much farther off, standard deviation, depths are taken to be than Pinpoint
#: says, who means Laplace's scale: they err together, and on photographs more.
DEPTH_DOUBT = 0.7
#: Degrees of freedom of Student's distribution of how far both networks are apart.
CONTRADICTION = 6.0


def with_pinpoints(output: RopeOutput, found: Pinpointed) -> RopeOutput:
    """``output`` whose points and spread hold where joints were ``found``, too."""
    spread = LEAST_SPREAD + PIN_SPREAD * torch.exp(UNSURE * (1 - found.mass))
    own = torch.exp(2 * output.log_spread)
    apart = (output.points - found.points).square().sum(-1) / (spread**2 + own)
    weight = 1 / (spread**2 * (1 + apart / CONTRADICTION))
    total = 1 / own + weight
    points = (output.points / own[..., None] + weight[..., None] * found.points) / total[..., None]
    return replace(output, points=points, log_spread=-total.log() / 2)


def agreement(
    rope: Rope, output: RopeOutput, likely: Tensor, span: Tensor
) -> tuple[RopeOutput, Pinpointed]:
    """Where joints are, of all the places Pinpoint holds ``likely`` [B, 24, 64 * 64 + 1], and
    ``output`` told of it: first where Rope's own points would have them, then where a body bent to
    those can have them."""
    guess = expected(likely, output.points, OWN_SPREAD + output.log_spread.exp())
    rotations, cam = align(rope, with_pinpoints(output, pinpointed(guess)), span)
    image = perspective(rope.joints(rotations, output.betas), cam, span)
    found = pinpointed(expected(likely, image, BENT_SPREAD))
    return with_pinpoints(output, found), found


def _descendants() -> Tensor:
    """[24, 24]: whether joint k (row) hangs from joint j (column) and is not j itself."""
    below = torch.zeros(NUM_JOINTS, NUM_JOINTS, dtype=torch.bool)
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            below[joint] = below[parent]
            below[joint, parent] = True
    return below


_BELOW = _descendants()


def align(rope: Rope, output: RopeOutput, span: Tensor) -> tuple[Tensor, Tensor]:
    """Rotations [B, 24, 3, 3] and cam [B, 3] of ``output`` bent to meet its points and depth.

    Who is in doubt may lie in Rope's answer and stand in the picture: too far for steps that take
    turns for small, with depth the more. She is bent to her points first, and again from there."""
    rest, stiffness = rope.rest_joints(output.betas), TRUST * rope.stiffness
    evidence = output.points, output.log_spread, span
    rotations, cam, depth = output.rotations, output.cam, output.depth
    doubted = output.confidence_logit.sigmoid().mean(dim=1) < DOUBT
    if doubted.any():
        theirs = (value[doubted] for value in (rotations, cam, rest, *evidence))
        rotations, cam = rotations.clone(), cam.clone()
        rotations[doubted], cam[doubted], _ = bend(*theirs, stiffness)
    if depth is not None:
        depth = depth + depth.new_tensor([0.0, DEPTH_DOUBT])
    return bend(rotations, cam, rest, *evidence, stiffness, depth=depth)[:2]


def bend(
    rotations: Tensor,
    cam: Tensor,
    rest: Tensor,
    points: Tensor,
    log_spread: Tensor,
    span: Tensor,
    stiffness: Tensor,
    iterations: int = ITERATIONS,
    depth: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotations [B, 24, 3, 3] and cam [B, 3] whose image, of a body with ``rest`` joints [B, 24, 3]
    m, meets ``points`` [B, 24, 2] as far as their spread, whose logarithm is [B, 24], asks for it;
    and by how much every joint was turned for that, [B, 24, 3] rad in crop axes. ``span`` [B] m as
    in :func:`~ropetp_cli.rope.network.perspective`, ``stiffness`` [72, 72] 1 / rad^2, ``depth``
    [B, 24, 2] as of :class:`~ropetp_cli.rope.network.RopeOutput`."""
    weight = torch.exp(-2 * log_spread)
    stiffness = stiffness.to(cam)
    below = _BELOW.to(weight)
    turned = cam.new_zeros(len(cam), 3 * NUM_JOINTS)
    # The camera is free but for a trace that keeps the equations solvable.
    prior = torch.block_diag(stiffness, 1e-2 * torch.eye(3).to(cam))
    for _ in range(iterations):
        joints, accumulated = posed(rotations, rest)
        image = weak_perspective(joints, cam)
        flat = points * farther(joints, cam[:, 0] * span)
        jacobian = _jacobian(joints, image, cam, below)
        weighted = jacobian * weight[:, :, None, None]
        normal = torch.einsum("bkcp,bkcq->bpq", weighted, jacobian) + prior
        back = F.pad(turned @ stiffness, (0, 3))
        right = torch.einsum("bkcp,bkc->bp", weighted, flat - image) - back
        if depth is not None:
            away = _depth_jacobian(joints, below)
            sure = away * torch.exp(-2 * depth[..., 1:])
            normal = normal + torch.einsum("bkp,bkq->bpq", sure, away)
            right = right + torch.einsum("bkp,bk->bp", sure, depth[..., 0] - joints[..., 2])
        step = torch.linalg.solve(normal, right)
        turns = step[:, : 3 * NUM_JOINTS].clamp(-0.5, 0.5)
        turned = turned + turns
        rotations = turn(rotations, accumulated, turns.unflatten(1, (-1, 3)))
        scale = cam[:, :1] * torch.exp(step[:, -3:-2].clamp(-0.3, 0.3))
        cam = torch.cat([scale, cam[:, 1:] + step[:, -2:]], dim=1)
    return rotations, cam, turned.unflatten(1, (-1, 3))


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


def _depth_jacobian(joints: Tensor, below: Tensor) -> Tensor:
    """[B, 24, 75]: how every joint's depth moves with the same."""
    x, y, _ = ((joints[:, :, None] - joints[:, None]) * below[..., None]).unbind(-1)
    bent = torch.stack([y, -x, torch.zeros_like(x)], -1).flatten(2)
    return F.pad(bent, (0, 3))


def turn(rotations: Tensor, accumulated: Tensor, turns: Tensor) -> Tensor:
    """Local ``rotations``, which come to those ``accumulated`` from the pelvis down, after
    ``turns`` [B, 24, 3] rad in crop axes, each of a joint and all that hangs from it."""
    parents = accumulated[:, [0, *PARENTS[1:]]].clone()
    parents[:, 0] = torch.eye(3).to(rotations)
    local = (parents.transpose(-1, -2) @ turns[..., None])[..., 0]
    return torch.linalg.matrix_exp(_skew(local)) @ rotations


def _skew(vector: Tensor) -> Tensor:
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))
