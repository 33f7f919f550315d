"""The detector's keypoints of every crop of a set, seen as the tool sees them.

Writes ``NAME_keypoints.npy`` float32 [n, 17, 3] beside the set: x, y in -1..1 of the crop and the
confidence (zeros where the detector finds nobody).
"""

import argparse
import os
from pathlib import Path

import numpy as np

from ropetp_cli.people.crops import CROP_PX
from ropetp_cli.people.detector import KEYPOINTS, Detector
from ropetp_cli.training.crops import CropSet

#: A person's box reaches past the outermost joints by about this share of their extent.
_BOX_MARGIN = 0.1


def person_boxes(joints2d: np.ndarray) -> np.ndarray:
    """Boxes [n, 4] crop px around joints [n, J, 2] in -1..1."""
    low, high = joints2d.min(axis=1), joints2d.max(axis=1)
    margin = _BOX_MARGIN * (high - low).max(axis=1, keepdims=True)
    corners = np.concatenate([low - margin, high + margin], axis=1)
    return (np.clip(corners, -1, 1) + 1) * CROP_PX / 2


def detect_in_set(directory: Path, name: str, detector: Detector, chunk: int = 64) -> float:
    """Writes the set's keypoints; returns the share of crops in which somebody was found."""
    crops = CropSet.load(directory, name)
    boxes = person_boxes(crops.labels["joints2d"])
    found = np.zeros((len(crops), KEYPOINTS, 3), np.float32)
    for start in range(0, len(crops), chunk):
        rows = slice(start, min(start + chunk, len(crops)))
        found[rows] = detector.keypoints_in_crops(crops.images[rows][..., ::-1], boxes[rows])
    seen = found[..., 2] > 0
    found[..., :2] = np.where(seen[..., None], found[..., :2] * 2 / CROP_PX - 1, 0)
    draft = directory / f"{name}_keypoints.part.npy"
    np.save(draft, found)
    os.replace(draft, directory / f"{name}_keypoints.npy")
    return float(seen.any(axis=1).mean())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Run the detector on crop sets.")
    parser.add_argument("data", type=Path, help="folder of the sets")
    parser.add_argument("sets", nargs="+", help="names, such as real_train")
    told = parser.parse_args(arguments)
    detector = Detector()
    for name in told.sets:
        share = detect_in_set(told.data, name, detector)
        print(f"{name}: somebody found in {share:.1%} of the crops", flush=True)


if __name__ == "__main__":
    main()
