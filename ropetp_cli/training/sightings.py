"""What detector and Rope saw of filmed motion capture, frame by frame, beside how it was.

``training.filming`` writes such files; Rope over time is trained on them (``training.temporal``),
and what is still wrong after it is what TrajDenoiser is trained and measured behind
(``training.observed``).
"""

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ropetp_cli.arrays import open_npz
from ropetp_cli.body.model import BodyData
from ropetp_cli.body.rotations import local_to_global, matrix_to_rot6d, rot6d_to_matrix
from ropetp_cli.body.skeleton import NUM_BETAS, NUM_JOINTS
from ropetp_cli.camera.gravity import fuse_with_gravity
from ropetp_cli.camera.placement import pelvis_in_crops
from ropetp_cli.errors import RopeTPError
from ropetp_cli.files import atomic_path
from ropetp_cli.rope.predictor import CropPoses
from ropetp_cli.rope.smoothing import steady_betas
from ropetp_cli.rope.temporal import Frames, Refined, TemporalRefiner, as_seen, place

#: The shape of every entry: F frames, W windows.
_SHAPES: dict[str, tuple[str | int, ...]] = {
    "seen": ("F", NUM_JOINTS, 6),
    "betas": ("F", NUM_BETAS),
    "cam": ("F", 3),
    "joints2d": ("F", NUM_JOINTS, 2),
    "confidence": ("F", NUM_JOINTS),
    "keypoints": ("F", 17, 3),
    "evidence": ("F", NUM_JOINTS, 3),
    "turn": ("F", 3, 3),
    "width": ("F",),
    "true": ("F", NUM_JOINTS, 6),
    "camera": ("W", 3, 3),
    "true_betas": ("W", NUM_BETAS),
}


@dataclass
class Sightings:
    """W windows laid end to end, F frames.

    What was seen, in crop axes: ``seen`` rot6d [F, 24, 6], ``betas`` [F, 10], ``cam`` [F, 3],
    ``joints2d`` [F, 24, 2] in -1..1, ``confidence`` [F, 24] as in
    :class:`~ropetp_cli.rope.predictor.CropPoses`, with its ``keypoints`` [F, 17, 3] and
    ``evidence`` [F, 24, 3]; ``turn`` [F, 3, 3] from each crop's axes to the camera's and ``width``
    [F], the crop's at one metre. How it was: ``true`` rot6d [F, 24, 6], the pelvis's in the world,
    ``camera`` [W, 3, 3] from the world's axes to the camera's and ``true_betas`` [W, 10].
    ``offsets`` [W + 1]; ``names`` and ``first`` [W]: the clip and its first frame.
    """

    seen: np.ndarray
    betas: np.ndarray
    cam: np.ndarray
    joints2d: np.ndarray
    confidence: np.ndarray
    keypoints: np.ndarray
    evidence: np.ndarray
    turn: np.ndarray
    width: np.ndarray
    true: np.ndarray
    camera: np.ndarray
    true_betas: np.ndarray
    offsets: np.ndarray
    names: np.ndarray
    first: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def save(self, path: str | Path) -> None:
        """Write an npz, figures as half floats."""
        values = {
            name: value.astype(np.float16) if name in _SHAPES else value
            for name, value in vars(self).items()
        }
        with atomic_path(Path(path)) as draft, draft.open("wb") as file:
            np.savez(file, **values)

    @classmethod
    def load(cls, path: str | Path) -> "Sightings":
        """RopeTPError when the file is missing or is not one of ``training.filming``'s."""
        try:
            with open_npz(path) as file:
                values = {name: file[name] for name in cls.__dataclass_fields__}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise RopeTPError(
                f"{path}: no sightings ({error}); python -m ropetp_cli.training.filming writes "
                "such a file"
            ) from error
        found = cls(**values)
        if not found._fits_together():
            raise RopeTPError(f"{path}: its windows and frames do not fit together; make it again")
        for name in _SHAPES:
            setattr(found, name, values[name].astype(np.float32))
        return found

    def _fits_together(self) -> bool:
        """Whether kinds, shapes and values are those of windows laid end to end."""
        ends = self.offsets
        if ends.dtype.kind != "i" or ends.ndim != 1 or len(ends) < 2 or ends[0] != 0:
            return False
        sizes = {"F": int(ends[-1]), "W": len(ends) - 1}
        values = {name: getattr(self, name) for name in _SHAPES}
        return (
            bool((np.diff(ends) > 1).all())
            and (self.names.dtype.kind, self.first.dtype.kind) == ("U", "i")
            and self.names.shape == self.first.shape == (sizes["W"],)
            and bool((self.first >= 0).all())
            and all(
                value.dtype.kind == "f"
                and value.shape == tuple(sizes.get(d, d) for d in _SHAPES[name])  # type: ignore[arg-type]
                and bool(np.isfinite(value).all())
                for name, value in values.items()
            )
        )

    def rows(self, window: int) -> slice:
        """The frames of a window."""
        return slice(*self.offsets[window : window + 2])

    def answer(self, window: int) -> CropPoses:
        """Rope's answers for a window's frames."""
        rows = self.rows(window)
        return CropPoses(
            rot6d_to_matrix(self.seen[rows].astype(np.float64)),
            self.betas[rows], self.cam[rows], self.joints2d[rows], self.confidence[rows],
            self.keypoints[rows], self.evidence[rows],
        )  # fmt: skip

    def truth(self, window: int) -> np.ndarray:
        """The pose as filmed, [N, 24, 3, 3], the pelvis's rotation in the world."""
        return rot6d_to_matrix(self.true[self.rows(window)].astype(np.float64))

    def truth_in_crops(self, window: int) -> np.ndarray:
        """The same with the pelvis's rotation in crop axes."""
        truth = self.truth(window)
        back = self.turn[self.rows(window)].swapaxes(-1, -2)
        truth[:, 0] = back @ self.camera[window] @ truth[:, 0]
        return truth

    def up_in_crops(self, window: int) -> np.ndarray:
        """Which way is up in a window's crops, [N, 3]."""
        return self.camera[window][:, 1] @ self.turn[self.rows(window)]

    def rest_joints(self, window: int, body: BodyData) -> tuple[np.ndarray, np.ndarray]:
        """A window's rest joints [24, 3] m as seen, of one shape, and as they were."""
        rows = self.rows(window)
        betas = steady_betas(self.betas[rows], self.confidence[rows].mean(axis=1))
        return body.rest_joints(betas), body.rest_joints(self.true_betas[window])

    def sized(self, body: BodyData) -> "Sightings":
        """The same, seen by somebody who knows how tall the people are."""
        new = replace(self, betas=self.betas.copy(), cam=self.cam.copy())
        for window in range(len(self)):
            rows, height = self.rows(window), body.height(self.true_betas[window])
            betas = steady_betas(self.betas[rows], self.confidence[rows].mean(axis=1))
            new.cam[rows] = self.answer(window).of_size(height / body.height(betas)).cam
            new.betas[rows] = body.with_height(betas, height)
        return new

    def frames(self, window: int, rest: np.ndarray, fps: float, steady: bool = True) -> Frames:
        """What Rope over time is told of a window."""
        answer, rows = self.answer(window), self.rows(window)
        pelvis = pelvis_in_crops(answer.cam, self.width[rows], self.turn[rows])
        return as_seen(answer, self.turn[rows], pelvis, rest, fps, steady)

    def refined(
        self, window: int, refiner: TemporalRefiner | None, rest: np.ndarray, fps: float,
        steady: bool = True, bent: bool = True,
    ) -> Refined:  # fmt: skip
        """A window's frames when those around have been asked and, if ``bent``, the picture once
        more; Rope's answers alone, which know nothing of up, without a ``refiner``."""
        if refiner is None:
            rotations = self.answer(window).rotations
            level = np.tile([0.0, -1.0, 0.0], (len(rotations), 1))
            return Refined(rotations, level, np.full((len(rotations), 2), np.pi))
        found = refiner.refine(self.frames(window, rest, fps, steady), fps)
        rows, up = self.rows(window), self.levelled(window, found, fps)[1]
        found = found.leaning(up @ self.turn[rows], fps)
        if not bent:
            return found
        return refiner.bent(found, self.answer(window), rest, self.width[rows], fps)

    def levelled(self, window: int, found: Refined, fps: float) -> np.ndarray:
        """World-from-camera [3, 3] of a window, for what was ``found`` in it, as a capture would
        have it."""
        up = np.einsum("nij,nj->ni", self.turn[self.rows(window)], found.up)
        still = np.eye(3)[None], [np.zeros(len(up), int)]
        return fuse_with_gravity(*still, [up], [found.up_error], fps)[0]

    @classmethod
    def joined(cls, parts: list["Sightings"]) -> "Sightings":
        """Several files' windows as one."""
        values = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in cls.__dataclass_fields__
            if name != "offsets"
        }
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        return cls(offsets=np.cumsum([0, *lengths]), **values)


def sighting(
    answer: CropPoses,
    turn: np.ndarray,
    width: np.ndarray,
    rotations: np.ndarray,
    camera: np.ndarray,
    betas: np.ndarray,
    name: str,
    first: int,
) -> Sightings:
    """One window; see :class:`Sightings`. ``rotations`` [N, 24, 3, 3] and ``betas`` [10] are
    true."""
    return Sightings(
        matrix_to_rot6d(answer.rotations), answer.betas, answer.cam, answer.joints2d,
        answer.confidence, answer.keypoints, answer.evidence, turn, width,
        matrix_to_rot6d(rotations), camera[None], betas[None], np.array([0, len(answer)]),
        np.array([name]), np.array([first]),
    )  # fmt: skip


@dataclass
class Window:
    """Filmed frames as Rope saw them, one sequence, and as they were: ``true`` [1, N, 24, 6], rot6d
    of the joints' rotations in crop axes, ``true_rest`` [1, 24, 3] m, ``up`` [1, N, 3] in crop
    axes, zeros where nobody can tell."""

    frames: Frames
    true: Tensor
    true_rest: Tensor
    up: Tensor

    def __len__(self) -> int:
        return self.true.shape[1]


def windows_of(sightings: Sightings, body: BodyData, fps: float = 30.0) -> list[Window]:
    """All windows of a file, at the ``fps`` they were filmed at."""
    windows = []
    for k in range(len(sightings)):
        rest, true_rest = sightings.rest_joints(k, body)
        columns = matrix_to_rot6d(local_to_global(sightings.truth_in_crops(k)))
        true = (columns, true_rest, sightings.up_in_crops(k))
        windows.append(
            Window(
                sightings.frames(k, rest, fps),
                *(torch.as_tensor(value, dtype=torch.float32)[None] for value in true),
            )
        )
    return windows


def posed(columns: Tensor, rest: Tensor) -> Tensor:
    """Joints [B, N, 24, 3] m about the pelvis, of :func:`~ropetp_cli.rope.temporal.place`."""
    count = columns.shape[1]
    bones = rest[:, None].expand(-1, count, -1, -1)
    return place(columns.flatten(0, 1), bones.flatten(0, 1)).unflatten(0, (-1, count))
