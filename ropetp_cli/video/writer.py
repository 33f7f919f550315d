"""Writing an mp4 file that appears under its name only when it is complete."""

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from ropetp_cli.errors import RopeTPError
from ropetp_cli.files import draft_name

#: Rates as fractions: 29.97 becomes 30000/1001 again.
LARGEST_DENOMINATOR = 1001
CLOCK = 90_000  # ticks a second, about: a step of the rate is a whole number of ticks
#: Sound that mp4 players know; any other becomes AAC.
KNOWN_SOUND = ("aac", "mp3")


class VideoWriter:
    """Writes uint8 [H, W, 3] BGR frames to an mp4 file that phones and browsers play.

    H.264, 4:2:0, the index at the front. ``size`` is (width, height) of the frames given; an odd
    side grows by one repeated line of pixels, because 4:2:0 video is even. ``fps`` is the rate;
    frames given with a time are shown at it. ``sound`` is a video whose first sound track goes
    along with frames that have times. The frames go to a temporary file in the same folder,
    renamed to ``path`` by :meth:`close`; leaving the ``with`` block by an error removes it and
    leaves any earlier file at ``path`` alone.

    Raises RopeTPError when the file can't be written or a frame has another size.
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        fps: float,
        sound: str | Path | None = None,
    ):
        if not (np.isfinite(fps) and fps > 0 and min(size) > 0):
            raise RopeTPError(f"cannot write {path} with size {size} and {fps} frames/s")
        self.path, self.size, self.fps = Path(path), tuple(size), float(fps)
        self._pad = (size[1] % 2, size[0] % 2)
        self._temporary = draft_name(self.path).with_suffix(".mp4")
        self.frames = 0
        self._first: float | None = None  # s, of the first frame and the last
        self._last: float | None = None
        rate = Fraction(fps).limit_denominator(LARGEST_DENOMINATOR)
        try:
            self._temporary.touch()
            self._file = av.open(str(self._temporary), "w", options={"movflags": "faststart"})
        except (OSError, av.FFmpegError) as error:
            raise RopeTPError(
                f"cannot write {self.path}: check that its folder exists and has room"
            ) from error
        self._stream = self._file.add_stream(
            "libx264", rate=rate, options={"preset": "veryfast", "crf": "20"}
        )
        self._stream.width, self._stream.height = size[0] + self._pad[1], size[1] + self._pad[0]
        self._stream.pix_fmt = "yuv420p"
        fine = max(1, round(CLOCK / rate.numerator))
        self._tick, self._step = 1 / Fraction(fine * rate.numerator), fine * rate.denominator
        self._stream.codec_context.time_base = self._tick
        self._sound = _Sound.of(sound, self._file) if sound is not None else None

    def write(self, frame: np.ndarray, time: float | None = None) -> None:
        """Append one frame, uint8 [H, W, 3] BGR, shown at ``time`` s of the source, or, without
        times, at the next step of the rate."""
        if frame.shape[1::-1] != self.size or frame.dtype != np.uint8:
            raise RopeTPError(
                f"{self.path.name} takes {self.size[0]}x{self.size[1]} uint8 frames, "
                f"got {frame.dtype} {list(frame.shape)}"
            )
        if any(self._pad):
            frame = cv2.copyMakeBorder(
                frame, 0, self._pad[0], 0, self._pad[1], cv2.BORDER_REPLICATE
            )
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="bgr24")
        self._first = time if self._first is None else self._first
        if time is None:
            picture.pts = self.frames * self._step
        else:
            picture.pts = round((time - self._first) / self._tick)
        picture.time_base = self._tick
        with self._refusals():
            if self._sound is not None and time is not None:
                self._file.mux(self._sound.between(self._first, time))
            self._file.mux(self._stream.encode(picture))
        self._last, self.frames = time, self.frames + 1

    def close(self) -> None:
        """Finish the file and give it its name."""
        try:
            if not self.frames:
                raise RopeTPError(f"cannot write {self.path}: it would have no frame")
            with self._refusals():
                self._file.mux(self._stream.encode())
                if self._sound is not None and self._last is not None:
                    step = float(self._step * self._tick)
                    self._file.mux(self._sound.between(self._first, self._last + step))
                    self._file.mux(self._sound.rest())
                self._file.close()
                os.replace(self._temporary, self.path)
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what is not finished."""
        with contextlib.suppress(OSError, av.FFmpegError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """A full disk and the like, in one line."""
        try:
            yield
        except (OSError, av.FFmpegError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RopeTPError(f"cannot write {self.path}: {reason}") from error

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


class _Sound:
    """The first sound track of a video on its way into another file, packet by packet."""

    def __init__(self, source: av.container.InputContainer, target: av.container.OutputContainer):
        self._source, self._stream = source, source.streams.audio[0]
        pictures = source.streams.video[0]
        self._zero = float((pictures.start_time or 0) * pictures.time_base)
        known = self._stream.codec_context.name in KNOWN_SOUND
        if known:
            self._target = target.add_stream_from_template(self._stream)
        else:
            self._target = target.add_stream("aac", rate=self._stream.codec_context.sample_rate)
        self._copied = known
        self._packets = source.demux(self._stream)
        self._waiting: av.Packet | None = None

    @classmethod
    def of(cls, path: str | Path, target: av.container.OutputContainer) -> "_Sound | None":
        """The sound of the video at ``path``; None where it has none that can be read."""
        try:
            source = av.open(str(path))
            return cls(source, target) if source.streams.audio else None
        except (OSError, av.FFmpegError):
            return None

    def between(self, first: float, time: float) -> list[av.Packet]:
        """The packets up to ``time`` s of the source, with ``first`` s as their new zero."""
        found: list[av.Packet] = []
        while (packet := self._waiting or self._next()) is not None:
            at = float(packet.pts * packet.time_base) - self._zero
            self._waiting = packet if at > time else None
            if self._waiting is not None:
                break
            if at >= first:
                found += self._moved(packet, round((first + self._zero) / packet.time_base))
        return found

    def rest(self) -> list[av.Packet]:
        """What the encoder still holds."""
        return [] if self._copied else self._target.encode(None)

    def _next(self) -> av.Packet | None:
        try:
            return next((packet for packet in self._packets if packet.pts is not None), None)
        except av.FFmpegError:  # damaged from here on
            return None

    def _moved(self, packet: av.Packet, shift: int) -> list[av.Packet]:
        if self._copied:
            packet.pts -= shift
            packet.dts = packet.pts
            packet.stream = self._target
            return [packet]
        found = []
        for frame in packet.decode():
            frame.pts = None  # the encoder counts samples
            found += self._target.encode(frame)
        return found
