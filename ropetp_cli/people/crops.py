"""Square crops around people, and the way between crop and frame coordinates.

Coordinates are continuous: pixel k of a row covers k to k + 1, so its centre is at k + 0.5 and a
picture of width W spans 0..W. A crop of side ``size`` about ``center`` is resampled to N x N
pixels; a frame point x lies at crop pixel u = ((x - center) / size + 0.5) * N, and its normalised
crop coordinate is (x - center) / (size / 2), which is -1..1 inside the crop.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from ropetp_cli.errors import RopeTPError

#: Side of a crop as a multiple of the longer side of the person's box.
CROP_SCALE = 1.2
#: Side of the crops the networks take, px.
CROP_PX = 256


@dataclass
class CropSpec:
    """A square of a frame: ``center`` [2] px and side ``size`` px."""

    center: np.ndarray
    size: float

    def __post_init__(self) -> None:
        self.center = np.asarray(self.center, dtype=np.float64)
        finite = np.isfinite(self.center).all() and np.isfinite(self.size)
        if self.center.shape != (2,) or not finite or self.size <= 0:
            raise RopeTPError(f"no crop of side {self.size} px about {self.center}")


def square_crop(box: np.ndarray, scale: float = CROP_SCALE) -> CropSpec:
    """The square about ``box`` [4] xyxy px, ``scale`` times its longer side.

    RopeTPError when the box has no area.
    """
    x0, y0, x1, y1 = (float(value) for value in box)
    if not (x1 > x0 and y1 > y0):
        raise RopeTPError(f"box {[x0, y0, x1, y1]} has no area; expected x0 < x1 and y0 < y1")
    return CropSpec(np.array([x0 + x1, y0 + y1]) / 2, scale * max(x1 - x0, y1 - y0))


def crop_batch(
    frame: np.ndarray, boxes: np.ndarray, size_px: int = CROP_PX, scale: float = CROP_SCALE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crops of ``frame`` uint8 BGR [H, W, 3] about ``boxes`` [P, 4] xyxy px.

    Returns uint8 RGB [P, size_px, size_px, 3], centers [P, 2] px and sizes [P] px. What lies
    outside the frame is black. Shrinking by two or more averages areas first, so that fine
    texture does not turn into patterns.
    """
    specs = [square_crop(box, scale) for box in boxes]
    crops = np.empty((len(specs), size_px, size_px, 3), dtype=np.uint8)
    for crop, spec in zip(crops, specs, strict=True):
        cv2.cvtColor(_resample(frame, spec, size_px), cv2.COLOR_BGR2RGB, dst=crop)
    centers = np.array([spec.center for spec in specs]).reshape(-1, 2)
    return crops, centers, np.array([spec.size for spec in specs])


def crop_to_frame(points: np.ndarray, centers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Normalised crop points [N, ..., 2] (-1..1) -> frame px; centers [N, 2], sizes [N]."""
    centers, halves = _broadcast(points, centers, sizes)
    return points * halves + centers


def frame_to_crop(points: np.ndarray, centers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Frame points [N, ..., 2] px -> normalised crop points; the inverse of crop_to_frame."""
    centers, halves = _broadcast(points, centers, sizes)
    return (points - centers) / halves


def keypoints_to_crop(keypoints: np.ndarray, centers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Keypoints [N, K, 3] (x, y frame px, confidence) with x, y as normalised crop points."""
    points = frame_to_crop(keypoints[..., :2], centers, sizes)
    return np.concatenate([points, keypoints[..., 2:]], axis=-1)


def _broadcast(
    points: np.ndarray, centers: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    middle = (1,) * (points.ndim - 2)
    centers, sizes = np.asarray(centers), np.asarray(sizes)
    return centers.reshape(-1, *middle, 2), sizes.reshape(-1, *middle, 1) / 2


def _resample(frame: np.ndarray, spec: CropSpec, size_px: int) -> np.ndarray:
    """The crop as BGR; the frame's pixel centres are at +0.5, warpAffine's at whole numbers."""
    center, size = spec.center, spec.size
    if (shrink := int(size / size_px)) >= 2:
        corner = np.floor(center - size / 2).astype(int) - shrink
        side = int(np.ceil(size / shrink)) + 3
        frame = cv2.resize(
            _window(frame, corner, side * shrink), (side, side), interpolation=cv2.INTER_AREA
        )
        center, size = (center - corner) / shrink, size / shrink
    step = size / size_px
    offset = center - size / 2 + step / 2 - 0.5
    matrix = np.array([[step, 0, offset[0]], [0, step, offset[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(
        frame, matrix, (size_px, size_px), flags=flags, borderMode=cv2.BORDER_CONSTANT
    )


def _window(frame: np.ndarray, corner: np.ndarray, side: int) -> np.ndarray:
    """The square of ``side`` px from ``corner`` (x, y), black where it leaves the frame."""
    window = np.zeros((side, side, 3), dtype=np.uint8)
    low = np.maximum(corner, 0)
    high = np.minimum(corner + side, frame.shape[1::-1])
    if (high > low).all():
        x0, y0, x1, y1 = *(low - corner), *(high - corner)
        window[y0:y1, x0:x1] = frame[low[1] : high[1], low[0] : high[0]]
    return window
