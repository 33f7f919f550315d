"""Still images: people found or given as boxes, Rope on each, nothing assumed of time."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image

from ropetp_cli.body.model import BodyData
from ropetp_cli.body.rotations import matrix_to_axis_angle
from ropetp_cli.camera.focal import choose_focal
from ropetp_cli.camera.lines import read_perspective, straight_edges
from ropetp_cli.camera.placement import look_along, pelvis_in_crops, widths_at_one_metre
from ropetp_cli.errors import NobodyFound, RopeTPError
from ropetp_cli.files import atomic_path
from ropetp_cli.people.crops import (
    CROP_PX,
    crop_batch,
    crop_to_frame,
    frame_to_crop,
    keypoints_to_crop,
)
from ropetp_cli.people.detector import Detector, crowded
from ropetp_cli.rope.predictor import CropPoses, RopePredictor, posed_joints

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
#: Exif's FocalLengthIn35mmFilm, and what it may be, mm: 0 stands for unknown.
FOCAL_LENGTH_35MM, SHORTEST_MM, LONGEST_MM = 0xA405, 8.0, 2000.0
Boxes = dict[str, np.ndarray]


def list_images(paths: list[Path]) -> list[Path]:
    """The images named, and those in the directories named, sorted within each."""
    images: list[Path] = []
    for path in paths:
        if path.is_dir():
            images += sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        elif path.is_file():
            images.append(path)
        else:
            raise RopeTPError(f"{path}: no such file or directory")
    if not images:
        raise RopeTPError(f"{paths[0]}: holds no image ({', '.join(SUFFIXES)})")
    return images


def read_boxes(path: Path) -> Boxes:
    """``{"image name": [[x0, y0, x1, y1], ...]}`` in px -> arrays [P, 4] by image name."""
    try:
        content = json.loads(path.read_text())
        boxes = {
            name: np.asarray(rows, dtype=np.float64).reshape(-1, 4)
            for name, rows in content.items()
        }
    except (OSError, ValueError, AttributeError, TypeError, OverflowError,
            RecursionError) as error:  # fmt: skip
        raise RopeTPError(
            f'{path}: not a boxes file; expected {{"image name": [[x0, y0, x1, y1], ...]}} in px'
        ) from error
    for name, rows in boxes.items():
        if not np.isfinite(rows).all() or (rows[:, 2:] <= rows[:, :2]).any():
            raise RopeTPError(f"{path}: {name!r} has a box that is not x0 < x1, y0 < y1")
    return boxes


def pose_images(
    images: list[Path],
    out: Path,
    rope: RopePredictor,
    body: BodyData,
    detector: Detector,
    boxes: Boxes | None,
    batch_size: int = 16,
    focal_px: float | None = None,
    focal_mm: float | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[int, int, list[str]]:
    """Poses of everybody in ``images``, written to ``out`` as one npz.

    ``boxes`` by image name (with or without its directory) says who is there; the detector then
    only looks for keypoints inside each. The focal length, which tells how near people are, is
    given, stated in Exif data, told by straight edges or assumed, in this order. Keys: image [n],
    boxes [n, 4], joints2d [n, 24, 2] px, joints3d [n, 24, 3] m (camera axes, pelvis at 0), pelvis
    [n, 3] m before the camera, focal_px [n], poses [n, 72], betas [n, 10], cam [n, 3] in the crop,
    confidence [n], body.
    Returns how many people, in how many images that could be read, and a line for every image that
    was left out. Raises NobodyFound when nobody is left, RopeTPError when no image can be read.
    """
    names, rows, notes, unread = [], [], [], 0
    answers: list[CropPoses] = []
    crops, keypoints, centers, sizes, widths, turns, focals = [], [], [], [], [], [], []
    hidden: list[bool] = []

    def flush() -> None:
        if crops:
            near, behind = (np.array(each[-len(crops) :]) for each in (widths, hidden))
            answers.append(rope.predict(np.stack(crops), np.stack(keypoints), near, behind))
            crops.clear()
            keypoints.clear()

    for path in images:
        frame = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if frame is None:
            notes.append(f"{path}: not an image that can be read, left out")
            unread += 1
            advance(1)
            continue
        detected = detector.detect(frame) if boxes is None else None
        found = detected.boxes if boxes is None else _boxes_of(path, boxes)
        if len(found) == 0:
            notes.append(f"{path}: nobody found")
        else:
            cut, where, side = crop_batch(frame, found)
            if detected is not None:
                seen = detected.keypoints
            else:
                seen = _keypoints_in(cut, found, where, side, detector)
            crops.extend(cut)
            hidden.extend(crowded(found))
            keypoints.extend(keypoints_to_crop(seen, where, side))
            centers.extend(where)
            sizes.extend(side)
            size = frame.shape[1], frame.shape[0]
            focal = _focal_of(path, frame, found, focal_px, focal_mm)
            middle = np.array(size) / 2
            widths.extend(widths_at_one_metre(where, side, focal, middle))
            turns.extend(look_along(where, focal, middle))
            focals += [focal] * len(found)
            names += [path.name] * len(found)
            rows.append(found)
        if len(crops) >= batch_size:
            flush()
        advance(1)
    flush()
    if unread == len(images):
        raise RopeTPError(notes[0].removesuffix(", left out"))
    if not answers:
        count = len(images) - unread
        raise NobodyFound(f"{images[0]}: nobody found in {count} image(s); try --boxes FILE")
    poses = CropPoses.joined(answers)
    turn, rest = np.array(turns), body.rest_joints(poses.betas)
    poses.rotations[:, 0] = turn @ poses.rotations[:, 0]
    with atomic_path(out) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            image=np.array(names),
            boxes=np.concatenate(rows),
            joints2d=crop_to_frame(poses.joints2d, np.array(centers), np.array(sizes)),
            joints3d=posed_joints(poses.rotations, rest),
            pelvis=pelvis_in_crops(poses.cam, np.array(widths), turn),
            focal_px=np.array(focals),
            poses=matrix_to_axis_angle(poses.rotations).reshape(-1, 72),
            betas=poses.betas,
            cam=poses.cam,
            confidence=poses.confidence.mean(axis=1),
            body=np.array(body.label),
        )
    return len(names), len(images) - unread, notes


def _focal_of(
    path: Path, frame: np.ndarray, boxes: np.ndarray, px: float | None, mm: float | None
) -> float:
    """The focal length, px, of a picture: as given, as its camera wrote it down, as the straight
    edges in it say, or as assumed."""
    size, read = (frame.shape[1], frame.shape[0]), []
    if px is None and mm is None and (mm := stated_focal_mm(path)) is None:
        seen = read_perspective(straight_edges(frame, boxes), size)
        read = [seen.focal] if seen is not None and seen.focal is not None else []
    return choose_focal(size, px, mm, read)[0]


def stated_focal_mm(path: Path) -> float | None:
    """The focal length, mm, 35 mm equivalent, in a picture's Exif data; None where there is none
    or it cannot be read."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as picture:
            stated = float(picture.getexif().get_ifd(ExifTags.IFD.Exif)[FOCAL_LENGTH_35MM])
    except Exception:  # Pillow raises whatever it stumbles over in damaged Exif data
        return None
    return stated if SHORTEST_MM <= stated <= LONGEST_MM else None


def _boxes_of(path: Path, boxes: Boxes) -> np.ndarray:
    for key in (str(path), path.name, path.stem):
        if key in boxes:
            return boxes[key]
    return np.zeros((0, 4))


def _keypoints_in(
    crops: np.ndarray, boxes: np.ndarray, centers: np.ndarray, sizes: np.ndarray, detector: Detector
) -> np.ndarray:
    """The keypoints [P, 17, 3] px of people whose ``boxes`` are given, looked for in their crops
    RGB."""
    corners = frame_to_crop(boxes.reshape(-1, 2, 2), centers, sizes)
    inside = (corners.reshape(-1, 4) + 1) * CROP_PX / 2
    keypoints = detector.keypoints_in_crops(crops[..., ::-1], inside)
    shown = keypoints[..., :2] * 2 / CROP_PX - 1
    found = keypoints[..., 2:] > 0
    points = np.where(found, crop_to_frame(shown, centers, sizes), 0)
    return np.concatenate([points, keypoints[..., 2:]], axis=-1)
