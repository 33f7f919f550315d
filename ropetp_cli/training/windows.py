"""Windows of motion capture to train TrajDenoiser on, augmented and as a pose network sees them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ropetp_cli.body.skeleton import MIRROR, NUM_JOINTS
from ropetp_cli.training.mocap import Clip, global_columns, local_rot6d, yaw
from ropetp_cli.training.noise import PoseNoise, Seen
from ropetp_cli.training.observed import Filmed, put_on

LOWER_BODY = tuple(range(1, 12))
#: How often a source is drawn, by the quality of its skeleton and floor.
SOURCE_WEIGHT = {"atelier_daz": 1.0, "iclone": 0.5, "daz": 0.4}


@dataclass
class Batch:
    """joints [B, N, 24, 3] m as they were, seen [B, N, 24, 3] m as the condition has them,
    path [B, N, 3] m to regenerate, first frame over the origin, floor at 0; rot6d [B, N, 24, 6],
    the rotations to the parent as the condition has them, if all clips have rotations."""

    joints: Tensor
    seen: Tensor
    path: Tensor
    rot6d: Tensor | None = None


class WindowSampler:
    """Random augmented windows of a list of clips, all on one device.

    Windows are mirrored, turned, played up to a quarter faster or slower, played backwards (a foot
    on the ground stays so), and scaled: legs and path together, the upper body a little apart
    from them. What goes far (walking, running) or up and down (climbing, jumping, sitting) is rare
    among all the standing and is drawn more often. Clips shorter than a window go on backwards
    from their end. Half of the conditions carry :class:`PoseNoise` of strength 0.3 to 1.6. With
    ``filmed`` parts of the clips, two windows in five are of these, and their conditions carry the
    errors Rope made on them, times 0.7 to 1.2.
    """

    FILMED_SHARE = 0.4

    def __init__(
        self,
        clips: list[Clip],
        window: int,
        fps: float,
        device: torch.device | str,
        seed: int = 0,
        filmed: Sequence[Filmed] = (),
    ):
        device = torch.device(device)
        self.window = window
        self.generator = torch.Generator(device).manual_seed(seed)
        own = torch.tensor([False] * len(clips) + [True] * len(filmed), device=device)
        nothing = [np.zeros((len(clip), NUM_JOINTS, 3), np.float32) for clip in clips]
        clips = clips + [part.clip for part in filmed]

        def laid_out(values: list[np.ndarray]) -> Tensor:
            return torch.from_numpy(np.concatenate(values)).to(device)

        self.joints = laid_out([clip.joints for clip in clips])
        self.root = laid_out([clip.on_floor() for clip in clips])
        turns = [clip.rotations for clip in clips]
        self.columns = None
        if all(each is not None for each in turns):
            self.columns = torch.cat([global_columns(each) for each in turns]).to(device)
        self.own, self.turns = own, laid_out(nothing + [part.turns for part in filmed])
        one = np.ones(NUM_JOINTS, np.float32)
        self.proportions = laid_out(
            [one[None]] * len(nothing) + [part.lengths[None] for part in filmed]
        )
        self.lengths = torch.tensor([len(clip) for clip in clips], device=device)
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.rates = torch.tensor([clip.fps / fps for clip in clips], device=device)
        weights = [
            len(clip)
            * SOURCE_WEIGHT.get(clip.source, 1.5)
            * (1 + min(1, clip.rise / 0.2) + 3 * min(1, clip.speed / 1.2))
            for clip in clips
        ]
        self.weights = torch.tensor(weights, dtype=torch.float, device=device)
        if filmed:
            self.weights[~own] *= (1 - self.FILMED_SHARE) / self.weights[~own].sum()
            self.weights[own] *= self.FILMED_SHARE / self.weights[own].sum()
        self.noise = PoseNoise(flat_share=0.5)

    def _uniform(self, *size: int) -> Tensor:
        return torch.rand(*size, generator=self.generator, device=self.generator.device)

    def _windows(self, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """Clip [B], joints, root, turns and columns of random windows."""
        clip = torch.multinomial(self.weights, batch, True, generator=self.generator)
        speed = torch.where(
            self._uniform(batch) < 0.5, 1.0, torch.exp((self._uniform(batch) - 0.5) * 0.45)
        )
        speed = speed * self.rates[clip]
        length = self.lengths[clip].float()
        first = self._uniform(batch) * (length - 1 - speed * (self.window - 1)).clamp(min=0)
        time = torch.arange(self.window, device=speed.device) * speed[:, None] + first[:, None]
        last = (length - 1)[:, None]
        time = last - ((time % (2 * last)) - last).abs()  # there and back again
        backwards = self._uniform(batch, 1) < 0.2
        time = torch.where(backwards, time.flip(1), time)
        before = time.long().clamp(max=(self.lengths[clip] - 2)[:, None])
        part = (time - before)[..., None]
        index = self.starts[clip][:, None] + before

        def between(values: Tensor) -> Tensor:
            shape = (*part.shape[:2], *[1] * (values.ndim - 1))
            return torch.lerp(values[index], values[index + 1], part.view(shape))

        columns = None if self.columns is None else between(self.columns)
        return clip, between(self.joints), between(self.root), between(self.turns), columns

    def _seen(
        self, clip: Tensor, joints: Tensor, turns: Tensor, lengths: Tensor, columns: Tensor | None
    ) -> Seen:
        """What a pose network makes of windows of ``clip`` [B]: Rope's own errors where it saw
        them, :class:`PoseNoise` elsewhere."""
        batch = len(joints)
        made_up = self.noise(joints, self.generator, 0.3 + 1.3 * self._uniform(batch), columns)
        own = self.own[clip]
        if not own.any():
            return made_up
        strength = 0.7 + 0.5 * self._uniform(batch)
        turns, lengths = turns * strength[:, None, None, None], lengths ** strength[:, None]
        seen = [
            None if a is None else torch.where(own.view(-1, *[1] * (a.ndim - 1)), a, b)
            for a, b in zip(put_on(joints, columns, turns, lengths), made_up, strict=True)
        ]
        return Seen(*seen)

    def __call__(self, batch: int, clean: float = 0.5) -> Batch:
        """A batch; a share ``clean`` of the conditions is exact."""
        clip, joints, root, turns, columns = self._windows(batch)
        lengths = self.proportions[clip]
        mirrored = self._uniform(batch) < 0.5
        swapped = turns[:, :, list(MIRROR)] * turns.new_tensor([1.0, -1.0, -1.0])
        turns = torch.where(mirrored[:, None, None, None], swapped, turns)
        lengths = torch.where(mirrored[:, None], lengths[:, list(MIRROR)], lengths)
        flip = torch.where(mirrored[:, None], joints.new_tensor([-1.0, 1.0, 1.0]), 1.0)[:, None]
        joints = torch.where(mirrored[:, None, None, None], joints[:, :, list(MIRROR)], joints)
        joints, root = joints * flip[:, None], root * flip
        heading = self._uniform(batch, 1) * (2 * torch.pi)
        joints, root = yaw(joints, heading[..., None]), yaw(root, heading)
        if columns is not None:
            # M R M in the mirror: the first column also changes its sign.
            sides = flip[:, None, None] * flip[:, None, :, :2, None]
            other = columns[:, :, list(MIRROR)]
            columns = torch.where(mirrored[:, None, None, None, None], other, columns) * sides
            columns = yaw(columns, heading[..., None, None])
        scale = torch.exp((self._uniform(batch) - 0.5) * 0.4)[:, None, None]
        upper = torch.exp((self._uniform(batch) - 0.5) * 0.2)[:, None, None, None]
        build = torch.ones(NUM_JOINTS, 1, device=root.device)
        build[list(LOWER_BODY)] = 0
        joints = joints * scale[..., None] * (build * upper + (1 - build))
        root = root * scale

        seen, error, turned = self._seen(clip, joints, turns, lengths, columns)
        exact = self._uniform(batch) < clean
        seen = torch.where(exact[:, None, None, None], joints, seen)
        rot6d = None
        if columns is not None:
            rot6d = local_rot6d(torch.where(exact[:, None, None, None, None], columns, turned))
        error = torch.where(exact[:, None], 0.0, error)
        # Nobody can see a heading error: the path goes where the seen body heads.
        steps = yaw(root.diff(dim=1), error[:, :-1])
        ground = torch.nn.functional.pad(steps.cumsum(1), (0, 0, 1, 0))
        path = torch.stack([ground[..., 0], root[..., 1], ground[..., 2]], -1)
        return Batch(yaw(joints, error[..., None]), seen, path, rot6d)
