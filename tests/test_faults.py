"""Full disks and sudden death: never a half-written file under its final name."""

import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_hostile import whole_motion
from test_pipeline import photo

from ropetp_cli import exchange, stages
from ropetp_cli.errors import RopeTPError
from ropetp_cli.exchange.bvh import read_bvh
from ropetp_cli.files import write_json
from ropetp_cli.runs import last_report
from ropetp_cli.video.reader import VideoReader
from ropetp_cli.video.writer import VideoWriter

#: How often a process is killed; ROPETP_TEST_KILLS sets another number.
KILLS = int(os.environ.get("ROPETP_TEST_KILLS", 100))


def write_video(path: Path) -> None:
    rng = np.random.default_rng(0)
    with VideoWriter(path, (320, 240), 25) as video:
        for _ in range(4):
            video.write(rng.integers(0, 255, (240, 320, 3), dtype=np.uint8))


def write_stage(path: Path) -> None:
    stages.save(path, "key", np.random.default_rng(0).random(20_000), {})


WRITERS: dict[str, Callable[[Path], object]] = {
    "person_01.npz": lambda path: exchange.write(whole_motion(), path),
    "person_01.bvh": lambda path: exchange.write(whole_motion(), path),
    "person_01.glb": lambda path: exchange.write(whole_motion(), path),
    "report.json": lambda path: write_json({"list": list(range(5000))}, path),
    "people.npz": write_stage,
    "overlay.mp4": write_video,
}


def assert_whole(folder: Path) -> int:
    """Every file under a final name can be read to its end; how many there are."""
    count = 0
    for path in folder.rglob("*"):
        if path.is_dir() or path.name.startswith(".") or path.name == stages.TAG:
            continue
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                assert all(file[name] is not None for name in file.files)
        elif path.suffix == ".bvh":
            read_bvh(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".mp4":
            with VideoReader(path) as reader:
                assert sum(1 for _ in reader) == reader.info.frame_count and not reader.warnings
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>")
        else:
            content = path.read_bytes()
            assert path.suffix == ".glb" and len(content) == int.from_bytes(content[8:12], "little")
        count += 1
    return count


def in_child(work: Callable[[], object], kill_after: float | None = None) -> int:
    """The exit code of ``work`` in a process of its own; that process may be killed."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            work()
            code = 0
        except RopeTPError as error:
            code = 3 if len(str(error).splitlines()) == 1 else 4
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("room", [0, 1000, 4096])
def test_a_full_disk_keeps_the_old_file_and_leaves_no_half(tmp_path, name, room):
    cv2.setNumThreads(1)
    path = tmp_path / name
    WRITERS[name](path)
    before = path.read_bytes()
    assert len(before) > room

    def write() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        WRITERS[name](path)

    assert in_child(write) == 3
    assert path.read_bytes() == before
    assert [other.name for other in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_is_read_only_is_one_line(tmp_path, name):
    cv2.setNumThreads(1)
    WRITERS[name](tmp_path / name)
    before = (tmp_path / name).read_bytes()
    tmp_path.chmod(0o555)

    def write() -> None:
        os.chdir(tmp_path)
        if os.geteuid() == 0:
            os.setuid(65534)  # to whom modes matter
        WRITERS[name](Path(name))

    try:
        assert in_child(write) == 3
    finally:
        tmp_path.chmod(0o755)
    assert (tmp_path / name).read_bytes() == before
    assert [other.name for other in tmp_path.iterdir()] == [name]


def test_writers_killed_at_random_moments(tmp_path):
    cv2.setNumThreads(1)
    chance = random.Random(0)

    def write() -> None:
        while True:
            for name in order:
                WRITERS[name](tmp_path / name)

    for name, writer in WRITERS.items():  # a busy machine kills some before they finish once
        writer(tmp_path / name)
    killed = 0
    for _ in range(KILLS):
        order = chance.sample(list(WRITERS), len(WRITERS))
        killed += in_child(write, chance.uniform(0.01, 0.15)) == -signal.SIGKILL
        assert_whole(tmp_path)
    assert killed == KILLS and assert_whole(tmp_path) == len(WRITERS)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_captures_killed_at_random_moments(tmp_path):
    """Each try goes on with what the last one left; a finished one is compared and begun anew."""
    import torch

    from ropetp_cli.pipeline import CaptureOptions, Models, capture

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    clip = tmp_path / "street.mp4"
    with VideoWriter(clip, (640, 640), 24) as video:
        for index in range(14):
            video.write(np.roll(photo()[330:970, :640], -index, axis=1))
    options = CaptureOptions(steps=10, formats=("npz", "bvh", "glb"))
    models = Models(options)
    models.detector.detect(photo())
    began = time.monotonic()
    whole = capture(clip, tmp_path / "whole", options, models=models)
    seconds = time.monotonic() - began
    out, chance = tmp_path / "out", random.Random(1)
    kills = finished = 0
    while kills < KILLS:
        code = in_child(
            lambda: capture(clip, out, options, models=models), chance.uniform(0, seconds)
        )
        assert code in (0, -signal.SIGKILL)
        kills += code == -signal.SIGKILL
        if out.exists():
            assert_whole(out)
        if code == 0:
            finished += 1
            assert set(last_report(out)["files"]) == set(whole.report["files"])
            assert not [path for path in out.rglob("*") if ".part" in path.name]
            for path in whole.out.glob("*.npz"):
                with np.load(path) as one, np.load(out / path.name) as other:
                    for key in one.files:
                        np.testing.assert_array_equal(one[key], other[key])
            shutil.rmtree(out)
    print(f"{kills} kills, {finished} captures finished in spite of them, {seconds:.1f} s each")
    assert finished > 0
