"""The overlay: everybody's mesh over the video it was captured from."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from ropetp_cli.body.model import BodyData
from ropetp_cli.errors import RopeTPError
from ropetp_cli.files import atomic_path
from ropetp_cli.motion import Motion
from ropetp_cli.preview.figure import Figure, put_label
from ropetp_cli.preview.rasterizer import draw_meshes
from ropetp_cli.preview.world import WorldPainter
from ropetp_cli.video.reader import VideoReader
from ropetp_cli.video.writer import VideoWriter

Advance = Callable[[int], None]

SIDE_HEIGHT = 720  # px, the most a side-by-side picture is high
TILE_WIDTH = 480  # px, a picture of the contact sheet


class OverlayPainter:
    """Draws the people of ``motions`` into the video's frames, by the frames' own times.

    Labels can be read in pictures ``shrink`` times as small.
    """

    def __init__(
        self,
        motions: list[Motion],
        body: BodyData,
        fps: float,
        alpha: float = 0.85,
        shrink: float = 1.0,
    ):
        for motion in motions:
            if not motion.camera_focal > 0:
                raise RopeTPError(
                    f"person {motion.person} has no camera: only captured motions can be overlaid"
                )
        self.figures = [Figure(motion, body, in_camera=True) for motion in motions]
        self.faces, self.step = body.faces, 1.0 / fps
        self.alpha, self.shrink = alpha, shrink

    def paint(self, frame: np.ndarray, time: float) -> np.ndarray:
        """Draw into ``frame`` uint8 [H, W, 3] BGR, shown at ``time`` s, in place."""
        shown = [(figure, figure.at(time, self.step)) for figure in self.figures]
        here = [(figure, figure.vertices(index)) for figure, index in shown if index is not None]
        if not here:
            return frame
        focal, center = self.figures[0].motion.camera_focal, self.figures[0].motion.camera_center
        meshes = [(vertices, figure.color) for figure, vertices in here]
        draw_meshes(frame, meshes, self.faces, focal, center, self.alpha)
        for figure, vertices in here:
            top = vertices[vertices[:, 1].argmin()]
            if top[2] > 0:
                place = top[:2] / top[2] * focal + center
                text = str(figure.motion.person)
                put_label(frame, text, tuple(place), figure.color, self.shrink)
        return frame


def render_overlay(
    video: str | Path,
    motions: list[Motion],
    body: BodyData,
    out: str | Path,
    progress: Advance | None = None,
    start: float | None = None,
    end: float | None = None,
) -> Path:
    """Write the video with everybody's mesh over it, at its size and rate, with its sound.

    The frames stream; ``start`` and ``end`` (s) are those of the capture; ``progress(1)`` is
    called for every frame.
    """
    with VideoReader(video, start, end) as reader:
        info = reader.info
        painter = OverlayPainter(motions, body, info.fps)
        with VideoWriter(out, info.size, info.fps, sound=video) as writer:
            for _, time, frame in reader:
                writer.write(painter.paint(np.ascontiguousarray(frame), time), time)
                if progress:
                    progress(1)
    return Path(out)


def render_side_by_side(
    video: str | Path,
    motions: list[Motion],
    body: BodyData,
    out: str | Path,
    progress: Advance | None = None,
    start: float | None = None,
    end: float | None = None,
) -> Path:
    """Write the overlay with the world view to its right, at the video's rate."""
    with VideoReader(video, start, end) as reader:
        info = reader.info
        height = min(SIDE_HEIGHT, info.height)
        width = round(info.width * height / info.height)
        overlay = OverlayPainter(motions, body, info.fps)
        world = WorldPainter(motions, body, (round(height * 4 / 3), height))
        size = (width + world.size[0], height)
        with VideoWriter(out, size, info.fps, sound=video) as writer:
            for _, time, frame in reader:
                left = overlay.paint(np.ascontiguousarray(frame), time)
                left = cv2.resize(left, (width, height), interpolation=cv2.INTER_AREA)
                writer.write(np.hstack([left, world.paint(time)]), time)
                if progress:
                    progress(1)
    return Path(out)


def contact_sheet(
    video: str | Path,
    motions: list[Motion],
    body: BodyData,
    out: str | Path,
    count: int = 8,
    columns: int = 4,
    start: float | None = None,
    end: float | None = None,
) -> Path:
    """Write a PNG of ``count`` overlaid frames spread evenly in time over the motions."""
    tiles: list[np.ndarray] = []
    with VideoReader(video, start, end) as reader:
        shrink = max(1.0, reader.info.width / TILE_WIDTH)
        painter = OverlayPainter(motions, body, reader.info.fps, shrink=shrink)
        first = min(motion.timestamps[0] for motion in motions)
        last = max(motion.timestamps[-1] for motion in motions)
        if reader.info.frame_count > 1:
            last = min(last, (reader.info.frame_count - 1) * painter.step)
        wanted = list(np.linspace(first, last, count))
        for _, time, frame in reader:
            if wanted and time >= wanted[0] - painter.step / 2:
                tiles.append(_tile(painter.paint(np.ascontiguousarray(frame), time), time))
                while wanted and time >= wanted[0] - painter.step / 2:
                    wanted.pop(0)
            if not wanted:
                break
    if not tiles:
        raise RopeTPError(f"{video}: ends before the motion begins at {first:.2f} s")
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[row : row + columns]) for row in range(0, len(tiles), columns)]
    with atomic_path(Path(out)) as temporary:
        if not cv2.imwrite(str(temporary), np.vstack(rows)):
            raise RopeTPError(f"{out}: cannot be written")
    return Path(out)


def _tile(frame: np.ndarray, time: float) -> np.ndarray:
    height = round(frame.shape[0] * TILE_WIDTH / frame.shape[1])
    tile = cv2.resize(frame, (TILE_WIDTH, height), interpolation=cv2.INTER_AREA)
    put_label(tile, f"{time:.2f} s", (30, height), (60, 60, 60))
    return tile
