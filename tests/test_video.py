"""Reading and writing video: times, turns, damage and the lines a user gets to read."""

import math
import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropetp_cli.errors import RopeTPError
from ropetp_cli.video.reader import VideoReader, _Clock, true_fps
from ropetp_cli.video.writer import VideoWriter

QUADRANTS = np.array([[0, 85], [170, 255]])  # grey levels: top left, top right, bottom left ...


def picture(width: int, height: int, level: int = 0) -> np.ndarray:
    """Four grey quadrants and a bar whose length tells the frame's number."""
    image = np.zeros((height, width, 3), np.uint8)
    for (row, column), grey in np.ndenumerate(QUADRANTS):
        image[row * height // 2 :, column * width // 2 :] = grey
    image[: height // 8, :level] = (0, 0, 255)
    return image


def quadrants(frame: np.ndarray) -> np.ndarray:
    """The four grey levels of a frame as indices into QUADRANTS, [2, 2]."""
    height, width = frame.shape[:2]
    rows, columns = [height // 4, 3 * height // 4], [width // 4, 3 * width // 4]
    levels = frame[np.ix_(rows, columns)].mean(axis=2)
    return np.abs(levels[..., None] - QUADRANTS.ravel()).argmin(axis=-1)


def write_clip(path: Path, frames: int = 12, size=(64, 48), fps: float = 25.0) -> Path:
    with VideoWriter(path, size, fps) as writer:
        for number in range(frames):
            writer.write(picture(*size, level=4 * number))
    return path


def plain_clip(path: Path, frames: int = 12, size=(64, 48), fps: float = 25.0) -> Path:
    """The same pictures, each shown when it is decoded, the index behind them: easy to edit."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, size)
    for number in range(frames):
        writer.write(picture(*size, level=4 * number))
    writer.release()
    return path


class Mp4:
    """Just enough of the mp4 format to state, in a file's own words, what a test wants."""

    def __init__(self, path: Path):
        self.path, self.data = path, bytearray(path.read_bytes())

    def chain(self, *names: str) -> list[int]:
        """Offsets of nested boxes."""
        start, stop, offsets = 0, len(self.data), []
        for name in names:
            while self.data[start + 4 : start + 8] != name.encode():
                start += self.integer(start)
                assert start < stop, f"no {name} box"
            offsets.append(start)
            start, stop = start + 8, start + self.integer(start)
        return offsets

    def integer(self, offset: int) -> int:
        return struct.unpack_from(">I", self.data, offset)[0]

    def replace(self, names: tuple[str, ...], content: bytes) -> None:
        """A new content for a box after the pictures; all boxes around it change their size."""
        offsets = self.chain(*names)
        old = self.integer(offsets[-1])
        box = struct.pack(">I4s", 8 + len(content), names[-1].encode()) + content
        self.data[offsets[-1] : offsets[-1] + old] = box
        for offset in offsets[:-1]:
            grown = self.integer(offset) + len(box) - old
            self.data[offset : offset + 4] = struct.pack(">I", grown)

    def set_steps(self, seconds: list[float]) -> np.ndarray:
        """A duration for every frame; returns the timestamps."""
        header = self.chain("moov", "trak", "mdia", "mdhd")[-1]
        scale = self.integer(header + 20)
        ticks = [round(step * scale) for step in seconds]
        table = b"".join(struct.pack(">II", 1, tick) for tick in ticks)
        self.replace(
            ("moov", "trak", "mdia", "minf", "stbl", "stts"),
            struct.pack(">II", 0, len(ticks)) + table,
        )
        edits = self.chain("moov", "trak", "edts")[-1]
        self.data[edits + 4 : edits + 8] = b"free"  # its list holds the old duration
        return np.concatenate([[0], np.cumsum(ticks)[:-1]]) / scale

    def set_rotation(self, degrees: int) -> None:
        """The display matrix of the track header: shown turned clockwise."""
        cosine, sine = (
            round(math.cos(math.radians(degrees))),
            round(math.sin(math.radians(degrees))),
        )
        matrix = (cosine, sine, 0, -sine, cosine, 0, 0, 0, 0)
        values = [value << 16 for value in matrix[:8]] + [1 << 30]
        struct.pack_into(">9i", self.data, self.chain("moov", "trak", "tkhd")[-1] + 48, *values)

    def set_pixel_shape(self, across: int, down: int) -> None:
        names = ("moov", "trak", "mdia", "minf", "stbl", "stsd")
        start = self.chain(*names)[-1]
        entries = bytes(self.data[start + 8 : start + self.integer(start)])
        entry = entries[8:] + struct.pack(">I4sII", 16, b"pasp", across, down)
        self.replace(names, entries[:8] + struct.pack(">I", len(entry)) + entry[4:])

    def save(self) -> Path:
        self.path.write_bytes(self.data)
        return self.path


def read_all(path: Path, **span) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], VideoReader]:
    with VideoReader(path, **span) as reader:
        indices, times, frames = zip(*reader, strict=True)
    return np.array(indices), np.array(times), list(frames), reader


@pytest.mark.parametrize("fps", [29.97, 23.976, 25.0, 59.94, 7.5])
def test_rate_survives_writing_and_reading(tmp_path, fps):
    _, times, frames, reader = read_all(write_clip(tmp_path / "a.mp4", fps=fps))
    assert len(frames) == 12 and not reader.warnings
    np.testing.assert_allclose(times, np.arange(12) / fps, atol=1e-4)
    assert reader.info.fps == pytest.approx(fps, rel=2e-6)


@pytest.mark.parametrize("fps", [66.6666, 240.123, 999.9])
def test_rates_beyond_the_time_base_are_kept_closely(tmp_path, fps):
    *_, reader = read_all(write_clip(tmp_path / "a.mp4", fps=fps))
    assert reader.info.fps == pytest.approx(fps, rel=1e-4)


@pytest.mark.parametrize("size", [(64, 48), (63, 47), (31, 64)])
def test_every_size_is_written_even(tmp_path, size):
    _, _, frames, reader = read_all(write_clip(tmp_path / "a.mp4", size=size))
    assert reader.info.size == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    assert frames[0].shape == (*reader.info.size[::-1], 3) and frames[0].dtype == np.uint8
    assert (quadrants(frames[0]) == [[0, 1], [2, 3]]).all()


def test_variable_rate_gives_the_containers_own_times(tmp_path):
    steps = np.random.default_rng(0).uniform(0.01, 0.2, 12)
    mp4 = Mp4(plain_clip(tmp_path / "a.mp4"))
    truth = mp4.set_steps(list(steps))
    _, times, frames, reader = read_all(mp4.save())
    np.testing.assert_allclose(times, truth, atol=1e-6)
    assert len(frames) == 12 and not reader.warnings
    assert reader.info.fps == pytest.approx(11 / truth[-1])


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("size", [(64, 48), (62, 46)])
def test_rotation_flag_turns_the_frames(tmp_path, degrees, size):
    mp4 = Mp4(plain_clip(tmp_path / "a.mp4", size=size))
    mp4.set_rotation(degrees)
    _, _, frames, reader = read_all(mp4.save())
    assert reader.info.rotation == degrees
    assert (quadrants(frames[0]) == np.rot90([[0, 1], [2, 3]], -degrees // 90)).all()
    assert frames[0].shape[1::-1] == reader.info.size
    assert reader.info.size == (size if degrees % 180 == 0 else size[::-1])


def test_wide_pixels_become_square(tmp_path):
    mp4 = Mp4(plain_clip(tmp_path / "a.mp4", size=(48, 48)))
    mp4.set_pixel_shape(4, 3)
    _, _, frames, reader = read_all(mp4.save())
    assert reader.info.size == (64, 48) == frames[0].shape[1::-1]


def test_start_and_end_keep_numbers_and_times(tmp_path):
    path = write_clip(tmp_path / "a.mp4", frames=20, fps=10)
    indices, times, frames, reader = read_all(path, start=0.5, end=1.2)
    assert indices.tolist() == list(range(5, 12)) and reader.expected_frames == 7
    assert times[0] == pytest.approx(0.5) and times[-1] == pytest.approx(1.1)
    whole = read_all(path)[2]
    assert (frames[0] == whole[5]).all() and (frames[-1] == whole[11]).all()


def test_a_reader_can_be_iterated_again(tmp_path):
    with VideoReader(write_clip(tmp_path / "a.mp4")) as reader:
        assert next(iter(reader))[0] == 0
        first, second = ([index for index, *_ in reader] for _ in range(2))
    assert first == second == list(range(12))


def test_truncated_video_keeps_what_decodes_and_says_so(tmp_path):
    path = plain_clip(tmp_path / "a.mp4", frames=60)
    mp4 = Mp4(path)
    start = mp4.chain("moov")[0]  # after the pictures; put it before them, then cut the end off
    table = mp4.chain("moov", "trak", "mdia", "minf", "stbl", "stco")[-1] + 16
    assert mp4.integer(table - 4) == 1
    struct.pack_into(">I", mp4.data, table, mp4.integer(table) + len(mp4.data) - start)
    header, media, index = mp4.data[:28], mp4.data[28:start], mp4.data[start:]
    path.write_bytes(header + index + media[: len(media) // 3])
    _, _, frames, reader = read_all(path)
    assert 1 < len(frames) < 40
    assert reader.warnings == [
        f"decoded {len(frames)} of 60 frames claimed by a.mp4; the rest is missing or damaged"
    ]


def bad_file(kind: str, folder: Path) -> Path:
    path = folder / "clip.mp4"
    if kind == "directory":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("this is no video\n" * 50)
    elif kind == "playlist":
        path.write_text("#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n")
    elif kind == "codec":
        mp4 = Mp4(plain_clip(path))
        where = mp4.data.index(b"mp4v")
        mp4.data[where : where + 4] = b"zzzz"
        where = mp4.data.index(b"esds")
        mp4.data[where : where + 4] = b"free"
        mp4.save()
    elif kind == "still":
        path = path.with_suffix(".png")
        cv2.imwrite(str(path), picture(32, 32))
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "does not exist"),
        ("directory", "is not a file"),
        ("empty", "is empty"),
        ("text", "is not a video"),
        ("playlist", "is not a video"),
        ("codec", "codec|could be decoded"),
        ("still", "ropetp pose"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, capfd, kind, words):
    path = bad_file(kind, tmp_path)
    with pytest.raises(RopeTPError, match=words) as caught:
        read_all(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_span_errors(tmp_path):
    path = write_clip(tmp_path / "a.mp4")
    with pytest.raises(RopeTPError, match=r"its last one is at 0\.44 s"):
        read_all(path, start=99.0)
    for start, end in ((2.0, 1.0), (-1.0, 1.0), (math.nan, 1.0)):
        with pytest.raises(RopeTPError, match="the start must be"):
            VideoReader(path, start, end)


def test_opening_leaves_the_environment_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "threads;1")
    read_all(write_clip(tmp_path / "a.mp4"))
    assert os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] == "threads;1"


def clock(raw: list[float], fps: float = 25.0) -> tuple[np.ndarray, _Clock]:
    keeper = _Clock(fps)
    return np.array([keeper.read(i, t) for i, t in enumerate(raw)]), keeper


def test_clock_without_times_counts_frames():
    for raw in ([0.0] * 80, [math.nan] * 80):
        times, keeper = clock(raw)
        np.testing.assert_allclose(times, np.arange(80) / 25, atol=1e-9)
        assert keeper.mended >= 79 and keeper.first_mended <= 1


def test_clock_goes_on_after_a_restart_and_recovers_from_a_slip():
    good = np.arange(50) / 25
    times, keeper = clock([*good, *good])
    np.testing.assert_allclose(times, np.arange(100) / 25, atol=1e-9)
    assert (keeper.mended, keeper.first_mended) == (1, 50)
    raw = good.copy()
    raw[20] = raw[19]
    times, keeper = clock(list(raw))
    np.testing.assert_allclose(times, good, atol=1e-9)
    assert clock([*good[:20], *(good[20:] + 4000)])[0][-1] == pytest.approx(good[-1])


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=40))
def test_clock_always_goes_forward(raw):
    times, _ = clock(raw)
    assert np.isfinite(times).all() and (np.diff(times) > 0).all()


@given(
    st.floats(5, 240), st.integers(10, 3000), st.sampled_from([0.0, 1e-3]), st.integers(0, 2**31)
)
def test_true_fps_sees_through_rounding(fps, count, grid, seed):
    times = np.arange(count) / fps
    if grid:
        times = np.round(times / grid) * grid
    assert true_fps(times, fps) == fps
    assert true_fps(times) == pytest.approx(fps, rel=1.1e-3 * fps / (count - 1) + 1e-9)


def test_true_fps_of_one_frame():
    assert true_fps(np.array([3.0]), 12.5) == 12.5


def test_writer_is_whole_or_absent(tmp_path):
    path = write_clip(tmp_path / "a.mp4")
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), VideoWriter(path, (64, 48), 30) as writer:
        writer.write(picture(64, 48))
        raise ZeroDivisionError
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "frame", [np.zeros((48, 48, 3), np.uint8), np.zeros((48, 64, 3), np.float32)]
)
def test_writer_refuses_other_frames(tmp_path, frame):
    with (
        pytest.raises(RopeTPError, match="64x48"),
        VideoWriter(tmp_path / "a.mp4", (64, 48), 30) as w,
    ):
        w.write(frame)
    assert not list(tmp_path.iterdir())


def test_writer_errors(tmp_path, capfd):
    with pytest.raises(RopeTPError, match="cannot write"):
        VideoWriter(tmp_path / "no" / "a.mp4", (64, 48), 30)
    with pytest.raises(RopeTPError, match="no frame"):
        VideoWriter(tmp_path / "a.mp4", (64, 48), 30).close()
    with pytest.raises(RopeTPError, match="frames/s"):
        VideoWriter(tmp_path / "a.mp4", (64, 48), 0)
    (tmp_path / "b.mp4").mkdir()
    with pytest.raises(RopeTPError, match=r"b\.mp4"):
        write_clip(tmp_path / "b.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["b.mp4"]
    assert capfd.readouterr() == ("", "")


def stream(path: Path, kind: str):
    with av.open(str(path)) as file:
        return next((stream for stream in getattr(file.streams, kind)), None)


def test_videos_are_what_phones_play(tmp_path):
    path = write_clip(tmp_path / "a.mp4", size=(63, 47), fps=30000 / 1001)
    found = stream(path, "video")
    assert (found.codec_context.name, found.codec_context.pix_fmt) == ("h264", "yuv420p")
    assert found.average_rate == Fraction(30000, 1001) and found.frames == 12
    assert (found.codec_context.width, found.codec_context.height) == (64, 48)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays before it is whole


def with_sound(path: Path, codec: str, seconds: float = 2.0) -> Path:
    """A video of grey pictures with a tone that begins at half its length."""
    rate = 16000
    samples = np.sin(np.arange(int(seconds * rate)) * 2 * np.pi * 440 / rate)
    samples[: len(samples) // 2] = 0
    with av.open(str(path), "w") as file:
        pictures = file.add_stream("mpeg4", rate=25)
        pictures.width, pictures.height = 64, 48
        sound = file.add_stream(codec, rate=rate, layout="mono")
        for number in range(int(25 * seconds)):
            frame = av.VideoFrame.from_ndarray(picture(64, 48, number), format="bgr24")
            file.mux(pictures.encode(frame))
        frame = av.AudioFrame.from_ndarray(
            (20000 * samples).astype(np.int16)[None], format="s16", layout="mono"
        )
        frame.sample_rate = rate
        for part in (frame, None):
            file.mux(sound.encode(part))
        file.mux(pictures.encode())
    return path


@pytest.mark.parametrize("suffix, codec", [(".mp4", "aac"), (".mov", "pcm_s16le")])
@pytest.mark.parametrize("start", [0.0, 0.4])
def test_sound_comes_along_in_step(tmp_path, suffix, codec, start):
    source = with_sound(tmp_path / f"source{suffix}", codec)
    with (
        VideoReader(source, start) as reader,
        VideoWriter(tmp_path / "out.mp4", (64, 48), 25, sound=source) as writer,
    ):
        for _, time, frame in reader:
            writer.write(frame, time)
    assert stream(tmp_path / "out.mp4", "audio").codec_context.name == "aac"
    heard, times = [], []
    with av.open(str(tmp_path / "out.mp4")) as file:
        for frame in file.decode(audio=0):
            heard.append(np.abs(frame.to_ndarray()).max())
            times.append(frame.time)
    loud = np.array(heard) > 0.2
    assert times[int(loud.argmax())] == pytest.approx(1.0 - start, abs=0.13)
    assert not loud[:3].any() and loud[-4:-2].all()
    assert times[-1] == pytest.approx(2.0 - start, abs=0.15)


def test_a_silent_or_vanished_source_gives_a_silent_video(tmp_path):
    for source in (write_clip(tmp_path / "a.mp4"), tmp_path / "none.mp4"):
        with VideoWriter(tmp_path / "out.mp4", (64, 48), 25, sound=source) as writer:
            writer.write(picture(64, 48), 0.0)
            writer.write(picture(64, 48), 0.04)
        assert stream(tmp_path / "out.mp4", "audio") is None


def test_frames_keep_their_own_times(tmp_path):
    times = np.array([0.5, 0.54, 0.7, 0.71, 1.2])
    with VideoWriter(tmp_path / "a.mp4", (64, 48), 25) as writer:
        for number, time in enumerate(times):
            writer.write(picture(64, 48, 4 * number), time)
    np.testing.assert_allclose(read_all(tmp_path / "a.mp4")[1], times - 0.5, atol=1e-3)
