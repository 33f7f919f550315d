"""Where the picture shows each joint, to a few pixels (beyond the paper).

With every joint's true place in the picture a pose of Rope's, bent to it, is little more than half
as far off as bent to where Rope sees them: what limits Rope is 2D. This network has MoveNet's
trunk, trained on, and looks at the upright view that Rope looks at, told by keypoints which person
is meant. What it sees at one place tells, by attention, where the body's other joints can be. It
says how likely every place is for each of SMPL's 24 joints, hidden ones, too, and how deep each
lies.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ropetp_cli.body.skeleton import JOINT_INDEX, LIMB_KEYPOINTS, MIRROR, NUM_JOINTS
from ropetp_cli.rope.mirror import COCO_MIRROR
from ropetp_cli.rope.movenet import (
    COARSE_PX,
    DEEP,
    DEEP_WIDTH,
    KEYPOINTS,
    MAP_PX,
    PYRAMID,
    MoveNet,
    Pyramid,
    head,
    loaded,
)

#: How wide a keypoint is drawn that is told, in steps of the coarse map.
_TOLD_SIGMA = 1.0
#: How wide attention's tokens are, how many layers and heads it has.
_WIDTH, _LAYERS, _HEADS = 192, 4, 6
#: The logarithm of how far off a depth is, m, before training.
DEPTH_SPREAD = -2.0
#: A joint lies within so many steps of the map of the likeliest place.
WITHIN = 2
#: How far a joint is from where it is expected has Student's distribution of so many degrees of
#: freedom; what the expectation still counts for far from there, and outside.
EXPECTED_TAILS, FAR_OFF, OUTSIDE = 4.0, 0.01, 0.4


@dataclass
class Pinpointed:
    """Joints [B, 24, 2] in -1..1 of the view, and ``mass`` [B, 24], how likely each lies within
    WITHIN steps of there."""

    points: Tensor
    mass: Tensor


class Reasoning(nn.Module):
    """Attention among all 16 x 16 places of the coarse map: what is seen of the rest of a body
    tells which of two knees is the left one, and where a hidden foot can be."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(PYRAMID[0] + DEEP_WIDTH, _WIDTH, 1)
        self.place = nn.Parameter(0.02 * torch.randn(1, COARSE_PX**2, _WIDTH))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                _WIDTH, _HEADS, 2 * _WIDTH, dropout=0.0, activation="gelu", batch_first=True,
                norm_first=True,
            )
            for _ in range(_LAYERS)
        )  # fmt: skip
        self.norm = nn.LayerNorm(_WIDTH)
        self.leave = nn.Linear(_WIDTH, PYRAMID[0])
        self.coarse = nn.Linear(_WIDTH, NUM_JOINTS)
        self.depth = nn.Linear(_WIDTH, 2 * NUM_JOINTS)
        for layer in (self.leave, self.depth):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, deep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The pyramid's coarse map [B, 64, 16, 16] and the trunk's [B, 168, 16, 16] -> the first
        with what the whole picture says; the logarithm of how likely each place is for each
        joint, [B, 24, 16, 16], but for a constant; and what is said there of the joint's depth,
        [B, 24, 2]."""
        tokens = self.enter(torch.cat([x, deep], dim=1)).flatten(2).mT + self.place
        for layer in self.layers:
            tokens = layer(tokens)
        tokens = self.norm(tokens)
        added, coarse = (leave(tokens).mT for leave in (self.leave, self.coarse))
        said = self.depth(tokens).float().unflatten(2, (NUM_JOINTS, 2)).transpose(1, 2)
        depth = (coarse.float().softmax(dim=-1)[..., None] * said).sum(2)
        added, coarse = (v.unflatten(2, (COARSE_PX, COARSE_PX)) for v in (added, coarse))
        return x + added, coarse, depth


class Pinpoint(Pyramid):
    """Views [B, 3, 256, 256] RGB 0..1 and keypoints [B, 17, 3] of the person meant, x, y in -1..1
    and confidence -> the logarithm of how likely each place is, [B, 24, 64, 64], but for a
    constant; the same as attention alone has it, [B, 24, 16, 16]; and joints' depth [B, 24, 2]: how
    much farther away than the pelvis, m, and the logarithm of how far off that may be (the scale of
    Laplace's distribution)."""

    def __init__(self) -> None:
        super().__init__()
        self.told = nn.Conv2d(KEYPOINTS, PYRAMID[0], 1)
        self.reasoning = Reasoning()
        self.head = head(NUM_JOINTS)
        #: How much the coarse map counts in the fine one, by joint.
        self.believed = nn.Parameter(torch.zeros(NUM_JOINTS, 1, 1))
        nn.init.zeros_(self.told.weight)
        nn.init.zeros_(self.told.bias)

    @classmethod
    def from_movenet(cls, movenet: MoveNet) -> "Pinpoint":
        """With its trunk, and limbs, hands and feet first looked for where their keypoints are."""
        net = cls()
        given = movenet.state_dict()
        before, after = (f"heads.heatmaps.{k}" for k in (0, 1))
        state = net.state_dict()
        for name in state:
            if name in given:
                state[name] = given[name]
            elif name.startswith("head.0"):
                state[name] = given[name.replace("head.0", before)]
        for keypoint, joint in LIMB_KEYPOINTS.items():
            for member in (joint, joint.replace("ankle", "foot").replace("wrist", "hand")):
                for part in ("weight", "bias"):
                    row = given[f"{after}.{part}"][keypoint]
                    state[f"head.1.{part}"][JOINT_INDEX[member]] = row
        net.load_state_dict(state)
        return net

    def forward(self, views: Tensor, keypoints: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, found = self.coarse(views)
        x, coarse, depth = self.reasoning(x + self.told(_drawn(keypoints)), found[DEEP])
        wide = F.interpolate(coarse.float(), (MAP_PX, MAP_PX), mode="bilinear")
        fine = self.head(self.fine(x, found)).float() + self.believed * wide
        away, unsure = depth.unbind(-1)
        return fine, coarse, torch.stack([away, (unsure + DEPTH_SPREAD).clamp(-6, 1)], dim=-1)


def _drawn(keypoints: Tensor) -> Tensor:
    """Keypoints [B, 17, 3] as spots on maps [B, 17, 16, 16], as bright as they are sure."""
    across, down = (along(keypoints[..., k], COARSE_PX, _TOLD_SIGMA) for k in (0, 1))
    return keypoints[..., 2, None, None] * down[..., None] * across[..., None, :]


def places(side: int, like: Tensor) -> Tensor:
    """Where the middles of a map's ``side`` steps lie in -1..1."""
    return (torch.arange(side, device=like.device, dtype=torch.float32) * 2 + 1) / side - 1


def along(where: Tensor, side: int, sigma: float) -> Tensor:
    """Bell curves [..., side], highest, 1, at ``where`` [...] in -1..1; ``sigma`` in steps."""
    off = (places(side, where) - where[..., None]) * (side / 2 / sigma)
    return torch.exp(-off.square() / 2)


def log_likely(logits: Tensor) -> Tensor:
    """The logarithm of how likely each place is, and last that it is outside the view, which counts
    as much as a place with logit 0, [B, 24, 64 * 64 + 1]."""
    return F.pad(logits.float().flatten(2), (0, 1)).log_softmax(dim=-1)


def locate(
    net: Pinpoint, views: Tensor, keypoints: Tensor, twice: bool = True
) -> tuple[Tensor, Tensor]:
    """How likely ``net`` sees joints at each place, and last outside, [B, 24, 64 * 64 + 1], and
    their depth, [B, 24, 2]; ``twice``: in a mirror, too, and either may be right."""
    fine, _, depth = net(views, keypoints)
    likely = log_likely(fine).exp()
    if twice:
        across = keypoints.new_tensor([-1.0, 1.0, 1.0])
        fine, _, other = net(views.flip(-1), keypoints[:, COCO_MIRROR] * across)
        likely = (likely + log_likely(fine[:, list(MIRROR)].flip(-1)).exp()) / 2
        depth = (depth + other[:, list(MIRROR)]) / 2
    return likely, depth


def expected(likely: Tensor, about: Tensor, spread: Tensor | float) -> Tensor:
    """How ``likely`` [B, 24, 64 * 64 + 1] places are for joints that are expected ``about``
    [B, 24, 2], give or take ``spread`` [B, 24] in half crops: of two knees that are as likely the
    left one, that at the left thigh's end."""
    x = places(MAP_PX, likely)
    across, down = ((x - about[..., k, None]).square() for k in (0, 1))
    scale = torch.as_tensor(spread, device=likely.device).square()[..., None, None]
    apart = (across[..., None, :] + down[..., None]) / (EXPECTED_TAILS * scale)
    near = (1 + apart) ** (-EXPECTED_TAILS / 2 - 1) + FAR_OFF
    weighted = likely * F.pad(near.flatten(2), (0, 1), value=OUTSIDE)
    return weighted / weighted.sum(-1, keepdim=True).clamp(min=1e-12)


def pinpointed(likely: Tensor) -> Pinpointed:
    """What is to be made of how likely each place, and last outside, is for each joint, [B, 24,
    64 * 64 + 1]."""
    likely = likely[..., :-1].unflatten(2, (MAP_PX, MAP_PX))
    side = 2 * WITHIN + 1
    near = side**2 * F.avg_pool2d(likely, side, 1, WITHIN)
    mass, best = near.flatten(2).max(dim=-1)
    step = torch.arange(MAP_PX, device=likely.device)
    columns, rows = (
        ((step - middle[..., None]).abs() <= WITHIN).float()
        for middle in (best % MAP_PX, best // MAP_PX)
    )
    local = likely * rows[..., None] * columns[..., None, :]
    local = local / local.sum((-1, -2), keepdim=True).clamp(min=1e-9)
    x = places(MAP_PX, likely)
    points = torch.stack([(local.sum(-2) * x).sum(-1), (local.sum(-1) * x).sum(-1)], dim=-1)
    return Pinpointed(points, mass)


def pinpoint_loss(logits: Tensor, points: Tensor, weight: Tensor, sigma: float) -> Tensor:
    """Cross entropy of logits [B, 24, S, S] and bell curves of ``sigma`` steps about the true
    ``points`` [B, 24, 2], weighted by ``weight`` [B, 24]."""
    log, side = log_likely(logits), logits.shape[-1]
    inside = (points.abs() < 1).all(dim=-1)
    across, down = (along(points[..., k], side, sigma) for k in (0, 1))
    across, down = (x / x.sum(-1, keepdim=True).clamp(min=1e-6) for x in (across, down))
    within = log[..., :-1].unflatten(2, (side, side))
    surprise = -torch.einsum("bkyx,bky,bkx->bk", within, down, across)
    surprise = torch.where(inside, surprise, -log[..., -1])
    return (surprise * weight).sum() / weight.sum().clamp(min=1)


def depth_loss(depth: Tensor, true: Tensor, weight: Tensor) -> Tensor:
    """Minus the log likelihood of ``true`` depths [B, 24] m, had ``depth`` [B, 24, 2] Laplace's
    distribution; weighted by ``weight`` [B]."""
    away, spread = depth.unbind(-1)
    surprise = (away - true).abs() * torch.exp(-spread) + spread
    return (surprise[:, 1:].mean(1) * weight).sum() / weight.sum().clamp(min=1)


def save_pinpoint(net: Pinpoint, path: Path) -> None:
    """Half-precision weights."""
    state = {name: value.detach().half().contiguous() for name, value in net.state_dict().items()}
    save_file(state, path)


def load_pinpoint(path: str | Path) -> Pinpoint:
    """The network in evaluation mode from a ``.safetensors`` file. RopeTPError when the file is
    missing or no such network."""
    return loaded(Pinpoint(), path)
