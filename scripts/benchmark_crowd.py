"""Whether people keep their numbers in a crowd: python scripts/benchmark_crowd.py [--keep OUT.mp4]

Renders people who walk to and fro past one another in a room, some of them behind a screen that
hides them for about two seconds, follows them with the detector and tracker of `ropetp capture`
and compares the tracks with the truth. Prints crossings, identities exchanged, tracks too many,
how much of what is in sight was found, and whether hidden spans are filled and marked.
"""

import argparse
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from ropetp_cli.body.model import load_body
from ropetp_cli.body.rotations import yaw_matrix
from ropetp_cli.motion import Camera
from ropetp_cli.people.detector import Detector, box_iou
from ropetp_cli.people.tracker import TrackingResult, follow_people
from ropetp_cli.training.synthetic import Figure, Light, draw_outfit
from ropetp_cli.video.reader import VideoReader
from ropetp_cli.video.writer import VideoWriter

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from make_rendered_walk import FOCAL, SIZE, cameras, gait, scenery  # noqa: E402

FPS = 25.0
#: m: people turn round here; the screen; how far lanes are from the middle, the farthest first.
TURN = 3.4
SCREEN = {"x": (-1.0, 1.2), "z": -1.0, "top": 2.3}
LANES = (-3.0, 1.9)
#: Share of a person's outline that must be visible to count as in sight, and as hidden.
IN_SIGHT, HIDDEN = 0.4, 0.02
MATCH = 0.3  # intersection over union of a track's box and the truth


@dataclass
class Truth:
    """boxes [N, P, 4] xyxy px of whole people; visible [N, P] share of their outline in sight."""

    boxes: np.ndarray
    visible: np.ndarray


def ways(people: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Everybody's place on the floor [P, N, 2] m (x, z) and heading [P, N] rad."""
    places, headings = np.zeros((people, count, 2)), np.zeros((people, count))
    for person, lane in enumerate(np.linspace(*LANES, people)):
        x, way = rng.uniform(-TURN, TURN), rng.choice([-1.0, 1.0])
        speed, heading = rng.uniform(0.9, 1.3), way * np.pi / 2
        for index in range(count):
            x += way * speed / FPS
            if way * x > TURN:
                way = -way
            heading += np.clip(way * np.pi / 2 - heading, -2 * np.pi / FPS, 2 * np.pi / FPS)
            places[person, index], headings[person, index] = (x, lane), heading
    return places, headings


def render(out: Path, people: int, seconds: float, seed: int) -> Truth:
    """The crowd as a video at ``out``."""
    rng, count = np.random.default_rng(seed), round(FPS * seconds)
    body = load_body()
    figure = Figure(body)
    outfits = [draw_outfit(figure, rng) for _ in range(people)]
    betas = rng.normal(0, 0.7, (people, body.shapedirs.shape[-1])).astype(np.float32)
    places, headings = ways(people, count, rng)
    times = np.arange(count) / FPS
    gaits = [gait(times + rng.uniform(0, 2)) for _ in range(people)]
    (turn, *_), (eye, *_) = cameras("still", np.zeros((2, 3)))
    camera = Camera(FOCAL, np.array(SIZE) / 2.0, turn[None])
    backdrop = scenery(camera, eye, textured=False).astype(np.float32)
    light = Light(np.array([0.4, -0.7, -0.6]), np.full(3, 0.6), turn.T[:, 1], np.full(3, 0.5))
    screen = (corners(SCREEN) - eye) @ turn
    truth = Truth(np.zeros((count, people, 4)), np.zeros((count, people)))
    with VideoWriter(out, SIZE, FPS) as video:
        for index in range(count):
            meshes = []
            for person in range(people):
                rotations = gaits[person][index].copy()
                rotations[0] = turn.T @ yaw_matrix(headings[person, index]) @ rotations[0]
                vertices, _ = figure.pose(rotations, betas[person], outfits[person].puff)
                x, z = places[person, index]
                lowest = (vertices @ turn.T)[:, 1].min()
                vertices = vertices + (np.array([x, -lowest, z]) - eye) @ turn
                shaded = light.shade(outfits[person].colours, figure.normals(vertices))[:, ::-1]
                meshes.append((vertices, figure.faces, shaded))
            quad = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
            meshes.append((screen, quad, np.full((4, 3), (0.35, 0.45, 0.4))))
            image, owner = paint(backdrop, meshes)
            video.write((np.clip(image, 0, 1) * 255).astype(np.uint8))
            for person in range(people):
                truth.boxes[index, person], truth.visible[index, person] = seen_of(
                    meshes[person], owner == person
                )
    return truth


def corners(screen: dict) -> np.ndarray:
    """A standing rectangle [4, 3] m, counter-clockwise from the front."""
    (left, right), z, top = screen["x"], screen["z"], screen["top"]
    return np.array([[left, 0, z], [right, 0, z], [right, top, z], [left, top, z]])


def rasterize(image: np.ndarray, depth: np.ndarray, mesh: tuple, colours: np.ndarray) -> np.ndarray:
    settings = cv2.TriangleRasterizeSettings()
    settings.setCullingMode(cv2.RASTERIZE_CULLING_CW)
    settings.setShadingType(cv2.RASTERIZE_SHADING_SHADED)
    vertices, faces, _ = mesh
    field_of_view = 2 * np.arctan(SIZE[1] / 2 / FOCAL)
    to_gl = np.diag([1.0, -1.0, -1.0, 1.0]).astype(np.float32)
    drawn, _ = cv2.triangleRasterize(
        np.ascontiguousarray(vertices, np.float32), faces,
        np.ascontiguousarray(colours, np.float32), image, depth, to_gl, field_of_view, 0.1, 100.0,
        settings,
    )  # fmt: skip
    return drawn


def paint(backdrop: np.ndarray, meshes: list[tuple]) -> tuple[np.ndarray, np.ndarray]:
    """The picture, BGR float, and whose each pixel is, -1 nobody's."""
    image, depth = backdrop.copy(), np.full(SIZE[::-1], 100.0, np.float32)
    owner, behind = np.zeros((*SIZE[::-1], 3), np.float32), np.full(SIZE[::-1], 100.0, np.float32)
    for number, mesh in enumerate(meshes):
        image = rasterize(image, depth, mesh, mesh[2])
        owner = rasterize(owner, behind, mesh, np.full((len(mesh[0]), 3), (number + 1) / 32))
    return image, np.rint(owner[..., 0] * 32).astype(int) - 1


def seen_of(mesh: tuple, mine: np.ndarray) -> tuple[np.ndarray, float]:
    """A person's whole box [4] px inside the picture and the share of the outline that shows."""
    vertices, _, _ = mesh
    points = vertices[:, :2] / vertices[:, 2:] * FOCAL + np.array(SIZE) / 2
    box = np.concatenate([points.min(axis=0), points.max(axis=0)])
    depth, alone = np.full(SIZE[::-1], 100.0, np.float32), np.zeros((*SIZE[::-1], 3), np.float32)
    outline = rasterize(alone, depth, mesh, np.ones((len(vertices), 3)))[..., 0] > 0.5
    inside = np.clip(box, 0, np.tile(SIZE, 2))
    share = (inside[2:] - inside[:2]).clip(0).prod() / (box[2:] - box[:2]).prod()
    return inside, float(mine.sum() / max(outline.sum(), 1) * share)


def compare(truth: Truth, found: TrackingResult) -> dict[str, int | float]:
    """Figures of the tracks against the truth."""
    count, people = truth.visible.shape
    owner: dict[int, int] = {}  # person -> the track that had it last
    person_of: dict[int, int] = {}  # track -> whom it followed last
    tracks_of: dict[int, set[int]] = {person: set() for person in range(people)}
    tally: Counter[str] = Counter()
    boxes = np.full((count, len(found.tracks), 4), -1.0)
    seen = np.zeros((count, len(found.tracks)), dtype=bool)
    for number, track in enumerate(found.tracks):
        boxes[track.frames, number], seen[track.frames, number] = track.boxes, track.seen
    for index in range(count):
        visible = np.flatnonzero(truth.visible[index] >= IN_SIGHT)
        followed = np.flatnonzero(seen[index])
        overlap = box_iou(truth.boxes[index, visible], boxes[index, followed])
        tally["in sight"] += len(visible)
        # Where it can still be so, everybody has the track of before.
        kept = np.array([[owner.get(int(v)) == f for f in followed] for v in visible])
        overlap = overlap + (kept.reshape(overlap.shape) & (overlap >= MATCH))
        for row, column in zip(*linear_sum_assignment(-overlap), strict=True):
            if overlap[row, column] < MATCH:
                continue
            person, track = int(visible[row]), int(followed[column])
            tally["found"] += 1
            tally["exchanged"] += person_of.get(track, person) != person
            owner[person], person_of[track] = track, person
            tracks_of[person].add(track)
        for person in np.flatnonzero(truth.visible[index] <= HIDDEN):
            track = owner.get(int(person))
            inside = truth.boxes[index, person]
            if track is None or index > found.tracks[track].frames[-1] or inside[2] <= inside[0]:
                continue
            tally["hidden"] += 1
            tally["hidden, marked"] += not seen[index, track]
            overlap = box_iou(inside[None], boxes[index, track][None])[0, 0]
            tally["hidden, in place"] += overlap > MATCH
    tally["too many"] = sum(max(len(tracks) - 1, 0) for tracks in tracks_of.values())
    tally["never found"] = sum(not tracks for tracks in tracks_of.values())
    return {name: int(value) for name, value in tally.items()}


def spans(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.pad(mask.astype(int), 1)))
    return (edges[1::2] - edges[::2]).tolist()


def crossings(truth: Truth) -> int:
    """How often two people's boxes come to overlap while one hides the other in part."""
    people, total = truth.visible.shape[1], 0
    for a in range(people):
        for b in range(a):
            overlap = [box_iou(f[None, a], f[None, b])[0, 0] > 0.2 for f in truth.boxes]
            total += len(spans(np.array(overlap)))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="One crowd each.")
    parser.add_argument("--keep", type=Path, help="Keep the last crowd's video.")
    told = parser.parse_args()
    detector = Detector()
    total: Counter[str] = Counter()
    for seed in told.seeds:
        with tempfile.TemporaryDirectory() as folder:
            video = told.keep or Path(folder) / "crowd.mp4"
            truth = render(video, told.people, told.seconds, seed)
            with VideoReader(video) as reader:
                found = follow_people(reader, detector)
        gone = [n / FPS for k in range(told.people) for n in spans(truth.visible[:, k] <= HIDDEN)]
        figures = compare(truth, found) | {"crossings": crossings(truth), "hidings": len(gone)}
        total.update(figures)
        print(f"crowd {seed}: {len(found.tracks)} tracks of {told.people} people; {figures}; "
              f"hidden for {', '.join(f'{s:.1f}' for s in sorted(gone))} s",
              flush=True)  # fmt: skip
    print(
        f"{total['crossings']} crossings, {total['hidings']} hidings: {total['exchanged']} "
        f"identities exchanged, {total['too many']} tracks too many; found {total['found']} of "
        f"{total['in sight']} people in sight; of {total['hidden']} hidden person-frames "
        f"{total['hidden, marked']} are filled and marked, {total['hidden, in place']} in place"
    )


if __name__ == "__main__":
    main()
