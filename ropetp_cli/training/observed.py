"""The errors Rope really makes on moving people, to train and to measure TrajDenoiser behind them.

``training.filming`` films motion capture and writes down, frame by frame, how far every joint's
rotation in the world is off in Rope's answer. They belong to the motion they were made on: who
walks towards a camera takes shorter steps in Rope's eyes, and a path must not believe them.
"""

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from ropetp_cli.arrays import open_npz
from ropetp_cli.body.rot6d import rot6d_to_matrix
from ropetp_cli.body.rotations import (
    forward_kinematics,
    local_to_global,
    matrix_to_axis_angle,
    yaw_matrix,
)
from ropetp_cli.body.skeleton import JOINT_INDEX, NUM_JOINTS, PARENTS
from ropetp_cli.errors import RopeTPError
from ropetp_cli.files import atomic_path
from ropetp_cli.training.mocap import (
    Clip,
    bones_of,
    global_columns,
    joined_up,
    local_rot6d,
    turn,
    yaw,
)
from ropetp_cli.training.noise import Seen

#: A heading that is off for longer than this many frames turns the path with it.
HEADING_FRAMES = 15.0
_BONES = list(PARENTS[1:])


def heading(joints: Tensor) -> Tensor:
    """Which way bodies face, from the line of their hips: joints [..., 24, 3] m -> [...] rad about
    y, 0 along z."""
    left = joints[..., JOINT_INDEX["left_hip"], :] - joints[..., JOINT_INDEX["right_hip"], :]
    return torch.atan2(-left[..., 2], left[..., 0])


def differences(
    seen: np.ndarray, seen_rest: np.ndarray, rotations: np.ndarray, rest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """From rotations [N, 24, 3, 3] and rest joints [24, 3] m as they are to those seen, as
    :class:`ObservedErrors` has them: turns [N, 24, 3], lengths [24]. A heading that is off by the
    same all the time is no error: nobody knows where the camera stands."""
    truly, faces = (
        heading(torch.from_numpy(forward_kinematics(each, bones))).numpy()
        for each, bones in ((rotations, rest), (seen, seen_rest))
    )
    seen = seen.copy()
    seen[:, 0] = yaw_matrix(np.angle(np.exp(1j * (truly - faces)).mean())) @ seen[:, 0]
    off = local_to_global(seen) @ local_to_global(rotations).swapaxes(-1, -2)
    around = yaw_matrix(-truly)[:, None]
    turns = matrix_to_axis_angle(around @ off @ around.swapaxes(-1, -2))
    lengths, true = (np.linalg.norm(r[1:] - r[_BONES], axis=1) for r in (seen_rest, rest))
    return turns, np.concatenate([[1.0], lengths / true])


@dataclass
class ObservedErrors:
    """Errors of W windows laid end to end, F frames.

    ``turns`` [F, 24, 3]: the rotation vectors, rad, that turn each joint's rotation in the world
    to what was seen of it, in axes that face where the body truly faces; ``lengths`` [W, 24]: seen
    over true length of the bone that ends at each joint; ``offsets`` [W + 1]; ``names`` and
    ``first`` [W]: the clip and its first frame.
    """

    turns: np.ndarray
    lengths: np.ndarray
    offsets: np.ndarray
    names: np.ndarray
    first: np.ndarray

    def save(self, path: str | Path) -> None:
        """Write an npz, turns as half floats."""
        values = vars(self) | {"turns": self.turns.astype(np.float16)}
        with atomic_path(Path(path)) as draft, draft.open("wb") as file:
            np.savez(file, **values)

    @classmethod
    def load(cls, path: str | Path) -> "ObservedErrors":
        """RopeTPError when the file is missing or is not one of ``training.filming``'s."""
        try:
            with open_npz(path) as file:
                values = {name: file[name] for name in cls.__dataclass_fields__}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise RopeTPError(
                f"{path}: no errors of Rope ({error}); python -m ropetp_cli.training.filming "
                "writes such a file"
            ) from error
        found = cls(**values)
        if not found._fits_together():
            raise RopeTPError(f"{path}: its windows and frames do not fit together; make it again")
        found.turns, found.lengths = (v.astype(np.float32) for v in (found.turns, found.lengths))
        return found

    def _fits_together(self) -> bool:
        """Whether kinds, shapes and values are those of windows laid end to end."""
        kinds = [value.dtype.kind for value in vars(self).values()]
        if kinds != ["f", "f", "i", "U", "i"] or self.offsets.ndim != 1 or len(self.offsets) < 2:
            return False
        windows, frames = len(self.offsets) - 1, int(self.offsets[-1])
        shapes = [value.shape for value in vars(self).values()]
        expected = [(frames, NUM_JOINTS, 3), (windows, NUM_JOINTS), (windows + 1,)]
        return (
            shapes == [*expected, (windows,), (windows,)]
            and self.offsets[0] == 0
            and bool((np.diff(self.offsets) > 1).all() and (self.first >= 0).all())
            and bool(np.isfinite(self.turns).all() and (self.lengths > 0).all())
            and bool(np.isfinite(self.lengths).all())
        )

    def parts(self, clips: list[Clip]) -> list["Filmed"]:
        """The filmed parts of ``clips`` with what is wrong in each. RopeTPError when a clip is
        missing or too short."""
        known = {clip.name: clip for clip in clips}
        parts = []
        for k, (name, first) in enumerate(zip(self.names.tolist(), self.first, strict=True)):
            rows = slice(*self.offsets[k : k + 2])
            last = int(first) + rows.stop - rows.start
            if name not in known or last > len(known[name]):
                raise RopeTPError(f"clip {name}: frames {first} to {last} were filmed, not there")
            clip = known[name].part(int(first), last)
            parts.append(Filmed(clip, self.turns[rows], self.lengths[k]))
        return parts


@dataclass
class Filmed:
    """A filmed clip of N frames, turns [N, 24, 3] and lengths [24] as in
    :class:`ObservedErrors`."""

    clip: Clip
    turns: np.ndarray
    lengths: np.ndarray

    def seen(self) -> Clip:
        """The clip as Rope saw it."""
        columns = None
        if self.clip.rotations is not None:
            columns = global_columns(self.clip.rotations)[None]
        given = self.clip.joints, self.turns, self.lengths
        joints, turns, lengths = (torch.from_numpy(value)[None] for value in given)
        seen = put_on(joints, columns, turns, lengths)
        turned = None
        if seen.columns is not None:
            turned = rot6d_to_matrix(local_rot6d(seen.columns[0])).numpy()
        return replace(self.clip, joints=seen.joints[0].numpy(), rotations=turned)


def put_on(joints: Tensor, columns: Tensor | None, turns: Tensor, lengths: Tensor) -> Seen:
    """Joints minus pelvis [B, N, 24, 3] m and columns [B, N, 24, 2, 3], off by ``turns`` [B, N, 24,
    3] rad in the body's axes and by ``lengths`` [B, 24]."""
    turns = yaw(turns, heading(joints)[..., None])
    bones = turn(bones_of(joints), turns[:, :, _BONES]) * lengths[:, None, 1:, None]
    if columns is not None:
        columns = turn(columns, turns[..., None, :])
    around = turns[:, :, 0, 1].cpu().numpy()
    slow = gaussian_filter1d(around, HEADING_FRAMES, axis=1, mode="nearest")
    return Seen(joined_up(bones, joints[:, :, 0]), torch.from_numpy(slow).to(joints), columns)
