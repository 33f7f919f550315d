"""Paths led to where a camera that stays in its place saw people, and what they stand on."""

import numpy as np
import pytest

from ropetp_cli.body.rotations import axis_angle_to_matrix
from ropetp_cli.camera.focal import ASSUMED, GIVEN
from ropetp_cli.camera.gravity import LEVEL, level_by_floor
from ropetp_cli.trajectory.fusion import Sight, fuse_people

FPS = 30.0
EYE = np.array([0.0, 1.5, 0.0])
AHEAD = np.array([0.0, 0.0, -1.0])


def wobble(count: int, size: float, seed: int = 0, seconds: float = 0.15) -> np.ndarray:
    """Noise [N] of standard deviation ``size`` that stays the same for about ``seconds``."""
    random = np.random.default_rng(seed)
    knots = random.normal(0, size, int(count / FPS / seconds) + 2)
    return np.interp(np.arange(count) / FPS / seconds, np.arange(len(knots)), knots)


def seen(truth: np.ndarray, depth_noise: float = 0.03, scale: float = 1.0, seed: int = 0) -> Sight:
    """The path [N, 3] m as a level camera at EYE sees it: true bearings, noisy depths."""
    place = truth - EYE
    place = place * (1 + wobble(len(truth), depth_noise, seed))[:, None]
    place[:, 2] *= scale
    return Sight(place, np.tile(AHEAD, (len(truth), 1)), np.full(len(truth), 0.8))


def line(count: int, start: list[float], end: list[float]) -> np.ndarray:
    return np.linspace(start, end, count)


def fuse_standing(paths: list[np.ndarray], sights: list[Sight], *told, **more):
    """Of people whose pelvis is .9 m above the one foot they have on the floor."""
    feet = [STANDING[: len(path)] for path in paths]
    contacts = [np.tile([0.9, 0.1], (len(path), 1)) for path in paths]
    return fuse_people(paths, feet, contacts, sights, *told, **more)


def fuse_one(path: np.ndarray, sight: Sight, focal_error: float = GIVEN) -> np.ndarray:
    return fuse_standing([path], [sight], FPS, focal_error, False)[0].path


def off(path: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Distances [N] m over the floor; the fused world's origin is under the camera."""
    return np.linalg.norm((path - truth)[:, [0, 2]], axis=1)


STILL = line(300, [0.5, 0.9, -6.0], [0.5, 0.9, -6.0])
STANDING = np.full(300, -0.9)


def test_who_stands_still_does_not_drift():
    drifting = STILL + line(300, [0, 0, 0], [0.3, 0, 1.0])
    fused = fuse_one(drifting, seen(STILL))
    assert off(fused, STILL).max() < 0.25
    assert np.linalg.norm(np.diff(fused, axis=0), axis=1).max() * FPS < 0.15  # and barely moves
    np.testing.assert_array_equal(fused[:, 1], drifting[:, 1])


def test_on_both_feet_nobody_is_carried_about_by_noisy_depths():
    def moved(one_foot: int, until: int) -> float:
        contacts = np.full((300, 2), 0.9)
        contacts[:until, one_foot] = 0.1
        told = [STILL + [1.0, 0, 2.0]], [STANDING], [contacts], [seen(STILL, 0.04)]
        (fused,) = fuse_people(*told, FPS, GIVEN, False)
        assert off(fused.path, STILL).mean() < 0.15
        return np.linalg.norm(np.diff(fused.path[150:], axis=0), axis=1).sum()

    assert moved(1, 150) < 0.6 * moved(1, 300)


def test_a_walk_goes_where_it_was_seen_and_is_no_rougher():
    truth = line(240, [-2.0, 0.9, -9.0], [1.5, 0.9, -4.0])
    turned = truth @ axis_angle_to_matrix(np.array([0, 0.4, 0])).T * [0.85, 1, 0.85]
    fused = fuse_one(turned, seen(truth))
    assert off(fused, truth).mean() < 0.1
    speed = np.linalg.norm(np.diff(fused, axis=0), axis=1) * FPS
    assert np.ptp(speed) < 0.5  # the noise of the depths goes at 2 m/s


def test_frames_that_are_guesses_do_not_pull():
    truth = line(240, [-2.0, 0.9, -6.0], [2.0, 0.9, -6.0])
    sight = seen(truth)
    sight.place[100:130] *= 1.8
    sight.trust[100:130] = 0.03
    assert off(fuse_one(truth + [3.0, 0, 1.0], sight), truth).max() < 0.35


def test_an_assumed_focal_length_gives_way_to_speeds_and_a_given_one_does_not():
    truth = line(300, [-0.5, 0.9, -12.0], [0.5, 0.9, -3.0])
    deep = seen(truth, 0.01, scale=1.4)
    found = np.ptp(fuse_one(truth, deep, focal_error=ASSUMED)[:, 2])
    held = np.ptp(fuse_one(truth, deep, focal_error=GIVEN)[:, 2])
    assert found == pytest.approx(9.0, rel=0.15)
    assert held == pytest.approx(9.0 * 1.4, rel=0.08)


def test_a_camera_that_travels_with_a_walker_is_told_by_their_speeds():
    walked = line(240, [0, 0.9, 0], [9.0, 0.9, 0])
    assert fuse_standing([walked], [seen(STILL[:240])], FPS, GIVEN, turning=True) is None
    assert fuse_standing([walked], [seen(walked - [4, 0, 6])], FPS, GIVEN, turning=True) is not None


def fall(count: int, height: float, at: int) -> np.ndarray:
    """Heights [N] m of a man who stands on something and drops at frame ``at``."""
    time = np.maximum(np.arange(count) - at, 0) / FPS
    return np.maximum(height - 9.81 / 2 * time**2, 0)


def test_a_man_who_drops_from_a_wall_was_on_it():
    walker = line(240, [-3.0, 0.9, -7.0], [3.0, 0.9, -7.5])
    flat = line(240, [1.0, 0.9, -9.0], [2.0, 0.9, -9.0])
    height = fall(240, 1.6, 150)
    paths, sights = [flat, walker], [seen(flat + np.outer(height, [0, 1, 0])), seen(walker, seed=1)]
    man, woman = fuse_standing(paths, sights, FPS, GIVEN, False)
    np.testing.assert_allclose(man.path[:140, 1], 2.5, atol=0.15)
    np.testing.assert_allclose(man.path[175:, 1], 0.9, atol=0.02)
    assert man.level[0] == pytest.approx(1.6, abs=0.15) and abs(man.level[-1]) < 0.02
    assert (np.diff(man.path[:, 1]) < 0.1).all()
    np.testing.assert_allclose(woman.path[:, 1], 0.9, atol=1e-9)


def test_who_never_leaves_a_wall_is_on_it_beside_somebody_on_the_ground():
    walker = line(240, [-3.0, 0.9, -7.0], [3.0, 0.9, -7.5])
    flat = line(240, [1.0, 0.9, -9.0], [1.2, 0.9, -9.0])
    sights = [seen(flat + [0, 1.5, 0]), seen(walker, seed=1)]
    man, woman = fuse_standing([flat, walker], sights, FPS, GIVEN, False)
    np.testing.assert_allclose(man.level, 1.5, atol=0.15)
    assert not woman.level.any()
    sights[0].trust[:] = 0.1  # half out of view: no such claim
    assert not fuse_standing([flat, walker], sights, FPS, GIVEN, False)[0].level.any()


def test_who_is_hardly_seen_does_not_say_where_the_floor_is():
    people = [line(240, [x, 0.9, -6.0], [x + 0.2, 0.9, -6.0]) for x in (-1.0, 0.0, 1.0)]
    heights = (0.0, 0.06, -0.27)
    sights = [
        seen(path + [0, height, 0], 0.005, seed=k)
        for k, (path, height) in enumerate(zip(people, heights, strict=True))
    ]
    sights[2].trust[:] = 0.05
    for each in fuse_standing(people, sights, FPS, GIVEN, False):
        assert np.abs(each.level).max() < 1e-9


def test_a_slope_is_no_step_and_a_wobble_no_jump():
    walk = line(300, [0.0, 0.9, -12.0], [0.0, 0.9, -3.0])
    sloping = walk + np.outer(np.linspace(0, 0.8, 300), [0, 1, 0])
    sloping[:, 1] += wobble(300, 0.02, seed=3)
    fused = fuse_standing([walk], [seen(sloping, 0.01)], FPS, GIVEN, False)[0]
    np.testing.assert_allclose(fused.level, 0, atol=1e-9)
    assert np.abs(fused.path[:, 1] - 0.9).max() < 0.1


def test_a_jump_is_kept():
    time = np.arange(240) / FPS
    hop = np.maximum(0.4 - 9.81 / 2 * (time - 4) ** 2, 0)
    fused = fuse_one(STILL[:240], seen(STILL[:240] + np.outer(hop, [0, 1, 0]), 0.01))
    assert 0.25 < fused[:, 1].max() - 0.9 < 0.45
    assert abs(fused[:100, 1] - 0.9).max() < 0.01 and abs(fused[-80:, 1] - 0.9).max() < 0.01


def rising(count: int) -> np.ndarray:
    """A path that drifts up by .4 m after two seconds."""
    return STILL[:count] + np.outer(np.clip(np.arange(count) / FPS - 2, 0, 4) / 10, [0, 1, 0])


def test_a_drift_into_the_air_that_nobody_saw_is_taken_back():
    fused = fuse_one(rising(240), seen(STILL[:240], 0.01))
    assert np.abs(fused[:, 1] - 0.9).max() < 0.09
    assert np.abs(np.diff(fused[:, 1])).max() * FPS < 0.15


def test_who_is_seen_to_climb_or_keeps_a_foot_down_is_left_there():
    climbing = rising(240)
    assert fuse_one(climbing, seen(climbing, 0.01))[:, 1] == pytest.approx(climbing[:, 1], abs=0.03)
    stretching = [0.9 - climbing[:, 1] - 0.9]  # onto the toes: the feet stay on the floor
    sight, both = seen(STILL[:240], 0.01), np.ones((240, 2))
    fused = fuse_people([climbing], stretching, [both], [sight], FPS, GIVEN, False)[0]
    assert fused.path[:, 1] == pytest.approx(climbing[:, 1], abs=0.03)


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_few_frames(count):
    fused = fuse_people(
        [STILL[:count]], [STANDING[:count]], [np.ones((count, 2))], [seen(STILL[:count])],
        FPS, ASSUMED, False,
    )[0]  # fmt: skip
    assert np.isfinite(fused.path).all() and fused.path.shape == (count, 3)


class TestLevelByFloor:
    TILT = axis_angle_to_matrix(np.radians([2.0, 0.0, 3.5]))  # what upright people got wrong

    def error(self, truth: np.ndarray, seed: int = 0) -> float:
        """Degrees left after the floor has spoken; ``truth`` are feet [N, 3] m."""
        place = seen(truth, 0.03, seed=seed).place @ self.TILT.T
        found = level_by_floor(self.TILT @ LEVEL, [place], [np.full(len(truth), 0.8)], FPS)
        return float(np.degrees(np.arccos(np.clip((found @ LEVEL)[1, 1], -1, 1))))

    BEFORE = 4.03

    def test_a_walk_levels_the_world(self):
        there, back = line(120, [-3, 0, -9.0], [2, 0, -6.5]), line(120, [2, 0, -6.5], [-2, 0, -4])
        assert self.error(np.concatenate([there, back])) < 0.4 * self.BEFORE

    def test_a_walk_across_levels_the_roll(self):
        assert self.error(line(240, [-4, 0, -7.0], [4, 0, -7.0])) < 2.5

    def test_the_noise_of_depths_tilts_nothing(self):
        for seed in range(4):
            assert self.error(line(240, [1, 0, -7.0], [1, 0, -7.0]), seed) < self.BEFORE + 1.0

    def test_a_drop_tilts_nothing(self):
        truth = line(240, [-1, 0, -7.0], [2, 0, -7.0])
        truth[:, 1] += fall(240, 2.0, 120)
        assert self.error(truth) < self.BEFORE

    def test_stairs_are_not_believed(self):
        truth = line(240, [-3, 0, -7.0], [3, 4.0, -7.0])
        assert self.error(truth) == pytest.approx(self.BEFORE, abs=0.3)
