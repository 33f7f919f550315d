"""The occlusion sensitivity map (paper Figure 1): where an occluder hurts, and how much.

A grey square slides over a crop; at each place, the worst error any joint comes to.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ropetp_cli.body.model import BodyData
from ropetp_cli.errors import NobodyFound, RopeTPError
from ropetp_cli.evaluation.metrics import HIPS
from ropetp_cli.people.crops import CROP_PX, CROP_SCALE, crop_batch
from ropetp_cli.people.detector import KEYPOINTS, Detector
from ropetp_cli.rope.predictor import RopePredictor, posed_joints
from ropetp_cli.training.crops import CropSet

#: Crops uint8 RGB [N, S, S, 3] -> the detector's keypoints [N, 17, 3] in -1..1.
Keypoints = Callable[[np.ndarray], np.ndarray]
GREY = 128
#: mm at which the picture's colours end.
FULL_SCALE = 600.0
_WHITE = (255, 255, 255)


@dataclass
class SensitivityMap:
    """``errors`` [R, C] mm: the worst joint's distance from the truth with the occluder's middle
    at that place; ``clear`` mm: with none."""

    errors: np.ndarray
    clear: float

    def summary(self) -> dict[str, float]:
        """Mean and 90th percentile over all places, and the error without an occluder, mm."""
        return {
            "clear_mm": round(self.clear, 1),
            "mean_mm": round(float(self.errors.mean()), 1),
            "p90_mm": round(float(np.percentile(self.errors, 90)), 1),
        }


def crop_of_set(directory: Path, name: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """One labelled crop RGB and its joints [24, 3] m."""
    crops = CropSet.load(directory, name)
    if index >= len(crops):
        raise RopeTPError(f"{directory}: the set {name} has {len(crops)} crops, no number {index}")
    if not crops.labels["has_pose"][index]:
        raise RopeTPError(f"{directory}: crop {index} of {name} has no pose; choose another")
    return np.array(crops.images[index]), crops.labels["joints3d"][index]


def crop_of_picture(path: Path, device: str = "cpu") -> np.ndarray:
    """The crop RGB of the largest person in a picture. RopeTPError, NobodyFound."""
    frame = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if frame is None:
        raise RopeTPError(f"{path}: not an image that can be read")
    boxes = Detector(device=device).detect(frame).boxes
    if not len(boxes):
        raise NobodyFound(f"{path}: nobody found")
    largest = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).argmax()
    return crop_batch(frame, boxes[[largest]])[0][0]


def finder(device: str = "cpu", alone: bool = False) -> Keypoints:
    """Looks for the person in the middle of crops; ``alone``: finds nothing, for Rope alone."""
    if alone:
        return lambda crops: np.zeros((len(crops), KEYPOINTS, 3))
    detector = Detector(device=device)
    margin = CROP_PX / 2 * (1 - 1 / CROP_SCALE)
    box = np.array([margin, margin, CROP_PX - margin, CROP_PX - margin])

    def find(crops: np.ndarray) -> np.ndarray:
        found = detector.keypoints_in_crops(crops[..., ::-1], np.tile(box, (len(crops), 1)))
        found[..., :2] = found[..., :2] * 2 / CROP_PX - 1
        return found * (found[..., 2:] > 0)

    return find


def occluded(crop: np.ndarray, side: int, stride: int) -> np.ndarray:
    """Copies [R * C, S, S, 3] of ``crop`` [S, S, 3], a grey square of ``side`` px at every
    ``stride`` px; the square leaves the crop by half at its edges."""
    places = range(0, len(crop) + 1, stride)
    copies = []
    for row in places:
        for column in places:
            copy = crop.copy()
            low = [max(0, v - side // 2) for v in (row, column)]
            copy[low[0] : row + side // 2, low[1] : column + side // 2] = GREY
            copies.append(copy)
    return np.stack(copies)


def sensitivity(
    predictor: RopePredictor,
    body: BodyData,
    crop: np.ndarray,
    keypoints: Keypoints,
    truth: np.ndarray | None = None,
    side: int = 48,
    stride: int = 16,
) -> SensitivityMap:
    """The map of one ``crop`` uint8 RGB [S, S, 3].

    ``truth`` [24, 3] m in camera axes about any origin; without it, the answer for the clear crop
    stands in its place. ``keypoints`` are looked for again in every occluded picture.
    """
    pictures = np.concatenate([crop[None], occluded(crop, side, stride)])
    joints = []
    for start in range(0, len(pictures), 16):
        part = pictures[start : start + 16]
        poses = predictor.predict(part, keypoints(part))
        joints.append(posed_joints(poses.rotations, body.rest_joints(poses.betas)))
    found = _about_hips(np.concatenate(joints))
    aim = found[0] if truth is None else _about_hips(truth[None])[0]
    worst = np.linalg.norm(found - aim, axis=-1).max(axis=1) * 1000
    places = len(crop) // stride + 1
    return SensitivityMap(worst[1:].reshape(places, places), float(worst[0]))


def _about_hips(joints: np.ndarray) -> np.ndarray:
    return joints - joints[:, HIPS].mean(axis=1, keepdims=True)


def draw(crop: np.ndarray, maps: dict[str, SensitivityMap], zoom: int = 2) -> np.ndarray:
    """BGR: the crop RGB, then every map over it, blue (0 mm) to red (600 mm or more)."""
    side = len(crop) * zoom
    plain = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), (side, side))
    panels = [_captioned(plain, "the crop")]
    for name, found in maps.items():
        share = np.clip(found.errors / FULL_SCALE, 0, 1).astype(np.float32)
        fine = cv2.resize(share, (side, side), interpolation=cv2.INTER_CUBIC)
        heat = cv2.applyColorMap((np.clip(fine, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_JET)
        figures = found.summary()
        caption = f"{name}: mean {figures['mean_mm']:.0f} mm"
        panels.append(_captioned(cv2.addWeighted(plain, 0.45, heat, 0.55, 0), caption))
    bar = cv2.applyColorMap(np.arange(255, -1, -1, dtype=np.uint8)[:, None], cv2.COLORMAP_JET)
    bar = cv2.resize(bar, (24, side))
    scale = np.zeros((side, 80, 3), np.uint8)
    scale[:, :24] = bar
    for share in (0.0, 0.5, 1.0):
        at = (28, int(np.clip((1 - share) * side, 14, side - 4)))
        cv2.putText(scale, f"{share * FULL_SCALE:.0f} mm", at, cv2.FONT_HERSHEY_SIMPLEX, 0.4,
                    _WHITE, 1, cv2.LINE_AA)  # fmt: skip
    panels.append(cv2.copyMakeBorder(scale, 28, 0, 0, 0, cv2.BORDER_CONSTANT))
    return np.hstack(panels)


def _captioned(panel: np.ndarray, text: str) -> np.ndarray:
    framed = cv2.copyMakeBorder(panel, 28, 0, 0, 6, cv2.BORDER_CONSTANT)
    cv2.putText(framed, text, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, _WHITE, 1, cv2.LINE_AA)
    return framed
