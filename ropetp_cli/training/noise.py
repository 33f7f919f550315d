"""Made-up errors of a pose network, for motions that no network has seen."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ropetp_cli.body.rot6d import rot6d_to_matrix
from ropetp_cli.body.skeleton import MIRROR, NUM_JOINTS, PARENTS
from ropetp_cli.training.mocap import (
    Clip,
    bones_of,
    global_columns,
    joined_up,
    local_rot6d,
    turn,
    yaw,
)

LEGS = (1, 2, 4, 5, 7, 8, 10, 11)
#: The bones of legs and arms, each by its far joint.
LIMBS = ((4, 7, 10), (5, 8, 11), (18, 20, 22), (19, 21, 23))
#: The bone, by its far joint, that turns with each joint's rotation: the spine with the pelvis,
#: the neck with the chest, and hands, feet and head with their own.
TURNS_WITH = tuple(
    {0: 3, 9: 12}.get(joint, PARENTS.index(joint) if joint in PARENTS else joint)
    for joint in range(NUM_JOINTS)
)


def flattening(bones: Tensor, side: Tensor, lost: Tensor) -> Tensor:
    """Rotation vectors, rad, [B, N, K, 3] that take from bones [B, N, K, 3] the shares ``lost``
    [B, K] of their depth before a camera that looks level from ``side`` [B] rad about y: what a
    pose network does that cannot tell how far a limb points at the camera."""
    away = torch.stack([side.sin(), torch.zeros_like(side), side.cos()], -1)[:, None, None]
    depth = (bones * away).sum(-1, keepdim=True)
    flat = bones - lost[:, None, :, None] * depth * away
    across = torch.linalg.cross(bones, flat, dim=-1)
    sine = across.norm(dim=-1, keepdim=True)
    angle = torch.atan2(sine, (bones * flat).sum(-1, keepdim=True))
    return across / sine.clamp(min=1e-9) * angle


def drift(size: tuple[int, int, int], period: float, generator: torch.Generator) -> Tensor:
    """Slow noise of about unit variance, [B, N, K]: random knots every ``period`` frames."""
    batch, count, channels = size
    device = generator.device
    phase = torch.rand(batch, 1, generator=generator, device=device)
    time = torch.arange(count, device=device) / period + phase
    knots = torch.randn(
        batch, int(count / period) + 3, channels, generator=generator, device=device
    )
    before = time.long()
    part = time - before
    part = (part * part * (3 - 2 * part))[..., None]
    row = torch.arange(batch, device=device)[:, None]
    return (knots[row, before] * (1 - part) + knots[row, before + 1] * part) * 1.15


class Seen(NamedTuple):
    """A body as a pose network might see it: joints [B, N, 24, 3] m minus pelvis; heading [B, N]
    rad, its error; columns [B, N, 24, 2, 3] of the joints' rotations, if they were given."""

    joints: Tensor
    heading: Tensor
    columns: Tensor | None


@dataclass(frozen=True)
class PoseNoise:
    """The errors of a frame-by-frame pose network, at strength 1.

    Degrees, standard deviations: every bone's direction off for good (``bone_bias``), slowly
    (``bone_drift``) and from frame to frame (``bone_jitter``); one limb far off for a while
    (``limb``, in ``limb_share`` of the sequences); the whole body tilted for good
    (``tilt_bias``), slowly (``tilt_drift``) and by frame (``tilt_jitter``), its heading slowly
    (``yaw_drift``). ``proportions`` is the relative error of bone lengths, the same on both
    sides; in ``swap_share`` of the sequences the legs are taken for one another for a moment; in
    ``flat_share`` of them limbs lose up to ``flat`` of their depth before a camera.
    """

    bone_bias: float = 3.5
    bone_drift: float = 4.5
    bone_jitter: float = 1.2
    limb: float = 15.0
    limb_share: float = 0.3
    tilt_bias: float = 3.0
    tilt_drift: float = 3.0
    tilt_jitter: float = 0.7
    yaw_drift: float = 3.0
    proportions: float = 0.04
    swap_share: float = 0.1
    flat: float = 0.7
    flat_share: float = 0.0

    def __call__(
        self,
        joints: Tensor,
        generator: torch.Generator,
        strength: Tensor | None = None,
        columns: Tensor | None = None,
    ) -> Seen:
        """Joints minus pelvis [B, N, 24, 3] m at 30 fps, and columns [B, N, 24, 2, 3] of their
        rotations in the world -> the same with errors, which ``strength`` [B] scales. A joint's
        rotation has the errors of the bone that turns with it."""
        batch, count = joints.shape[:2]
        device = generator.device
        one = torch.ones(batch, device=device) if strength is None else strength
        strength = one[:, None, None]
        degree = torch.pi / 180

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=generator, device=device)

        def uniform(*size: int) -> Tensor:
            return torch.rand(*size, generator=generator, device=device)

        bones = bones_of(joints)
        error = (
            self.bone_bias * normal(batch, 1, 69)
            + self.bone_drift * drift((batch, count, 69), 12, generator)
            + self.bone_jitter * normal(batch, count, 69)
        )
        limbs = torch.zeros(len(LIMBS), NUM_JOINTS - 1, device=device)
        for limb, members in enumerate(LIMBS):
            limbs[limb, [member - 1 for member in members]] = 1
        chosen = limbs[(uniform(batch) * 4).long()]
        bump = drift((batch, count, 1), 25, generator).relu() * self.limb
        lost = (uniform(batch) < self.limb_share).float()[:, None, None]
        away = bump * lost * torch.nn.functional.normalize(normal(batch, 1, 3), dim=-1)
        error = error.view(batch, count, -1, 3) + chosen[:, None, :, None] * away[:, :, None]
        error = error * strength[..., None] * degree
        if self.flat_share:
            side, lost = 2 * torch.pi * uniform(batch), uniform(batch, 4) * self.flat
            lost = (lost @ limbs) * (uniform(batch, 1) < self.flat_share)
            error = error + flattening(bones, side, lost * one[:, None])
        bones = turn(bones, error)
        if columns is not None:
            columns = turn(columns, error[:, :, [bone - 1 for bone in TURNS_WITH], None])
        lengths = normal(batch, 1, NUM_JOINTS, 1)
        lengths = 0.5 * (lengths + lengths[:, :, list(MIRROR)]) * 1.4 * self.proportions
        bones = bones * (1 + lengths[:, :, 1:] * strength[..., None])
        out = joined_up(bones, joints[:, :, 0])

        legs = list(LEGS)
        others = [MIRROR[joint] for joint in legs]
        start = uniform(batch, 1) * count
        frames = torch.arange(count, device=device)
        inside = (frames >= start) & (frames < start + 1 + 5 * uniform(batch, 1))
        inside &= (uniform(batch, 1) < self.swap_share) & (one[:, None] > 0)
        inside = inside[..., None, None]
        out[:, :, legs] = torch.where(inside, out[:, :, others], out[:, :, legs])
        if columns is not None:
            columns[:, :, legs] = torch.where(
                inside[..., None], columns[:, :, others], columns[:, :, legs]
            )

        tilt = (
            self.tilt_bias * normal(batch, 1, 3)
            + self.tilt_drift * drift((batch, count, 3), 35, generator)
            + self.tilt_jitter * normal(batch, count, 3)
        ) * strength
        heading = self.yaw_drift * drift((batch, count, 1), 45, generator) * strength
        heading = (heading[..., 0] - heading[:, :1, 0]) * degree
        tilt[..., 1] *= 0.3
        tilt = (tilt * degree)[:, :, None]
        out = yaw(turn(out, tilt), heading[..., None])
        if columns is not None:
            columns = yaw(turn(columns, tilt[..., None, :]), heading[..., None, None])
        return Seen(out, heading, columns)


def noisy_clips(clips: list[Clip], seed: int = 0) -> Iterator[Clip]:
    """The clips as a pose network might see them: noise of strength 1, the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    for clip in clips:
        turns = None if clip.rotations is None else global_columns(clip.rotations)[None]
        seen = PoseNoise()(torch.from_numpy(clip.joints)[None], generator, columns=turns)
        if seen.columns is not None:
            turns = rot6d_to_matrix(local_rot6d(seen.columns[0])).numpy()
        yield replace(clip, joints=seen.joints[0].numpy(), rotations=turns)
