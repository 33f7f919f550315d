"""The camera: its rotation from the background, its tilt from people, where people stand."""

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ropetp_cli.body.model import load_body
from ropetp_cli.body.rotations import axis_angle_to_matrix, forward_kinematics, yaw_matrix
from ropetp_cli.camera.background import BackgroundMotion, BackgroundTracker
from ropetp_cli.camera.floor import sizes_on_one_floor
from ropetp_cli.camera.focal import ASSUMED, GIVEN, choose_focal
from ropetp_cli.camera.gravity import (
    DOWN,
    LEVEL,
    Vertical,
    edges_agree,
    fuse_with_gravity,
    level_rotation,
)
from ropetp_cli.camera.placement import (
    fit_pelvis,
    look_along,
    pelvis_in_crops,
    widths_at_one_metre,
)
from ropetp_cli.errors import RopeTPError

WIDTH, HEIGHT, FOCAL = 480, 270, 400.0
CENTER = np.array([WIDTH / 2, HEIGHT / 2])
K = np.array([[FOCAL, 0, CENTER[0]], [0, FOCAL, CENTER[1]], [0, 0, 1]])
NOBODY = np.zeros((0, 4))

unit = st.tuples(*[st.floats(-1, 1)] * 3).map(np.array).filter(lambda v: np.linalg.norm(v) > 0.1)


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Soft blotches of several sizes, BGR uint8."""
    random = np.random.default_rng(seed)
    out = np.zeros((height, width), np.float32)
    for size, strength in ((4, 1.0), (16, 1.0), (64, 0.7)):
        coarse = random.normal(size=(height // size + 2, width // size + 2)).astype(np.float32)
        out += strength * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    out = np.clip(128 + 45 * out, 0, 255).astype(np.uint8)
    return cv2.cvtColor(out, cv2.COLOR_GRAY2BGR)


PANORAMA = texture(3 * HEIGHT, 3 * WIDTH)


def look(rotation: np.ndarray) -> np.ndarray:
    """What a camera turned by camera_0-from-camera_i ``rotation`` [3, 3] sees of PANORAMA."""
    to_panorama = np.array([[1, 0, WIDTH], [0, 1, HEIGHT], [0, 0, 1.0]])
    homography = to_panorama @ K @ rotation @ np.linalg.inv(K)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpPerspective(PANORAMA, homography, (WIDTH, HEIGHT), flags=flags)


PERSON = texture(150, 70, seed=1)


def with_person(frame: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
    """A textured rectangle that walks through the picture, and its box."""
    x, y = 20 + 5 * index, 80
    frame = frame.copy()
    frame[y : y + 150, x : x + 70] = PERSON[:, : WIDTH - x]
    return frame, np.array([[x, y, x + 70, y + 150]], dtype=np.float64)


def room(rotation: np.ndarray, eye: np.ndarray) -> np.ndarray:
    """A textured wall 7 m ahead and a textured floor, as a camera at ``eye`` [3] m sees them whose
    axes are turned by ``rotation`` [3, 3] from x right, y down, z to the wall."""
    u, v = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K).T @ rotation.T
    to_wall = (7 - eye[2]) / np.maximum(rays[..., 2], 1e-3)
    to_floor = eye[1] / np.maximum(rays[..., 1], 1e-3)
    on_floor = to_floor < to_wall
    place = eye * [1, 0, 1] + rays * np.minimum(to_wall, to_floor)[..., None]
    across = np.where(on_floor, 800 - 60 * place[..., 2], 400 + 60 * (place[..., 1] - eye[1]))
    at = [each.astype(np.float32) for each in (500 + 60 * place[..., 0], across)]
    return cv2.remap(PANORAMA, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def angle_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Degrees between rotations [N, 3, 3]."""
    return np.degrees(Rotation.from_matrix(np.swapaxes(a, -1, -2) @ b).magnitude())


def follow(frames: list[np.ndarray], boxes: list[np.ndarray] | None = None) -> BackgroundMotion:
    tracker = BackgroundTracker(FOCAL, CENTER)
    for frame, box in zip(frames, boxes or [NOBODY] * len(frames), strict=True):
        tracker.add(frame, box)
    return tracker.finish()


def noisy(frame: np.ndarray, random: np.random.Generator, sigma: float = 4.0) -> np.ndarray:
    return np.clip(frame + random.normal(0, sigma, frame.shape), 0, 255).astype(np.uint8)


class TestBackground:
    def test_known_rotations_are_recovered_behind_a_walking_person(self):
        t = np.linspace(0, 1, 60)
        vectors = np.stack(
            [0.06 * np.sin(6 * t), 0.35 * t**2, 0.05 * np.sin(9 * t)], axis=1
        )  # pan 20 degrees, with some tilt and roll
        truth = axis_angle_to_matrix(vectors)
        shown = [with_person(look(r), i) for i, r in enumerate(truth)]
        motion = follow(*map(list, zip(*shown, strict=True)))
        assert motion.moving and "moving" in motion.evidence
        assert np.array_equal(motion.rotation[0], np.eye(3))
        assert angle_between(motion.rotation, truth).max() < 0.3
        assert np.median(motion.inliers) > 0.8
        assert np.allclose(motion.rotation @ motion.rotation.transpose(0, 2, 1), np.eye(3))

    def test_a_wide_pan_drifts_little(self):
        truth = yaw_matrix(np.linspace(0, np.radians(40), 50))
        motion = follow([look(r) for r in truth])
        assert angle_between(motion.rotation, truth).max() < 0.3

    def test_frames_are_worked_on_small_but_answered_in_full_size(self):
        truth = yaw_matrix(np.linspace(0, 0.12, 8))
        tracker = BackgroundTracker(4 * FOCAL, 4 * CENTER)
        for rotation in truth:
            tracker.add(cv2.resize(look(rotation), None, fx=4, fy=4), NOBODY)
        assert angle_between(tracker.finish().rotation, truth).max() < 0.15

    def test_a_still_camera_is_still_whoever_walks_by(self):
        random = np.random.default_rng(0)
        shown = [with_person(noisy(look(np.eye(3)), random), i) for i in range(60)]
        motion = follow(*map(list, zip(*shown, strict=True)))
        assert not motion.moving and "still" in motion.evidence
        assert np.array_equal(motion.rotation, np.repeat(np.eye(3)[None], 60, axis=0))

    def test_without_its_box_a_large_person_would_be_background(self):
        """The mask matters: the person covers most of what has texture."""
        frames, boxes = [], []
        for index in range(20):
            frame = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
            frame[:40] = look(np.eye(3))[:40]
            x = 60 + 6 * index
            frame[60:260, x : x + 220] = PANORAMA[:200, :220]
            frames.append(frame)
            boxes.append(np.array([[x, 60, x + 220, 260.0]]))
        assert follow(frames).moving
        assert not follow(frames, boxes).moving

    @pytest.mark.parametrize("kind", ["blank", "noise"])
    def test_nothing_to_follow_is_still_and_says_so(self, kind):
        random = np.random.default_rng(0)
        frames = [
            np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
            if kind == "blank"
            else random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            for _ in range(12)
        ]
        motion = follow(frames)
        assert not motion.moving and "too few background features" in motion.evidence
        assert np.array_equal(motion.rotation, np.repeat(np.eye(3)[None], 12, axis=0))

    def test_a_few_lost_frames_are_bridged(self):
        truth = yaw_matrix(np.linspace(0, 0.2, 30))
        frames = [look(r) for r in truth]
        for index in (10, 11, 12):
            frames[index] = np.zeros_like(frames[index])
        motion = follow(frames)
        assert (motion.inliers[10:13] == 0).all()
        assert angle_between(motion.rotation, truth).max() < 0.3

    def test_a_video_that_starts_black_is_followed_from_its_first_picture(self):
        truth = yaw_matrix(np.linspace(0, 0.2, 20))
        motion = follow([np.zeros_like(PANORAMA[:HEIGHT, :WIDTH])] * 5 + [look(r) for r in truth])
        assert motion.moving
        assert angle_between(motion.rotation[5:], truth).max() < 0.3

    def test_parallax_of_a_travelling_camera_does_not_explode(self):
        """The far wall slides by 0.5 px a frame (20 px in all), the near one by 6 (240 px)."""
        near = texture(90, 3 * WIDTH, seed=3)
        frames = []
        for index in range(41):
            frame = look(yaw_matrix(np.arctan(0.5 * index / FOCAL)))
            frame[180:] = near[:, 6 * index : 6 * index + WIDTH]
            frames.append(frame)
        motion = follow(frames)
        turned = angle_between(motion.rotation, np.eye(3)[None])
        assert turned.max() < 1.2 * np.degrees(np.arctan(20 / FOCAL))
        assert 0.5 < motion.inliers[1:6].mean() < 0.8  # the report shows that not all agree

    @pytest.mark.parametrize(("way", "most"), [(0.06, 0.6), (1.5, 12.0)])
    def test_a_camera_carried_through_a_room(self, way, most):
        """It turns and shakes before a walker. Held in place by hand, its rotation is known and so
        is that it did not travel; carried along, the inliers tell that it did."""
        time = np.linspace(0, 1, 40)
        turn = np.stack([0.02 * np.sin(9 * time), 0.25 * time, 0.02 * np.sin(7 * time)], axis=1)
        truth = axis_angle_to_matrix(turn)
        eye = np.stack([way * time, 1.5 + 0.02 * np.sin(8 * time), 0 * time], axis=1)
        shown = [
            with_person(room(r, e), i) for i, (r, e) in enumerate(zip(truth, eye, strict=True))
        ]
        motion = follow(*map(list, zip(*shown, strict=True)))
        assert motion.moving
        assert motion.travels == (way > 1)
        assert angle_between(motion.rotation, truth).max() < most

    def test_one_frame_and_none(self):
        assert follow([look(np.eye(3))]).rotation.shape == (1, 3, 3)
        assert follow([]).rotation.shape == (0, 3, 3)

    def test_shapes_that_do_not_match_are_refused(self):
        with pytest.raises(ValueError, match="do not match"):
            BackgroundMotion(np.zeros((3, 3, 3)), False, "", np.zeros(2))


class TestFuseWithGravity:
    def turning(self, count: int = 80) -> tuple[np.ndarray, np.ndarray]:
        """World-from-camera of a camera tilted by 15 degrees that pans, and its relative turns."""
        tilt = level_rotation(axis_angle_to_matrix(np.radians([15.0, 0, 0])) @ [0, -1.0, 0])
        world = yaw_matrix(np.linspace(0, 1.2, count)) @ tilt
        return world, world[0].T @ world

    def test_noisy_votes_level_a_panning_camera(self):
        world, relative = self.turning()
        random = np.random.default_rng(0)
        up = world.transpose(0, 2, 1) @ np.array([0, 1.0, 0])
        up += random.normal(0, 0.05, up.shape)
        up[::6] = [1.0, 0, 0]  # somebody lies down
        up /= np.linalg.norm(up, axis=1, keepdims=True)
        fused = fuse_with_gravity(
            relative, [np.arange(len(up))], [up], [np.full((len(up), 2), 0.05)], 5.0
        )
        assert angle_between(fused, world).max() < 2.0

    def test_without_votes_the_camera_is_held_as_they_are(self):
        relative = yaw_matrix(np.linspace(-0.1, 0.1, 11))
        lying = np.tile([1.0, 0, 0], (11, 1))
        fused = fuse_with_gravity(
            relative, [np.arange(11)], [lying], [np.full((11, 2), np.pi)], 30.0
        )
        # Level, but for the few degrees it looks down.
        up = fused[:, 1].mean(axis=0) / np.linalg.norm(fused[:, 1].mean(axis=0))
        assert up == pytest.approx([0, -np.cos(DOWN), -np.sin(DOWN)], abs=0.03)


class TestFocal:
    def test_given_in_px_wins_and_is_kept(self):
        assert choose_focal((1920, 1080), focal_px=1500.0, focal_mm=28.0)[0] == 1500.0

    def test_full_frame_millimetres_are_matched_on_the_diagonal(self):
        focal, error, source = choose_focal((3600, 2400), focal_mm=50.0, read=[4000.0])
        assert focal == pytest.approx(5000.0) and error == GIVEN and "mm" in source

    def test_straight_edges_are_asked_where_none_is_given(self):
        focal, error, source = choose_focal((3600, 2400), read=[4000.0, 4100.0, 9000.0])
        assert focal == 4100.0 and GIVEN < error < ASSUMED and "edges" in source

    def test_assumed_and_said_so(self):
        focal, error, source = choose_focal((300, 400))
        assert focal == pytest.approx(500.0) and error == ASSUMED and "assumed" in source

    @pytest.mark.parametrize("bad", [0.0, -5.0, float("nan"), float("inf")])
    def test_impossible_values_name_the_option(self, bad):
        with pytest.raises(RopeTPError, match="--focal-px"):
            choose_focal((300, 400), focal_px=bad)
        with pytest.raises(RopeTPError, match="--focal-mm"):
            choose_focal((300, 400), focal_mm=bad)


def people(count: int, tilt: float = 0.0, seed: int = 0) -> np.ndarray:
    """Upright people about their pelvis, facing anywhere, arms and knees moving a little, in the
    axes of a camera whose z axis points ``tilt`` degrees below the horizon: [N, 24, 3] m."""
    random = np.random.default_rng(seed)
    pose = random.normal(0, 0.12, (count, 24, 3))
    pose[:, 0] = 0
    local = axis_angle_to_matrix(pose)
    local[:, 0] = yaw_matrix(random.uniform(-np.pi, np.pi, count))
    rest = load_body().rest_joints(np.zeros(10))
    world = forward_kinematics(local, rest - rest[0])
    return world @ camera_down(tilt)


def camera_down(degrees: float) -> np.ndarray:
    """World-from-camera [3, 3] of a camera looking ``degrees`` below the horizon."""
    return axis_angle_to_matrix(np.radians([-degrees, 0.0, 0.0])) @ LEVEL


class TestGravity:
    @given(unit)
    @example(np.array([0.0, 1.0, 0.0]))  # upside down
    @settings(deadline=None)
    def test_level_rotation_is_a_rotation_that_brings_up_to_y(self, up):
        rotation = level_rotation(up)
        assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(rotation) == pytest.approx(1.0)
        assert np.allclose(rotation @ up / np.linalg.norm(up), [0, 1, 0], atol=1e-6)

    def still(
        self, *told: tuple[np.ndarray, float], count: int = 90, edges: Sequence[Vertical] = ()
    ) -> np.ndarray:
        """World-from-camera of a still camera before people who say up is there [3], so sure."""
        return fuse_with_gravity(
            np.eye(3)[None], [np.zeros(count, int)] * len(told),
            [np.tile(up, (count, 1)) for up, _ in told],
            [np.full((count, 2), error) for _, error in told], 30.0, edges,
        )  # fmt: skip

    @pytest.mark.parametrize("tilt", [-40.0, -15.0, 0.0, 15.0])
    def test_tilt_is_what_people_say_who_are_sure(self, tilt):
        up = camera_down(tilt)[1]
        assert angle_between(self.still((up, 0.02)), camera_down(tilt)[None])[0] < 2.0

    def test_a_camera_is_sooner_tilted_than_rolled(self):
        down, askew = (
            axis_angle_to_matrix(np.radians(about)) @ [0, -1.0, 0]
            for about in ([5.0, 0, 0], [0, 0, 5.0])
        )
        tilted, rolled = (
            np.degrees(np.arccos((LEVEL.T @ self.still((up, 0.08))[0])[1, 1]))
            for up in (down, askew)
        )
        assert 3 < tilted < 5 and 1 < rolled < 0.7 * tilted

    def test_a_camera_held_askew_is_found_so_if_people_say_it_is(self):
        up = axis_angle_to_matrix(np.radians([20.0, 0, 25.0])) @ [0, -1.0, 0]
        found = self.still((up, 0.08), count=50)
        assert np.degrees(np.arccos(found[0, 1] @ up)) < 5.0

    def test_a_lying_person_does_not_tilt_the_world(self):
        up, lying = camera_down(10.0)[1], np.array([1.0, 0, 0])
        alone = self.still((up, 0.03))
        assert angle_between(self.still((up, 0.03), (lying, 0.1)), alone)[0] < 1.0

    def test_straight_edges_are_believed_before_a_leaning_person(self):
        leaning, up = camera_down(3.0)[1], camera_down(20.0)[1]
        edges = [(0, up, np.radians([1.0, 1.0]))] * 3
        world = self.still((leaning, 0.08), edges=edges)
        assert angle_between(world, camera_down(20.0)[None])[0] < 1.5
        assert edges_agree(world, edges) == pytest.approx(np.radians(1.0))

    def test_straight_edges_that_all_people_contradict_are_misread(self):
        up, misread = camera_down(10.0)[1], camera_down(45.0)[1]
        edges = [(0, misread, np.radians([1.0, 1.0]))]
        world = self.still(*[(up, 0.08)] * 3, edges=edges)
        assert angle_between(world, camera_down(10.0)[None])[0] < 3.0
        assert edges_agree(world, edges) is None

    def test_of_a_camera_that_pans_edges_are_in_each_picture_s_own_axes(self):
        tilt = level_rotation(axis_angle_to_matrix(np.radians([15.0, 0, 9.0])) @ [0, -1.0, 0])
        world = yaw_matrix(np.linspace(0, 1.2, 40)) @ tilt
        edges = [(k, world[k, 1], np.radians([1.0, 1.0])) for k in (3, 20, 36)]
        lying = np.tile([1.0, 0, 0], (40, 1))
        relative = world[0].T @ world
        fused = fuse_with_gravity(
            relative, [np.arange(40)], [lying], [np.full((40, 2), np.pi)], 30.0, edges
        )
        assert angle_between(fused, world).max() < 1.0

    def test_two_people_are_surer_than_one_who_stays_longer(self):
        one, two = (axis_angle_to_matrix(np.radians([a, 0, 0])) @ [0, -1.0, 0] for a in (0.0, 6.0))
        tilts = [
            np.degrees(np.arccos((LEVEL.T @ self.still(*told)[0])[1, 1]))
            for told in ([(one, 0.03), (two, 0.03)], [(one, 0.03), (two, 0.03), (two, 0.03)])
        ]
        assert 2 < tilts[0] < tilts[1] < 5


class TestOneFloor:
    AWAY = np.array([4.0, 5.0, 4.5])

    def sizes(self, *below: float, known: int = 0, tilted: float = 0.01) -> np.ndarray:
        """By how much they are larger, of whom the first so many are ``known``."""
        count = len(below)
        return sizes_on_one_floor(
            np.array(below), self.AWAY[:count], np.arange(count) < known, tilted
        )

    def test_who_is_thought_too_tall_stands_too_deep(self):
        tall, small = self.sizes(1.6, 1.9)
        assert 0.8 < small < 1 < tall < 1.2
        assert 1.9 * small == pytest.approx(1.6 * tall, rel=0.08)

    def test_rather_one_is_short_than_the_other_a_giant(self):
        tall, small = self.sizes(1.6, 2.0)
        assert 1 - small > 1.5 * (tall - 1)

    def test_a_known_size_tells_the_others(self):
        one, other = self.sizes(1.6, 1.9, known=1)
        assert one == pytest.approx(1.0, abs=0.005)
        assert 1.9 * other == pytest.approx(1.6, rel=0.08)

    def test_the_less_is_believed_the_less_is_known_of_up(self):
        smaller = [self.sizes(1.6, 1.8, tilted=off)[1] for off in (0.005, 0.03, 0.3)]
        assert smaller[0] < smaller[1] < smaller[2] < 1

    def test_all_as_deep_are_as_tall_as_thought(self):
        assert self.sizes(1.6, 1.6, 1.6) == pytest.approx([1.0, 1.0, 1.0], abs=0.01)

    @pytest.mark.parametrize("below", [-0.2, 0.1, 0.7, 3.2])
    def test_who_stands_on_a_wall_or_in_a_pit_is_as_tall_as_thought(self, below):
        assert self.sizes(1.6, below).tolist() == [1.0, 1.0]

    def test_of_three_the_one_on_a_platform_is_left_out(self):
        found = self.sizes(1.6, 1.65, 0.8)
        assert found[2] == 1 and found[0] > found[1]

    def test_alone_and_nobody(self):
        assert self.sizes(1.6) == [1]
        assert len(self.sizes()) == 0


class TestPlacement:
    def test_look_along_is_a_rotation_with_the_ray_as_z(self):
        centers = np.random.default_rng(0).uniform(0, [WIDTH, HEIGHT], (20, 2))
        turn = look_along(centers, FOCAL, CENTER)
        assert np.allclose(turn @ turn.transpose(0, 2, 1), np.eye(3))
        assert np.allclose(np.linalg.det(turn), 1.0)
        seen = turn[:, :, 2] @ K.T
        assert np.allclose(seen[:, :2] / seen[:, 2:], centers)
        assert np.allclose(look_along(CENTER[None], FOCAL, CENTER)[0], np.eye(3))

    def project(self, points: np.ndarray) -> np.ndarray:
        return points[..., :2] / points[..., 2:] * FOCAL + CENTER

    def test_weak_perspective_puts_the_pelvis_on_its_ray_at_its_depth(self):
        pelvis = np.array([[0.8, -0.3, 4.0], [-1.0, 0.2, 7.0]])
        centers, sizes = self.project(pelvis), np.array([150.0, 90.0])
        scale = 2 * FOCAL / (pelvis[:, 2] * sizes)
        cam = np.stack([scale, np.zeros(2), np.zeros(2)], axis=1)
        width = widths_at_one_metre(centers, sizes, FOCAL, CENTER)
        found = pelvis_in_crops(cam, width, look_along(centers, FOCAL, CENTER))
        assert np.allclose(self.project(found), centers)
        # The depth is the distance along the ray for a crop looked at straight on.
        stretch = np.linalg.norm(pelvis, axis=1) / pelvis[:, 2]
        assert np.allclose(np.linalg.norm(found, axis=1), pelvis[:, 2] * stretch)

    def test_fit_pelvis_recovers_a_known_pelvis(self):
        random = np.random.default_rng(0)
        bodies = people(30, tilt=10.0)
        pelvis = random.uniform([-2, -1, 3], [2, 1, 9], (30, 3))
        joints2d = self.project(bodies + pelvis[:, None])
        weights = random.uniform(0.2, 1.0, (30, 24))
        found = fit_pelvis(bodies, joints2d, weights, FOCAL, CENTER, np.zeros((30, 3)))
        assert np.allclose(found, pelvis, atol=1e-5)

    def test_fit_pelvis_does_not_look_at_joints_without_weight(self):
        bodies = people(4)
        pelvis = np.tile([0.5, 0.1, 5.0], (4, 1))
        joints2d = self.project(bodies + pelvis[:, None])
        joints2d[:, 20:] += 200.0
        weights = np.ones((4, 24))
        weights[:, 20:] = 0
        found = fit_pelvis(bodies, joints2d, weights, FOCAL, CENTER, np.zeros((4, 3)))
        assert np.allclose(found, pelvis, atol=1e-5)

    def test_fit_pelvis_falls_back_when_the_answer_lies_behind_the_camera(self):
        bodies = people(2)
        joints2d = 2 * CENTER - self.project(bodies + np.array([0.0, 0.0, 5.0]))
        fallback = np.tile([0.0, 0.0, 4.0], (2, 1))
        found = fit_pelvis(bodies, joints2d, np.ones((2, 24)), FOCAL, CENTER, fallback)
        assert np.allclose(found, fallback)
