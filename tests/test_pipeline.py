"""The real pipeline on a short clip of real people, and what it says to bad input."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from filmed import unseen
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from ropetp_cli import load_motion, pipeline
from ropetp_cli.assembly import (
    Scene,
    assemble_motion,
    make_timeline,
    out_of_floor,
    place_in_one_world,
    steady_in_view,
    trust,
)
from ropetp_cli.body.model import load_body
from ropetp_cli.body.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from ropetp_cli.body.skeleton import NUM_BETAS
from ropetp_cli.camera.gravity import LEVEL, lowest_foot
from ropetp_cli.cli import group, main
from ropetp_cli.cli.capture import show_report
from ropetp_cli.errors import RopeTPError
from ropetp_cli.evaluation.motion import compare_run
from ropetp_cli.motion import Camera, PoseSequence, Track, VideoInfo
from ropetp_cli.people.tracker import TrackingResult
from ropetp_cli.pipeline import (
    CaptureOptions,
    before_camera,
    capture,
    heights_on_one_floor,
    within_sight,
)
from ropetp_cli.rope.predictor import CropPoses, RopePredictor, posed_joints
from ropetp_cli.rope.temporal import TemporalRefiner, TemporalRope
from ropetp_cli.stills import FOCAL_LENGTH_35MM, stated_focal_mm
from ropetp_cli.trajectory.fusion import FOOT_HEIGHT
from ropetp_cli.video.writer import VideoWriter

FRAMES, FPS = 36, 24.0


@pytest.mark.parametrize(
    ("told", "held"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_waiting_threads_let_go_of_their_core_unless_told_otherwise(told, held):
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import os, ropetp_cli; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | told, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == held


def photo() -> np.ndarray:
    """The street photo in the ultralytics package: four people, one of them cut off."""
    import ultralytics

    return cv2.imread(str(Path(ultralytics.__file__).parent / "assets" / "bus.jpg"))


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    """Real people, seen by a camera that pans a little."""
    path = tmp_path_factory.mktemp("clip") / "street.mp4"
    image = photo()
    with VideoWriter(path, (640, 640), FPS) as video:
        for index in range(FRAMES):
            shift = np.array([[1.0, 0, -60 - index], [0, 1.0, -330]])
            video.write(cv2.warpAffine(image, shift, (640, 640)))
    return path


@pytest.fixture(scope="session")
def done(clip, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "street"
    return capture(clip, out, CaptureOptions(steps=10, formats=("npz", "bvh", "glb")))


def test_every_promised_file_is_there(done):
    names = {path.name for path in done.files}
    assert {
        "person_01.npz",
        "person_01.bvh",
        "person_01.glb",
        "overlay.mp4",
        "report.json",
    } <= names
    assert all(path.stat().st_size > 0 for path in done.files)
    report = json.loads((done.out / "report.json").read_text())
    assert report["video"]["fps"] == pytest.approx(FPS, abs=0.01)
    assert report["video"]["frames"] == FRAMES
    assert {"people", "pose", "path"} <= set(report["stages"])


def test_people_agree_with_the_detectors_keypoints(done):
    shares = [person["joint_agreement"]["share"] for person in done.report["people"]]
    assert max(shares) > 0.6


def test_a_focal_length_that_is_only_assumed_is_noted(done, capsys):
    for source, noted in (("assumed (image diagonal)", True), ("read off straight edges", False)):
        report = {**done.report, "camera": {**done.report["camera"], "focal_source": source}}
        show_report(report, done.out)
        assert ("--focal-mm" in capsys.readouterr().err) == noted


def test_npz_is_consistent_with_the_body(done):
    path = done.out / "person_01.npz"
    motion = load_motion(path)
    rest = load_body().rest_joints(motion.betas)
    np.testing.assert_allclose(motion.trans + rest[0], motion.joints[:, 0], atol=1e-4)
    assert abs(motion.joints[0, 0, [0, 2]]).max() < 1e-4  # the first person begins at the origin
    assert motion.fps == pytest.approx(FPS, abs=0.01)
    with np.load(path, allow_pickle=False) as file:
        assert str(file["up_axis"]) == "z"
        # z is up in the file: heads are above feet.
        assert (file["joints"][:, 15, 2] > file["joints"][:, 10, 2]).all()


def test_a_captured_walk_is_near_the_one_that_was_rendered(tmp_path):
    examples = Path(__file__).parent.parent / "examples"
    options = CaptureOptions(steps=5, end=2.5, formats=("npz",), previews=())
    done = capture(examples / "rendered_walk.mp4", tmp_path / "walk", options)
    figures = compare_run(done.out, examples / "rendered_walk_truth.npz")
    assert figures["pa_mpjpe_mm"] < 45
    assert figures["mpjpe_mm"] < 65
    assert figures["wa_mpjpe_mm"] < 80
    assert 0.85 < figures["path_length_ratio"] < 1.2


def test_people_stand_upright_above_the_floor(done):
    for person in done.motions:
        assert (person.joints[:, 15, 1] - person.joints[:, 10, 1] > 0.8).mean() > 0.8
        assert abs(np.median(person.joints[:, [7, 8, 10, 11], 1].min(axis=1))) < 0.25


def test_an_amass_file_that_is_not_z_up_is_refused_before_any_work(clip, tmp_path):
    with pytest.raises(RopeTPError, match="z up"):
        capture(clip, tmp_path / "run", CaptureOptions(npz_layout="amass", up="y"))
    assert not (tmp_path / "run").exists()


def test_same_seed_same_file(clip, done, tmp_path):
    options = CaptureOptions(steps=10, formats=("npz",), previews=())
    again = capture(clip, tmp_path / "again", options)
    with (
        np.load(done.out / "person_01.npz") as one,
        np.load(again.out / "person_01.npz") as other,
    ):
        for key in one.files:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def test_finished_capture_is_recognised(clip, done):
    before = (done.out / "person_01.npz").stat().st_mtime_ns
    options = CaptureOptions(steps=10, formats=("npz", "bvh", "glb"))
    assert capture(clip, done.out, options).report == done.report
    assert (done.out / "person_01.npz").stat().st_mtime_ns == before


def test_the_overlay_is_drawn_while_later_stages_run(clip, done, tmp_path, monkeypatch):
    out = tmp_path / "again"
    shutil.copytree(done.out / "cache", out / "cache")
    imitate, there = pipeline.imitate, []

    def wait_for_it(*args):
        until = time.monotonic() + 200
        while not (out / "overlay.mp4").exists() and time.monotonic() < until:
            time.sleep(0.05)
        there.append((out / "overlay.mp4").exists())
        return imitate(*args)

    monkeypatch.setattr(pipeline, "imitate", wait_for_it)
    options = CaptureOptions(steps=10, physics=False)
    again = capture(clip, out, options)
    assert there == [True] and again.report["reused"] == ["people", "edges", "pose", "path"]
    assert {path.name for path in again.files} >= {"overlay.mp4", "viewer.html"}
    assert "overlay.mp4" in (out / "viewer.html").read_text()

    def break_down(*_):
        raise RopeTPError("the path is lost")

    monkeypatch.setattr(pipeline, "regenerate_paths", break_down)
    (out / "overlay.mp4").unlink()
    with pytest.raises(RopeTPError, match="the path is lost"):
        capture(clip, out, replace(options, seed=1))
    assert not list(out.glob("*overlay*")) and not list(out.glob(".*"))  # stopped, no half file


def assert_same_motion(one: Path, other: Path) -> None:
    with np.load(one) as first, np.load(other) as second:
        for key in first.files:
            np.testing.assert_array_equal(first[key], second[key], err_msg=key)


def test_only_what_an_option_touches_is_run_again(clip, done, tmp_path):
    out = tmp_path / "again"
    shutil.copytree(done.out, out)
    options = CaptureOptions(steps=10, formats=("npz", "glb"), previews=("sheet",), up="y")
    stages = ["people", "edges", "pose", "path", "physics"]
    assert capture(clip, out, options).report["reused"] == stages
    options = CaptureOptions(steps=10, formats=("npz",), previews=())
    again = capture(clip, out, options)
    assert again.report["reused"] == stages and set(again.report["stages"]) == {"write"}
    assert again.report["people"] == done.report["people"]
    assert_same_motion(done.out / "person_01.npz", out / "person_01.npz")
    options.physics = False
    assert capture(clip, out, options).report["reused"] == stages[:4]
    options.steps = 5
    assert capture(clip, out, options).report["reused"] == stages[:3]
    options.person = "largest"
    assert capture(clip, out, options).report["reused"] == stages[:2]
    options.focal_px = 900.0
    assert capture(clip, out, options).report["reused"] == stages[:1]


def test_of_two_people_on_one_floor_the_smaller_is_found_smaller():
    """A child seen as what it is not, a grown-up farther away, before a level camera 1.6 m high."""
    body, count = load_body(), 5
    rest, tall = body.rest_joints(np.zeros(NUM_BETAS)), body.height(np.zeros(NUM_BETAS))
    upright = np.tile(np.eye(3), (count, 24, 1, 1))
    upright[:, 0] = LEVEL
    joints = posed_joints(upright, np.tile(rest, (count, 1, 1)))
    drop = lowest_foot(joints, np.tile(LEVEL, (count, 1, 1)))[0, 1]  # of the feet below the pelvis

    def person(size: float, away: float) -> PoseSequence:
        """One ``size`` times as tall as a grown-up, taken for one."""
        place = np.array([0.0, 1.6 - size * drop, away]) / size
        told = np.zeros((count, 24, 2)), np.ones((count, 24)), np.zeros((count, 3))
        betas = np.zeros((count, NUM_BETAS))
        return PoseSequence(
            upright, betas, joints, np.tile(place, (count, 1)), *told, np.ones((count, 2))
        )

    frames = np.arange(count)
    tracks = [
        Track(number, frames, np.zeros((count, 4)), np.ones(count), np.zeros((count, 17, 3)),
              np.ones(count, bool))
        for number in (1, 2)
    ]  # fmt: skip
    info = VideoInfo("x.mp4", 640, 480, 30.0, count, 0)
    people = TrackingResult(tracks, frames / 30, frames, info)
    camera = Camera(800.0, np.array([320.0, 240.0]), LEVEL[None], up_error=0.01)
    poses = [person(1.0, 4.0), person(0.85, 3.0)]

    told = heights_on_one_floor(camera, poses, tracks, people, body, {1: tall})
    assert set(told) == {2} and 0.83 < told[2] / tall < 0.91
    guessed = heights_on_one_floor(camera, poses, tracks, people, body, {})
    assert guessed[2] / guessed[1] == pytest.approx(0.85, rel=0.06)
    travelling, cut = replace(camera, travels=True), replace(people, cuts=[3])
    assert heights_on_one_floor(travelling, poses, tracks, people, body, {}) == {}
    assert heights_on_one_floor(camera, poses, tracks, cut, body, {}) == {}
    poses[1].confidence[:] = 0.3  # feet that nobody saw
    assert heights_on_one_floor(camera, poses, tracks, people, body, {}) == {}


def test_a_killed_capture_goes_on_where_it_was(clip, done, tmp_path, monkeypatch):
    options = CaptureOptions(steps=10, formats=("npz",), previews=())

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ropetp_cli.stages.STORE_SECONDS", 0.0)
    batches, predict = [], RopePredictor.predict

    def second_fails(self, crops, *more):
        batches.append(len(crops))
        return killed() if len(batches) == 3 else predict(self, crops, *more)

    monkeypatch.setattr(RopePredictor, "predict", second_fails)
    with pytest.raises(KeyboardInterrupt):
        capture(clip, tmp_path / "out", options)
    looked: list[int] = []  # at people who walk in or out, too, of whom some frames are left out

    def noting(tracks, answers, people):
        looked.append(sum(map(len, answers)))
        return within_sight(tracks, answers, people)

    monkeypatch.setattr("ropetp_cli.pipeline.within_sight", noting)
    monkeypatch.setattr("ropetp_cli.pipeline.simulate", killed)
    with pytest.raises(KeyboardInterrupt):
        capture(clip, tmp_path / "out", options)
    assert sum(batches) == looked[0] + batches[2]
    assert set(batches[:-1]) == {options.batch_size}
    monkeypatch.undo()
    again = capture(clip, tmp_path / "out", options)
    assert again.report["reused"] == ["people", "edges", "pose", "path"]
    for path in again.out.glob("*.npz"):
        assert_same_motion(path, done.out / path.name)


def test_other_rate_keeps_the_speed_of_time(clip, done, tmp_path):
    options = CaptureOptions(steps=10, formats=("npz",), previews=(), fps=60.0, person="largest")
    fast = load_motion(capture(clip, tmp_path / "fast", options).out / "person_01.npz")
    slow = load_motion(done.out / "person_01.npz")
    assert fast.fps == 60.0
    assert fast.timestamps[-1] == pytest.approx(slow.timestamps[-1], abs=1 / FPS)


def test_pose_of_stills_with_given_boxes(tmp_path):
    cv2.imwrite(str(tmp_path / "bus.png"), photo())
    boxes = {"bus.png": [[48, 398, 246, 904], [670, 390, 810, 880]]}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    out = tmp_path / "poses.npz"
    arguments = ["pose", str(tmp_path / "bus.png"), "--boxes", str(tmp_path / "boxes.json"),
                 "-o", str(out)]  # fmt: skip
    result = CliRunner().invoke(group, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with np.load(out, allow_pickle=False) as file:
        assert file["image"].tolist() == ["bus.png", "bus.png"]
        assert file["poses"].shape == (2, 72) and file["joints3d"].shape == (2, 24, 3)
        np.testing.assert_allclose(file["joints3d"][:, 0], 0, atol=1e-6)
        head, ankle = file["joints2d"][:, 15], file["joints2d"][:, 7]
        assert head[0, 1] < ankle[0, 1]  # px: head above feet
        x0, y0, x1, y1 = np.array(boxes["bus.png"]).T
        pelvis = file["joints2d"][:, 0]
        # The second is cut by the picture's edge: her middle is a guess, and which way up she is
        # hangs on how a processor rounds.
        margin = 0.35 * (x1 - x0)
        assert ((pelvis[:, 0] > x0 - margin) & (pelvis[:, 0] < x1 + margin)).all()
        assert ((pelvis[:, 1] > y0) & (pelvis[:, 1] < y1)).all()


def test_stills_know_where_people_are(tmp_path):
    """Of two pictures of different size, in a batch each: who is so far away is seen there."""
    whole = photo()
    small = cv2.resize(whole[:, :600], None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    pictures, boxes = {"a.png": whole, "b.png": small}, [[48, 398, 246, 904], [222, 408, 344, 860]]
    given = {"a.png": boxes, "b.png": (0.75 * np.array(boxes)).tolist()}
    for name, picture in pictures.items():
        cv2.imwrite(str(tmp_path / name), picture)
    (tmp_path / "boxes.json").write_text(json.dumps(given))
    arguments = ["pose", str(tmp_path), "--boxes", str(tmp_path / "boxes.json"),
                 "--batch-size", "2", "-o", str(tmp_path / "poses.npz")]  # fmt: skip

    def posed(*more: str) -> dict[str, np.ndarray]:
        result = CliRunner().invoke(group, [*arguments, *more], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        with np.load(tmp_path / "poses.npz", allow_pickle=False) as file:
            found = dict(file)
        for row, name in enumerate(found["image"]):
            seen = found["joints3d"][row] + found["pelvis"][row]
            middle = np.array(pictures[name].shape[1::-1]) / 2
            placed = seen[:, :2] / seen[:, 2:] * found["focal_px"][row] + middle
            off = np.linalg.norm(placed - found["joints2d"][row], axis=1)
            height = found["boxes"][row, 3] - found["boxes"][row, 1]
            assert off.max() < 0.03 * height, (name, row)
        return found

    read = posed()
    assert read["image"].tolist() == ["a.png", "a.png", "b.png", "b.png"]
    # Straight edges tell the lens; the small picture is the same street's.
    assert read["focal_px"][2:] / 0.75 == pytest.approx(read["focal_px"][:2], rel=0.05)
    longer = posed("--focal-px", "3000")
    assert (longer["focal_px"] == 3000).all()
    assert (longer["pelvis"][:, 2] > 1.5 * read["pelvis"][:, 2]).all()
    diagonals = [np.hypot(*pictures[name].shape[:2]) for name in read["image"]]
    assert posed("--focal-mm", "43.27")["focal_px"] == pytest.approx(diagonals, rel=1e-3)


def test_a_photo_s_camera_says_how_long_its_lens_is(tmp_path):
    def stated(value: object) -> float | None:
        exif = Image.Exif()
        exif.get_ifd(ExifTags.IFD.Exif)[FOCAL_LENGTH_35MM] = value
        Image.fromarray(photo()[..., ::-1]).save(tmp_path / "a.jpg", exif=exif)
        return stated_focal_mm(tmp_path / "a.jpg")

    assert stated(0) is None and stated(60000) is None
    assert stated(26) == 26
    (tmp_path / "boxes.json").write_text(json.dumps({"a.jpg": [[48, 398, 246, 904]]}))
    arguments = ["pose", str(tmp_path / "a.jpg"), "--boxes", str(tmp_path / "boxes.json"),
                 "-o", str(tmp_path / "poses.npz")]  # fmt: skip
    assert CliRunner().invoke(group, arguments, catch_exceptions=False).exit_code == 0
    with np.load(tmp_path / "poses.npz") as found:
        assert found["focal_px"] == pytest.approx([26 / 43.27 * 1350], rel=1e-3)
    Image.fromarray(photo()).save(tmp_path / "plain.png")
    assert stated_focal_mm(tmp_path / "plain.png") is None
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[:40] + bytes(60) + whole[100:])
    assert stated_focal_mm(tmp_path / "half.jpg") is None


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", "from ropetp_cli.cli import main; main()", *arguments],
        capture_output=True, text=True, env={**os.environ, **variables},
    )  # fmt: skip


def fails(capsys, *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of a command that must end in one line and no traceback."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return stop.value.code, error


@pytest.mark.parametrize(
    ("content", "word"), [(b"", "empty"), (b"this is a text, not a film\n" * 40, "video")]
)
def test_a_file_that_is_no_video(tmp_path, capsys, content, word):
    path = tmp_path / "film.mp4"
    path.write_bytes(content)
    code, error = fails(capsys, "capture", str(path), "-o", str(tmp_path / "out"))
    assert code == 1 and "film.mp4" in error and word in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_file(tmp_path, capsys):
    code, error = fails(capsys, "capture", str(tmp_path / "none.mp4"))
    assert code == 1 and "none.mp4" in error and len(error.strip().splitlines()) == 1


def test_nobody_in_the_video(tmp_path, capsys):
    path = tmp_path / "empty_room.mp4"
    with VideoWriter(path, (320, 240), 30) as video:
        for _ in range(12):
            video.write(np.full((240, 320, 3), 90, np.uint8))
    code, error = fails(capsys, "capture", str(path), "-o", str(tmp_path / "out"))
    assert code == 3 and len(error.strip().splitlines()) == 1


def test_an_output_that_cannot_be_written(clip, tmp_path, capsys):
    (tmp_path / "taken").write_text("a file")
    code, error = fails(capsys, "capture", str(clip), "-o", str(tmp_path / "taken"))
    assert code == 1 and "taken" in error and "-o" in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["--fps", "0"], ["--steps", "none"], ["--format", "npz,docx"], ["--nonsense"],
        ["--start", "2", "--end", "1"], ["--preview", "hologram"], ["--focal-mm", "-3"],
    ],
)  # fmt: skip
def test_wrong_options_are_usage_errors(clip, capsys, arguments):
    code, error = fails(capsys, "capture", str(clip), *arguments)
    assert code == 2 and "Error" in error


def test_unknown_person_lists_the_known(clip, tmp_path, capsys):
    code, error = fails(capsys, "capture", str(clip), "-o", str(tmp_path / "o"), "--person", "99")
    assert code == 1 and "--person 99" in error and "1" in error


def test_heights_given_make_a_larger_scene_of_the_same_picture(clip, done, tmp_path):
    out = tmp_path / "sized"
    shutil.copytree(done.out, out)
    options = CaptureOptions(steps=10, formats=("npz",), previews=(), height={1: 1.9, 0: 1.6})
    again = capture(clip, out, options)
    assert again.report["reused"] == ["people", "edges", "pose"]
    heights = {person["id"]: person["height_m"] for person in again.report["people"]}
    assert heights.pop(1) == pytest.approx(1.9, abs=0.002)
    assert heights and all(h == pytest.approx(1.6, abs=0.002) for h in heights.values())
    assert {p["height_source"] for p in again.report["people"]} == {"given"}
    before, after = (load_motion(path / "person_01.npz") for path in (done.out, out))
    share = 1.9 / load_body().height(before.betas)
    farther = after.camera_trans[:, 2] / before.camera_trans[:, 2]
    assert farther.mean() == pytest.approx(share, rel=0.02)
    apart = np.linalg.norm(after.joints2d - before.joints2d, axis=-1)
    assert np.median(apart) < 0.01 * (after.boxes[:, 3] - after.boxes[:, 1]).mean()


@pytest.mark.parametrize(
    ("told", "code"), [("1.80m", 2), ("180", 2), ("x=1.8", 2), ("7=1.8", 1), ("2.6", 1)]
)
def test_heights_that_make_no_sense_are_refused(clip, tmp_path, capsys, told, code):
    out = str(tmp_path / "o")
    found, error = fails(capsys, "capture", str(clip), "-o", out, "--height", told)
    assert found == code and "height" in error


def test_a_truncated_video_keeps_what_it_has(tmp_path, capsys):
    whole = tmp_path / "whole.avi"
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter_fourcc(*"MJPG"), 24, (640, 640))
    shift = np.array([[1.0, 0, -60], [0, 1.0, -330]])
    frame = cv2.warpAffine(photo(), shift, (640, 640))
    for _ in range(30):
        writer.write(frame)
    writer.release()
    content = whole.read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(content[: int(len(content) * 0.7)])
    options = CaptureOptions(steps=5, formats=("npz",), previews=(), person="largest")
    done = capture(cut, tmp_path / "out", options)
    assert 10 < done.report["video"]["frames"] < 30
    assert any("of 30" in warning for warning in done.report["warnings"])


def test_help_is_fast_to_import():
    result = run("--help")
    assert result.returncode == 0 and "capture" in result.stdout
    code = "import sys; import ropetp_cli.cli; print('torch' in sys.modules, 'cv2' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert loaded.stdout.split() == ["False", "False"]


def test_variables_set_options(clip):
    result = run("capture", str(clip), ROPETP_FPS="0")
    assert result.returncode == 2 and "fps" in result.stderr.lower()


def test_inference_does_not_import_the_renderer():
    code = (
        "import sys; import ropetp_cli.pipeline; print([m for m in sys.modules if '.preview' in m])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert loaded.stdout.strip().endswith("[]")


def test_people_stand_up_with_a_camera_that_looks_down():
    count, body = 30, load_body()
    upright = np.tile(np.eye(3), (count, 24, 1, 1))
    upright[:, 0] = LEVEL
    answer = CropPoses(
        upright, np.zeros((count, 10)), np.tile([0.8, 0, 0], (count, 1)),
        np.zeros((count, 24, 2)), np.full((count, 24), 0.9), np.zeros((count, 17, 3)),
        unseen(count),
    )  # fmt: skip
    frames = np.arange(100, 100 + count)
    boxes = np.tile([400.0, 200, 600, 800], (count, 1))
    track = Track(1, frames, boxes, np.ones(count), np.zeros((count, 17, 3)), np.ones(count, bool))
    info = VideoInfo("x.mp4", 1000, 1000, 30.0, count, 0)
    people = TrackingResult([track], frames / 30, frames, info)
    down = axis_angle_to_matrix(np.radians([-10.0, 0, 0])) @ LEVEL
    told = [answer], [track], body, people, TemporalRefiner(TemporalRope()), True, {}
    for rotation in (down[None], np.tile(down, (count, 1, 1))):
        camera = Camera(1400.0, np.array([500.0, 500]), rotation)
        before, after = (
            before_camera(camera, *told, levelled=known)[0].rotations for known in (False, True)
        )
        turned = matrix_to_axis_angle(after[:, 0] @ before[:, 0].swapaxes(-1, -2))
        assert np.degrees(turned) == pytest.approx(np.tile([7.0, 0, 0], (count, 1)), abs=0.3)
        assert after[:, 1:] == pytest.approx(before[:, 1:], abs=1e-6)


def test_timeline_covers_a_variable_rate():
    stamps = np.cumsum([0, 0.03, 0.05, 0.02, 0.04, 0.04])
    line = make_timeline(stamps, 30.0)
    assert line.times[0] == 0 and line.times[-1] <= stamps[-1] + 1e-6
    nearest = [int(np.abs(stamps - t).argmin()) for t in line.times]
    assert line.source.tolist() == nearest


@given(
    fps=st.sampled_from([23.976, 24.0, 25.0, 29.97, 30.0, 59.94, 60.0, 120.0]),
    count=st.integers(1, 2000),
    start=st.floats(0, 3),
)
def test_times_rounded_to_a_millisecond_lose_no_frame(fps, count, start):
    stamps = np.round(start + np.arange(count) / fps, 3)
    line = make_timeline(stamps, fps)
    np.testing.assert_array_equal(line.source, np.arange(count))


def test_files_of_other_motions_go_and_other_formats_of_the_same_stay(clip, done, tmp_path):
    out = tmp_path / "again"
    shutil.copytree(done.out, out)
    names = {path.name for path in done.files}
    options = CaptureOptions(steps=10, formats=("npz",), previews=())
    assert {path.name for path in capture(clip, out, options).files} == names
    options.person = "largest"
    (out / "mine.blend").touch()
    capture(clip, out, options)
    left = {path.name for path in out.iterdir()}
    assert left == {"cache", "mine.blend", "person_01.npz", "report.json"}


def test_what_is_no_image_is_called_so(tmp_path, capsys):
    text = tmp_path / "notes.md"
    text.write_text("no picture")
    code, error = fails(capsys, "pose", str(text), "-o", str(tmp_path / "x.npz"))
    assert code == 1 and "notes.md: not an image" in error


def test_one_world_keeps_people_as_far_apart_as_the_camera_saw():
    walk = np.zeros((20, 3))
    walk[:, 0] = np.linspace(0, 2, 20)
    walk[:, 1] = 0.9
    seen = [walk + [5, 0, -4], walk + [6.5, 0, -3]]
    first, second = place_in_one_world([walk + [1, 0, 1], walk], seen)
    np.testing.assert_allclose(first[0], [0, 0.9, 0], atol=1e-9)
    np.testing.assert_allclose((second - first)[0], [1.5, 0, 1.0], atol=1e-9)


def scene_of(joints2d: np.ndarray, seen: np.ndarray) -> Scene:
    """Somebody at 30 frames/s whose joints are at ``joints2d`` [N, 24, 2] px, in rest."""
    count, frames = len(seen), np.arange(len(seen))
    poses = PoseSequence(
        np.tile(np.eye(3), (count, 24, 1, 1)), np.zeros((count, 10)), np.zeros((count, 24, 3)),
        np.zeros((count, 3)), joints2d, np.ones((count, 24)),
        np.tile([0.0, -1, 0], (count, 1)), np.ones((count, 2)),
    )  # fmt: skip
    track = Track(1, frames, np.tile([0.0, 0, 9, 9], (count, 1)), np.ones(count),
                  np.zeros((count, 17, 3)), seen)  # fmt: skip
    turn = np.tile(np.eye(3), (count, 1, 1))
    return Scene.from_camera(
        track, poses, make_timeline(frames / 30, 30.0), turn, np.zeros((24, 3))
    )


def test_hidden_spans_are_filled_and_marked():
    seen = np.ones(60, bool)
    seen[20:50] = False
    scene = scene_of(np.full((60, 24, 2), 50.0), seen)
    motion = assemble_motion(scene, Camera(100.0, np.zeros(2), np.eye(3)[None]), "body")
    assert len(motion) == 60 and np.isfinite(motion.joints).all()
    np.testing.assert_array_equal(motion.confidence, seen.astype(float))
    assert motion.joint_confidence.shape == (len(motion), 24)
    assert (motion.joint_confidence[~seen] == 0).all()


def test_physics_runs_where_a_person_is_in_view_on_one_level():
    count, size = 60, (100, 100)
    joints2d = np.full((count, 24, 2), 50.0)
    joints2d[:10, 3] = -20.0
    joints2d[20:22, 20] = 150.0  # a hand is out for an instant
    scene, frames = scene_of(joints2d, np.ones(count, bool)), np.arange(count)
    scene.level[:] = np.interp(frames, [40, 50], [1.0, 0.0])
    usable = steady_in_view(scene, size)
    assert usable.tolist() == [False] * 10 + [True] * 31 + [False] * 10 + [True] * 9
    sure = trust(scene.poses, size)
    assert sure[0] == pytest.approx((23 / 24) ** 2) and sure[15] == 1


def test_feet_that_sink_are_lifted_smoothly_and_no_others():
    count = 90
    scene = scene_of(np.full((count, 24, 2), 50.0), np.ones(count, bool))
    scene.level[:] = 0.5
    scene.path[:, 1] = 0.5 + 0.02  # a standing foot's joint, at the height of the pelvis here
    scene.path[40:70, 1] -= 0.15
    lifted = out_of_floor(scene)
    rise = lifted.path - scene.path
    assert (lifted.path[:, 1] >= 0.5 - FOOT_HEIGHT - 1e-9).all()
    assert rise[40:70, 1] == pytest.approx(0.15 - 0.02 - FOOT_HEIGHT, abs=1e-9)
    assert not rise[:, [0, 2]].any() and not rise[:34].any() and not rise[76:].any()
    assert np.abs(np.diff(rise[:, 1])).max() < 0.04


def test_heights_may_be_one_or_by_id():
    assert CaptureOptions().height == ()
    assert CaptureOptions(height=1.8).height == ((0, 1.8),)
    assert CaptureOptions(height={2: 1.7, 1: 1.8}).height == ((1, 1.8), (2, 1.7))
    assert CaptureOptions(height=((1, 1.8),)).height == ((1, 1.8),)


def test_python_api_raises_our_errors():
    with pytest.raises(RopeTPError, match="nowhere.mp4"):
        capture("nowhere.mp4")
