"""Labelled crops on disk, and what may be done to them without losing the labels.

A set ``NAME`` is two files: ``NAME_images.npy`` uint8 [n, 256, 256, 3] RGB and
``NAME_labels.npz`` with rotations [n, 24, 3, 3] (root in camera axes), betas [n, 10], joints3d
[n, 24, 3] m (pelvis at 0), joints2d [n, 24, 2] in -1..1, visible [n, 24] (weight of the 2D label),
has_pose [n], has_mask [n] and masks [n, 64, 64] (joint index, 255 background). A third file,
``NAME_keypoints.npy`` [n, 17, 3], is what the detector says of them (``training.detections``).
"""

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from ropetp_cli.body.skeleton import MIRROR
from ropetp_cli.errors import RopeTPError
from ropetp_cli.rope.losses import IGNORED, RopeTargets
from ropetp_cli.rope.mirror import COCO_MIRROR
from ropetp_cli.rope.upright import FAR, NEAR, upright_views
from ropetp_cli.training.augment import degrade

BACKGROUND = 24
LABELS = (
    "rotations", "betas", "joints3d", "joints2d", "visible", "has_pose", "has_mask", "masks",
)  # fmt: skip
FLIP = np.diag([-1.0, 1.0, 1.0]).astype(np.float32)


@dataclass
class CropSet:
    """One set of labelled crops; ``images`` stays on disk until read. ``keypoints`` are zeros
    where the detector was not run."""

    name: str
    images: np.ndarray
    labels: dict[str, np.ndarray]
    keypoints: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def load(cls, directory: Path, name: str) -> "CropSet":
        """RopeTPError when the set is missing or its two files disagree."""
        try:
            images = np.load(directory / f"{name}_images.npy", mmap_mode="r", allow_pickle=False)
            with np.load(directory / f"{name}_labels.npz", allow_pickle=False) as file:
                labels = {key: file[key] for key in file.files}
        except (OSError, ValueError) as error:
            raise RopeTPError(f"{directory}: no crop set {name!r} ({error})") from error
        missing = [key for key in LABELS if key not in labels]
        if missing or any(len(labels[key]) != len(images) for key in LABELS if key in labels):
            raise RopeTPError(f"{directory}: crop set {name!r} lacks or miscounts {missing}")
        keypoints = np.zeros((len(images), 17, 3), np.float32)
        detected = directory / f"{name}_keypoints.npy"
        if detected.is_file():
            keypoints = np.load(detected, allow_pickle=False)
            if keypoints.shape != (len(images), 17, 3):
                raise RopeTPError(f"{detected}: not the keypoints of this set; make it again")
        return cls(name, images, labels, keypoints)

    @property
    def rendered(self) -> bool:
        """Whether the labels come from a renderer, and so are true everywhere."""
        return bool(self.labels["has_mask"].all())

    def sample(self, index: int) -> "Sample":
        """The picture at ``index`` with its labels."""
        part = self.labels["masks"][index].astype(np.uint8).copy()
        part[part == 255] = BACKGROUND
        if not self.labels["has_mask"][index]:
            part[:] = IGNORED
        get = {key: np.array(self.labels[key][index], dtype=np.float32) for key in LABELS[:6]}
        if self.rendered:
            # The truth is known behind occluders too; there it is worth less.
            get["visible"] = np.maximum(get["visible"], 0.5)
        keypoints = self.keypoints[index].copy()
        return Sample(np.array(self.images[index]), part=part, keypoints=keypoints, **get)


@dataclass
class Sample:
    """A crop and its labels (see the module's head); part has 24 for background, 255 unknown."""

    image: np.ndarray
    rotations: np.ndarray
    betas: np.ndarray
    joints3d: np.ndarray
    joints2d: np.ndarray
    visible: np.ndarray
    has_pose: np.ndarray
    part: np.ndarray
    keypoints: np.ndarray

    def flipped(self) -> "Sample":
        """The sample in a mirror: left becomes right."""
        swap = list(MIRROR)
        part = self.part[:, ::-1].copy()
        joint = part < BACKGROUND
        part[joint] = np.array(MIRROR, dtype=np.uint8)[part[joint]]
        return Sample(
            np.ascontiguousarray(self.image[:, ::-1]),
            FLIP @ self.rotations[swap] @ FLIP,
            self.betas,
            self.joints3d[swap] * FLIP.diagonal(),
            self.joints2d[swap] * FLIP.diagonal()[:2],
            self.visible[swap],
            self.has_pose,
            part,
            self.keypoints[COCO_MIRROR] * FLIP.diagonal(),
        )

    def moved(self, angle: float, scale: float, shift: np.ndarray) -> "Sample":
        """Turned in the image by ``angle`` radians, enlarged by ``scale``, shifted by ``shift``
        [2] in -1..1 units."""
        cosine, sine = np.cos(angle), np.sin(angle)
        turn = np.array([[cosine, -sine], [sine, cosine]], dtype=np.float32)
        around_z = np.eye(3, dtype=np.float32)
        around_z[:2, :2] = turn
        rotations = self.rotations.copy()
        rotations[0] = around_z @ rotations[0]
        return Sample(
            _warp(self.image, turn * scale, shift, cv2.INTER_LINEAR, (0, 0, 0)),
            rotations,
            self.betas,
            self.joints3d @ around_z.T,
            scale * self.joints2d @ turn.T + shift.astype(np.float32),
            self.visible,
            self.has_pose,
            _warp(self.part, turn * scale, shift, cv2.INTER_NEAREST,
                  int(self.part.max() == IGNORED and IGNORED) or BACKGROUND),
            np.concatenate([scale * self.keypoints[:, :2] @ turn.T + shift.astype(np.float32),
                            self.keypoints[:, 2:]], axis=1),
        )  # fmt: skip

    def hidden(self, rng: np.random.Generator, other: np.ndarray) -> "Sample":
        """Something stands before the person: a box or ellipse with another crop's texture or
        one colour, or the picture ends early. Part pixels under it become background."""
        image, part = self.image.copy(), self.part.copy()
        size = len(image)
        mask = np.zeros((size, size), np.uint8)
        kind = rng.random()
        if kind < 0.25:
            cut = int(size * rng.uniform(0.1, 0.4))
            mask[-cut:] = 1
            mask = np.ascontiguousarray(np.rot90(mask, rng.choice([0, 0, 1, 3])))
            texture = np.zeros_like(image)
        else:
            center = tuple(int(v) for v in rng.uniform(0.2, 0.8, 2) * size)
            axes = tuple(int(v) for v in rng.uniform(0.06, 0.24, 2) * size)
            if kind < 0.6:
                cv2.ellipse(mask, center, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
            else:
                box = cv2.boxPoints((center, (2 * axes[0], 2 * axes[1]), rng.uniform(0, 90)))
                cv2.fillConvexPoly(mask, box.astype(np.int32), 1)
            texture = np.roll(other, rng.integers(size), axis=1)
            if rng.random() < 0.4:
                texture = np.full_like(image, rng.integers(0, 256, 3, dtype=np.uint8))
        image[mask > 0] = texture[mask > 0]
        small = cv2.resize(mask, part.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
        part[small & (part != IGNORED)] = BACKGROUND
        # The detector does not see what is hidden, or rarely and wrongly.
        keypoints = self.keypoints.copy()
        at = np.clip((keypoints[:, :2] + 1) * size / 2, 0, size - 1).astype(int)
        under = (mask[at[:, 1], at[:, 0]] > 0) & (rng.random(len(at)) < 0.85)
        keypoints[under, 2] *= rng.uniform(0, 0.3)
        off = rng.normal(0, 1, (len(keypoints), 2)) * spread_of(keypoints[:, 2:])
        keypoints[under, :2] += off[under]
        return Sample(image, self.rotations, self.betas, self.joints3d, self.joints2d,
                      self.visible, self.has_pose, part, keypoints)  # fmt: skip


def spread_of(confidence):
    """How far off the detector's keypoints are that it is so sure of (an array or a tensor), the
    standard deviation in half crops: on rendered crops half of those it gives .4 lie farther than
    .25 off, of those near 0 farther than .8."""
    return 0.65 * math.e ** (-confidence / 0.35)


def _warp(
    image: np.ndarray, matrix: np.ndarray, shift: np.ndarray, method: int, border
) -> np.ndarray:
    half = (len(image) - 1) / 2.0
    center = np.array([half, half])
    offset = center + shift * len(image) / 2.0 - matrix @ center
    affine = np.concatenate([matrix, offset[:, None]], axis=1)
    return cv2.warpAffine(
        image, affine, image.shape[1::-1], flags=method, borderMode=cv2.BORDER_CONSTANT,
        borderValue=border,
    )  # fmt: skip


def augment(sample: Sample, rng: np.random.Generator, other: np.ndarray, rendered: bool) -> Sample:
    """A random variation of a sample. ``rendered`` crops come degraded and occluded already."""
    if rng.random() < 0.5:
        sample = sample.flipped()
    angle, scale = rng.normal(0, np.radians(10)), np.exp(rng.normal(0, 0.1))
    if rng.random() < 0.85:
        view = upright_views(sample.keypoints[None], rng.uniform(FAR, NEAR))
        angle, scale = angle + view.angle[0], scale * view.scale[0]
    elif rng.random() < 0.5:
        angle = rng.uniform(-np.pi, np.pi) / 2
    sample = sample.moved(angle, scale, rng.normal(0, 0.06, 2))
    if rng.random() < (0.15 if rendered else 0.45):
        sample = sample.hidden(rng, other)
    if not rendered:
        sample.image = degrade(sample.image, rng)
    return sample


def collate(samples: list[Sample]) -> RopeTargets:
    """Labels of a batch as tensors. Joints outside the crop keep their labels: the picture's
    edge is an occluder too."""

    def stack(name: str) -> torch.Tensor:
        values = torch.from_numpy(np.stack([getattr(s, name) for s in samples]))
        return values.float() if values.is_floating_point() else values

    return RopeTargets(
        rotations=stack("rotations"),
        betas=stack("betas"),
        joints=stack("joints3d"),
        joints2d=stack("joints2d"),
        has_pose=stack("has_pose"),
        weight2d=stack("visible"),
        part=stack("part"),
    )
