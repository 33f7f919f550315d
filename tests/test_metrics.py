"""Metrics on constructed motions whose figures are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ropetp_cli.evaluation import metrics


def motion(seed: int = 0, count: int = 250) -> np.ndarray:
    """A body that wanders: joints [count, 24, 3] m."""
    rng = np.random.default_rng(seed)
    shape = rng.normal(0, 0.4, (24, 3))
    sway = np.cumsum(rng.normal(0, 0.01, (count, 24, 3)), axis=0)
    path = np.cumsum(rng.normal(0, 0.03, (count, 1, 3)), axis=0)
    return shape + sway + path


@settings(max_examples=25, deadline=None)
@given(
    scale=st.floats(0.2, 5),
    angle=st.tuples(*[st.floats(-3, 3)] * 3),
    shift=st.tuples(*[st.floats(-50, 50)] * 3),
)
def test_similarity_is_found_and_undone(scale, angle, shift):
    truth = motion(1, 120)
    pred = scale * truth @ Rotation.from_rotvec(angle).as_matrix().T + np.array(shift)
    for figure in (metrics.w_mpjpe, metrics.wa_mpjpe, metrics.pa_mpjpe):
        assert figure(pred, truth).max() < 1e-6
    moved = (pred - np.array(shift)) / scale + np.array(shift)
    assert metrics.rte(moved[:, 0], truth[:, 0]).max() < 1e-6


def test_align_never_mirrors():
    points = np.random.default_rng(2).normal(size=(40, 3))
    scale, rotation, _ = metrics.align(points, points * [-1, 1, 1])
    assert np.linalg.det(rotation) == pytest.approx(1)
    assert scale < 0.9


def test_align_of_one_point_only_moves_it():
    scale, rotation, shift = metrics.align(np.zeros((5, 3)), np.ones((5, 3)))
    assert scale == 1
    assert np.allclose(rotation @ np.zeros(3) + shift, 1)


def test_mpjpe_takes_the_middle_of_the_hips_away():
    truth = motion()
    pred = truth + [3.0, -2.0, 1.0]
    assert metrics.mpjpe(pred, truth).max() < 1e-9
    pred[:, 15, 0] += 0.24
    assert metrics.mpjpe(pred, truth) == pytest.approx(np.full(250, 10.0))
    truth_vertices = np.repeat(truth, 3, axis=1)
    assert metrics.pve(truth_vertices + 0.1, truth_vertices, truth + 0.1, truth).max() < 1e-9
    one = np.full((250, 72, 3), [0.003, 0.0, 0.004])
    found = metrics.pve(truth_vertices + one, truth_vertices, truth, truth)
    assert found == pytest.approx(np.full(250, 5.0))


def test_world_error_is_the_drift_since_the_chunk_began():
    truth = np.tile(motion(count=1), (230, 1, 1))
    drift = np.zeros((230, 1, 3))
    drift[:, 0, 0] = 0.01 * np.arange(230)
    found = metrics.w_mpjpe(truth + drift, truth)
    assert len(found) == 230
    # The two frames of the alignment lie 1 cm apart: their middle is fitted, the scale hardly.
    assert found[:100] == pytest.approx(np.abs(np.arange(100) - 0.5) * 10, rel=0.02, abs=0.2)
    assert found[100:200] == pytest.approx(found[:100])
    assert found[200:] == pytest.approx(found[:30])
    aligned = metrics.wa_mpjpe(truth + drift, truth)
    assert aligned[:100].mean() < found[:100].mean() / 1.9


def test_rte_is_a_share_of_the_path_and_keeps_the_scale():
    path = np.zeros((101, 3))
    path[:, 2] = np.linspace(0, 10, 101)
    found = metrics.rte(path * 1.1, path)
    assert found[0] == pytest.approx(5.0)  # half a metre short at either end of ten
    assert found[50] == pytest.approx(0.0, abs=1e-9)
    assert np.isnan(metrics.rte(path, np.zeros_like(path))).all()


def test_accel_and_jitter_of_polynomials():
    fps = 25.0
    time = np.arange(40) / fps
    still = np.zeros((40, 24, 3))
    fall = still.copy()
    fall[..., 1] = (-9.81 / 2 * time**2)[:, None]
    assert metrics.accel(fall, still, fps) == pytest.approx(np.full(38, 9.81))
    assert metrics.jitter(fall, fps).max() < 1e-6
    cubic = still.copy()
    cubic[..., 0] = (5 * time**3)[:, None]
    assert metrics.jitter(cubic, fps) == pytest.approx(np.full(37, 3.0))


def test_foot_sliding_counts_only_feet_that_truly_stand():
    truth = np.zeros((11, 24, 3))
    truth[:, 11, 0] = 0.05 * np.arange(11)  # the right foot swings
    pred = truth.copy()
    pred[:, :, 2] += 0.004 * np.arange(11)[:, None]
    found = metrics.foot_sliding(pred, truth)
    assert len(found) == 10
    assert found == pytest.approx(np.full(10, 4.0))


def test_mean_weighs_frames_not_sequences():
    assert metrics.mean([np.array([1.0]), np.array([4.0, 4.0])]) == pytest.approx(3.0)
    assert np.isnan(metrics.mean([np.array([])]))
