"""The detector's keypoints of every crop of a set, seen as the tool sees them.

Writes ``NAME_keypoints.npy`` float32 [n, 17, 3] beside the set: x, y in -1..1 of the crop and the
confidence (zeros where the detector finds nobody). ``--trace FILE`` writes the detector as a graph
that torch alone can run, for crops drawn while training goes on.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ropetp_cli.errors import RopeTPError
from ropetp_cli.people.crops import CROP_PX
from ropetp_cli.people.detector import (
    DOUBTFUL,
    KEYPOINTS,
    THE_PERSON,
    TRACK_SCORE,
    TURN_MARGIN,
    Detector,
)
from ropetp_cli.training.crops import CropSet

#: A person's box reaches past the outermost joints by about this share of their extent.
_BOX_MARGIN = 0.1
#: Crops that the traced detector takes at once; the trace holds the number.
TRACED_BATCH = 32


def person_boxes(joints2d: np.ndarray) -> np.ndarray:
    """Boxes [n, 4] crop px around joints [n, J, 2] in -1..1."""
    low, high = joints2d.min(axis=1), joints2d.max(axis=1)
    margin = _BOX_MARGIN * (high - low).max(axis=1, keepdims=True)
    corners = np.concatenate([low - margin, high + margin], axis=1)
    return (np.clip(corners, -1, 1) + 1) * CROP_PX / 2


def in_halves(keypoints: np.ndarray) -> np.ndarray:
    """Keypoints [n, 17, 3] px as the sets hold them: x, y in -1..1, zeros where not seen."""
    seen = keypoints[..., 2:] > 0
    return np.concatenate(
        [np.where(seen, keypoints[..., :2] * 2 / CROP_PX - 1, 0), keypoints[..., 2:]], axis=-1
    ).astype(np.float32)


def detect_in_set(directory: Path, name: str, detector: Detector, chunk: int = 64) -> float:
    """Writes the set's keypoints; returns the share of crops in which somebody was found."""
    crops = CropSet.load(directory, name)
    boxes = person_boxes(crops.labels["joints2d"])
    found = np.zeros((len(crops), KEYPOINTS, 3), np.float32)
    for start in range(0, len(crops), chunk):
        rows = slice(start, min(start + chunk, len(crops)))
        pixels = detector.keypoints_in_crops(crops.images[rows][..., ::-1], boxes[rows])
        found[rows] = in_halves(pixels)
    draft = directory / f"{name}_keypoints.part.npy"
    np.save(draft, found)
    os.replace(draft, directory / f"{name}_keypoints.npy")
    return float((found[..., 2] > 0).any(axis=1).mean())


def trace_detector(detector: Detector, path: Path) -> None:
    """Writes the detector's network for :class:`TracedDetector`."""
    net = detector._model.model.float().eval()
    crops = torch.zeros(TRACED_BATCH, 3, CROP_PX, CROP_PX)

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images)[0]

    with torch.no_grad():
        Network()(crops)  # anchors are made the first time, and are constants from then on
        torch.jit.trace(Network(), crops, check_trace=False).save(str(path))


class TracedDetector:
    """:meth:`Detector.keypoints_in_crops` by a traced network, on any device, without
    ultralytics. RopeTPError when the file is missing or no such graph."""

    def __init__(self, path: Path, device: str = "cpu"):
        try:
            self.net = torch.jit.load(str(path), map_location=device).eval()
        except (RuntimeError, ValueError) as error:
            raise RopeTPError(
                f"{path}: no traced detector; write one with --trace ({error})"
            ) from error
        self.device = device

    @torch.inference_mode()
    def keypoints_in_crops(self, crops: Tensor, boxes: Tensor) -> Tensor:
        """Crops uint8 RGB [n, 256, 256, 3], boxes [n, 4] xyxy px -> [n, 17, 3] px, confidence."""
        keypoints = torch.zeros(len(crops), KEYPOINTS, 3, device=self.device)
        best = torch.zeros(len(crops), device=self.device)
        for turn in range(4):
            rows = torch.nonzero(best < DOUBTFUL)[:, 0]
            for part in rows.split(TRACED_BATCH):
                score, points = self._look(crops[part], boxes[part], turn)
                better = score > best[part] + (TURN_MARGIN if turn else 0)
                best[part[better]] = score[better]
                keypoints[part[better]] = points[better]
        return keypoints

    def _look(self, crops: Tensor, boxes: Tensor, turn: int) -> tuple[Tensor, Tensor]:
        """The best score [n] and keypoints [n, 17, 3] of whoever is in the boxes, in crops turned
        by so many quarters counter-clockwise."""
        images = crops.rot90(turn, (1, 2)).permute(0, 3, 1, 2).float() / 255
        missing = TRACED_BATCH - len(images)
        if missing:
            images = torch.cat([images, images.new_zeros(missing, *images.shape[1:])])
        with torch.jit.optimized_execution(False):  # compiling would not pay
            found = self.net(images)[: len(crops)].transpose(1, 2)
        center, half = found[..., :2], found[..., 2:4] / 2
        corners = torch.stack([center - half, center + half], dim=2)
        corners = _turned_back(corners.clamp(0, CROP_PX), turn)
        theirs = torch.cat([corners.amin(2), corners.amax(2)], dim=-1)
        overlap = _shared(boxes[:, None], theirs)
        score = found[..., 4] * (overlap > THE_PERSON) * (found[..., 4] > TRACK_SCORE)
        score, chosen = score.max(dim=1)
        points = found[torch.arange(len(found)), chosen, 5:].unflatten(-1, (KEYPOINTS, 3))
        inside = points[..., :2].clamp(0, CROP_PX)
        return score, torch.cat([_turned_back(inside, turn), points[..., 2:]], dim=-1)


def _shared(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes [..., 4] xyxy."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (first, second)]
    return shared / (areas[0] + areas[1] - shared).clamp(min=1e-9)


def _turned_back(points: Tensor, turn: int) -> Tensor:
    """Points [..., 2] px of a crop turned by quarters counter-clockwise, in the crop."""
    x, y = points.unbind(-1)
    there = ((x, y), (CROP_PX - y, x), (CROP_PX - x, CROP_PX - y), (y, CROP_PX - x))
    return torch.stack(there[turn], dim=-1)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Run the detector on crop sets.")
    parser.add_argument("data", type=Path, help="folder of the sets")
    parser.add_argument("sets", nargs="*", help="names, such as real_train")
    parser.add_argument("--trace", type=Path, help="write the detector as a graph (.pt)")
    told = parser.parse_args(arguments)
    detector = Detector()
    for name in told.sets:
        share = detect_in_set(told.data, name, detector)
        print(f"{name}: somebody found in {share:.1%} of the crops", flush=True)
    if told.trace:
        trace_detector(detector, told.trace)


if __name__ == "__main__":
    main()
