"""The world view: everybody on the floor, seen by a camera that follows or stands.

The floor is y = 0. Every person casts a shadow straight down, so that a foot above or below the
floor shows. The camera looks from where the video's camera stood, turned to three quarters.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d, maximum_filter1d

from ropetp_cli.body.model import BodyData
from ropetp_cli.body.rotations import yaw_matrix
from ropetp_cli.motion import Motion
from ropetp_cli.preview.figure import Figure, footprints, put_label
from ropetp_cli.preview.rasterizer import NEAR, draw_meshes, rasterize
from ropetp_cli.video.writer import VideoWriter

SIZE = (960, 540)
BACKGROUND = np.array([242, 239, 236], dtype=float)
LINE = np.array([176, 168, 160], dtype=float)
FIELD_OF_VIEW = np.radians(38)  # vertical
LOOK_DOWN = np.radians(16)
QUARTER = np.radians(32)  # the turn from the video's own direction of view
AIM = 0.85  # m above the floor
RAISED = 1.2  # m: a pelvis above this is not on the floor, and the camera looks up to it
FOLLOW = 0.6  # s, the smoothing of the camera's path
GRID_REACH = 14  # m
MARKS_STAY = 4.0  # s that the mark of a foot takes to fade
#: A foot's mark about its middle, across and along the foot, m.
SOLE = np.stack([f(np.linspace(0, 2 * np.pi, 20)) for f in (np.cos, np.sin)], 1) * [0.045, 0.13]


class WorldPainter:
    """Draws the people of ``motions`` at any time of the video.

    The camera follows them, or, ``fixed``, stands where it sees all of every path.
    """

    def __init__(
        self,
        motions: list[Motion],
        body: BodyData,
        size: tuple[int, int] = SIZE,
        fixed: bool = False,
    ):
        self.figures = [Figure(motion, body) for motion in motions]
        self.prints = [footprints(motion) for motion in motions]
        self.faces, self.size = body.faces, size
        self.fps = motions[0].fps
        self.center = np.array(size) / 2
        self.focal = size[1] / 2 / np.tan(FIELD_OF_VIEW / 2)
        first = min(motion.timestamps[0] for motion in motions)
        last = max(motion.timestamps[-1] for motion in motions)
        self.times = first + np.arange(round((last - first) * self.fps) + 1) / self.fps
        self.turn = look_from(motions)
        self.aims, self.distances = self._stand() if fixed else self._follow()

    def _follow(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the camera aims [T, 3] m and from how far [T] m, smooth, nobody cut off."""
        count = len(self.times)
        tracks = np.full((len(self.figures), count, 3), np.nan)
        for track, figure in zip(tracks, self.figures, strict=True):
            times, place = figure.motion.timestamps, figure.motion.joints[:, 0].copy()
            place[:, 1] = np.maximum(place[:, 1] - RAISED, 0)
            inside = (self.times > times[0] - 1e-6) & (self.times < times[-1] + 1e-6)
            for axis in range(3):
                track[inside, axis] = np.interp(self.times[inside], times, place[:, axis])
        there = np.isfinite(tracks[..., 0])
        low = np.where(there[..., None], tracks, np.inf).min(axis=0)
        high = np.where(there[..., None], tracks, -np.inf).max(axis=0)
        someone = there.any(axis=0)
        seen = np.flatnonzero(someone)
        grid = np.arange(count)
        middle = (low[seen] + high[seen]) / 2
        middle = np.stack([np.interp(grid, seen, column) for column in middle.T], axis=1)
        width = FOLLOW * self.fps
        middle = gaussian_filter1d(middle, width, axis=0, mode="nearest")
        off = np.where(there[..., None], tracks - middle, 0.0)
        window = 2 * int(2 * width) + 1
        spread, rise = (
            gaussian_filter1d(maximum_filter1d(far.max(axis=0), window), width, mode="nearest")
            for far in (np.linalg.norm(off[..., ::2], axis=-1), np.abs(off[..., 1]))
        )
        half = np.tan(FIELD_OF_VIEW / 2)
        wide = half * self.size[0] / self.size[1]
        distances = 0.6 * spread + np.maximum((1.25 + rise) / half, (spread + 0.7) / wide)
        return middle + np.array([0.0, AIM, 0.0]), distances

    def _stand(self) -> tuple[np.ndarray, np.ndarray]:
        """The same aim and distance at all times: every head and foot is in the picture."""
        points = np.concatenate([figure.motion.joints.reshape(-1, 3) for figure in self.figures])
        low, high = points.min(axis=0), points.max(axis=0)
        aim = (low + high) / 2 * [1, 0, 1] + [0, AIM, 0]
        across = np.abs((points - aim) @ self.turn) + [0.35, 0.35, 0.0]  # m of flesh and margin
        half = np.tan(FIELD_OF_VIEW / 2) * np.array([self.size[0] / self.size[1], 1.0])
        depth = (points - aim) @ self.turn[:, 2]
        distance = (across[:, :2] / half - depth[:, None]).max()
        return np.tile(aim, (len(self.times), 1)), np.full(len(self.times), distance)

    def paint(self, time: float) -> np.ndarray:
        """The picture at ``time`` s, uint8 [H, W, 3] BGR."""
        k = int(np.clip(round((time - self.times[0]) * self.fps), 0, len(self.times) - 1))
        eye = self.aims[k] - self.turn[:, 2] * self.distances[k]
        image = np.empty((self.size[1], self.size[0], 3), np.uint8)
        image[:] = BACKGROUND
        self._grid(image, eye, self.aims[k])
        here = []
        for figure, prints in zip(self.figures, self.prints, strict=True):
            self._trail(image, eye, figure, time)
            self._marks(image, eye, figure, prints, time)
            index = figure.at(time, 1 / self.fps)
            if index is not None:
                here.append((figure, figure.vertices(index)))
        for _, vertices in here:
            self._shadow(image, eye, vertices)
        meshes = [((vertices - eye) @ self.turn, figure.color) for figure, vertices in here]
        if meshes:
            draw_meshes(image, meshes, self.faces, self.focal, self.center, alpha=1.0)
        if len(self.figures) > 1:
            for (figure, _), (vertices, _) in zip(here, meshes, strict=True):
                top = vertices[vertices[:, 1].argmin()]
                place = top[:2] / max(top[2], NEAR) * self.focal + self.center
                put_label(image, str(figure.motion.person), tuple(place), figure.color)
        note = f"{time:6.2f} s    grid 1 m"
        cv2.putText(
            image, note, (14, self.size[1] - 14), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (110, 104, 98), 1,
            cv2.LINE_AA,
        )  # fmt: skip
        return image

    def _pixels(self, points: np.ndarray, eye: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World points [..., 3] m -> 1/16 px for OpenCV's lines; which lie before the camera."""
        camera = (points - eye) @ self.turn
        depth = np.maximum(camera[..., 2:], NEAR)
        pixels = camera[..., :2] / depth * self.focal + self.center
        # OpenCV's lines put a pixel's centre at its number, the rasterizer at number + 1/2.
        fixed = np.round(np.clip(pixels - 0.5, -9000, 9000) * 16).astype(np.int32)
        return fixed, camera[..., 2] > 4 * NEAR

    def _grid(self, image: np.ndarray, eye: np.ndarray, aim: np.ndarray) -> None:
        """Lines every metre, paler the farther they are."""
        steps = np.arange(-GRID_REACH, GRID_REACH + 1)
        knots = np.zeros((len(steps), len(steps), 3))
        knots[..., 0] = round(aim[0]) + steps[:, None]
        knots[..., 2] = round(aim[2]) + steps
        pieces = [np.stack([knots[:-1], knots[1:]], 2), np.stack([knots[:, :-1], knots[:, 1:]], 2)]
        lines = np.concatenate([piece.reshape(-1, 2, 3) for piece in pieces])
        away = np.linalg.norm((lines.mean(axis=1) - aim)[:, ::2], axis=1)
        shade = np.round(10 * (1 - away / GRID_REACH)).astype(int)
        pixels, front = self._pixels(lines, eye)
        for level in range(1, 11):
            color = BACKGROUND + (LINE - BACKGROUND) * level / 10
            chosen = pixels[front.all(axis=1) & (shade == level)]
            cv2.polylines(image, list(chosen), False, color.tolist(), 1, cv2.LINE_AA, 4)

    def _trail(self, image, eye: np.ndarray, figure: Figure, time: float) -> None:
        """The path of the pelvis on the floor up to ``time``."""
        motion = figure.motion
        path = motion.joints[motion.timestamps <= time + 1e-6, 0]
        if len(path) < 2:
            return
        color = (0.55 * BACKGROUND + 0.45 * np.array(figure.color)).tolist()
        pixels, front = self._pixels(path * [1, 0, 1], eye)
        for part in np.split(np.arange(len(path)), np.flatnonzero(np.diff(front)) + 1):
            if front[part[0]]:
                cv2.polylines(image, [pixels[part]], False, color, 3, cv2.LINE_AA, 4)

    def _marks(self, image, eye: np.ndarray, figure: Figure, prints, time: float) -> None:
        """Where feet stand now, full, and stood in the last seconds, fading."""
        color, times = np.array(figure.color, dtype=float), figure.motion.timestamps
        for step in prints:
            age = time - times[step.last]
            if time < times[step.first] - 1e-6 or age > MARKS_STAY:
                continue
            strength = 1.0 if age <= 1e-6 else 0.45 * (1 - age / MARKS_STAY)
            toe = np.array([np.sin(step.heading), 0.0, np.cos(step.heading)])
            side = np.array([toe[2], 0.0, -toe[0]])
            ring = SOLE[:, :1] * side + SOLE[:, 1:] * toe + step.place
            pixels, front = self._pixels(ring, eye)
            if front.all():
                shade = (BACKGROUND + (color - BACKGROUND) * strength).tolist()
                cv2.fillPoly(image, [pixels], shade, cv2.LINE_AA, 4)

    def _shadow(self, image, eye: np.ndarray, vertices: np.ndarray) -> None:
        flat = (vertices * [1, 0, 1] - eye) @ self.turn
        shadow = rasterize([(flat, (0, 0, 0))], self.faces, self.focal, self.center, self.size)
        if shadow is not None:
            under = shadow.within(image)
            cv2.copyTo(cv2.convertScaleAbs(under, alpha=0.78), shadow.mask, under)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.paint(time) for time in self.times)


def _direction_of_view(motions: list[Motion]) -> np.ndarray:
    """The horizontal direction the world's camera looks in, unit [3].

    That of the video's camera where there is one, so that who walks to the right in the video
    walks to the right here; else against the first person's facing. Turned to three quarters.
    """
    motion = motions[0]
    if motion.camera_focal > 0:
        view = motion.camera_rotation[:, :, 2].mean(axis=0)
    else:
        view = -motion.rotations[:, 0, :, 2].mean(axis=0)
    view = view * [1, 0, 1]
    length = np.linalg.norm(view)
    view = view / length if length > 0.1 else np.array([0.0, 0.0, -1.0])
    return yaw_matrix(QUARTER) @ view


def look_from(motions: list[Motion]) -> np.ndarray:
    """World-from-camera [3, 3] of the world's camera, which looks a little down."""
    direction = _direction_of_view(motions)
    forward = np.cos(LOOK_DOWN) * direction - [0, np.sin(LOOK_DOWN), 0]
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward], axis=1)


def render_world(
    motions: list[Motion],
    body: BodyData,
    out: str | Path,
    progress: Callable[[int], None] | None = None,
    size: tuple[int, int] = SIZE,
    fixed: bool = False,
) -> Path:
    """Write the world view as a video at the motions' rate; ``progress(1)`` for every frame.

    The camera follows the people or, ``fixed``, stands.
    """
    painter = WorldPainter(motions, body, size, fixed)
    with VideoWriter(out, size, painter.fps) as writer:
        for image in painter:
            writer.write(image)
            if progress:
                progress(1)
    return Path(out)
