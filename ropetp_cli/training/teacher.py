"""BlazePose as a teacher: 3D and 2D landmarks for real crops whose 2D joints are known.

BlazePose wants the whole person, hips in the middle and head up, so each crop is first turned and
scaled by its labelled hips and shoulders, and what comes out is turned back.
"""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import torch

from ropetp_cli.rope.blazepose import CROP_SIZE, BlazePose, import_tflite

#: LSP's 14 joints, in the files' order.
LSP_JOINTS = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
    "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
    "neck", "head_top",
)  # fmt: skip
_LSP = {name: index for index, name in enumerate(LSP_JOINTS)}
#: BlazePose's regions reach past the farthest joint by about this factor.
_MARGIN = 1.3


@dataclass
class RealCrops:
    """The LSPET crops: ``ids`` [n], ``joints`` [n, 14, 3] x, y px and visible, and the images."""

    archive: Path
    ids: np.ndarray
    joints: np.ndarray

    @classmethod
    def open(cls, archive: str | Path, joints: str | Path) -> RealCrops:
        with np.load(joints, allow_pickle=False) as data:
            return cls(Path(archive), data["ids"], data["joints"])

    def images(self, rows: np.ndarray) -> np.ndarray:
        """RGB crops uint8 [len(rows), 256, 256, 3]."""
        out = np.empty((len(rows), CROP_SIZE, CROP_SIZE, 3), np.uint8)
        with zipfile.ZipFile(self.archive) as files:
            for k, row in enumerate(rows):
                data = np.frombuffer(files.read(f"{self.ids[row]:05d}.webp"), np.uint8)
                out[k] = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        return out


@dataclass
class Lesson:
    """What the teacher says of n crops, in each crop's own px and axes.

    ``landmarks`` [n, 33, 2] px; ``world`` [n, 33, 3] m from the hips' middle (x right, y down, z
    away); ``visibility`` [n, 33] and ``presence`` [n] 0..1.
    """

    landmarks: np.ndarray
    world: np.ndarray
    visibility: np.ndarray
    presence: np.ndarray

    def save(self, path: Path) -> None:
        np.savez(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Lesson:
        with np.load(path, allow_pickle=False) as data:
            return cls(**{field.name: data[field.name] for field in fields(cls)})


def upright_regions(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where BlazePose should look for people with LSP joints [n, 14, 3] (unseen ones ignored).

    Returns the regions' centres [n, 2] px, sides [n] px and the angles [n] rad by which the
    picture must turn (counter-clockwise as seen) for hips -> shoulders to point up.
    """
    points, seen = joints[..., :2], joints[..., 2] > 0
    crop_middle = np.full((len(points), 2), CROP_SIZE / 2)
    middle = _mean_of_seen(points, seen, LSP_JOINTS, crop_middle)
    hips = _mean_of_seen(points, seen, ("left_hip", "right_hip"), middle)
    neck = _mean_of_seen(points, seen, ("neck", "head_top"), middle)
    shoulders = _mean_of_seen(points, seen, ("left_shoulder", "right_shoulder"), neck)
    spine = shoulders - hips
    angle = np.arctan2(spine[:, 0], -spine[:, 1])
    distance = np.linalg.norm(points - hips[:, None], axis=-1)
    reach = np.where(seen, distance, 0).max(1).clip(20)
    return hips, 2 * _MARGIN * reach, angle


def _mean_of_seen(
    points: np.ndarray, seen: np.ndarray, names: tuple[str, ...], otherwise: np.ndarray
) -> np.ndarray:
    """Mean [n, 2] of the named joints that are labelled; ``otherwise`` [n, 2] where none is."""
    columns = [_LSP[name] for name in names]
    weights = seen[:, columns].astype(np.float32)
    total = weights.sum(1)
    mean = (points[:, columns] * weights[..., None]).sum(1) / np.maximum(total, 1)[:, None]
    return np.where(total[:, None] > 0, mean, otherwise)


def teach(
    network: BlazePose, images: np.ndarray, joints: np.ndarray, batch_size: int = 4
) -> Lesson:
    """Runs the teacher on crops uint8 [n, 256, 256, 3] with LSP joints [n, 14, 3]."""
    centres, sides, angles = upright_regions(joints)
    scales = CROP_SIZE / sides
    turns = _turn(angles)
    landmarks, world, visibility, presence = [], [], [], []
    for first in range(0, len(images), batch_size):
        rows = range(first, min(first + batch_size, len(images)))
        warped = np.stack([_look(images[k], centres[k], scales[k] * turns[k]) for k in rows])
        batch = torch.from_numpy(warped).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            out = network.features(batch, ("landmarks", "world", "presence"))
        landmarks.append(out["landmarks"][:, :33].numpy())
        world.append(out["world"][:, :33].numpy())
        visibility.append(out["landmarks"][:, :33, 3].sigmoid().numpy())
        presence.append(out["presence"].numpy())
    flat = np.concatenate(landmarks)[..., :2] - CROP_SIZE / 2
    back = turns.transpose(0, 2, 1)
    points = np.einsum("nab,nkb->nka", back, flat) / scales[:, None, None] + centres[:, None]
    space = np.concatenate(world)
    space[..., :2] = np.einsum("nab,nkb->nka", back, space[..., :2])
    return Lesson(
        points.astype(np.float32),
        space.astype(np.float32),
        np.concatenate(visibility),
        np.concatenate(presence),
    )


def teach_all(network: BlazePose, crops: RealCrops, chunk: int = 200) -> Lesson:
    """Runs the teacher on every crop, ``chunk`` images in memory at a time."""
    parts = []
    for first in range(0, len(crops.ids), chunk):
        rows = np.arange(first, min(first + chunk, len(crops.ids)))
        parts.append(teach(network, crops.images(rows), crops.joints[rows]))
    return Lesson(
        **{
            f.name: np.concatenate([getattr(part, f.name) for part in parts])
            for f in fields(Lesson)
        }
    )


def in_validation(ids: np.ndarray, count: int = 800) -> np.ndarray:
    """Marks the ``count`` ids [n] of smallest SHA-256: the crops never trained on."""
    keys = [hashlib.sha256(str(int(crop_id)).encode()).hexdigest() for crop_id in ids]
    chosen = np.zeros(len(ids), bool)
    chosen[np.argsort(keys)[:count]] = True
    return chosen


def _turn(angles: np.ndarray) -> np.ndarray:
    """2x2 matrices on (x right, y down) that bring (sin a, -cos a) to straight up (0, -1)."""
    cos, sin = np.cos(angles), np.sin(angles)
    return np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)


def _look(image: np.ndarray, centre: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    shift = CROP_SIZE / 2 - matrix @ centre
    warp = np.concatenate([matrix, shift[:, None]], 1)
    return cv2.warpAffine(image, warp, (CROP_SIZE, CROP_SIZE), flags=cv2.INTER_LINEAR)


def load_teacher(path: str | Path) -> BlazePose:
    """BlazePose-heavy from its .tflite, laid out for the CPU."""
    return import_tflite(path).to(memory_format=torch.channels_last)
