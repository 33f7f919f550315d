"""What straight edges say of the camera, on drawn rooms whose camera is known."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ropetp_cli.body.rotations import axis_angle_to_matrix, yaw_matrix
from ropetp_cli.camera.gravity import LEVEL
from ropetp_cli.camera.lines import Perspective, read_perspective, straight_edges
from ropetp_cli.motion import VideoInfo
from ropetp_cli.people.tracker import TrackingResult
from ropetp_cli.pipeline import CaptureOptions, Clock, choose_camera, find_gravity, read_edges
from ropetp_cli.video.writer import VideoWriter

SIZE = (960, 540)
DIAGONAL = float(np.hypot(*SIZE))
NOBODY = np.zeros((0, 4))


def camera(pitch: float, roll: float) -> np.ndarray:
    """World-from-camera of one that looks ``pitch`` degrees down, rolled by ``roll``."""
    down = axis_angle_to_matrix(np.radians([-pitch, 0.0, 0.0]))
    return down @ LEVEL @ axis_angle_to_matrix(np.radians([0.0, 0.0, roll]))


def boxes_before(world: np.ndarray, turn: float, seed: int = 0) -> np.ndarray:
    """Both ends of the edges of boxes, all turned by ``turn`` degrees about the vertical, in sight
    of a camera held as ``world`` [3, 3] says: [E, 2, 3] m about it."""
    random = np.random.default_rng(seed)
    corners = np.array(list(np.ndindex(2, 2, 2)), float)
    sides = [(a, b) for a in range(8) for b in range(a) if abs(corners[a] - corners[b]).sum() == 1]
    edges = []
    for _ in range(40):
        place = world @ random.uniform([-3, -1.7, 4], [3, 1.7, 10])
        size = random.uniform(0.4, 2, 3)
        edges += [place + corners[[a, b]] * size @ yaw_matrix(np.radians(turn)).T for a, b in sides]
    return np.array(edges)


def drawn(edges: np.ndarray, world: np.ndarray, focal: float, seed: int = 0) -> np.ndarray:
    """A noisy picture of ``edges`` [E, 2, 3] m by a camera turned by ``world`` [3, 3]."""
    random = np.random.default_rng(seed)
    picture = np.full((SIZE[1], SIZE[0], 3), 150, np.uint8)
    for ends in edges @ world:
        steps = ends[0] + np.linspace(0, 1, 200)[:, None] * (ends[1] - ends[0])
        steps = steps[steps[:, 2] > 0.2]
        if len(steps) < 2:
            continue
        here = steps[[0, -1], :2] / steps[[0, -1], 2:] * focal + np.array(SIZE) / 2
        if np.abs(here).max() < 20000:
            a, b = (tuple(int(v) for v in np.round(end * 16)) for end in here)
            cv2.line(picture, a, b, (60, 50, 40), 3, cv2.LINE_AA, shift=4)
    noise = random.normal(0, 4, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def degrees_off(read: Perspective, world: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(read.up @ world[1], -1, 1))))


@given(
    pitch=st.floats(-10, 30), roll=st.floats(-20, 20), turn=st.floats(10, 80),
    zoom=st.floats(0.55, 1.2),
)  # fmt: skip
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_room_tells_how_the_camera_is_held_and_how_long_its_lens_is(pitch, roll, turn, zoom):
    world, focal = camera(pitch, roll), zoom * DIAGONAL
    edges = straight_edges(drawn(boxes_before(world, turn), world, focal), NOBODY)
    read = read_perspective(edges, SIZE)
    assert degrees_off(read, world) < 2.0
    assert read.focal is None or abs(np.log(read.focal / focal)) < 0.1


def test_a_room_from_its_corner_is_read():
    world, focal = camera(15.0, -12.0), 0.75 * DIAGONAL
    edges = straight_edges(drawn(boxes_before(world, 35.0), world, focal), NOBODY)
    read = read_perspective(edges, SIZE)
    assert degrees_off(read, world) < 1.0
    assert read.focal == pytest.approx(focal, rel=0.04)
    assert (np.degrees(read.error) < 2.0).all()


def test_seen_straight_on_nothing_tells_the_lens_but_up_is_known():
    world = camera(0.0, 8.0)
    edges = straight_edges(drawn(boxes_before(world, 0.0), world, DIAGONAL), NOBODY)
    read = read_perspective(edges, SIZE, focal=DIAGONAL)
    assert degrees_off(read, world) < 1.0


def test_what_edges_say_reaches_the_camera(tmp_path):
    """Of a video from its second half on, in which nobody is followed."""
    world, focal, fps = camera(18.0, 9.0), 0.75 * DIAGONAL, 10.0
    picture = drawn(boxes_before(world, 35.0), world, focal)
    with VideoWriter(tmp_path / "room.mp4", SIZE, fps) as writer:
        for _ in range(20):
            writer.write(np.full_like(picture, 99))
        for _ in range(20):
            writer.write(picture)
    options, frames = CaptureOptions(start=2.0), np.arange(20, 40)
    info = VideoInfo("room.mp4", *SIZE, fps, 40, 0)
    people = TrackingResult([], frames / fps, frames, info)
    edges = read_edges(tmp_path / "room.mp4", people, options, Clock())
    assert len(edges) == 1 and 20 <= edges[0].frame < 40

    seen = choose_camera(people, options, edges)
    assert seen.focal == pytest.approx(focal, rel=0.04) and "edges" in seen.focal_source
    held = find_gravity(seen, None, edges, [], [], people, options)
    assert np.degrees(np.arccos(held.rotation[0, 1] @ world[1])) < 1.5
    assert "edges" in held.up_source and held.up_error < np.radians(2.5)
    blind = find_gravity(seen, None, [], [], [], people, options)
    assert "edges" not in blind.up_source
    assert np.degrees(np.arccos(blind.rotation[0, 1] @ world[1])) > 10

    told = CaptureOptions(start=2.0, focal_px=1.1 * focal)
    edges = read_edges(tmp_path / "room.mp4", people, told, Clock())
    assert choose_camera(people, told, edges).focal == 1.1 * focal
    assert edges[0].focal == pytest.approx(1.1 * focal, rel=0.03)
    lying = replace(people, turn=1)
    assert read_edges(tmp_path / "room.mp4", lying, options, Clock()) == []


@pytest.mark.parametrize("roll", [0.0, 12.0])
def test_gravel_seen_from_the_side_says_nothing(roll):
    """Hundreds of edges, all of them nearly level, of blotches on the floor."""
    random, focal, world = np.random.default_rng(0), 0.8 * DIAGONAL, camera(10.0, roll)
    blotches = np.zeros((1500, 1500), np.float32)
    for size in (15, 40):
        coarse = random.normal(size=(1500 // size + 1, 1500 // size + 1)).astype(np.float32)
        blotches += cv2.resize(coarse, (1500, 1500), interpolation=cv2.INTER_CUBIC)
    u, v = np.meshgrid(*(np.arange(side) - side / 2 for side in SIZE))
    rays = np.stack([u, v, np.full(u.shape, focal)], axis=-1) @ world.T
    far = 1.5 / np.maximum(-rays[..., 1], 1e-3)
    at = [(750 + 60 * far * rays[..., axis]).astype(np.float32) for axis in (0, 2)]
    floor = cv2.remap(blotches, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    shown = np.where(rays[..., 1] < -0.02 * focal, 128 + 45 * floor, 200)
    picture = cv2.cvtColor(np.clip(shown, 0, 255).astype(np.uint8), cv2.COLOR_GRAY2BGR)
    edges = straight_edges(picture, NOBODY)
    assert len(edges) > 100
    assert read_perspective(edges, SIZE) is None


@pytest.mark.parametrize("seed", range(4))
def test_edges_that_run_anyhow_say_nothing(seed):
    random = np.random.default_rng(seed)
    start, turn = random.uniform(0, SIZE, (200, 2)), random.uniform(0, np.pi, 200)
    along = np.stack([np.cos(turn), np.sin(turn)], 1) * random.uniform(20, 120, (200, 1))
    assert read_perspective(np.hstack([start, start + along]), SIZE) is None


def test_few_edges_say_nothing():
    assert read_perspective(np.zeros((0, 4)), SIZE) is None
    assert read_perspective(np.tile([10.0, 10, 10, 90], (5, 1)), SIZE) is None


def test_edges_of_people_bars_and_an_empty_picture_are_left_out():
    assert straight_edges(np.full((200, 300, 3), 90, np.uint8), NOBODY).shape == (0, 4)
    picture = np.full((540, 960, 3), 120, np.uint8)
    picture[:60] = picture[-60:] = 0  # black bars
    cv2.rectangle(picture, (300, 150), (420, 400), (255, 255, 255), 5)
    seen = straight_edges(picture, NOBODY)
    assert len(seen) >= 4 and np.all((seen[:, 1] > 100) & (seen[:, 1] < 450))
    assert len(straight_edges(picture, np.array([[280.0, 130, 440, 420]]))) == 0


@pytest.mark.parametrize("shape", [(1, 4000), (4000, 1), (1, 1), (2, 3)])
def test_pictures_too_thin_for_edges(shape):
    assert len(straight_edges(np.zeros((*shape, 3), np.uint8), NOBODY)) == 0


def test_edges_are_in_the_pixels_of_a_large_picture():
    picture = np.full((2160, 3840, 3), 120, np.uint8)
    picture[500:1500, 1000:2000] = 250
    found = straight_edges(picture, NOBODY)
    assert np.isclose(found, 999.5, atol=3).any() and np.isclose(found, 1499.5, atol=3).any()
