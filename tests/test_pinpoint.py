"""Pinpoint: what its maps mean, what it begins with, and that it finds joints in a photograph."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.utils import ASSETS

from ropetp_cli.body.skeleton import JOINT_INDEX, LIMB_KEYPOINTS, LIMBS, MIRROR
from ropetp_cli.errors import RopeTPError
from ropetp_cli.people.crops import crop_batch, keypoints_to_crop
from ropetp_cli.people.detector import Detector
from ropetp_cli.rope.mirror import COCO_MIRROR
from ropetp_cli.rope.movenet import COARSE_PX, MAP_PX, load_movenet
from ropetp_cli.rope.pinpoint import (
    Pinpoint,
    depth_loss,
    load_pinpoint,
    locate,
    log_likely,
    pinpoint_loss,
    pinpointed,
    places,
    save_pinpoint,
)
from ropetp_cli.rope.predictor import refound
from ropetp_cli.weights import find_weights


def spots(*where: tuple[float, float], height: float = 12.0, side: int = MAP_PX) -> torch.Tensor:
    """Logits with bell-shaped hills at places x, y in -1..1, for all joints."""
    x = places(side, torch.zeros(1))
    maps = torch.full((side, side), -12.0)
    for across, down in where:
        off = (x - across).square() + (x[:, None] - down).square()
        maps = torch.maximum(maps, height - off * (side / 2) ** 2)
    return maps.expand(1, 24, -1, -1).clone()


@given(st.floats(-0.9, 0.9), st.floats(-0.9, 0.9))
@settings(max_examples=30, deadline=None)
def test_a_hill_is_found_between_the_steps_of_the_map(across, down):
    found = pinpointed(log_likely(spots((across, down))).exp())
    off = found.points - torch.tensor([across, down])
    assert off.abs().max() < 0.2 * 2 / MAP_PX
    assert found.mass.min() > 0.97


def test_of_two_hills_one_is_taken_and_doubted():
    found = pinpointed(log_likely(spots((-0.5, 0.0), (0.5, 0.0))).exp())
    assert np.allclose(found.points[..., 0].abs(), 0.5, atol=0.01)
    assert np.allclose(found.mass, 0.5, atol=0.02)


def test_who_is_outside_the_view_is_nowhere_surely():
    found = pinpointed(log_likely(torch.full((1, 24, MAP_PX, MAP_PX), -20.0)).exp())
    assert found.mass.max() < 1e-3


@pytest.mark.parametrize("side", [COARSE_PX, MAP_PX])
def test_the_loss_asks_for_the_true_place(side):
    points, weight = torch.full((1, 24, 2), 0.25), torch.ones(1, 24)
    right, wrong = (
        pinpoint_loss(spots((x, 0.25), side=side), points, weight, 0.8) for x in (0.25, -0.25)
    )
    assert right < wrong - 5


def test_the_loss_asks_for_no_place_of_what_is_outside():
    points, weight = torch.full((1, 24, 2), 0.25), torch.ones(1, 24)
    right = pinpoint_loss(spots((0.25, 0.25)), points, weight, 0.8)
    logits = spots((0.25, 0.25)).requires_grad_()
    outside = points.clone()
    outside[:, 3] = 1.4
    pinpoint_loss(logits, outside, weight, 0.8).backward()
    assert (logits.grad[0, 3] > 0).any() and (logits.grad[0, 3] >= 0).all()
    half = pinpoint_loss(spots((0.25, 0.25)), outside, weight * (points[..., 0] == outside[..., 0]),
                         0.8)  # fmt: skip
    assert torch.isclose(half, right)


def test_it_begins_where_movenet_is():
    """Untrained, every limb is most likely where MoveNet's heatmap is highest."""
    torch.manual_seed(0)
    movenet = load_movenet(find_weights("keypoints"))
    net = Pinpoint.from_movenet(movenet).eval()
    image = torch.from_numpy(_view()[0]).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        heat = movenet.maps(image)["heatmaps"].flatten(2).argmax(-1)[0]
        fine, coarse, _ = net(image, torch.rand(1, 17, 3))
        best = fine.flatten(2).argmax(-1)[0]
    assert coarse.shape == (1, 24, COARSE_PX, COARSE_PX)
    for keypoint, joint in LIMB_KEYPOINTS.items():
        assert best[JOINT_INDEX[joint]] == heat[keypoint]


def test_the_loss_of_depth_is_least_for_the_truth_said_as_surely_as_it_is_right():
    true, weight = torch.linspace(-0.5, 0.5, 24)[None], torch.ones(1)

    def loss(off: float, spread: float) -> float:
        depth = torch.stack([true + off, torch.full_like(true, spread).log()], dim=-1)
        return float(depth_loss(depth, true, weight))

    assert loss(0, 0.1) < loss(0.1, 0.1) < loss(0.3, 0.1)
    assert loss(0.1, 0.1) < min(loss(0.1, 0.03), loss(0.1, 0.3))
    nobody = torch.stack([true + 1, true], dim=-1).requires_grad_()
    depth_loss(nobody, true, 0 * weight).backward()
    assert not nobody.grad.any()


def _view() -> tuple[np.ndarray, np.ndarray]:
    """A man of a photograph, standing: his crop [1, 256, 256, 3], the detector's keypoints."""
    frame = cv2.imread(str(ASSETS / "bus.jpg"))
    found = Detector().detect(frame)
    row = np.argsort(found.boxes[:, 0])[1:2]
    crop, center, size = crop_batch(frame, found.boxes[row])
    return crop, keypoints_to_crop(found.keypoints[row], center, size)


@pytest.fixture(scope="module")
def net() -> Pinpoint:
    return load_pinpoint(find_weights("pinpoint"))


def test_joints_of_a_man_in_a_photograph_are_found(net):
    crop, told = _view()
    images = torch.from_numpy(crop).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        found = pinpointed(locate(net, images, torch.from_numpy(told).float())[0])
    limbs = told[0, list(LIMB_KEYPOINTS)]
    off = np.linalg.norm(found.points[0, LIMBS].numpy() - limbs[:, :2], axis=-1)
    assert np.median(off[limbs[:, 2] > 0.8]) < 0.06
    y = {name: float(found.points[0, JOINT_INDEX[name], 1]) for name in
         ("head", "neck", "pelvis", "left_knee", "left_foot")}  # fmt: skip
    assert sorted(y, key=y.get) == list(y)
    assert found.mass[0, LIMBS].median() > 0.5


def test_in_a_mirror_it_says_the_same_mirrored(net):
    crop, told = _view()
    images = torch.from_numpy(crop).permute(0, 3, 1, 2).float() / 255
    told = torch.from_numpy(told).float()
    across = torch.tensor([-1.0, 1.0, 1.0])
    with torch.inference_mode():
        likely, depth = locate(net, images, told)
        mirrored, same_depth = locate(net, images.flip(-1), told[:, COCO_MIRROR] * across)
    one, other = pinpointed(likely), pinpointed(mirrored)
    assert torch.allclose(same_depth[:, list(MIRROR)], depth, atol=1e-4)
    places_back = other.points[:, list(MIRROR)] * across[:2]
    sure = one.mass[0] > 0.5
    assert (places_back - one.points)[0, sure].abs().max() < 1e-3
    assert torch.allclose(other.mass[:, list(MIRROR)], one.mass, atol=1e-4)


def test_weights_come_back_and_others_are_refused(tmp_path):
    torch.manual_seed(1)
    net = Pinpoint()
    save_pinpoint(net, tmp_path / "net.safetensors")
    again = load_pinpoint(tmp_path / "net.safetensors").state_dict()
    for name, value in net.state_dict().items():
        assert torch.equal(again[name], value.half().float()), name
    with pytest.raises(RopeTPError, match="movenet.safetensors: no weights of Pinpoint"):
        load_pinpoint(find_weights("keypoints"))
    with pytest.raises(RopeTPError, match="none.safetensors: no weights of Pinpoint"):
        load_pinpoint(tmp_path / "none.safetensors")


def test_limbs_are_told_where_they_were_found_since():
    rng = np.random.default_rng(0)
    keypoints, points = rng.uniform(-1, 1, (2, 17, 3)), rng.uniform(-1, 1, (2, 24, 2))
    mass = rng.uniform(0, 1, (2, 24))
    keypoints[0, :, 2] = 0
    keypoints[1, :5, 2] = 0.5
    told = refound(keypoints, points, mass)
    np.testing.assert_array_equal(told[0], keypoints[0])
    np.testing.assert_array_equal(told[1, :5], keypoints[1, :5])
    wrist = JOINT_INDEX["right_wrist"]
    np.testing.assert_array_equal(told[1, 10], [*points[1, wrist], mass[1, wrist]])
