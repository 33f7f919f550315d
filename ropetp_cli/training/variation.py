"""Random variations of labelled crops, a whole batch at once on the device that trains.

The same changes as :func:`ropetp_cli.training.crops.augment` makes one crop at a time: mirror,
turn, size and place, something before the person, light and lost detail. Compression is left out.
"""

import math
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ropetp_cli.body.skeleton import MIRROR
from ropetp_cli.rope.losses import IGNORED, RopeTargets
from ropetp_cli.rope.mirror import COCO_MIRROR
from ropetp_cli.rope.upright import FAR, NEAR
from ropetp_cli.training.crops import BACKGROUND, spread_of

#: How far crops are turned, enlarged and shifted: radians, logarithm, half crops.
TURN, ZOOM, SHIFT = 0.175, 0.1, 0.06
#: The share of crops that something is put before: rendered ones (which come with occluders), real.
COVERED = (0.25, 0.45)


@dataclass
class Crops:
    """A batch: images [B, 3, 256, 256] 0..1, keypoints [B, 17, 3] (x, y in -1..1, confidence),
    how an upright view of each is made, ``angle`` and ``scale`` [B] (``rope.upright``), whether
    it was rendered [B], and its labels."""

    images: Tensor
    keypoints: Tensor
    angle: Tensor
    scale: Tensor
    rendered: Tensor
    targets: RopeTargets

    @classmethod
    def joined(cls, parts: list["Crops"]) -> "Crops":
        """Several batches as one."""
        names = [f.name for f in fields(RopeTargets)]
        targets = {n: torch.cat([getattr(p.targets, n) for p in parts]) for n in names}
        names = [f.name for f in fields(cls) if f.name != "targets"]
        rest = {n: torch.cat([getattr(p, n) for p in parts]) for n in names}
        return cls(**rest, targets=RopeTargets(**targets))

    def where(self, chosen: Tensor, other: "Crops") -> "Crops":
        """This batch's rows where ``chosen`` [B], else the other's."""

        def pick(mine: Tensor, theirs: Tensor) -> Tensor:
            return torch.where(chosen.view(-1, *[1] * (mine.ndim - 1)), mine, theirs)

        names = [f.name for f in fields(RopeTargets)]
        targets = RopeTargets(
            **{n: pick(getattr(self.targets, n), getattr(other.targets, n)) for n in names}
        )
        names = [f.name for f in fields(Crops) if f.name != "targets"]
        return Crops(**{n: pick(getattr(self, n), getattr(other, n)) for n in names},
                     targets=targets)  # fmt: skip


def varied(crops: Crops) -> Crops:
    """A random variation of every row."""
    count, device = len(crops.images), crops.images.device

    def chance(share: float | Tensor) -> Tensor:
        return torch.rand(count, device=device) < share

    others = crops.images[torch.randperm(count, device=device)]
    crops = flipped(crops).where(chance(0.5), crops)
    angle = TURN * torch.randn(count, device=device)
    scale = torch.exp(ZOOM * torch.randn(count, device=device))
    upright = chance(0.85)
    anyhow = torch.where(chance(0.5), torch.rand_like(angle) - 0.5, angle / torch.pi) * torch.pi
    angle = torch.where(upright, angle + crops.angle, anyhow)
    nearer = torch.exp(torch.rand_like(scale) * math.log(NEAR / FAR))
    scale = torch.where(upright, scale * (crops.scale * nearer).clamp(max=1), scale)
    crops = moved(crops, angle, scale, SHIFT * torch.randn(count, 2, device=device))
    few, many = COVERED
    share = torch.where(crops.rendered, few, many)
    crops = hidden(crops, others).where(chance(share), crops)
    spoilt = degraded(crops.images)
    untouched = crops.rendered & chance(0.5)
    return replace(crops, images=torch.where(untouched[:, None, None, None], crops.images, spoilt))


def flipped(crops: Crops) -> Crops:
    """Every row in a mirror: left becomes right."""
    swap = list(MIRROR)
    old = crops.targets
    flip = old.joints.new_tensor([-1.0, 1.0, 1.0])
    table = torch.arange(256, device=old.part.device, dtype=old.part.dtype)
    table[: len(swap)] = torch.as_tensor(swap, device=table.device, dtype=table.dtype)
    targets = RopeTargets(
        rotations=flip[:, None] * old.rotations[:, swap] * flip,
        betas=old.betas,
        joints=old.joints[:, swap] * flip,
        joints2d=old.joints2d[:, swap] * flip[:2],
        has_pose=old.has_pose,
        weight2d=old.weight2d[:, swap],
        part=table[old.part.flip(-1).long()],
    )
    return replace(
        crops, images=crops.images.flip(-1), keypoints=crops.keypoints[:, list(COCO_MIRROR)] * flip,
        angle=-crops.angle, targets=targets,
    )  # fmt: skip


def moved(crops: Crops, angle: Tensor, scale: Tensor, shift: Tensor) -> Crops:
    """Turned in the image by ``angle`` [B] radians, enlarged by ``scale`` [B], shifted by
    ``shift`` [B, 2] half crops."""
    cosine, sine = torch.cos(angle), torch.sin(angle)
    turn = torch.stack([cosine, -sine, sine, cosine], dim=-1).unflatten(-1, (2, 2))
    back = turn.transpose(1, 2) / scale[:, None, None]
    affine = torch.cat([back, -back @ shift[..., None]], dim=-1)

    def warp(maps: Tensor, mode: str) -> Tensor:
        grid = F.affine_grid(affine, list(maps.shape), align_corners=False)
        return F.grid_sample(maps, grid, mode, "zeros", align_corners=False)

    def carried(points: Tensor) -> Tensor:
        return scale[:, None, None] * points @ turn.transpose(1, 2) + shift[:, None]

    old = crops.targets
    around = torch.eye(3, device=angle.device).repeat(len(angle), 1, 1)
    around[:, :2, :2] = turn
    rotations = old.rotations.clone()
    rotations[:, 0] = around @ rotations[:, 0]
    part = warp(old.part[:, None].float() + 1, "nearest")[:, 0] - 1
    beyond = torch.where((old.part == IGNORED).any(2).any(1), IGNORED, BACKGROUND)
    part = torch.where(part < 0, beyond[:, None, None].float(), part)
    targets = replace(
        old,
        rotations=rotations,
        joints=old.joints @ around.transpose(1, 2),
        joints2d=carried(old.joints2d),
        part=part.round().to(old.part.dtype),
    )
    keypoints = torch.cat([carried(crops.keypoints[..., :2]), crops.keypoints[..., 2:]], dim=-1)
    return replace(
        crops, images=warp(crops.images, "bilinear"), keypoints=keypoints, targets=targets
    )


def hidden(crops: Crops, others: Tensor) -> Crops:
    """Something stands before every person: a box or ellipse with the texture of ``others``
    [B, 3, H, W] or of one colour, or the picture ends early. Part pixels under it become
    background."""
    count, _, size, _ = crops.images.shape
    device = crops.images.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, device=device)

    middle, reach = uniform(-0.6, 0.6, 2), uniform(0.12, 0.48, 2)
    angle, kind = uniform(0, torch.pi), uniform(0, 1)
    side, cut = torch.randint(0, 4, (count,), device=device), 1 - uniform(0.2, 0.8)

    def covers(points: Tensor) -> Tensor:
        """Whether points [B, N, 2] lie behind it."""
        x, y = (points - middle[:, None]).unbind(-1)
        cosine, sine = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
        across = (cosine * x + sine * y) / reach[:, :1]
        down = (cosine * y - sine * x) / reach[:, 1:]
        ellipse = across.square() + down.square() < 1
        box = (across.abs() < 1) & (down.abs() < 1)
        x, y = points.unbind(-1)
        # Two of the four sides are the bottom: people are cut there most often.
        outward = torch.where((side < 2)[:, None], y, torch.where((side == 2)[:, None], x, -x))
        beyond = outward > cut[:, None]
        rest = torch.where((kind < 0.6)[:, None], ellipse, box)
        return torch.where((kind < 0.25)[:, None], beyond, rest)

    def grid(cells: int) -> Tensor:
        line = (torch.arange(cells, device=device) + 0.5) * (2 / cells) - 1
        places = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
        return covers(places.flatten(0, 1).expand(count, -1, -1)).unflatten(1, (cells, cells))

    plain = torch.rand(count, 3, 1, 1, device=device).expand_as(others)
    texture = torch.where((uniform(0, 1) < 0.4)[:, None, None, None], plain, others)
    texture = texture * (kind >= 0.25)[:, None, None, None]
    images = torch.where(grid(size)[:, None], texture, crops.images)
    part = crops.targets.part
    under = grid(part.shape[-1]) & (part != IGNORED)
    part = torch.where(under, torch.as_tensor(BACKGROUND, dtype=part.dtype, device=device), part)
    # The detector does not see what is hidden, or rarely and wrongly.
    doubt = covers(crops.keypoints[..., :2]) & (uniform(0, 1, 17) < 0.85)
    place = crops.keypoints[..., :2]
    confidence = crops.keypoints[..., 2] * torch.where(doubt, uniform(0, 0.3, 17), 1.0)
    place = torch.where(doubt[..., None], misplaced(place, confidence), place)
    keypoints = torch.cat([place, confidence[..., None]], dim=-1)
    return replace(
        crops, images=images, keypoints=keypoints, targets=replace(crops.targets, part=part)
    )


def misplaced(place: Tensor, confidence: Tensor) -> Tensor:
    """Where the detector might have put keypoints at ``place`` [B, K, 2] in -1..1 had it been as
    sure of them as ``confidence`` [B, K] says."""
    return place + spread_of(confidence)[..., None] * torch.randn_like(place)


def degraded(images: Tensor) -> Tensor:
    """Light, lost detail and noise of images [B, 3, H, W] 0..1."""
    return noisy(softened(relit(images))).clamp(0, 1)


def _per_row(images: Tensor, spread: float, channels: int = 1) -> Tensor:
    return spread * torch.randn(len(images), channels, 1, 1, device=images.device)


def relit(images: Tensor) -> Tensor:
    """Exposure, contrast, gamma, white balance, saturation; now and then dark or grey images."""

    def chance(share: float) -> Tensor:
        return torch.rand(len(images), 1, 1, 1, device=images.device) < share

    darker = 1.3 + 0.9 * torch.rand(len(images), 1, 1, 1, device=images.device)
    gamma = torch.exp(_per_row(images, 0.2)) * torch.where(chance(0.12), darker, 1.0)
    images = images.clamp(min=1e-4) ** gamma
    images = images * (1 + _per_row(images, 0.06, 3)) * torch.exp(_per_row(images, 0.15))
    middle = images.mean((1, 2, 3), keepdim=True)
    images = (images - middle) * torch.exp(_per_row(images, 0.15)) + middle
    grey = (images * images.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    colour = torch.where(chance(0.04), 0.0, torch.exp(_per_row(images, 0.25)))
    return (grey + (images - grey) * colour).clamp(0, 1)


def softened(images: Tensor) -> Tensor:
    """Lost detail: a small source enlarged, defocus, the smear of motion, or nothing, each for a
    part of the batch."""
    order = torch.randperm(len(images), device=images.device)
    sharp, *groups = order.tensor_split([(4 * len(order)) // 10 + 1])
    out = images.clone()
    ways = (_shrunk, _shrunk, _blurred, _blurred, _smeared, lambda x: _blurred(_shrunk(x)))
    for rows, way in zip(groups[0].tensor_split(len(ways)), ways, strict=True):
        if len(rows):
            out[rows] = way(images[rows])
    return out


def _shrunk(images: Tensor) -> Tensor:
    size = images.shape[-1]
    small = max(8, int(size * float(torch.empty(()).uniform_(0.25, 0.9))))
    less = F.interpolate(images, (small, small), mode="bilinear", antialias=True)
    return F.interpolate(less, (size, size), mode="bilinear", align_corners=False)


def _blurred(images: Tensor) -> Tensor:
    sigma = float(torch.empty(()).uniform_(0.4, 1.8))
    reach = torch.arange(-5, 6, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-reach.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    images = F.conv2d(images, kernel, padding=(0, 5), groups=3)
    return F.conv2d(images, kernel.transpose(2, 3), padding=(5, 0), groups=3)


def _smeared(images: Tensor) -> Tensor:
    """Moved along a line while the shutter was open: the mean of shifted pictures."""
    length, angle = float(torch.empty(()).uniform_(2, 10)), float(torch.empty(()).uniform_(0, 6.3))
    step = images.new_tensor([angle]).cos(), images.new_tensor([angle]).sin()
    total = torch.zeros_like(images)
    for share in torch.linspace(-0.5, 0.5, 7).tolist():
        x, y = (round(float(s) * length * share) for s in step)
        total += images.roll((y, x), (2, 3))
    return total / 7


def noisy(images: Tensor) -> Tensor:
    """Sensor noise of a random strength, none in four of ten."""
    strength = torch.rand(len(images), 1, 1, 1, device=images.device)
    strength = (1 + 11 * strength) / 255 * (torch.rand_like(strength) > 0.4)
    return images + strength * torch.randn_like(images)
