"""Paths drawn from above, and their heights over time."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ropetp_cli.errors import RopeTPError
from ropetp_cli.files import atomic_path
from ropetp_cli.motion import Motion
from ropetp_cli.preview.figure import person_color, put_label

MARGIN = 46  # px


class Line(NamedTuple):
    """One path: places [N, 3] m, a BGR colour and a label; facing [N, 2], where the pelvis faces
    over the ground (x, z), if it is to be drawn."""

    places: np.ndarray
    color: tuple[int, int, int]
    label: str
    facing: np.ndarray | None = None


def path_plot(motions: list[Motion], out: str | Path, size: int = 900) -> Path:
    """A PNG of people's paths seen from above, with the length of each. RopeTPError where it
    cannot be written."""
    lines = []
    for motion in motions:
        places = motion.joints[:, 0]
        length = np.linalg.norm(np.diff(motion.way, axis=0), axis=1).sum()
        label = f"{motion.person}: {length:.1f} m"
        facing = motion.rotations[:, 0, :, 2][:, ::2]
        lines.append(Line(places, person_color(motion.person), label, facing))
    return write_picture(draw_from_above(lines, [motion.fps for motion in motions], size), out)


def write_picture(image: np.ndarray, out: str | Path) -> Path:
    """``image`` as a file; RopeTPError where it cannot be written."""
    with atomic_path(Path(out)) as temporary:
        if not cv2.imwrite(str(temporary), image):
            raise RopeTPError(f"{out}: cannot be written; name a .png")
    return Path(out)


def draw_from_above(lines: list[Line], rates: list[float], size: int = 900) -> np.ndarray:
    """BGR picture, its longer side ``size`` px: x to the right, z down, a line every metre.

    A dot marks the start, a square the end, arrows every second where the pelvis faces; ``rates``
    are the frames a second of each line.
    """
    paths = [line.places[:, ::2] for line in lines]
    low = np.floor(np.min([path.min(axis=0) for path in paths], axis=0) - 0.7)
    high = np.ceil(np.max([path.max(axis=0) for path in paths], axis=0) + 0.7)
    scale = (size - 2 * MARGIN) / (high - low).max()
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 10**9) if scale * step > 28)
    width, height = (np.ceil((high - low) * scale).astype(int) + 2 * MARGIN).tolist()
    image = np.full((height, width, 3), 250, np.uint8)

    def pixel(point: np.ndarray) -> tuple[int, int]:
        return tuple(np.round((point - low) * scale + MARGIN).astype(int).tolist())

    for axis in range(2):
        for value in np.arange(np.ceil(low[axis] / step) * step, high[axis] + 1e-6, step):
            ends = np.array([low, high])
            ends[:, axis] = value
            color = (120, 120, 120) if value == 0 else (215, 215, 215)
            cv2.line(image, pixel(ends[0]), pixel(ends[1]), color, 1, cv2.LINE_AA)
            at = pixel(ends[0])
            place = (at[0] - 8, height - 18) if axis == 0 else (8, at[1] + 5)
            _write(image, f"{value:g}", place)
    _write(image, "seen from above: x right, z down, m", (MARGIN, 20))
    for line, path, rate in zip(lines, paths, rates, strict=True):
        points = np.array([pixel(point) for point in path], dtype=np.int32)
        cv2.polylines(image, [points], False, line.color, 2, cv2.LINE_AA)
        if line.facing is not None:
            for index in np.unique(np.arange(0, len(path), rate).astype(int)):
                tip = pixel(path[index] + 0.35 * line.facing[index])
                cv2.arrowedLine(
                    image, pixel(path[index]), tip, (70, 70, 70), 1, cv2.LINE_AA, tipLength=0.3
                )
        cv2.circle(image, pixel(path[0]), 7, line.color, -1, cv2.LINE_AA)
        end = np.array(pixel(path[-1]))
        cv2.rectangle(image, end - 6, end + 6, line.color, -1, cv2.LINE_AA)
        if line.label:
            put_label(image, line.label, tuple(end + [0, 52]), line.color)
    return image


def draw_legend(lines: list[Line], title: str, width: int) -> np.ndarray:
    """BGR picture ``width`` px wide: a title and below it the lines' labels on their colours."""
    image = np.full((72, width, 3), 250, np.uint8)
    _write(image, title, (8, 20))
    for k, line in enumerate(lines):
        put_label(image, line.label, ((k + 0.5) * width / len(lines), 64), line.color)
    return image


def draw_heights(lines: list[Line], fps: float, width: int, height: int = 240) -> np.ndarray:
    """BGR picture of the lines' heights over time: a line every 20 cm and every second."""
    low, high = (f([f(line.places[:, 1]) for line in lines]) for f in (np.min, np.max))
    low, high = np.floor(low * 5) / 5, np.ceil(high * 5 + 0.01) / 5
    last = max(len(line.places) for line in lines) - 1
    across, up = (width - 2 * MARGIN) / max(last, 1), (height - MARGIN) / (high - low)
    image = np.full((height, width, 3), 250, np.uint8)

    def pixels(frames: np.ndarray, values: np.ndarray) -> np.ndarray:
        places = [MARGIN + frames * across, height - 10 - (values - low) * up]
        return np.round(np.stack(places, -1)).astype(np.int32)

    for frame in np.arange(0, last + 1, max(fps, fps * last // 600)):
        ends = pixels(np.array([frame, frame]), np.array([low, high]))
        cv2.line(image, ends[0].tolist(), ends[1].tolist(), (215, 215, 215), 1, cv2.LINE_AA)
    for value in np.arange(low, high + 1e-6, 0.2):
        ends = pixels(np.array([0, last]), np.array([value, value]))
        cv2.line(image, ends[0].tolist(), ends[1].tolist(), (215, 215, 215), 1, cv2.LINE_AA)
        _write(image, f"{value:.1f}", (8, int(ends[0, 1]) + 5))
    _write(image, "height over time, m; a line every second", (MARGIN, 20))
    for line in lines:
        points = pixels(np.arange(len(line.places)), line.places[:, 1])
        cv2.polylines(image, [points], False, line.color, 2, cv2.LINE_AA)
    return image


def _write(image: np.ndarray, text: str, place: tuple[int, int]) -> None:
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (90, 90, 90), 1, cv2.LINE_AA)
