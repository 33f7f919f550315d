"""The physics stage: the humanoid, the planted feet, the imitation and its refusals."""

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d

from ropetp_cli.body.model import BodyData, load_body
from ropetp_cli.body.rotations import (
    axis_angle_to_matrix,
    forward_kinematics,
    local_to_global,
    matrix_to_axis_angle,
)
from ropetp_cli.body.skeleton import JOINT_INDEX, JOINTS
from ropetp_cli.errors import RopeTPError
from ropetp_cli.physics import imitation, simulate
from ropetp_cli.physics.footing import body_points, find_footing, move_feet, runs
from ropetp_cli.physics.humanoid import GRAVITY, build_humanoid
from ropetp_cli.physics.imitation import Reference, measure

FPS = 25.0
ANKLES = [JOINT_INDEX["left_ankle"], JOINT_INDEX["right_ankle"]]


@pytest.fixture(scope="module")
def body() -> BodyData:
    return load_body()


@pytest.fixture(scope="module")
def rest(body: BodyData) -> np.ndarray:
    return body.rest_joints(np.zeros(10))


def arms_down(count: int) -> np.ndarray:
    pose = np.zeros((count, 24, 3))
    pose[:, JOINT_INDEX["left_shoulder"], 2] = -1.2
    pose[:, JOINT_INDEX["right_shoulder"], 2] = 1.2
    return pose


def on_floor(rest: np.ndarray, sole: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """The path [N, 3] that puts the lowest sole point of every frame on the floor."""
    path = np.zeros((len(rotations), 3))
    _, soles = body_points(rotations, path, rest, sole)
    path[:, 1] = -soles[..., 1].min(axis=(1, 2))
    return path


def standing(rest: np.ndarray, sole: np.ndarray, count: int):
    rotations = axis_angle_to_matrix(arms_down(count))
    return rotations, on_floor(rest, sole, rotations), np.ones((count, 2))


def walk(rest: np.ndarray, sole: np.ndarray, seconds: float = 2.4, fps: float = FPS):
    """A walk made by code: 0.9 m/s, each foot stands for 60 % of its stride of 1 m."""
    time = np.arange(int(seconds * fps)) / fps
    rotations, path, contacts = standing(rest, sole, len(time))
    path[:, 1] -= 0.06
    path[:, 2] = 0.9 * time
    shift = np.zeros((len(time), 2, 3))
    for side in range(2):
        strides = 0.9 * time + side / 2
        part = strides % 1.0
        swing = np.clip((part - 0.6) / 0.4, 0, 1)
        foot = np.floor(strides) - side / 2 + 0.3 + swing**2 * (3 - 2 * swing)
        shift[:, side, 2] = foot - path[:, 2]
        shift[:, side, 1] = 0.06 + 0.06 * np.sin(np.pi * swing)
        contacts[:, side] = part < 0.6
    return move_feet(rotations, path, rest, shift), path, contacts


@pytest.mark.parametrize("beta", [(0, 0.0), (0, 2.0), (0, -2.0), (1, 2.0), (1, -2.0)])
def test_humanoid_of_several_shapes(body: BodyData, beta: tuple[int, float]) -> None:
    betas = np.zeros(10)
    betas[beta[0]] = beta[1]
    joints = body.rest_joints(betas)
    humanoid = build_humanoid(joints, body, betas)
    assert humanoid.model.nv == 75
    assert 35 < humanoid.mass < 110
    # The mass is the mesh's volume of water.
    vertices = body.v_template + body.shapedirs @ betas
    a, b, c = (vertices[body.faces[:, k]] for k in range(3))
    assert humanoid.mass == pytest.approx(
        1000 * abs(np.einsum("ij,ij->", a, np.cross(b, c))) / 6, rel=0.02
    )
    # The bodies lie on the joints, the soles on the mesh's lowest points.
    data = mujoco.MjData(humanoid.model)
    mujoco.mj_kinematics(humanoid.model, data)
    np.testing.assert_allclose(data.xpos[humanoid.bodies], joints - joints[0], atol=1e-5)
    ground = joints[ANKLES[0], 1] + humanoid.sole[0, 0, 1]
    assert ground == pytest.approx(vertices[:, 1].min(), abs=0.01)
    assert np.sign(humanoid.model.opt.gravity).tolist() == [0, -1, 0]


def test_mass_without_a_mesh(rest: np.ndarray) -> None:
    humanoid = build_humanoid(rest)
    assert 50 < humanoid.mass < 110
    assert (humanoid.sole[..., 1] < 0).all()


def test_humanoid_refuses_what_is_no_skeleton() -> None:
    with pytest.raises(RopeTPError, match="24 x 3"):
        build_humanoid(np.zeros((23, 3)))
    with pytest.raises(RopeTPError, match="tall"):
        build_humanoid(np.zeros((24, 3)))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_humanoid_poses_like_the_body(seed: int) -> None:
    """MuJoCo's kinematics at the reference's qpos are the body's own forward kinematics."""
    rng = np.random.default_rng(seed)
    rest = load_body().rest_joints(rng.normal(size=10))
    humanoid = build_humanoid(rest)
    rotations = axis_angle_to_matrix(rng.normal(size=(4, 24, 3)))
    path = rng.normal(size=(4, 3))
    qpos = Reference(rotations, path, 10.0, humanoid).positions(np.array([0.2]))[0]
    data = mujoco.MjData(humanoid.model)
    data.qpos[:] = qpos
    mujoco.mj_kinematics(humanoid.model, data)
    joints = forward_kinematics(rotations[2], rest, path[2] - rest[0])
    np.testing.assert_allclose(data.xpos[humanoid.bodies], joints, atol=1e-4)


def test_reference_velocities_are_those_of_the_motion(rest: np.ndarray) -> None:
    """A body that turns at 1 rad/s and falls at g has just that velocity and acceleration."""
    humanoid = build_humanoid(rest)
    time = np.arange(40) / 20.0
    pose = np.zeros((40, 24, 3))
    pose[:, 0, 1] = time
    path = np.stack([time, -GRAVITY / 2 * time**2, 0 * time], axis=1)
    reference = Reference(axis_angle_to_matrix(pose), path, 20.0, humanoid)
    _, qvel, qacc = reference.states(np.array([1.0]), 1 / 240)
    np.testing.assert_allclose(qvel[0, :6], [1, -GRAVITY, 0, 0, 1, 0], atol=0.02)
    np.testing.assert_allclose(qacc[0, :6], [0, -GRAVITY, 0, 0, 0, 0], atol=0.1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_feet_move_where_they_are_told(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rest = load_body().rest_joints(np.zeros(10))
    pose = rng.normal(size=(3, 24, 3)) * 0.3
    for side in ("left", "right"):
        pose[:, JOINT_INDEX[f"{side}_knee"]] = np.array([[0.9, 0, 0]])
    rotations, path = axis_angle_to_matrix(pose), rng.normal(size=(3, 3))
    shift = rng.uniform(-0.05, 0.05, size=(3, 2, 3))
    moved = move_feet(rotations, path, rest, shift)
    before = forward_kinematics(rotations, rest, path)
    after = forward_kinematics(moved, rest, path)
    np.testing.assert_allclose(after[:, ANKLES] - before[:, ANKLES], shift, atol=2e-3)
    turned = local_to_global(moved)[:, ANKLES]
    np.testing.assert_allclose(turned, local_to_global(rotations)[:, ANKLES], atol=1e-8)
    upper = [JOINT_INDEX[name] for name in JOINTS if "hip" not in name and "knee" not in name]
    legs = [joint for joint in upper if joint not in ANKLES]
    np.testing.assert_allclose(moved[:, legs], rotations[:, legs])


def test_a_straight_leg_reaches_no_further_than_it_is_long(rest: np.ndarray) -> None:
    rotations = np.tile(np.eye(3), (4, 24, 1, 1))
    moved = move_feet(rotations, np.zeros((4, 3)), rest, np.full((4, 2, 3), [0, -0.1, 0]))
    assert np.isfinite(moved).all()
    after = forward_kinematics(moved, rest)[:, ANKLES, 1]
    assert (rest[ANKLES, 1] - after < 0.01).all()


def test_footing_ignores_flicker_and_keeps_a_stair_where_it_is() -> None:
    contacts = np.ones((40, 2))
    contacts[10, 0] = 0  # a gap of one frame
    contacts[:, 1] = 0
    contacts[20, 1] = 1  # a touch of one frame
    soles = np.zeros((40, 2, 6, 3))
    soles[:, 0, :, 1] = 0.30
    footing = find_footing(contacts, soles, 30.0)
    assert runs(footing.standing[:, 0]) == [(0, 40)]
    assert not footing.standing[:, 1].any()
    assert not footing.grounded.any()


def test_standing_still_stays_still(body: BodyData, rest: np.ndarray) -> None:
    humanoid = build_humanoid(rest, body)
    rotations, path, contacts = standing(rest, humanoid.sole, 30)
    result = simulate(rotations, path, rest, contacts, FPS, body, np.zeros(10))
    assert not result.applied
    assert "nothing to mend" in result.message
    assert result.path is not None
    np.testing.assert_array_equal(result.path, path)
    assert result.after["root_change"] < 0.005
    assert result.after["pose_change"] < 3
    assert result.after["foot_sliding"] < 0.005
    assert result.after["residual"] < 0.02  # the feet carry the weight, no hand from outside


@pytest.fixture(scope="module")
def walked(body: BodyData, rest: np.ndarray):
    """The clean walk, and what the stage makes of it with each of the usual faults."""
    sole = build_humanoid(rest, body).sole
    rotations, path, contacts = walk(rest, sole)
    time = np.arange(len(path))[:, None] / FPS
    faults = {
        "slides": path + time * [0.0, 0.0, 0.12],
        "floats": path + [0.0, 0.03, 0.0],
        "sinks": path - [0.0, 0.03, 0.0],
    }
    results = {
        name: simulate(rotations, faulty, rest, contacts, FPS, body, np.zeros(10))
        for name, faulty in faults.items()
    }
    return rotations, path, results


def test_sliding_walk_slides_less(walked) -> None:
    rotations, path, results = walked
    result = results["slides"]
    assert result.applied, result.message
    assert result.before["foot_sliding"] > 0.1
    assert result.after["foot_sliding"] < 0.6 * result.before["foot_sliding"]
    assert result.after["pose_change"] < 30
    assert np.linalg.norm(result.path - path, axis=-1).max() < 0.4
    assert "foot sliding" in result.message
    assert "\n" not in result.message


def test_floating_walk_comes_down(walked) -> None:
    result = walked[2]["floats"]
    assert result.applied, result.message
    assert result.before["floating"] == pytest.approx(0.03, abs=0.005)
    assert result.after["floating"] < 0.006


def test_sinking_walk_comes_up(walked) -> None:
    result = walked[2]["sinks"]
    assert result.applied, result.message
    assert result.after["penetration"] < 0.25 * result.before["penetration"]


def test_result_is_a_motion_and_its_figures_are_true(
    walked, body: BodyData, rest: np.ndarray
) -> None:
    rotations, path, results = walked
    result = results["floats"]
    assert result.rotations.shape == rotations.shape
    identity = result.rotations @ result.rotations.swapaxes(-1, -2)
    np.testing.assert_allclose(identity, np.broadcast_to(np.eye(3), identity.shape), atol=1e-9)
    assert set(np.unique(result.contacts)) <= {0.0, 1.0}
    assert result.contacts.any(axis=1).mean() > 0.8
    sole = build_humanoid(rest, body).sole
    joints, soles = body_points(result.rotations, result.path, rest, sole)
    footing = find_footing(result.contacts, soles, FPS)
    figures = measure(joints, soles, footing, FPS)
    assert figures["jitter"] == pytest.approx(result.after["jitter"])
    assert figures["penetration"] == pytest.approx(result.after["penetration"])


def test_same_input_same_output_and_progress(walked, body: BodyData, rest: np.ndarray) -> None:
    rotations, path, results = walked
    sole = build_humanoid(rest, body).sole
    done = []
    _, _, contacts = walk(rest, sole)
    again = simulate(
        rotations, path + [0.0, 0.03, 0.0], rest, contacts, FPS, body, np.zeros(10), done.append
    )
    assert sum(done) == len(path)
    np.testing.assert_array_equal(again.path, results["floats"].path)
    np.testing.assert_array_equal(again.rotations, results["floats"].rotations)


def test_what_is_too_much_in_all_costs_the_worst_part_alone(
    body: BodyData, rest: np.ndarray, monkeypatch
) -> None:
    rotations, path, contacts = walk(rest, build_humanoid(rest, body).sole)
    judge, refused = imitation._harm, []

    def strict(before, after, slack=1.0) -> str:
        if slack == 1.0 and not refused:
            refused.append(after)
            return "jitter would have grown"
        return judge(before, after, slack)

    monkeypatch.setattr(imitation, "BLOCK", 0.8)
    monkeypatch.setattr(imitation, "_harm", strict)
    floating = path + [0.0, 0.03, 0.0]
    result = simulate(rotations, floating, rest, contacts, FPS, body, np.zeros(10))
    assert result.applied and refused, result.message
    assert 0.5 < result.after["share"] < 0.8
    same = (result.path == floating).all(axis=-1)
    assert 0.2 < same.mean() < 0.5


def test_a_jump_is_not_nailed_to_the_floor(rest: np.ndarray) -> None:
    sole = build_humanoid(rest).sole
    rotations, path, contacts = standing(rest, sole, 100)
    time = np.arange(100) / 50.0
    # Sink by 0.2 m, push off with 1 g for 0.2 s, fly for 0.4 s and 0.2 m, the same backwards.
    away = np.abs(time - 1.0)
    height = np.interp(away, [0.4, 1.0], [-0.2, 0.0])
    height = np.where(away < 0.4, GRAVITY / 2 * (0.4 - away) ** 2 - 0.2, height)
    height = np.where(away < 0.2, GRAVITY / 2 * (0.2**2 - away**2), height)
    rotations = move_feet(
        rotations, path, rest, np.maximum(-height, 0)[:, None, None] * np.tile([0, 1, 0], (2, 1))
    )
    path[:, 1] += 0.04 + height  # and the whole floats
    contacts[away < 0.2] = 0
    result = simulate(rotations, path, rest, contacts, 50.0)
    assert result.applied, result.message
    assert result.after["floating"] < 0.01
    rise = result.path[:, 1].max() - result.path[0, 1]
    assert 0.15 < rise < 0.25


def test_a_seat_that_nobody_saw_holds(rest: np.ndarray) -> None:
    """No contact and no movement, far above the floor: held from outside, left where it is."""
    rng = np.random.default_rng(0)
    pose = arms_down(40) + rng.normal(size=(40, 24, 3)) * 0.004  # some jitter to mend
    path = np.tile([0.0, 1.5, 0.0], (40, 1))
    result = simulate(axis_angle_to_matrix(pose), path, rest, np.zeros((40, 2)), FPS)
    assert result.applied, result.message
    assert "held by something unseen" in result.message
    assert np.abs(result.path - path).max() < 0.03
    assert result.after["jitter"] < result.before["jitter"]


def test_lost_tracking_gives_the_input_back(rest: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    rotations = axis_angle_to_matrix(rng.normal(size=(20, 24, 3)) * 2)
    path = np.cumsum(rng.normal(size=(20, 3)), axis=0)
    contacts = np.ones((20, 2))
    result = simulate(rotations, path, rest, contacts, FPS)
    assert not result.applied
    assert result.message.startswith("physics not applied:")
    assert "\n" not in result.message
    np.testing.assert_array_equal(result.rotations, rotations)
    np.testing.assert_array_equal(result.path, path)
    np.testing.assert_array_equal(result.contacts, contacts)


def test_a_somersault_does_not_cost_the_rest(body: BodyData, rest: np.ndarray) -> None:
    """A walk that floats, a second of nonsense, the walk again: both walks come down."""
    sole = build_humanoid(rest, body).sole
    rotations, path, contacts = walk(rest, sole, 2.0)
    rng = np.random.default_rng(0)
    wild = axis_angle_to_matrix(rng.normal(size=(25, 24, 3)) * 2)
    lost = path[-1] + np.cumsum(rng.normal(size=(25, 3)) * 0.5, axis=0)
    parts = [rotations, wild, rotations], [path, lost, path], [contacts, np.ones((25, 2)), contacts]
    rotations, path, contacts = (np.concatenate(each) for each in parts)
    walked = np.r_[0:40, 85:125]
    path[walked, 1] += 0.03
    result = simulate(rotations, path, rest, contacts, FPS, body, np.zeros(10))
    assert result.applied, result.message
    assert "of 125 frames" in result.message
    assert 0.4 < result.after["share"] < 0.85
    np.testing.assert_allclose(result.rotations[55:70], rotations[55:70], atol=1e-9)
    np.testing.assert_array_equal(result.path[55:70], path[55:70])
    _, soles = body_points(result.rotations, result.path, rest, sole)
    lowest = soles[..., 1].min(axis=(1, 2))
    assert np.median(np.abs(lowest[:35])) < 0.01 and np.median(np.abs(lowest[95:])) < 0.01
    speed = np.linalg.norm(np.diff(result.path - path, axis=0), axis=1) * FPS
    assert speed.max() < 0.6  # and nothing jumps where they join


def test_windows_give_what_the_whole_gives(body: BodyData, rest: np.ndarray, monkeypatch) -> None:
    """Within 0.1 mm and 0.1 degrees, for a walk with the noise of an estimate."""
    sole = build_humanoid(rest, body).sole
    rotations, path, contacts = walk(rest, sole, 9.0)
    rng = np.random.default_rng(0)
    path = path + gaussian_filter1d(rng.normal(0, 0.01, path.shape), 2, axis=0) + [0, 0.02, 0]
    shake = gaussian_filter1d(rng.normal(0, 0.05, (len(path), 24, 3)), 1.5, axis=0)
    rotations = rotations @ axis_angle_to_matrix(shake)
    whole = simulate(rotations, path, rest, contacts, FPS, body, np.zeros(10))
    assert whole.applied, whole.message
    assert whole.after["foot_sliding"] < 0.15 * whole.before["foot_sliding"]  # feet stay put
    assert whole.after["jitter"] < whole.before["jitter"]
    monkeypatch.setattr(imitation, "WINDOW", 2.5)
    parts = simulate(rotations, path, rest, contacts, FPS, body, np.zeros(10))
    assert not np.array_equal(parts.path, whole.path)  # they were made in another way
    assert np.abs(parts.path - whole.path).max() < 1e-4
    off = matrix_to_axis_angle(np.swapaxes(whole.rotations, -1, -2) @ parts.rotations)
    assert np.degrees(np.linalg.norm(off, axis=-1)).max() < 0.1
    np.testing.assert_array_equal(parts.contacts, whole.contacts)


@pytest.mark.parametrize("start", [0, 7])
@pytest.mark.parametrize("count", [4, 20, 74, 75, 76, 1000])
def test_windows_cover_every_frame_once(start: int, count: int, monkeypatch) -> None:
    monkeypatch.setattr(imitation, "WINDOW", 2.0)
    parts = imitation._windows(start, start + count, FPS)
    taken = np.concatenate([np.arange(own.start, own.stop) for _, own in parts])
    np.testing.assert_array_equal(taken, np.arange(start, start + count))
    for span, own in parts:
        assert start <= span.start <= own.start < own.stop <= span.stop <= start + count
        assert own.stop - own.start >= min(count, 25) and span.stop - span.start <= 75 + 100


def test_only_usable_frames_change(body: BodyData, rest: np.ndarray) -> None:
    sole = build_humanoid(rest, body).sole
    rotations, path, contacts = walk(rest, sole)
    usable = np.zeros(len(path), dtype=bool)
    usable[:40] = True
    floating = path + [0.0, 0.03, 0.0]
    result = simulate(rotations, floating, rest, contacts, FPS, body, np.zeros(10), usable=usable)
    assert result.applied, result.message
    np.testing.assert_array_equal(result.path[40:], floating[40:])
    assert np.abs(result.path[:25, 1] - path[:25, 1]).max() < 0.02


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_short_inputs_come_back(rest: np.ndarray, count: int) -> None:
    result = simulate(
        np.tile(np.eye(3), (count, 24, 1, 1)), np.zeros((count, 3)), rest, np.ones((count, 2)), FPS
    )
    assert not result.applied
    assert "too few" in result.message
    assert len(result.path) == count


@pytest.mark.parametrize("fps", [4.0, 12.5, 29.97, 240.0])
def test_four_frames_at_any_rate(rest: np.ndarray, fps: float) -> None:
    sole = build_humanoid(rest).sole
    rotations, path, contacts = standing(rest, sole, 4)
    result = simulate(rotations, path + [0.0, 0.03, 0.0], rest, contacts, fps)
    assert np.isfinite(result.path).all()
    assert result.applied, result.message
    assert result.after["floating"] < 0.01


def test_impossible_input_is_refused(rest: np.ndarray) -> None:
    rotations, path = np.tile(np.eye(3), (5, 24, 1, 1)), np.zeros((5, 3))
    with pytest.raises(RopeTPError, match="contacts"):
        simulate(rotations, path, rest, np.ones((4, 2)), FPS)
    with pytest.raises(RopeTPError, match="frame rate"):
        simulate(rotations, path, rest, np.ones((5, 2)), 0.0)
    path[2] = np.nan
    assert "not finite" in simulate(rotations, path, rest, np.ones((5, 2)), FPS).message
