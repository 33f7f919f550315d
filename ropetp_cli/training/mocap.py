"""Motion capture with its true global path: reading it, turning it."""

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from ropetp_cli.body.rot6d import matrix_to_rot6d, rot6d_to_matrix
from ropetp_cli.body.rotations import (
    axis_angle_to_matrix,
    forward_kinematics,
    knee_bends,
    local_to_global,
    matrix_to_axis_angle,
    quaternion_to_matrix,
)
from ropetp_cli.body.skeleton import ANKLES, FEET, JOINT_INDEX, NUM_JOINTS, PARENTS
from ropetp_cli.errors import RopeTPError

#: How far the toe joint is above the floor when the foot stands on it, m.
TOE_HEIGHT = 0.02
#: A toe slower than this stands still, m/s.
STILL = 0.15
KEYS = ("root_pos", "joints_rel", "joints_rel_scale", "offsets", "names", "subjects", "fps")
ROTATION_KEYS = ("rot_local_quat", "rest_offsets", "has_rot")
#: m that joints move on average, and how many times as far as in the next frames, where they jump
#: from the rest pose into the motion.
REST_JUMP, REST_RATIO = 0.05, 5.0
#: A knee is at its straightest at this percentile of its bend; by up to so much of that bend it is
#: made straighter (what is left of less than nothing is nothing).
STRAIGHTEST, MOST_STRAIGHTENED = 10, 1.3
#: By up to so much, rad, where single poses are made straighter.
STRAIGHTER = 0.6
#: Hip, knee and ankle of each leg.
_LEGS = [
    [JOINT_INDEX[f"{side}_{name}"] for name in ("hip", "knee", "ankle")]
    for side in ("left", "right")
]
#: The pelvis and all of the legs.
_BELOW = [
    JOINT_INDEX["pelvis"],
    *(JOINT_INDEX[f"{s}_{n}"] for s in ("left", "right") for n in ("hip", "knee", "ankle", "foot")),
]
#: Frames over which the pelvis rises as legs get longer.
_RISE_FRAMES = 2.0


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

    def begun(self) -> "Clip":
        """The clip without a first frame that is no part of it: converters leave one of the rest
        pose there, from which everything jumps to where it is in the next."""
        steps = np.linalg.norm(np.diff(self.joints[:7], axis=0), axis=-1).mean(axis=1)
        jumps = len(steps) > 1 and steps[0] > max(REST_JUMP, REST_RATIO * steps[1:].max())
        return self.part(1, len(self)) if jumps else self

    @property
    def rise(self) -> float:
        """How much the pelvis goes up and down, standard deviation, m."""
        return float(self.root[:, 1].std())

    @property
    def speed(self) -> float:
        """The pelvis's mean speed over the ground, m/s."""
        steps = np.linalg.norm(np.diff(self.root[:, [0, 2]], axis=0), axis=-1)
        return float(steps.mean()) * self.fps

    def straighter(self, rng: np.random.Generator) -> "Clip":
        """The clip, which has rotations, with knees made straighter by a random angle, the pelvis
        as much higher as the legs get longer. Converters leave the straightest legs a little bent,
        and people stand on straight ones."""
        straightest = np.percentile(knee_bends(self.rotations), STRAIGHTEST)
        by = rng.uniform(0, MOST_STRAIGHTENED) * straightest
        turns = straightened(self.rotations, by)
        before, after = (
            forward_kinematics(each.astype(float), self.rest) for each in (self.rotations, turns)
        )
        moved = (after - after[:, :1]) - (before - before[:, :1])
        joints = self.joints + moved.astype(self.joints.dtype)
        lowest = [each[:, list(ANKLES + FEET), 1].min(axis=1) for each in (self.joints, joints)]
        root = self.root.copy()
        root[:, 1] += gaussian_filter1d(lowest[0] - lowest[1], _RISE_FRAMES, mode="nearest")
        return replace(self, joints=joints, root=root, rotations=turns)

    def below(self, other: "Clip") -> "Clip":
        """The clip's pelvis and legs under trunk and arms that move as in the ``other``, as long;
        both have rotations."""
        turns = other.rotations.copy()
        turns[:, _BELOW] = self.rotations[:, _BELOW]
        joints = forward_kinematics(turns.astype(float), self.rest)
        joints = (joints - joints[:, :1]).astype(self.joints.dtype)
        return replace(self, joints=joints, rotations=turns)

    def on_floor(self) -> np.ndarray:
        """The root with the floor at y = 0 and the first frame over the origin.

        The floor lies ``TOE_HEIGHT`` below the lowest level on which toes come to rest: the tenth
        percentile of the heights of toes that stand still, because loose floors let a foot sink
        at times, and a toe that pushes off dips below its height in standing.
        """
        toes = self.joints[:, list(FEET)] + self.root[:, None]
        speed = np.linalg.norm(np.gradient(toes, axis=0), axis=-1) * self.fps
        still = toes[..., 1][speed <= np.maximum(STILL, np.percentile(speed, 5))]
        floor = np.percentile(still, 10) - TOE_HEIGHT
        return self.root - np.array([self.root[0, 0], floor, self.root[0, 2]], self.root.dtype)


def load_clips(path: str | Path, rotations: bool = False) -> list[Clip]:
    """The clips of a mocap npz: C clips end to end in F frames, ``offsets`` [C + 1], ``root_pos``
    [F, 3] m, ``joints_rel`` int16 [F, 24, 3] times ``joints_rel_scale`` m, ``names``,
    ``subjects``, ``fps``, and ``source`` and ``desc`` if it has them. With ``rotations``, also
    ``rot_local_quat`` int16 [F, 24, 4] wxyz and ``rest_offsets`` [C, 24, 3] m of the clips that
    ``has_rot`` [C] says have them. A first frame of the rest pose is left out.

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
    return [clip.begun() for clip in clips]


def load_turned_clips(path: str | Path) -> list[Clip]:
    """Those clips of a mocap npz that have rotations, with them. Raises RopeTPError as
    :func:`load_clips` does, and when there are none."""
    clips = [clip for clip in load_clips(path, True) if clip.rotations is not None]
    if not clips:
        raise RopeTPError(f"{path}: no clip has rotations (has_rot), which are needed here")
    return clips


def straightened(rotations: np.ndarray, by: float | np.ndarray) -> np.ndarray:
    """Rotations to the parent [N, 24, 3, 3] with knees bent by that much less, rad (a number, or
    [N]), but no further than straight. Thigh and shank take half of it each, so that hip, ankle and
    the way the foot points stay in line."""
    new = rotations.copy()
    for leg in _LEGS:
        bent = matrix_to_axis_angle(rotations[:, leg[1]].astype(np.float64))
        angle = np.linalg.norm(bent, axis=-1)
        less = np.minimum(by, angle) / np.maximum(angle, 1e-8)
        _stretch(new, leg, axis_angle_to_matrix(bent * (less / 2)[:, None]))
    return new


def crouched(rotations: np.ndarray, by: np.ndarray) -> np.ndarray:
    """The opposite: knees of [N, 24, 3, 3] bent by so much more, [N] rad."""
    new = rotations.copy()
    half = axis_angle_to_matrix(-0.5 * np.asarray(by)[:, None] * [1.0, 0.0, 0.0])
    for leg in _LEGS:
        _stretch(new, leg, half)
    return new


def _stretch(rotations: np.ndarray, leg: list[int], half: np.ndarray) -> None:
    """Take ``half`` [N, 3, 3], half of a bend of the knee, twice from a ``leg``'s knee."""
    hip, knee, ankle = leg
    back = half.swapaxes(-1, -2)
    rotations[:, hip] = rotations[:, hip] @ half
    rotations[:, knee] = back @ rotations[:, knee] @ back
    rotations[:, ankle] = half @ rotations[:, ankle]


def some_straightened(rotations: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Poses [N, 24, 3, 3], a ``share`` of them with knees straighter by up to STRAIGHTER rad."""
    by = rng.uniform(0, STRAIGHTER, len(rotations)) * (rng.random(len(rotations)) < share)
    return straightened(rotations, by)


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


def bones_of(joints: Tensor) -> Tensor:
    """Joints [..., 24, 3] m -> every bone from its parent to its far joint, [..., 23, 3]."""
    return joints[..., 1:, :] - joints[..., list(PARENTS[1:]), :]


def joined_up(bones: Tensor, pelvis: Tensor) -> Tensor:
    """The joints [..., 24, 3] m of bones [..., 23, 3], from the ``pelvis`` [..., 3] on."""
    joints = [pelvis]
    for joint, parent in enumerate(PARENTS[1:]):
        joints.append(joints[parent] + bones[..., joint, :])
    return torch.stack(joints, -2)


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
