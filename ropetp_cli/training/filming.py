"""Motion capture filmed and seen through the detector and Rope.

Of every window, the body walks through a made-up room before a camera that keeps its place, in one
set of clothes; its crops go through detector and Rope, and what they answer is written down beside
the truth (``training.sightings``). A third of the people are hidden in part for a while.

``python -m ropetp_cli.training.filming --help`` writes such a file.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ropetp_cli.body.model import load_body
from ropetp_cli.body.rotations import axis_angle_to_matrix, forward_kinematics, yaw_matrix
from ropetp_cli.body.skeleton import JOINT_INDEX, NUM_BETAS, NUM_JOINTS
from ropetp_cli.camera.gravity import LEVEL
from ropetp_cli.camera.placement import look_along
from ropetp_cli.errors import RopeTPError
from ropetp_cli.people.crops import CROP_PX, CROP_SCALE
from ropetp_cli.people.detector import Detector
from ropetp_cli.rope.predictor import CropPoses, RopePredictor
from ropetp_cli.rope.upright import NEAR
from ropetp_cli.training.augment import degrade
from ropetp_cli.training.mocap import Clip, load_turned_clips
from ropetp_cli.training.sightings import Sightings, sighting
from ropetp_cli.training.synthetic import (
    CROP,
    Backdrops,
    Figure,
    Light,
    draw_outfit,
    person_free_patches,
    rasterize,
)
from ropetp_cli.training.teacher import RealCrops

_RENDER = 2 * CROP
_FAR = 50.0
_LEG = [JOINT_INDEX[name] for name in ("left_hip", "left_knee", "left_ankle")]
_LEAST_FRAMES = 60
#: The share of windows in which something stands before the person for a while.
_HIDDEN_SHARE = 0.35
#: How high, m, cameras are held or stand at most, and those that hang, as a laboratory's do.
HELD, HUNG = 2.8, 4.5
#: How often each edge of the picture (left, top, right, bottom) cuts people whom the picture cuts,
#: and the least that is left of them inside it, as a share of their width or height.
_EDGES = ((0.3, 0.45), (0.1, 0.7), (0.3, 0.45), (0.6, 0.35))


@dataclass
class Film:
    """A window's N crops uint8 RGB [N, 256, 256, 3] and the ``boxes`` [N, 4] px in them of what is
    inside the picture; ``turn`` [N, 3, 3]: from each crop's axes to the camera's, ``width`` [N]:
    the crop's at one metre; ``camera`` [3, 3] from the world's to the camera's; the pose as filmed:
    rotations [N, 24, 3, 3], the pelvis's in the world, and betas [10]."""

    crops: np.ndarray
    boxes: np.ndarray
    turn: np.ndarray
    width: np.ndarray
    camera: np.ndarray
    rotations: np.ndarray
    betas: np.ndarray


def leg_length(rest: np.ndarray) -> float:
    """Hip to ankle of rest joints [24, 3] m."""
    return float(np.linalg.norm(np.diff(rest[_LEG], axis=0), axis=1).sum())


def place_camera(
    path: np.ndarray, rng: np.random.Generator, highest: float = HELD, above: float = 0.25
) -> tuple[np.ndarray, np.ndarray]:
    """A camera that keeps its place, for a pelvis's ``path`` [N, 3] m (y up): its position [3] m
    and its rotation from the world [3, 3]. Held by somebody or, in ``above`` of all cases, higher,
    ``highest`` m above the floor at most; not quite level, or looking at where the person is on the
    whole; from any side."""
    middle = (path.min(0) + path.max(0)) / 2
    away = rng.uniform(3.0, 7.0) + 0.5 * np.linalg.norm(np.ptp(path[:, [0, 2]], axis=0))
    side = rng.uniform(-np.pi, np.pi)
    height = rng.choice([rng.uniform(0.9, 1.7), rng.uniform(1.7, highest)], p=[1 - above, above])
    position = np.array([middle[0] + away * np.sin(side), height, middle[2] + away * np.cos(side)])
    drop = height - middle[1] if rng.random() < 0.5 else rng.normal(0, 0.15)
    pitch, roll = np.arctan2(drop, away), np.radians(rng.normal(0, 1.5))
    tilt = axis_angle_to_matrix(np.array([[pitch, 0, 0], [0, 0, roll]]))
    return position, tilt[1] @ tilt[0] @ LEVEL @ yaw_matrix(-side)


def draw_edges(places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The edges (left, top, right, bottom) at one metre of a picture that cuts somebody whose
    joints are at ``places`` [N, 24, 3] before the camera: one edge at least, and enough of the
    person in every frame."""
    flat = places[..., :2] / places[..., 2:]
    low, high = flat.min(axis=1), flat.max(axis=1)
    margin = 0.08 * (high - low).max(axis=1, keepdims=True)
    low, high = low - margin, high + margin
    often, least = (np.array(column) for column in zip(*_EDGES, strict=True))
    cuts = np.zeros(4, bool)
    while not cuts.any() or cuts[0] and cuts[2]:
        cuts = rng.random(4) < often
    shown = rng.uniform(least, 1.0)
    first = (high - shown[:2] * (high - low)).min(axis=0)
    last = (low + shown[2:] * (high - low)).max(axis=0)
    nearest = np.concatenate([first, last])
    return np.where(cuts, nearest, [-np.inf, -np.inf, np.inf, np.inf])


def film(
    figure: Figure,
    backdrops: Backdrops,
    clip: Clip,
    rng: np.random.Generator,
    cut: bool = False,
    high: bool = False,
) -> Film:
    """``clip``, which has rotations, on a random body before a random camera, a ``high`` one or one
    held in the hand; ``cut`` by the edge of the picture, or whole."""
    seed = int(rng.integers(2**31))
    betas = np.clip(rng.normal(0, 1, NUM_BETAS), -2.5, 2.5).astype(np.float32)
    outfit = draw_outfit(figure, rng)
    rest = figure.pose(np.tile(np.eye(3, dtype=np.float32), (NUM_JOINTS, 1, 1)), betas, outfit.puff)
    path = clip.on_floor() * leg_length(rest[1]) / leg_length(clip.rest)
    position, camera = place_camera(path, rng, *((HUNG, 1.0) if high else ()))
    up = camera @ np.array([0.0, 1.0, 0.0])
    light = Light.draw(up, rng)
    room = cv2.resize(backdrops.draw(rng), (_RENDER, _RENDER)).astype(np.float32) / 255
    count = len(clip)
    hidden = range(0)
    if rng.random() < _HIDDEN_SHARE:
        long = int(count * rng.uniform(0.2, 0.7))
        hidden = range(first := int(rng.integers(count - long + 1)), first + long)
    across = (np.arange(CROP) + 0.5) / CROP - 0.5
    rays = np.stack([*np.meshgrid(across, across), np.ones((CROP, CROP))], axis=-1)
    loose = CROP_SCALE * np.exp(rng.normal(0, 0.02, count))
    edges = np.array([-np.inf, -np.inf, np.inf, np.inf])
    if cut:
        joints = forward_kinematics(clip.rotations, rest[1])
        edges = draw_edges((joints - joints[:, :1] + (path - position)[:, None]) @ camera.T, rng)
    crops = np.empty((count, CROP, CROP, 3), np.uint8)
    boxes, turns, widths = np.empty((count, 4)), np.empty((count, 3, 3)), np.empty(count)
    for k in range(count):
        local = clip.rotations[k].copy()
        local[0] = camera @ local[0]
        vertices, _ = figure.pose(local.astype(np.float32), betas, outfit.puff)
        shaded = light.shade(outfit.colours, figure.normals(vertices))
        seen = vertices + camera @ (path[k] - position)
        if seen[:, 2].min() < 0.3:
            raise RopeTPError("somebody walks through the camera")
        shown = _inside(seen, edges)
        box = _box(seen[shown])
        turns[k] = look_along((box[:2] + box[2:])[None] / 2, 1.0, np.zeros(2))[0]
        seen = seen @ turns[k]
        box = _box(seen[shown])
        width = widths[k] = float(loose[k] * (box[2:] - box[:2]).max())
        boxes[k] = (box / width + 0.5) * CROP
        colour, depth = rasterize(seen, figure.faces, shaded, width, _RENDER, flat=False)
        drawn = depth < _FAR
        image = room.copy()
        image[drawn] = colour[drawn]
        image = cv2.resize(image, (CROP, CROP), interpolation=cv2.INTER_AREA)
        image = (image * 255).astype(np.uint8)
        if k in hidden:
            covered = np.zeros((CROP, CROP), bool)
            backdrops.cover(image, covered, boxes[k], np.random.default_rng(seed), least=1)
        crops[k] = degrade(image, np.random.default_rng(seed))
        if cut:
            crops[k][~_inside(rays * [width, width, 1] @ turns[k].T, edges)] = 0
    return Film(crops, boxes, turns, widths, camera, clip.rotations, betas)


def _inside(points: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Which points [..., 3] before a camera are inside ``edges`` (xyxy at one metre)."""
    flat = points[..., :2] / points[..., 2:]
    return ((flat > edges[:2]) & (flat < edges[2:])).all(axis=-1)


def _box(points: np.ndarray) -> np.ndarray:
    """xyxy [4] of points [V, 3] before a camera, at one metre."""
    flat = points[:, :2] / points[:, 2:]
    return np.concatenate([flat.min(0), flat.max(0)])


def look_at(shot: Film, detector: Detector, rope: RopePredictor) -> CropPoses:
    """What Rope answers for a film's N crops."""
    answers = []
    for start in range(0, len(shot.crops), 16):
        rows = slice(start, start + 16)
        found = detector.keypoints_in_crops(shot.crops[rows][..., ::-1], shot.boxes[rows])
        found[..., :2] = np.where(found[..., 2:] > 0, found[..., :2] * 2 / CROP_PX - 1, 0)
        answers.append(rope.predict(shot.crops[rows], found, shot.width[rows]))
    return CropPoses.joined(answers)


def choose_windows(
    clips: list[Clip], count: int, frames: int, rng: np.random.Generator
) -> tuple[list[Clip], list[int]]:
    """``count`` windows of at most so many ``frames``, or one of every clip if ``count`` is 0, and
    their first frames; who goes far or up and down is drawn more often, as in training.
    RopeTPError when all clips are shorter than :data:`_LEAST_FRAMES`."""
    clips = [clip for clip in clips if len(clip) >= min(frames, _LEAST_FRAMES)]
    if not clips:
        raise RopeTPError(f"no clip with rotations has {_LEAST_FRAMES} frames")
    weights = np.array(
        [len(c) * (1 + min(1, c.rise / 0.2) + 3 * min(1, c.speed / 1.2)) for c in clips]
    )
    chosen = range(len(clips))
    if count:
        chosen = rng.choice(len(clips), count, p=weights / weights.sum())
    firsts = [int(rng.integers(max(len(clips[k]) - frames, 0) + 1)) for k in chosen]
    return [clips[k].part(f, f + frames) for k, f in zip(chosen, firsts, strict=True)], firsts


def film_all(
    mocap: Path,
    out: Path,
    count: int,
    frames: int = 150,
    crops: Path | None = None,
    joints: Path | None = None,
    weights: Path | None = None,
    quick: bool = False,
    straight: float = 0.0,
    cut: float = 0.0,
    high: float = 0.0,
    seed: int = 0,
) -> Sightings:
    """Film ``count`` windows of ``mocap`` and write what Rope sees of them to ``out`` (npz).
    LSPET's ``crops`` and ``joints`` give photographic backgrounds; in ``straight`` of the windows
    knees are made straighter (:meth:`~ropetp_cli.training.mocap.Clip.straighter`), in ``cut`` of
    them the picture ends somewhere in the person, in ``high`` of them the camera looks down."""
    body = load_body()
    photos = person_free_patches(RealCrops.open(crops, joints), 1500) if crops and joints else []
    clips = load_turned_clips(mocap)
    figure, backdrops = Figure(body), Backdrops(photos)
    rope = RopePredictor.from_weights(body, weights, quick=quick, reach=NEAR)
    detector = Detector()
    rng = np.random.default_rng(seed)
    windows, firsts = choose_windows(clips, count, frames, rng)
    parts: list[Sightings] = []
    began, done = time.monotonic(), 0
    for number, (clip, first) in enumerate(zip(windows, firsts, strict=True)):
        if straight > 0 and rng.random() < straight:
            clip = clip.straighter(rng)
        try:
            ends, above = (share > 0 and rng.random() < share for share in (cut, high))
            shot = film(figure, backdrops, clip, rng, ends, above)
        except RopeTPError:
            continue
        answer = look_at(shot, detector, rope)
        parts.append(
            sighting(
                answer, shot.turn, shot.width, shot.rotations, shot.camera, shot.betas,
                clip.name, first,
            )
        )  # fmt: skip
        done += len(clip)
        if number % 5 == 4 or number + 1 == len(windows):
            each = (time.monotonic() - began) / done
            print(f"{number + 1} of {len(windows)}, {each:.3f} s a frame", flush=True)
    if not parts:
        raise RopeTPError(f"{mocap}: no window could be filmed")
    sightings = Sightings.joined(parts)
    sightings.save(out)
    return sightings


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Film motion capture and note what Rope sees.")
    parser.add_argument("mocap", type=Path, help="mocap_*.npz")
    parser.add_argument("out", type=Path, help="npz to write")
    parser.add_argument("--count", type=int, default=60, help="windows; 0: one of every clip")
    parser.add_argument("--frames", type=int, default=150, help="of a window, at most")
    parser.add_argument("--crops", type=Path, help="LSPET crops (zip), for backgrounds")
    parser.add_argument("--joints", type=Path, help="LSPET joints (npz)")
    parser.add_argument("--weights", type=Path, help="Rope's; the shipped ones if not given")
    parser.add_argument("--quick", action="store_true", help="one look, as capture --quick")
    parser.add_argument("--straight", type=float, default=0.0, help="share with straighter knees")
    parser.add_argument("--cut", type=float, default=0.0, help="share cut by the picture's edge")
    parser.add_argument("--high", type=float, default=0.0, help="share before a camera hung high")
    parser.add_argument("--seed", type=int, default=0)
    film_all(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
