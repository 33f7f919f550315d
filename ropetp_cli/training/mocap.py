"""Motion capture with its true global path: reading, augmenting, and a pose network's errors."""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ropetp_cli.body.rot6d import matrix_to_rot6d, rot6d_to_matrix
from ropetp_cli.body.rotations import local_to_global, quaternion_to_matrix
from ropetp_cli.body.skeleton import FEET, MIRROR, NUM_JOINTS, PARENTS
from ropetp_cli.errors import RopeTPError

if TYPE_CHECKING:
    from ropetp_cli.training.observed import ObservedErrors

#: How far the toe joint is above the floor when the foot stands on it, m.
TOE_HEIGHT = 0.02
#: A toe slower than this stands still, m/s.
STILL = 0.15
LOWER_BODY = tuple(range(1, 12))
LEGS = (1, 2, 4, 5, 7, 8, 10, 11)
#: The bone, by its far joint, that turns with each joint's rotation: the spine with the pelvis,
#: the neck with the chest, and hands, feet and head with their own.
TURNS_WITH = tuple(
    {0: 3, 9: 12}.get(joint, PARENTS.index(joint) if joint in PARENTS else joint)
    for joint in range(NUM_JOINTS)
)
#: How often a source is drawn, by the quality of its skeleton and floor.
SOURCE_WEIGHT = {"atelier_daz": 1.0, "iclone": 0.5, "daz": 0.4}
KEYS = ("root_pos", "joints_rel", "joints_rel_scale", "offsets", "names", "subjects", "fps")
ROTATION_KEYS = ("rot_local_quat", "rest_offsets", "has_rot")


@dataclass
class Clip:
    """One recording: joints [N, 24, 3] m minus pelvis in world orientation (y up); root [N, 3] m,
    the pelvis in the world; fps. Where they are read and known: rotations [N, 24, 3, 3] to the
    parent, the pelvis's in the world, and rest [24, 3] m, the joints of the T pose."""

    name: str
    subject: str
    source: str
    desc: str
    joints: np.ndarray
    root: np.ndarray
    fps: float
    rotations: np.ndarray | None = None
    rest: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.root)

    def part(self, first: int, last: int) -> "Clip":
        """Frames ``first`` to ``last`` (exclusive) as a clip."""
        turns = None if self.rotations is None else self.rotations[first:last]
        return replace(
            self, joints=self.joints[first:last], root=self.root[first:last], rotations=turns
        )

    @property
    def rise(self) -> float:
        """How much the pelvis goes up and down, standard deviation, m."""
        return float(self.root[:, 1].std())

    @property
    def speed(self) -> float:
        """The pelvis's mean speed over the ground, m/s."""
        steps = np.linalg.norm(np.diff(self.root[:, [0, 2]], axis=0), axis=-1)
        return float(steps.mean()) * self.fps

    def on_floor(self) -> np.ndarray:
        """The root with the floor at y = 0 and the first frame over the origin.

        The floor lies ``TOE_HEIGHT`` below the lowest level on which toes come to rest: the tenth
        percentile of the heights of toes that stand still, because loose floors let a foot sink
        at times, and a toe that pushes off dips below its height in standing.
        """
        toes = self.joints[:, list(FEET)] + self.root[:, None]
        speed = np.linalg.norm(np.gradient(toes, axis=0), axis=-1) * self.fps
        still = toes[..., 1][speed < np.maximum(STILL, np.percentile(speed, 5))]
        floor = np.percentile(still, 10) - TOE_HEIGHT
        return self.root - np.array([self.root[0, 0], floor, self.root[0, 2]], self.root.dtype)


def load_clips(path: str | Path, rotations: bool = False) -> list[Clip]:
    """The clips of a mocap npz: C clips end to end in F frames, ``offsets`` [C + 1], ``root_pos``
    [F, 3] m, ``joints_rel`` int16 [F, 24, 3] times ``joints_rel_scale`` m, ``names``,
    ``subjects``, ``fps``, and ``source`` and ``desc`` if it has them. With ``rotations``, also
    ``rot_local_quat`` int16 [F, 24, 4] wxyz and ``rest_offsets`` [C, 24, 3] m of the clips that
    ``has_rot`` [C] says have them.

    Raises RopeTPError when the file is missing, is no npz, or lacks a key.
    """
    path = Path(path)
    if not path.is_file():
        raise RopeTPError(f"{path}: no such file; name a mocap .npz")
    try:
        with np.load(path, allow_pickle=False) as file:
            wanted = KEYS + ("source", "desc") + (ROTATION_KEYS if rotations else ())
            data = {key: file[key] for key in wanted if key in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise RopeTPError(f"{path}: not a readable npz ({error})") from error
    missing = [key for key in KEYS if key not in data]
    if missing:
        raise RopeTPError(f"{path}: lacks {', '.join(missing)}; is it a mocap file?")
    offsets = data["offsets"]
    count = len(offsets) - 1
    joints = data["joints_rel"].astype(np.float32) * np.float32(data["joints_rel_scale"])
    if joints.shape[1:] != (NUM_JOINTS, 3) or len(joints) != len(data["root_pos"]):
        raise RopeTPError(f"{path}: joints_rel has shape {list(joints.shape)}, expected F x 24 x 3")
    unnamed = np.full(count, "")
    clips = [
        Clip(
            str(data["names"][k]),
            str(data["subjects"][k]),
            str(data.get("source", unnamed)[k]),
            str(data.get("desc", unnamed)[k]),
            joints[offsets[k] : offsets[k + 1]],
            data["root_pos"][offsets[k] : offsets[k + 1]],
            float(data["fps"]),
        )
        for k in range(count)
    ]
    if all(key in data for key in ROTATION_KEYS):
        quaternions, bones, known = (data[key] for key in ROTATION_KEYS)
        shapes = (len(joints), NUM_JOINTS, 4), (count, NUM_JOINTS, 3), (count,)
        if (quaternions.shape, bones.shape, known.shape) != shapes:
            raise RopeTPError(
                f"{path}: {', '.join(ROTATION_KEYS)} do not have the shapes "
                f"{' '.join(map(str, shapes))}"
            )
        for k in np.flatnonzero(known):
            turns = quaternions[offsets[k] : offsets[k + 1]]
            if not turns.any(-1).all():
                raise RopeTPError(f"{path}: clip {clips[k].name} has rotations of no length")
            clips[k].rotations = quaternion_to_matrix(turns).astype(np.float32)
            clips[k].rest = np.zeros((NUM_JOINTS, 3))
            for joint, parent in enumerate(PARENTS[1:], start=1):
                clips[k].rest[joint] = clips[k].rest[parent] + bones[k, joint]
    return clips


def load_turned_clips(path: str | Path) -> list[Clip]:
    """Those clips of a mocap npz that have rotations, with them. Raises RopeTPError as
    :func:`load_clips` does, and when there are none."""
    clips = [clip for clip in load_clips(path, True) if clip.rotations is not None]
    if not clips:
        raise RopeTPError(f"{path}: no clip has rotations (has_rot), which are needed here")
    return clips


def global_columns(rotations: np.ndarray) -> Tensor:
    """Rotations to the parent [N, 24, 3, 3] -> the first two columns of the joints' rotations in
    the world, as vectors that turn as bones do, float32 [N, 24, 2, 3]."""
    columns = local_to_global(rotations)[..., :2].swapaxes(-1, -2)
    return torch.from_numpy(columns.astype(np.float32))


def local_rot6d(columns: Tensor) -> Tensor:
    """What :func:`global_columns` gives, [..., 24, 2, 3], perhaps no longer upright on one another
    -> rot6d of the rotations to the parent, [..., 24, 6]."""
    turns = rot6d_to_matrix(columns.flatten(-2))
    local = turns[..., list(PARENTS[1:]), :, :].mT @ turns[..., 1:, :, :]
    return matrix_to_rot6d(torch.cat([turns[..., :1, :, :], local], -3))


def turn(vectors: Tensor, angles: Tensor) -> Tensor:
    """Vectors [..., 3] turned by rotation vectors [..., 3], rad."""
    angle = angles.norm(dim=-1, keepdim=True).clamp(min=1e-8)
    axis = (angles / angle).expand_as(vectors)
    across = torch.linalg.cross(axis, vectors, dim=-1)
    along = axis * (axis * vectors).sum(-1, keepdim=True)
    return vectors * angle.cos() + across * angle.sin() + along * (1 - angle.cos())


def yaw(vectors: Tensor, angle: Tensor) -> Tensor:
    """Vectors [..., 3] turned by ``angle`` [...] rad about y."""
    cos, sin = angle.cos(), angle.sin()
    x, y, z = vectors.unbind(-1)
    return torch.stack([cos * x + sin * z, y, cos * z - sin * x], -1)


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
    sides; in ``swap_share`` of the sequences the legs are taken for one another for a moment.
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

        bones = joints[:, :, 1:] - joints[:, :, list(PARENTS[1:])]
        error = (
            self.bone_bias * normal(batch, 1, 69)
            + self.bone_drift * drift((batch, count, 69), 12, generator)
            + self.bone_jitter * normal(batch, count, 69)
        )
        limbs = torch.zeros(4, NUM_JOINTS - 1, device=device)
        for limb, members in enumerate(((4, 7, 10), (5, 8, 11), (18, 20, 22), (19, 21, 23))):
            limbs[limb, [member - 1 for member in members]] = 1
        chosen = limbs[(uniform(batch) * 4).long()]
        bump = drift((batch, count, 1), 25, generator).relu() * self.limb
        lost = (uniform(batch) < self.limb_share).float()[:, None, None]
        away = bump * lost * torch.nn.functional.normalize(normal(batch, 1, 3), dim=-1)
        error = error.view(batch, count, -1, 3) + chosen[:, None, :, None] * away[:, :, None]
        error = error * strength[..., None] * degree
        bones = turn(bones, error)
        if columns is not None:
            columns = turn(columns, error[:, :, [bone - 1 for bone in TURNS_WITH], None])
        lengths = normal(batch, 1, NUM_JOINTS, 1)
        lengths = 0.5 * (lengths + lengths[:, :, list(MIRROR)]) * 1.4 * self.proportions
        bones = bones * (1 + lengths[:, :, 1:] * strength[..., None])
        seen = [joints[:, :, 0]]
        for joint, parent in enumerate(PARENTS[1:]):
            seen.append(seen[parent] + bones[:, :, joint])
        out = torch.stack(seen, 2)

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
    from their end. Half of the conditions carry :class:`PoseNoise` of strength 0.3 to 1.6 or, three
    in four of them where ``observed`` is given, the errors of Rope itself, times 0.5 to 1.3.
    """

    def __init__(
        self,
        clips: list[Clip],
        window: int,
        fps: float,
        device: torch.device | str,
        seed: int = 0,
        observed: "ObservedErrors | None" = None,
    ):
        device = torch.device(device)
        self.window = window
        self.generator = torch.Generator(device).manual_seed(seed)
        self.joints = torch.from_numpy(np.concatenate([clip.joints for clip in clips])).to(device)
        self.root = torch.from_numpy(np.concatenate([clip.on_floor() for clip in clips])).to(device)
        turns = [clip.rotations for clip in clips]
        self.columns = None
        if all(each is not None for each in turns):
            self.columns = torch.cat([global_columns(each) for each in turns]).to(device)
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
        self.noise = PoseNoise()
        self.observed = observed

    def _uniform(self, *size: int) -> Tensor:
        return torch.rand(*size, generator=self.generator, device=self.generator.device)

    def _windows(self, batch: int) -> tuple[Tensor, Tensor, Tensor | None]:
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
        return between(self.joints), between(self.root), columns

    def _seen(self, joints: Tensor, columns: Tensor | None) -> "Seen":
        batch = len(joints)
        seen = self.noise(joints, self.generator, 0.3 + 1.3 * self._uniform(batch), columns)
        if self.observed is None:
            return seen
        strength = 0.5 + 0.8 * self._uniform(batch)
        other = self.observed(joints, self.generator, strength, columns)
        made_up = self._uniform(batch) < 0.25
        chosen = [
            None if a is None else torch.where(made_up.view(-1, *[1] * (a.ndim - 1)), a, b)
            for a, b in zip(seen, other, strict=True)
        ]
        return Seen(*chosen)

    def __call__(self, batch: int, clean: float = 0.5) -> Batch:
        """A batch; a share ``clean`` of the conditions is exact."""
        joints, root, columns = self._windows(batch)
        mirrored = self._uniform(batch) < 0.5
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

        seen, error, turned = self._seen(joints, columns)
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


def noisy_clips(clips: list[Clip], seed: int = 0) -> Iterator[Clip]:
    """The clips as a pose network might see them: noise of strength 1, the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    for clip in clips:
        turns = None if clip.rotations is None else global_columns(clip.rotations)[None]
        seen = PoseNoise()(torch.from_numpy(clip.joints)[None], generator, columns=turns)
        if seen.columns is not None:
            turns = rot6d_to_matrix(local_rot6d(seen.columns[0])).numpy()
        yield replace(clip, joints=seen.joints[0].numpy(), rotations=turns)
