"""Blind moments bridged from the frames around."""

import numpy as np
import pytest

from ropetp_cli.body.model import load_body
from ropetp_cli.body.rotations import axis_angle_to_matrix
from ropetp_cli.rope.bridge import LONGEST, NOTHING, bridged, in_sight
from ropetp_cli.rope.predictor import CropPoses, posed_joints

FPS, COUNT = 30.0, 40
CENTERS = np.linspace([300.0, 200.0], [380.0, 240.0], COUNT)
SIZES = np.linspace(180.0, 220.0, COUNT)
WIDTHS = SIZES / 250  # of a camera of 250 px, some 3 m away


@pytest.fixture(scope="module")
def rest():
    return load_body().rest_joints(np.zeros(10))


def somersault(rest: np.ndarray) -> CropPoses:
    """Half a turn a second in the picture while an arm swings; the pelvis goes straight on and
    comes nearer at an even pace, whatever the crops do."""
    turns = np.zeros((COUNT, 24, 3))
    turns[:, 0, 2] = np.pi / FPS * np.arange(COUNT)
    turns[:, 16, 1] = 0.03 * np.arange(COUNT)
    rotations = axis_angle_to_matrix(turns)
    per_metre = 80 * np.exp(0.01 * np.arange(COUNT))  # px
    pelvis = np.linspace([310.0, 205.0], [400.0, 220.0], COUNT)
    scale = per_metre / (SIZES / 2)
    cam = np.concatenate([scale[:, None], (pelvis - CENTERS) / per_metre[:, None]], axis=1)
    joints = posed_joints(rotations, rest)
    away = 2 / (scale * WIDTHS)
    seen = (joints[..., :2] + cam[:, None, 1:]) / (away[:, None, None] + joints[..., 2:])
    joints2d = seen * 2 / WIDTHS[:, None, None]
    return CropPoses(
        rotations, np.zeros((COUNT, 10)), cam, joints2d, np.full((COUNT, 24), 0.8),
        np.zeros((COUNT, 17, 3)),
        np.concatenate([joints2d, np.full((COUNT, 24, 1), 0.02)], axis=-1),
    )  # fmt: skip


def blinded(answer: CropPoses, frames: slice) -> CropPoses:
    """Nonsense, and little confidence in it, in ``frames``."""
    lost = answer.take(np.arange(COUNT))
    lost.rotations[frames] = np.eye(3)
    lost.cam[frames] = [3.0, 1.0, -1.0]
    lost.joints2d[frames] = 0
    lost.confidence[frames] = 0.1
    return lost


def test_a_steady_somersault_is_bridged_as_it_was(rest):
    truth = somersault(rest)
    found, weights = bridged(blinded(truth, slice(12, 20)), CENTERS, SIZES, WIDTHS, rest, FPS)
    for name in ("rotations", "cam", "joints2d"):
        assert getattr(found, name) == pytest.approx(getattr(truth, name), abs=1e-6), name
    assert (found.confidence[12:20] == 0.1).all()
    assert weights == pytest.approx(0.8)
    assert (found.evidence[12:20, :, 2] == NOTHING).all()
    assert np.array_equal(found.evidence[:12], truth.evidence[:12])


@pytest.mark.parametrize(
    "frames",
    [slice(0, 5), slice(35, COUNT), slice(5, 5 + round(LONGEST * FPS) + 3), slice(0, COUNT)],
)
def test_beginnings_ends_and_long_absences_are_left_to_rope(rest, frames):
    lost = blinded(somersault(rest), frames)
    found, weights = bridged(lost, CENTERS, SIZES, WIDTHS, rest, FPS)
    assert np.array_equal(found.rotations, lost.rotations) and np.array_equal(found.cam, lost.cam)
    assert np.array_equal(weights, lost.confidence)


def test_who_walks_out_of_the_picture_is_not_guessed_at(rest):
    answer, boxes = somersault(rest), np.tile([200.0, 100.0, 300.0, 400.0], (COUNT, 1))
    answer.confidence[:] = 0.9
    answer.confidence[-11:] = answer.confidence[:5] = 0.4
    whole = slice(0, COUNT)
    assert in_sight(answer, boxes, 1000, FPS) == whole  # inside the picture: dark, or far away
    boxes[-14:, 0] = 3
    assert in_sight(answer, boxes, 1000, FPS) == slice(0, COUNT - 11)
    boxes[:5, 2] = 999
    assert in_sight(answer, boxes, 1000, FPS) == slice(5, COUNT - 11)
    answer.confidence[-14:] = 0.9  # seen well up to the edge
    assert in_sight(answer, boxes, 1000, FPS) == slice(5, COUNT)
    boxes[:, 0], answer.confidence[:] = 3, 0.4
    assert in_sight(answer, boxes, 1000, FPS) == whole  # nothing else is left


def test_who_is_seen_for_a_moment_only_keeps_all_of_it(rest):
    count, long = COUNT - 16, int(LONGEST * FPS)
    boxes = np.tile([2.0, 100.0, 90.0, 400.0], (count, 1))
    for sure, kept in ((long, slice(4, 4 + long)), (long - 1, slice(0, count))):
        answer = somersault(rest).take(np.arange(count))
        answer.confidence[:] = 0.4
        answer.confidence[4 : 4 + sure] = 0.9
        assert in_sight(answer, boxes, 1000, FPS) == kept


def test_who_is_half_in_the_picture_for_long_stays(rest):
    answer, boxes = somersault(rest), np.tile([2.0, 100.0, 90.0, 400.0], (COUNT, 1))
    long = int(LONGEST * FPS)
    for count, last in ((long, COUNT - long), (long + 1, COUNT)):
        answer.confidence[:] = 0.9
        answer.confidence[-count:] = 0.3
        assert in_sight(answer, boxes, 1000, FPS) == slice(0, last)
