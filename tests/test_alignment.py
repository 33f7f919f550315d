"""Crops turned upright by keypoints, and poses bent to meet 2D evidence."""

from functools import partial

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ropetp_cli.body.model import load_body
from ropetp_cli.body.rotations import axis_angle_to_matrix
from ropetp_cli.body.skeleton import JOINT_INDEX, JOINTS, LIMB_KEYPOINTS, LIMBS, MIRROR
from ropetp_cli.rope.alignment import TRUST, agreement, align, with_pinpoints
from ropetp_cli.rope.mirror import COCO_MIRROR, look_twice
from ropetp_cli.rope.movenet import MAP_PX
from ropetp_cli.rope.network import (
    Rope,
    RopeConfig,
    RopeOutput,
    load_rope,
    perspective,
    save_rope,
    weak_perspective,
)
from ropetp_cli.rope.pinpoint import Pinpointed, log_likely, places
from ropetp_cli.rope.predictor import AT_ONCE, RopePredictor
from ropetp_cli.rope.upright import BOX, FAR, NEAR, Views, upright_views
from ropetp_cli.weights import find_weights

#: A standing stick figure's COCO keypoints, x right and y down, -1..1.
STANDING = np.array(
    [(0, -0.7), (0.02, -0.72), (-0.02, -0.72), (0.04, -0.7), (-0.04, -0.7),
     (0.12, -0.5), (-0.12, -0.5), (0.15, -0.3), (-0.15, -0.3), (0.16, -0.1), (-0.16, -0.1),
     (0.08, 0), (-0.08, 0), (0.09, 0.4), (-0.09, 0.4), (0.1, 0.8), (-0.1, 0.8)]
)  # fmt: skip


def figure(angle: float = 0.0, confidence: float = 0.9) -> np.ndarray:
    """The stick figure turned clockwise by ``angle``, [1, 17, 3]."""
    cosine, sine = np.cos(angle), np.sin(angle)
    points = STANDING @ np.array([[cosine, sine], [-sine, cosine]])
    return np.concatenate([points, np.full((17, 1), confidence)], axis=1)[None]


def seen_at(*images: torch.Tensor) -> torch.Tensor:
    """How likely joints are at each place of a view, where they are seen at any of ``images``
    [1, 24, 2]."""
    x = places(MAP_PX, torch.zeros(1))
    logits = torch.full((1, 24, MAP_PX, MAP_PX), -20.0)
    for image in images:
        across, down = (((x - image[..., k, None]) * MAP_PX / 2).square() for k in (0, 1))
        logits = torch.maximum(logits, 12 - across[..., None, :] - down[..., None])
    return log_likely(logits).exp()


@settings(max_examples=50, deadline=None)
@given(st.floats(-np.pi + 0.01, np.pi - 0.01))
def test_anybody_is_turned_on_their_feet_and_kept_in_view(angle):
    views = upright_views(figure(angle))
    seen = views.points(figure(angle)[..., :2])[0]
    np.testing.assert_allclose(seen / views.scale[0], STANDING, atol=1e-6)
    assert np.abs(seen).max() <= FAR + 1e-6
    assert np.abs(upright_views(figure(angle), NEAR).points(figure(angle)[..., :2])).max() > FAR
    np.testing.assert_allclose(views.points_back(seen[None])[0], figure(angle)[0, :, :2], atol=1e-9)


def test_an_unsure_detector_turns_nothing():
    views = upright_views(np.concatenate([figure(1.0, 0.1), np.zeros((1, 17, 3))]))
    np.testing.assert_array_equal(views.angle, 0)
    np.testing.assert_allclose(views.scale, FAR / BOX)


def test_pictures_turn_as_points_do():
    picture = np.zeros((1, 256, 256, 3), np.uint8)
    picture[0, 40:44, 180:184] = 255
    views = Views(np.array([0.7]), np.array([0.8]))
    expected = views.points(np.array([[[182 / 128 - 1, 42 / 128 - 1]]]))[0, 0]
    rows, columns = np.nonzero(views.images(picture)[0, ..., 0] > 60)
    found = (np.array([columns.mean(), rows.mean()]) + 0.5) / 128 - 1
    np.testing.assert_allclose(found, expected, atol=0.01)


@pytest.fixture(scope="module")
def rope():
    torch.manual_seed(0)
    return Rope(RopeConfig(backbone="hrnet_w32"), load_body()).eval()


def posed(rope, turns: dict[str, tuple[float, float, float]], cam) -> RopeOutput:
    """What a network would answer that sees one body bent by ``turns`` (axis-angle)."""
    pose = np.zeros((24, 3))
    pose[0] = [np.pi, 0, 0]
    for name, turn in turns.items():
        pose[JOINT_INDEX[name]] = turn
    rotations = torch.from_numpy(axis_angle_to_matrix(pose)).float()[None]
    betas, cam = torch.zeros(1, 10), torch.tensor([cam])
    joints = rope.joints(rotations, betas)
    image = weak_perspective(joints, cam)
    return RopeOutput(rotations, betas, cam, joints, image, image, torch.full((1, 24), -4.0),
                      torch.zeros(1, 24), {})  # fmt: skip


FROM_AFAR = torch.zeros(1)


def test_alignment_leaves_a_pose_that_fits(rope):
    output = posed(rope, {"left_elbow": (0, 0.5, 0)}, (0.9, 0.0, 0.1))
    rotations, cam = align(rope, output, FROM_AFAR)
    torch.testing.assert_close(rotations, output.rotations, atol=1e-5, rtol=0)
    torch.testing.assert_close(cam, output.cam, atol=1e-5, rtol=0)


def test_alignment_bends_limbs_to_the_evidence_and_little_else(rope):
    truth = posed(rope, {"left_shoulder": (0, 0, 0.6), "right_knee": (0, 0, 0.4)}, (0.8, 0.05, 0.0))
    guess = posed(rope, {}, (0.9, 0.0, 0.1))
    guess.points = truth.points
    rotations, cam = align(rope, guess, FROM_AFAR)
    joints = rope.joints(rotations, guess.betas)
    off = (weak_perspective(joints, cam) - truth.points).norm(dim=-1)
    before = (guess.joints2d - truth.points).norm(dim=-1)
    assert off.max() < 0.02 < 0.1 < before.max()
    in_space = (joints - truth.joints).norm(dim=-1).max()
    assert in_space < 0.3 * (guess.joints - truth.joints).norm(dim=-1).max()
    identity = rotations @ rotations.transpose(-1, -2)
    torch.testing.assert_close(identity, torch.eye(3).expand_as(identity), atol=1e-4, rtol=0)


def test_alignment_ignores_what_is_a_guess(rope):
    output = posed(rope, {}, (0.9, 0.0, 0.1))
    wrist = [JOINT_INDEX[name] for name in JOINTS if "wrist" in name or "hand" in name]
    output.points = output.points.clone()
    output.points[:, wrist] += 0.3
    output.log_spread[:, wrist] = 1.0
    rotations, _ = align(rope, output, FROM_AFAR)
    moved = (rope.joints(rotations, output.betas) - output.joints).norm(dim=-1)
    assert moved.max() < 0.01


def test_alignment_turns_limbs_to_the_depth_somebody_saw(rope):
    """An arm in the picture's plane, and a leg that hangs, come forward where they are said to be
    nearer, and nobody moves for a depth that may be anything."""
    turned = {"left_shoulder": (0, -0.5, 0), "right_hip": (-0.5, 0, 0)}
    truth = posed(rope, turned, (0.8, 0.05, 0.0))
    guess = posed(rope, {}, (0.8, 0.05, 0.0))
    guess.log_spread[:] = 3.0
    depth = truth.joints[..., 2]
    guess.depth = torch.stack([depth, torch.full_like(depth, -5.0)], dim=-1)
    ends = [JOINT_INDEX[name] for name in ("left_wrist", "right_ankle")]
    assert (guess.joints - truth.joints)[0, ends, 2].abs().min() > 0.15
    joints = rope.joints(align(rope, guess, FROM_AFAR)[0], guess.betas)
    assert (joints[..., 2] - depth).abs().max() < 0.02
    guess.depth = guess.depth + torch.tensor([0.0, 9.0])
    joints = rope.joints(align(rope, guess, FROM_AFAR)[0], guess.betas)
    assert (joints - guess.joints).norm(dim=-1).max() < 0.005


def test_who_lies_in_doubt_and_stands_in_the_picture_is_stood_up(rope):
    """From a quarter turn off, with depth beside it, alone where Rope is in doubt."""
    truth = posed(rope, {}, (0.6, 0.05, 0.0))
    lying = posed(rope, {}, (0.6, 0.05, 0.0))
    tilt = torch.from_numpy(axis_angle_to_matrix(np.array([0, 0, 1.9]))).float()
    lying.rotations[:, 0] = tilt @ lying.rotations[:, 0]
    lying.points, lying.log_spread = truth.points, torch.full((1, 24), -4.0)
    lying.depth = torch.stack([truth.joints[..., 2], torch.full((1, 24), -2.5)], dim=-1)

    def off(confidence: float) -> float:
        lying.confidence_logit = torch.full((1, 24), confidence).logit()
        joints = rope.joints(align(rope, lying, FROM_AFAR)[0], lying.betas)
        return float((joints - truth.joints).norm(dim=-1).mean())

    assert off(0.4) < 0.05 and off(0.4) < 0.5 * off(0.9)


def test_what_pinpoint_sees_of_many_crops_reaches_each(rope, monkeypatch):
    """Where joints are likely and how deep comes batch by batch, in the order of the crops."""
    count = AT_ONCE + 2
    torch.manual_seed(1)
    said = torch.randn(count, 24, 2)

    def seen(net, images, keypoints, twice):
        rows = (images[:, 0, 128, 128] * 255).round().long()
        return torch.full((len(rows), 24, MAP_PX**2 + 1), 1 / MAP_PX**2), said[rows]

    monkeypatch.setattr("ropetp_cli.rope.predictor.locate", seen)
    given = []
    predictor = RopePredictor(rope, quick=True, pins=torch.nn.Identity())
    answers = predictor.answers

    def kept(output, *told):
        given.append(output.depth)
        return answers(output, *told)

    monkeypatch.setattr(predictor, "answers", kept)
    crops = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(256, 1).repeat(256, 2)
    assert len(predictor.predict(crops.repeat(3, 3))) == count
    assert torch.equal(given[0], said)


def test_alignment_knows_that_near_cameras_see_far_limbs_small(rope):
    """A body as a camera 2.5 m away sees it, legs stretched away from it, is left as it is."""
    output = posed(rope, {n: (-0.9, 0, 0) for n in ("left_hip", "right_hip")}, (0.8, 0.05, 0.0))
    span = 1 / (2.5 * output.cam[:, 0])
    output.points = output.joints2d / (1 + output.joints[..., 2:] / 2.5)

    def bent(span: torch.Tensor) -> float:
        rotations, _ = align(rope, output, span)
        return float((rope.joints(rotations, output.betas) - output.joints).norm(dim=-1).max())

    assert bent(span) < 1e-4 < 0.02 < bent(FROM_AFAR)


def test_a_turned_crop_gives_the_turned_answer(rope):
    """An answer in an upright view and the same answer brought back show the same body, from as
    near by."""
    output = posed(rope, {"left_shoulder": (0, 0, 0.6)}, (0.8, 0.05, 0.02))
    views = Views(np.array([0.9]), np.array([0.75]))
    span = 0.3
    image = perspective(output.joints, output.cam, torch.tensor([span / 0.75]))
    output.points = image
    told = np.zeros((1, 17, 3))
    told[0, 0, 2] = 0.9
    likely = seen_at(image)
    poses = RopePredictor(rope).answers(output, views, np.array([2 * span]), told, likely)
    joints = rope.joints(torch.from_numpy(poses.rotations).float(), output.betas)
    cam = torch.from_numpy(poses.cam).float()
    again = perspective(joints, cam, torch.tensor([span]))
    np.testing.assert_allclose(again.numpy(), poses.joints2d, atol=1e-5)
    step = 2 / MAP_PX
    np.testing.assert_allclose(views.points(poses.joints2d), image.numpy(), atol=0.2 * step)
    limbs = views.keypoints(poses.keypoints)[:, list(LIMB_KEYPOINTS)]
    np.testing.assert_allclose(limbs[..., :2], image[:, LIMBS].numpy(), atol=0.2 * step)
    assert (limbs[..., 2] > 0.97).all()
    seen = views.points(poses.evidence[..., :2])
    np.testing.assert_allclose(seen, image.numpy(), atol=0.2 * step)
    output.points = image + 0.01
    told_alone = RopePredictor(rope).answers(output, views, np.array([2 * span]), told)
    seen = views.points(told_alone.evidence[..., :2])
    np.testing.assert_allclose(seen, output.points.numpy(), atol=1e-6)
    spread = output.log_spread.exp().numpy() / views.scale[:, None]
    np.testing.assert_allclose(told_alone.evidence[..., 2], spread, rtol=1e-5)


def test_weights_without_a_measured_stiffness_are_bent_as_before(rope, tmp_path):
    path = tmp_path / "rope.safetensors"
    save_rope(rope, path)
    kept = load_file(path)
    del kept["stiffness"]
    with safe_open(path, "pt") as file:
        save_file(kept, path, file.metadata())
    each = TRUST * load_rope(path, load_body()).stiffness.diagonal().view(24, 3)
    assert torch.allclose(each[JOINT_INDEX["left_knee"]], torch.tensor(16.0))
    assert torch.allclose(each[JOINT_INDEX["spine1"]], torch.tensor(100.0))


def test_mirrored_crops_get_mirrored_answers():
    """What Rope says of a person and of the person in a mirror differs, but not its mean."""
    rope = load_rope(find_weights("rope"), load_body())
    rng = np.random.default_rng(5)
    crop = cv2.GaussianBlur(rng.integers(0, 256, (256, 256, 3), np.uint8), (0, 0), 9)
    images = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255
    keypoints = torch.from_numpy(figure(0.3)).float()
    across = keypoints[:, COCO_MIRROR] * torch.tensor([-1.0, 1, 1])

    def apart(look) -> float:
        with torch.inference_mode():
            one, other = look(images, keypoints), look(images.flip(-1), across)
        flip = torch.diag(torch.tensor([-1.0, 1, 1]))
        turned = flip @ other.rotations[:, list(MIRROR)] @ flip
        places = other.points[:, list(MIRROR)] * torch.tensor([-1.0, 1])
        return max((turned - one.rotations).abs().max(), (places - one.points).abs().max())

    assert apart(partial(look_twice, rope)) < 0.02 < 0.1 < apart(rope)


def test_joints_pull_as_far_as_they_are_surely_found(rope):
    """A surely found joint moves a doubtful point all the way, an unsure one hardly; one that
    contradicts a sure point is taken for a mistake."""
    output = posed(rope, {}, (0.8, 0.0, 0.0))
    wrist, knee = JOINT_INDEX["left_wrist"], JOINT_INDEX["right_knee"]
    output.log_spread = torch.full((1, 24), -1.5)
    output.log_spread[0, knee] = -4.0
    places = output.points.clone()
    places[0, wrist, 0] += 0.2
    places[0, knee, 0] += 0.5
    moved = {}
    for mass in (0.05, 0.95):
        found = Pinpointed(places, torch.full((1, 24), mass))
        told = with_pinpoints(output, found)
        moved[mass] = (told.points - output.points)[0, :, 0]
        assert (output.log_spread > told.log_spread).all()
    others = [k for k in range(24) if k not in (wrist, knee)]
    assert moved[0.95][others].abs().max() < 1e-6
    assert moved[0.05][wrist] < 0.1 < 0.19 < moved[0.95][wrist] < 0.2
    assert moved[0.95][knee] < 0.06


def test_a_body_chooses_between_places_that_are_as_likely(rope):
    """A left leg below its hip that might as well be where the right one is lies where the body can
    have it; where one place alone is likely, it is believed though the body was thought elsewhere.
    """
    output = posed(rope, {"left_knee": (0, 0, 0.5)}, (0.8, 0.0, 0.0))
    output.log_spread = torch.full((1, 24), -2.0)
    legs = [JOINT_INDEX[f"left_{name}"] for name in ("knee", "ankle", "foot")]
    image, other = output.joints2d, output.joints2d.clone()
    other[:, legs] = image[:, [MIRROR[joint] for joint in legs]]
    told, found = agreement(rope, output, seen_at(image, other), FROM_AFAR)
    off = (found.points - image).norm(dim=-1)
    assert off.max() < 0.3 * 2 / MAP_PX < (other - image).norm(dim=-1).max()
    assert found.mass.min() > 0.6
    assert (told.log_spread < output.log_spread).all()
    moved = agreement(rope, output, seen_at(image + 0.15), FROM_AFAR)[1]
    assert (moved.points - image - 0.15).norm(dim=-1).max() < 0.3 * 2 / MAP_PX
