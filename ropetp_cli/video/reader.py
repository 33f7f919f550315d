"""Reading a video frame by frame, upright, with the time each frame is shown at."""

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from ropetp_cli.errors import RopeTPError
from ropetp_cli.motion import ROUNDING, VideoInfo

#: The step assumed where a video states neither a frame rate nor usable timestamps, frames/s.
FALLBACK_FPS = 30.0
#: A first frame later than this (a day) has a broken clock, s.
LATEST_START = 86400.0
#: A longer step between two frames is a broken clock, not a pause, s.
LONGEST_STEP = 10.0
#: A clock that goes back further than this was restarted; a smaller slip heals by itself, s.
LONGEST_SLIP = 1.0
#: Larger pictures than this, px, are a damaged header.
MOST_PIXELS = 1 << 27

_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
_STILLS = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


def quiet_opencv() -> None:
    """Keep OpenCV and the FFmpeg inside it from writing to stderr; faults become RopeTPErrors.

    FFmpeg reads its variable when the first video is opened, so this runs before that. Where the
    user has set OPENCV_LOG_LEVEL or OPENCV_FFMPEG_LOGLEVEL, those stay.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def true_fps(timestamps: np.ndarray, nominal: float = 0.0) -> float:
    """The average frame rate of increasing timestamps [N] s, frames/s.

    Containers round timestamps (Matroska to 1 ms). Where ``nominal``, the rate the container
    states, explains them within that rounding, it is returned instead: 29.97 stays 29.97.
    A single timestamp gives ``nominal``, or FALLBACK_FPS where that is not known either.
    """
    return _average_fps(len(timestamps) - 1, timestamps[-1] - timestamps[0], nominal)


def _average_fps(steps: int, span: float, nominal: float) -> float:
    if steps < 1:
        return nominal or FALLBACK_FPS
    if nominal > 0 and abs(span - steps / nominal) <= ROUNDING:
        return nominal
    return float(steps / span)


class _Clock:
    """Makes a container's timestamps increase strictly and counts those it had to mend."""

    def __init__(self, fps: float):
        self.step, self.shift = 1 / fps, 0.0
        self.last = -math.inf
        self.mended, self.first_mended = 0, 0

    def read(self, index: int, raw: float) -> float:
        """The timestamp of frame ``index``, from the container's ``raw`` seconds."""
        step = raw + self.shift - self.last
        if index == 0:
            good = 0 <= raw <= LATEST_START
            time = raw if good else 0.0
            self.shift = time - raw if math.isfinite(raw) else 0.0
        else:
            good = 0 < step <= LONGEST_STEP
            time = raw + self.shift if good else self.last + self.step
            if not good and not -LONGEST_SLIP < step <= 0 and math.isfinite(raw):
                self.shift = time - raw
        if not good:
            self.first_mended = self.first_mended if self.mended else index
            self.mended += 1
        self.last = float(time)
        return self.last


class VideoReader:
    """Streams a video's frames; iterate as often as wanted, each time from the start.

    Yields ``(index, timestamp, frame)``: the frame's number in the source from 0, the seconds it
    is shown at by the container (``index / fps`` where that clock is broken) and the picture,
    uint8 [H, W, 3] BGR, turned by the rotation flag and with square pixels. One frame is in
    memory at a time. ``start`` and ``end`` (s) keep the frames with start <= timestamp < end;
    frames before ``start`` are decoded and dropped, because seeking is not exact to the frame.

    ``info.fps`` is the container's statement at first and the true average of the frames read
    once an iteration has reached its end. ``warnings`` then tells, one line each, what was wrong:
    timestamps that were mended, or fewer frames than the container claims.

    Raises RopeTPError when the file is missing, is no video this OpenCV decodes, or ends before
    ``start``.
    """

    def __init__(self, path: str | Path, start: float | None = None, end: float | None = None):
        self.path = Path(path)
        self.start, self.end = start or 0.0, math.inf if end is None else end
        self.warnings: list[str] = []
        if not 0 <= self.start < self.end:
            raise RopeTPError(
                f"cannot read {self.path.name} from {self.start:g} s to {self.end:g} s: "
                "the start must be 0 or more and lie before the end"
            )
        self._check_file()
        quiet_opencv()
        self._capture = self._open()
        self._started = False
        self.info = self._describe()
        self._stated_fps = self.info.fps

    def _check_file(self) -> None:
        if not self.path.exists():
            raise RopeTPError(f"{self.path} does not exist")
        if not self.path.is_file():
            raise RopeTPError(f"{self.path} is not a file; name one video (or use ropetp batch)")
        if not os.access(self.path, os.R_OK):
            raise RopeTPError(f"{self.path} may not be read; check its permissions")
        if self.path.stat().st_size == 0:
            raise RopeTPError(f"{self.path} is empty (0 bytes); copy or export it again")
        if self.path.suffix.lower() in _STILLS:
            raise RopeTPError(f"{self.path} is a still image; use ropetp pose")

    def _open(self) -> cv2.VideoCapture:
        """A capture whose first frame is grabbed."""
        # A playlist with a video's name must not make FFmpeg reach for the network.
        before = os.environ.get("OPENCV_FFMPEG_CAPTURE_OPTIONS")
        os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "protocol_whitelist;file"
        try:
            capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        finally:
            if before is None:
                del os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"]
            else:
                os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = before
        remedy = f"convert it first: ffmpeg -i {self.path.name} -c:v libx264 converted.mp4"
        if not capture.isOpened():
            raise RopeTPError(
                f"{self.path} is not a video, is damaged, or has an unknown codec; {remedy}"
            )
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        if not capture.grab():
            capture.release()
            raise RopeTPError(f"no frame of {self.path} could be decoded; {remedy}")
        return capture

    def _describe(self) -> VideoInfo:
        get = self._capture.get
        fps = get(cv2.CAP_PROP_FPS)
        if not (math.isfinite(fps) and fps > 0):
            self._warn(f"{self.path.name} states no frame rate; {FALLBACK_FPS:g} frames/s assumed")
            fps = FALLBACK_FPS
        turned_already = get(cv2.CAP_PROP_ORIENTATION_AUTO) > 0
        degrees = round(get(cv2.CAP_PROP_ORIENTATION_META) / 90) * 90 % 360
        self._turn = None if turned_already else _TURNS.get(degrees)
        width, height = int(get(cv2.CAP_PROP_FRAME_WIDTH)), int(get(cv2.CAP_PROP_FRAME_HEIGHT))
        across, down = get(cv2.CAP_PROP_SAR_NUM), get(cv2.CAP_PROP_SAR_DEN)
        if across > 0 and down > 0:
            width = max(1, round(width * across / down))
        if not 0 < width * height <= MOST_PIXELS:
            self._capture.release()
            raise RopeTPError(
                f"{self.path} says that its pictures have {width} x {height} pixels; it is damaged"
            )
        self._stored_size = width, height  # square pixels, before our turn
        if self._turn is not None and degrees != 180:
            width, height = height, width
        count = max(0, int(get(cv2.CAP_PROP_FRAME_COUNT)))
        return VideoInfo(str(self.path), width, height, fps, count, degrees)

    @property
    def expected_frames(self) -> int:
        """How many frames an iteration should yield, by the container's word; 0 if unknown."""
        span = min(self.end * self.info.fps, self.info.frame_count) - self.start * self.info.fps
        return max(0, round(span))

    def __iter__(self) -> Iterator[tuple[int, float, np.ndarray]]:
        if self._started:
            self._capture.release()
            self._capture = self._open()
        self._started = True
        capture, clock = self._capture, _Clock(self._stated_fps)
        index, kept, first = 0, 0, 0.0
        while (time := clock.read(index, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)) < self.end:
            if time >= self.start:
                decoded, frame = capture.retrieve()
                if decoded:
                    first, kept, last = (first if kept else time), kept + 1, time
                    yield index, time, self._upright(frame)
            index += 1
            if not capture.grab():
                self._check_length(index, clock.last)
                break
        if clock.mended:
            self._warn(
                f"{self.path.name} has broken timestamps from frame {clock.first_mended} on: "
                f"{clock.mended} frames are timed by its rate of {self._stated_fps:g} frames/s"
            )
        if not kept:
            raise RopeTPError(
                f"{self.path} has no frame from {self.start:g} s on: its last one is at "
                f"{clock.last:.2f} s; choose an earlier --start"
            )
        self.info = replace(self.info, fps=_average_fps(kept - 1, last - first, self._stated_fps))

    def _upright(self, frame: np.ndarray) -> np.ndarray:
        if frame.ndim == 2:
            frame = cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)
        if frame.shape[1::-1] != self._stored_size:
            frame = cv2.resize(frame, self._stored_size, interpolation=cv2.INTER_LINEAR)
        return frame if self._turn is None else cv2.rotate(frame, self._turn)

    def _check_length(self, decoded: int, last: float) -> None:
        """Warn where decoding ended clearly before the container's claim, in frames and time."""
        claimed, step = self.info.frame_count, 1 / self._stated_fps
        missing = claimed * step - (last + step)
        if decoded < claimed and missing > max(1.5 * step, 0.01 * claimed * step):
            self._warn(
                f"decoded {decoded} of {claimed} frames claimed by {self.path.name}; "
                "the rest is missing or damaged"
            )

    def _warn(self, line: str) -> None:
        if line not in self.warnings:
            self.warnings.append(line)

    def close(self) -> None:
        """Release the decoder."""
        self._capture.release()

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
