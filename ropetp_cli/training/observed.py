"""The errors Rope really makes on moving people, to train and to measure TrajDenoiser behind them.

``training.filming`` films motion capture and writes down what Rope saw of it. How far every joint's
rotation in the world is off in it, frame by frame, belongs to the motion it was seen on: who walks
towards a camera takes shorter steps in Rope's eyes, and a path must not believe them.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from ropetp_cli.body.model import BodyData, load_body
from ropetp_cli.body.rot6d import rot6d_to_matrix
from ropetp_cli.body.rotations import (
    forward_kinematics,
    local_to_global,
    matrix_to_axis_angle,
    yaw_matrix,
)
from ropetp_cli.body.skeleton import JOINT_INDEX, PARENTS
from ropetp_cli.errors import RopeTPError
from ropetp_cli.rope.smoothing import smooth_rotations
from ropetp_cli.rope.temporal import TemporalRefiner, load_temporal
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
from ropetp_cli.training.sightings import Sightings
from ropetp_cli.weights import find_weights

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

    @classmethod
    def of(
        cls, sightings: Sightings, body: BodyData, refiner: TemporalRefiner | None, fps: float
    ) -> "ObservedErrors":
        """What is wrong when the tool has done with Rope's answers at ``fps`` what it does: the
        frames around asked (unless ``refiner`` is None), one shape, no frame noise, gravity from
        the body's balance."""
        turns, lengths = [], []
        for window in range(len(sightings)):
            rows = sightings.rows(window)
            rest, true_rest = sightings.rest_joints(window, body)
            found = sightings.refined(window, refiner, rest, fps)
            found.rotations[:, 0] = sightings.turn[rows] @ found.rotations[:, 0]
            seen = smooth_rotations(found.rotations, sightings.confidence[rows], fps)
            seen[:, 0] = sightings.levelled(window, found, fps) @ seen[:, 0]
            off = differences(seen, rest, sightings.truth(window), true_rest)
            turns.append(off[0].astype(np.float32))
            lengths.append(off[1].astype(np.float32))
        return cls(
            np.concatenate(turns), np.stack(lengths), sightings.offsets, sightings.names,
            sightings.first,
        )  # fmt: skip

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


def observed(path: str | Path, weights: Path | None = None, fps: float = 30.0) -> ObservedErrors:
    """What is wrong in the sightings of a file at ``fps``, the frames around asked. ``weights``: a
    directory; the shipped ones if not given."""
    refiner = TemporalRefiner(load_temporal(find_weights("temporal", weights)))
    return ObservedErrors.of(Sightings.load(path), load_body(), refiner, fps)
