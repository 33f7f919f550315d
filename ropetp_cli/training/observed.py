"""The errors Rope really makes on moving people, to train and to measure TrajDenoiser behind them.

``training.filming`` films motion capture and writes down, frame by frame, how far every joint's
rotation in the world is off in Rope's answer. Here these errors are put on other motions (in
training) or on the very motions they were made on (in evaluation).
"""

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from ropetp_cli.body.rot6d import rot6d_to_matrix
from ropetp_cli.body.rotations import (
    forward_kinematics,
    local_to_global,
    matrix_to_axis_angle,
    yaw_matrix,
)
from ropetp_cli.body.skeleton import JOINT_INDEX, MIRROR, NUM_JOINTS, PARENTS
from ropetp_cli.errors import RopeTPError
from ropetp_cli.training.mocap import Clip, Seen, global_columns, local_rot6d, turn, yaw

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
    """Errors of W windows laid end to end, F frames at ``fps``.

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
    fps: float

    def save(self, path: str | Path) -> None:
        """Write an npz, turns as half floats."""
        np.savez(
            path, turns=self.turns.astype(np.float16), lengths=self.lengths.astype(np.float32),
            offsets=self.offsets, names=self.names, first=self.first, fps=self.fps,
        )  # fmt: skip

    @classmethod
    def load(cls, path: str | Path) -> "ObservedErrors":
        """RopeTPError when the file is missing or is not one of ``training.filming``'s."""
        try:
            with np.load(path, allow_pickle=False) as file:
                values = {name: file[name] for name in cls.__dataclass_fields__}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise RopeTPError(
                f"{path}: no errors of Rope ({error}); python -m ropetp_cli.training.filming "
                "writes such a file"
            ) from error
        found = cls(**values | {"fps": float(values["fps"])})
        windows = len(found.offsets) - 1
        shapes = found.turns.shape, found.lengths.shape, found.names.shape, found.first.shape
        frames = int(found.offsets[-1]) if windows > 0 else 0
        if windows < 1 or shapes != (
            (frames, NUM_JOINTS, 3), (windows, NUM_JOINTS), (windows,), (windows,),
        ) or (np.diff(found.offsets) < 2).any():  # fmt: skip
            raise RopeTPError(f"{path}: its windows and frames do not fit together; make it again")
        return found

    def __call__(
        self,
        joints: Tensor,
        generator: torch.Generator,
        strength: Tensor | None = None,
        columns: Tensor | None = None,
    ) -> Seen:
        """Joints minus pelvis [B, N, 24, 3] m and columns [B, N, 24, 2, 3] of their rotations with
        the errors of windows drawn at random, half of them in a mirror, scaled by ``strength``
        [B]. A window that is too short goes on backwards from its end."""
        batch, count = joints.shape[:2]
        device = generator.device
        windows = torch.randint(len(self.lengths), (batch,), generator=generator, device=device)
        starts = torch.as_tensor(self.offsets, device=device)
        long = (starts[windows + 1] - starts[windows])[:, None]
        room = (long[:, 0] - count + 1).clamp(min=1)
        first = (torch.rand(batch, generator=generator, device=device) * room).long()
        time = torch.arange(count, device=device) + first[:, None]
        time = (long - 1) - (time % (2 * long - 2) - (long - 1)).abs()
        turns = torch.as_tensor(self.turns, dtype=joints.dtype, device=device)
        turns = turns[starts[windows][:, None] + time]
        lengths = torch.as_tensor(self.lengths, dtype=joints.dtype, device=device)[windows]

        mirrored = torch.rand(batch, generator=generator, device=device) < 0.5
        swapped = turns[:, :, list(MIRROR)] * turns.new_tensor([1.0, -1.0, -1.0])
        turns = torch.where(mirrored[:, None, None, None], swapped, turns)
        lengths = torch.where(mirrored[:, None], lengths[:, list(MIRROR)], lengths)
        if strength is not None:
            turns = turns * strength[:, None, None, None]
            lengths = lengths ** strength[:, None]
        return put_on(joints, columns, turns, lengths)

    def clips(self, clips: list[Clip]) -> list[tuple[Clip, Clip]]:
        """The filmed parts of ``clips``, as they were and as Rope saw them. RopeTPError when a clip
        is missing or too short."""
        known = {clip.name: clip for clip in clips}
        pairs = []
        for k, (name, first) in enumerate(zip(self.names.tolist(), self.first, strict=True)):
            rows = slice(*self.offsets[k : k + 2])
            last = int(first) + rows.stop - rows.start
            if name not in known or last > len(known[name]):
                raise RopeTPError(f"clip {name}: frames {first} to {last} were filmed, not there")
            clip = known[name].part(int(first), last)
            columns = None
            if clip.rotations is not None:
                columns = global_columns(clip.rotations)[None]
            seen = put_on(
                torch.from_numpy(clip.joints)[None],
                columns,
                torch.from_numpy(self.turns[rows].astype(np.float32))[None],
                torch.from_numpy(self.lengths[k : k + 1]),
            )
            turned = None
            if seen.columns is not None:
                turned = rot6d_to_matrix(local_rot6d(seen.columns[0])).numpy()
            pairs.append((clip, replace(clip, joints=seen.joints[0].numpy(), rotations=turned)))
        return pairs


def put_on(joints: Tensor, columns: Tensor | None, turns: Tensor, lengths: Tensor) -> Seen:
    """Joints minus pelvis [B, N, 24, 3] m and columns [B, N, 24, 2, 3], off by ``turns`` [B, N, 24,
    3] rad in the body's axes and by ``lengths`` [B, 24]."""
    turns = yaw(turns, heading(joints)[..., None])
    bones = joints[:, :, 1:] - joints[:, :, _BONES]
    bones = turn(bones, turns[:, :, _BONES]) * lengths[:, None, 1:, None]
    seen = [joints[:, :, 0]]
    for joint, parent in enumerate(_BONES):
        seen.append(seen[parent] + bones[:, :, joint])
    if columns is not None:
        columns = turn(columns, turns[..., None, :])
    around = turns[:, :, 0, 1].cpu().numpy()
    slow = gaussian_filter1d(around, HEADING_FRAMES, axis=1, mode="nearest")
    return Seen(torch.stack(seen, 2), torch.from_numpy(slow).to(joints), columns)
