"""Writing an mp4 file that appears under its name only when it is complete."""

import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np

from ropetp_cli.errors import RopeTPError
from ropetp_cli.files import draft_name
from ropetp_cli.video.reader import quiet_opencv

#: Tried in order. H.264 plays everywhere, but OpenCV's PyPI builds for Linux carry no encoder.
CODECS = ("avc1", "mp4v")
#: MPEG-4 part 2 counts time in 1/n s with n of at most this.
MAX_TIME_BASE = 65535


def _writable_fps(fps: float) -> float:
    """``fps`` with as many decimals, at most three, as an MPEG-4 time base can hold."""
    for decimals in (3, 2, 1):
        if round(fps * 10**decimals) <= MAX_TIME_BASE:
            return round(fps, decimals)
    return float(round(fps))


class VideoWriter:
    """Writes uint8 [H, W, 3] BGR frames to an mp4 file at a constant rate.

    ``size`` is (width, height) of the frames given; an odd side grows by one repeated line of
    pixels, because 4:2:0 video is even. ``fps`` is kept to 0.001 frames/s. The frames go to a
    temporary file in the same folder, renamed to ``path`` by :meth:`close`; leaving the ``with``
    block by an error removes it and leaves any earlier file at ``path`` alone. Where this OpenCV
    can't encode H.264 the video is MPEG-4 part 2, and an ``ffmpeg`` on the PATH, if there is one,
    turns it into H.264, which browsers play too.

    Raises RopeTPError when the file can't be written or a frame has another size.
    """

    def __init__(self, path: str | Path, size: tuple[int, int], fps: float):
        if not (np.isfinite(fps) and fps > 0 and min(size) > 0):
            raise RopeTPError(f"cannot write {path} with size {size} and {fps} frames/s")
        self.path, self.size, self.fps = Path(path), tuple(size), _writable_fps(fps)
        self._pad = (size[1] % 2, size[0] % 2)
        self._temporary = draft_name(self.path).with_suffix(".mp4")
        self._encoded = self._temporary.with_suffix(".h264.mp4")
        self.frames = 0
        quiet_opencv()
        even = (size[0] + self._pad[1], size[1] + self._pad[0])
        for self.codec in CODECS:
            self._writer = cv2.VideoWriter(
                str(self._temporary),
                cv2.CAP_FFMPEG,
                cv2.VideoWriter_fourcc(*self.codec),
                self.fps,
                even,
            )
            if self._writer.isOpened():
                return
        self.discard()
        raise RopeTPError(f"cannot write {self.path}: check that its folder exists and has room")

    def write(self, frame: np.ndarray) -> None:
        """Append one frame, uint8 [H, W, 3] BGR."""
        if frame.shape[1::-1] != self.size or frame.dtype != np.uint8:
            raise RopeTPError(
                f"{self.path.name} takes {self.size[0]}x{self.size[1]} uint8 frames, "
                f"got {frame.dtype} {list(frame.shape)}"
            )
        if any(self._pad):
            frame = cv2.copyMakeBorder(
                frame, 0, self._pad[0], 0, self._pad[1], cv2.BORDER_REPLICATE
            )
        self._writer.write(frame)
        self.frames += 1

    def close(self) -> None:
        """Finish the file and give it its name."""
        try:
            self._writer.release()
            self._check_complete()
            if self.codec != "avc1":
                self._to_h264()
            os.replace(self._temporary, self.path)
        except OSError as error:
            raise RopeTPError(f"cannot write {self.path}: {error.strerror}") from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what is not finished."""
        self._writer.release()
        self._temporary.unlink(missing_ok=True)
        self._encoded.unlink(missing_ok=True)

    def _check_complete(self) -> None:
        """OpenCV does not report a full disk; the file it leaves behind does."""
        capture = cv2.VideoCapture(str(self._temporary), cv2.CAP_FFMPEG)
        stored = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if stored != self.frames or stored == 0:
            raise RopeTPError(
                f"cannot write {self.path}: {stored} of {self.frames} frames were stored; "
                "check the room on its disk"
            )

    def _to_h264(self) -> None:
        if (ffmpeg := shutil.which("ffmpeg")) is None:
            return
        options = "-c:v libx264 -preset veryfast -crf 20 -pix_fmt yuv420p -movflags +faststart"
        files = ["-i", self._temporary, *options.split(), self._encoded]
        done = subprocess.run(
            [ffmpeg, "-v", "error", "-y", *files], stdin=subprocess.DEVNULL, capture_output=True
        )
        if done.returncode == 0:
            os.replace(self._encoded, self._temporary)
            self.codec = "avc1"

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()
