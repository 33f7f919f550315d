"""References triangulated from several cameras."""

import numpy as np
import pytest

from ropetp_cli.body.model import load_body
from ropetp_cli.body.rotations import axis_angle_to_matrix, forward_kinematics
from ropetp_cli.body.skeleton import LIMBS
from ropetp_cli.camera.placement import look_along
from ropetp_cli.evaluation.views import Observation, View, lengths, meeting, read_cameras
from ropetp_cli.evaluation.views import reference as settled

FPS, COUNT = 30.0, 40
MATRIX = np.array([[1500.0, 0, 540], [0, 1500, 960], [0, 0, 1]])


def camera_at(angle: float) -> View:
    """One of those that stand around, 4 m away and 2 m above the floor, looking at the middle."""
    place = np.array([4 * np.sin(angle), 4 * np.cos(angle), 2.0])
    ahead = (np.array([0, 0, 1.0]) - place) / np.linalg.norm([4, 1])
    right = np.cross(ahead, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(ahead, right), ahead])
    return View(rotation, place, MATRIX, np.zeros(4))


def walker() -> np.ndarray:
    """Limbs [N, 12, 3] m of somebody who moves, z up."""
    rest = load_body().rest_joints(np.zeros(10))
    phase = np.random.default_rng(0).uniform(0, 6, (24, 3))
    turns = axis_angle_to_matrix(0.4 * np.sin(np.arange(COUNT)[:, None, None] / 8 + phase))
    joints = forward_kinematics(turns, rest)[:, LIMBS]
    return joints[..., [2, 0, 1]] + [0, 0, 1.0] + np.linspace(0, 0.5, COUNT)[:, None, None]


def seen(view: View, limbs: np.ndarray) -> Observation:
    there = view.before(limbs) @ view.matrix.T
    sure = np.ones((*limbs.shape[:2], 1))
    return Observation(view, 1, np.concatenate([there[..., :2] / there[..., 2:], sure], axis=-1))


@pytest.fixture
def observations() -> list[Observation]:
    return [seen(camera_at(angle), walker()) for angle in (0.3, 1.6, 3.1, 4.4)]


def test_views_meet_where_the_person_is_whatever_one_of_them_says(observations):
    truth = walker()
    points, off = meeting(observations)
    assert points == pytest.approx(truth, abs=1e-6) and np.nanmax(off) < 1e-3
    observations[2].points[:, 4:6, 0] += 200  # one takes the wrists for something else
    observations[1].points[:, 0, 2] = 0.1  # and one does not see a shoulder
    points, off = meeting(observations)
    assert np.abs(points - truth).max() < 0.02
    assert np.nanmedian(off[2, :, 4:6]) == pytest.approx(200, rel=0.1)
    assert np.isnan(off[1, :, 0]).all() and not np.isnan(off[0]).any()


def test_bones_of_a_reference_are_of_one_length_where_views_waver(observations):
    rng, truth = np.random.default_rng(1), walker()
    for observation in observations:
        observation.points[..., :2] += rng.normal(0, 12, (COUNT, 12, 2))
    loose, steady = meeting(observations)[0], settled(observations, FPS)[0]
    errors = [np.linalg.norm(points - truth, axis=-1).mean() for points in (loose, steady)]
    assert errors[1] < 0.6 * errors[0] and errors[1] < 0.015
    assert lengths(steady) == pytest.approx(lengths(truth), abs=0.012)


def test_cameras_are_read_as_qualisys_writes_them():
    turn = look_along(np.array([[0.2, -0.3]]), 1.0, np.zeros(2))[0]
    entries = " ".join(f'r{i + 1}{j + 1}="{turn[i, j]}"' for i in range(3) for j in range(3))
    text = f"""<?xml version='1.0'?><calibration><cameras><camera serial="1">
      <transform {entries} x="1500" y="-250" z="900"/>
      <intrinsic focalLengthU="96000" focalLengthV="96640" centerPointU="34560"
       centerPointV="61440" radialDistortion1="-0.05" radialDistortion2="0.14"
       tangentalDistortion1="0.001" tangentalDistortion2="-0.002"/>
      </camera></cameras></calibration>"""
    (view,) = read_cameras(text.encode())
    assert view.place == pytest.approx([1.5, -0.25, 0.9]) and view.focal == pytest.approx(1505)
    assert view.matrix[:2, 2] == pytest.approx([540, 960])
    assert view.rotation == pytest.approx(np.diag([1, -1, -1]) @ turn)
    assert view.distortion == pytest.approx([-0.05, 0.14, 0.001, -0.002])
