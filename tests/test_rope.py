"""Rope: the parts, Equations 1 and 2, the losses, and the weights that ship."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ropetp_cli.body.model import load_body
from ropetp_cli.body.rot6d import forward_kinematics, matrix_to_rot6d, rot6d_to_matrix
from ropetp_cli.body.rotations import axis_angle_to_matrix
from ropetp_cli.body.rotations import forward_kinematics as numpy_kinematics
from ropetp_cli.body.skeleton import JOINT_INDEX, JOINTS, LEVEL_SIZES, LEVELS, MIRROR, PARENTS
from ropetp_cli.errors import RopeTPError
from ropetp_cli.rope.losses import (
    IGNORED,
    LossWeights,
    RopeTargets,
    attention_loss,
    level_masks,
    nearness,
    rope_loss,
)
from ropetp_cli.rope.network import Rope, RopeConfig, load_rope, save_rope, weak_perspective
from ropetp_cli.rope.predictor import AGAIN, RopePredictor
from ropetp_cli.rope.regressor import ContextualRegressor, InterLevelAttention
from ropetp_cli.rope.smoothing import smooth_rotations, steady_betas
from ropetp_cli.rope.tokenizer import HierarchicalTokenizer
from ropetp_cli.weights import find_weights


def test_levels_nest_and_count_as_the_paper_says():
    assert [LEVEL_SIZES[level] for level in ("indep", "inter", "fulco", "whobo")] == [24, 11, 6, 1]
    for level, parts in LEVELS.items():
        assert set(parts) == set(range(LEVEL_SIZES[level]))
    # Joints that share an interdependent part share a fully coordinated one.
    for part in range(11):
        assert len(set(LEVELS["fulco"][LEVELS["inter"] == part])) == 1


def test_shoulder_elbow_and_hand_share_the_arm_token():
    arm = {LEVELS["fulco"][JOINT_INDEX[f"left_{n}"]] for n in ("shoulder", "elbow", "wrist")}
    other = LEVELS["fulco"][JOINT_INDEX["right_elbow"]]
    assert len(arm) == 1 and other not in arm


def test_mirror_swaps_sides_and_keeps_the_tree():
    assert all(MIRROR[MIRROR[j]] == j for j in range(24))
    for joint, parent in enumerate(PARENTS[1:], start=1):
        assert PARENTS[MIRROR[joint]] == MIRROR[parent]
    assert JOINTS[MIRROR[JOINT_INDEX["left_knee"]]] == "right_knee"


def test_tokens_are_attention_weighted_means_equation_1():
    torch.manual_seed(0)
    tokenizer = HierarchicalTokenizer(8, token_width=16).eval()
    features = torch.randn(2, 8, 6, 6)
    tokens, logits = tokenizer(features)
    level = "inter"
    values = tokenizer.values[level](tokenizer.value_stem(features))
    for part in (0, 10):
        mask = torch.softmax(logits[level][:, part].flatten(1), dim=1)
        expected = (mask[:, None] * values.flatten(2)).sum(-1)
        torch.testing.assert_close(tokens[level][:, part, :16], expected)
    assert tokens["whobo"].shape == (2, 1, 18)


def test_a_token_ends_in_the_place_its_part_is_seen_at():
    tokenizer = HierarchicalTokenizer(4, token_width=8).eval()
    bright = torch.zeros(1, 4, 16, 16)
    with torch.no_grad():
        for head in tokenizer.attention.values():
            head.weight.fill_(100.0)
        tokenizer.attention_stem[0].weight.fill_(1.0)
    bright[:, :, 3, 12] = 1.0  # row 3, column 12
    tokens, _ = tokenizer(bright)
    expected = torch.tensor([(12.5 / 16) * 2 - 1, (3.5 / 16) * 2 - 1])
    torch.testing.assert_close(tokens["indep"][0, 5, 8:], expected, atol=0.02, rtol=0)


def test_cross_attention_permutes_queries_keys_and_values_equation_2():
    torch.manual_seed(1)
    attention = InterLevelAttention(width=8, heads=1).eval()
    tokens = {level: torch.randn(1, 24, 8) for level in ("indep", "inter", "fulco")}
    mixed = attention(tokens)

    def project(level):
        return attention.to_qkv[level](attention.norm[level](tokens[level])).split(8, dim=-1)

    q_fulco, k_inter, v_indep = project("fulco")[0], project("inter")[1], project("indep")[2]
    weights = torch.softmax(q_fulco @ k_inter.transpose(1, 2) / math.sqrt(8), dim=-1)
    expected = tokens["indep"] + attention.out["indep"](weights @ v_indep)
    torch.testing.assert_close(mixed["indep"], expected)


def test_a_hidden_limb_hears_from_the_whole_body():
    torch.manual_seed(2)
    regressor = ContextualRegressor(16, 4).eval()
    tokens = {level: torch.randn(1, count, 16) for level, count in LEVEL_SIZES.items()}
    before = regressor(tokens, torch.zeros(1, 4))["rot6d"]
    tokens["whobo"] = tokens["whobo"] + 1.0
    after = regressor(tokens, torch.zeros(1, 4))["rot6d"]
    assert ((before - after).abs().sum(-1) > 0).all()


rotations = st.lists(st.floats(-3, 3), min_size=3, max_size=3).map(np.array)


@given(rotations)
@settings(max_examples=50, deadline=None)
def test_rot6d_round_trip(axis_angle):
    matrix = torch.as_tensor(axis_angle_to_matrix(axis_angle))
    torch.testing.assert_close(rot6d_to_matrix(matrix_to_rot6d(matrix)), matrix)


def test_torch_and_numpy_kinematics_agree():
    rng = np.random.default_rng(0)
    local = axis_angle_to_matrix(rng.normal(size=(3, 24, 3)))
    rest = load_body().rest_joints(np.zeros(10))
    theirs = numpy_kinematics(local, rest)
    ours, _ = forward_kinematics(torch.as_tensor(local), torch.as_tensor(rest).expand(3, 24, 3))
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-6)


def test_weak_perspective_scales_and_shifts():
    joints = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]])
    cam = torch.tensor([[0.5, 0.2, -0.4]])
    expected = torch.tensor([[[0.1, -0.2], [0.6, 0.8]]])
    torch.testing.assert_close(weak_perspective(joints, cam), expected)


def test_level_masks_keep_background_and_unlabelled():
    part = torch.tensor([[0, 18, 24, 255]], dtype=torch.uint8)[None]
    masks = level_masks(part, "fulco")[0, 0]
    assert masks.tolist() == [
        LEVELS["fulco"][0], LEVELS["fulco"][18], LEVEL_SIZES["fulco"], IGNORED,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def rope():
    return load_rope(find_weights("rope"), load_body())


def _targets(output, **changes):
    count = len(output.rotations)
    fields = {
        "rotations": output.rotations.detach(),
        "betas": output.betas.detach(),
        "joints": output.joints.detach(),
        "joints2d": output.joints2d.detach(),
        "has_pose": torch.ones(count),
        "weight2d": torch.ones(count, 24),
        "part": torch.full((count, 64, 64), 24, dtype=torch.uint8),
    }
    return RopeTargets(**{**fields, **changes})


def test_loss_is_zero_on_the_truth_and_ignores_what_is_not_labelled(rope):
    output = rope(torch.rand(2, 3, 256, 256))
    weights = LossWeights(attention=0.0, confidence=0.0, points=0.0)
    total, terms = rope_loss(output, _targets(output), weights)
    assert total.item() == pytest.approx(0.0, abs=1e-5)
    moved = _targets(output, joints=output.joints.detach() + 0.3, has_pose=torch.tensor([1.0, 0.0]))
    _, one = rope_loss(output, moved, weights)
    moved.has_pose = torch.zeros(2)
    _, none = rope_loss(output, moved, weights)
    assert one["joints"] > 0.1 and none["joints"] == 0.0


def test_loss_knows_how_near_the_camera_of_rendered_people_was(rope):
    output = rope(torch.rand(2, 3, 256, 256))
    near = torch.tensor([1 / 2.5, 1 / 6])
    image = (output.joints2d / (1 + near[:, None, None] * output.joints[..., 2:])).detach()
    rendered = _targets(output, joints2d=image)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(nearness(rendered), near, atol=1e-3, rtol=0)
    photographs = _targets(output, joints2d=image, part=torch.full((2, 64, 64), IGNORED))
    assert nearness(photographs).tolist() == [0, 0]
    weights = LossWeights(attention=0.0)
    lost = [rope_loss(output, t, weights)[1]["joints2d"].item() for t in (rendered, photographs)]
    assert lost[0] < 1e-5 < 1e-3 < lost[1]


def test_attention_loss_prefers_the_right_parts(rope):
    output = rope(torch.rand(1, 3, 256, 256))
    part = torch.full((1, 64, 64), 24, dtype=torch.uint8)
    grid = output.attention["indep"].shape[-1]
    right = {}
    for level, logits in output.attention.items():
        right[level] = torch.zeros_like(logits)
        right[level][:, -1] = 10.0
    assert attention_loss(right, part) < 0.05 < attention_loss(output.attention, part)
    assert grid <= 64


def test_shipped_weights_answer_with_rotations_in_one_batch_or_many(rope):
    crops = np.random.default_rng(0).integers(0, 255, (3, 256, 256, 3), dtype=np.uint8)
    predictor = RopePredictor(rope)
    together = predictor.predict(crops)
    alone = predictor.predict(crops[1:2])
    np.testing.assert_allclose(together.rotations[1], alone.rotations[0], atol=1e-3)
    identity = together.rotations @ np.swapaxes(together.rotations, -1, -2)
    np.testing.assert_allclose(identity, np.broadcast_to(np.eye(3), identity.shape), atol=1e-4)
    assert ((together.confidence >= 0) & (together.confidence <= 1)).all()


def test_crops_in_doubt_are_looked_at_again_in_small_batches(rope, monkeypatch):
    crops = np.random.default_rng(0).integers(0, 255, (11, 256, 256, 3), dtype=np.uint8)
    keypoints = np.zeros((11, 17, 3))
    sizes, near, look = [], [], RopePredictor._look

    def noting(self, crops, keypoints, widths):
        sizes.append(len(crops))
        near.append(widths)
        return look(self, crops, keypoints, widths)

    monkeypatch.setattr(RopePredictor, "_look", noting)
    monkeypatch.setattr("ropetp_cli.rope.predictor.DOUBT", 1.1)
    monkeypatch.setattr("ropetp_cli.rope.predictor.SURER", -1.0)
    predictor = RopePredictor(rope, quick=True)
    widths = np.linspace(0.1, 0.3, 11)
    twice = predictor.predict(crops, keypoints, widths)
    assert sizes == [11, AGAIN, 11 - AGAIN]
    np.testing.assert_array_equal(np.concatenate(near), np.tile(widths, 2))
    alone = predictor.predict(crops[9:10], widths=widths[9:10])
    np.testing.assert_allclose(twice.rotations[9], alone.rotations[0], atol=1e-3)


def test_weights_round_trip(tmp_path, rope):
    save_rope(rope, tmp_path / "again.safetensors")
    again = load_rope(tmp_path / "again.safetensors", load_body())
    image = torch.rand(1, 3, 256, 256)
    with torch.inference_mode():
        torch.testing.assert_close(again(image).joints, rope(image).joints, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["hrnet_w32", "hrnet_w48"])
def test_hrnet_backbones_build_and_run(name):
    net = Rope(RopeConfig(backbone=name), load_body()).eval()
    with torch.inference_mode():
        output = net(torch.rand(1, 3, 256, 256))
    assert output.attention["indep"].shape == (1, 25, 64, 64)
    assert output.joints.shape == (1, 24, 3)


def test_bad_weight_files_are_one_line_errors(tmp_path):
    with pytest.raises(RopeTPError, match="no such weights"):
        load_rope(tmp_path / "none.safetensors", load_body())
    (tmp_path / "bad.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(RopeTPError, match="not a Rope weight file"):
        load_rope(tmp_path / "bad.safetensors", load_body())


def test_smoothing_keeps_a_swing_and_removes_noise():
    rng = np.random.default_rng(0)
    time = np.arange(120) / 30
    angle = 0.5 * np.sin(2 * np.pi * 1.0 * time)
    clean = axis_angle_to_matrix(np.stack([angle, 0 * angle, 0 * angle], -1))
    noisy = axis_angle_to_matrix(rng.normal(0, 0.05, (120, 3))) @ clean
    sequence = np.repeat(noisy[:, None], 24, axis=1)
    smooth = smooth_rotations(sequence, np.ones((120, 24)), 30.0)[:, 0]

    def error(matrices):
        return np.abs(matrices - clean).mean()

    assert error(smooth) < 0.6 * error(noisy)
    swing = np.arctan2(smooth[:, 2, 1], smooth[:, 1, 1])
    assert np.percentile(swing, 95) > 0.9 * np.percentile(angle, 95)


def test_a_guess_gives_way_to_what_is_seen_before_and_after():
    angle = np.linspace(0, 1.5, 60)
    turning = axis_angle_to_matrix(np.stack([angle, 0 * angle, 0 * angle], -1))
    guessed = turning.copy()
    guessed[28:33] = axis_angle_to_matrix(np.array([0.0, 2.5, 0.0]))
    confidence = np.full((60, 24), 0.9)
    confidence[28:33] = 0.03
    smooth = smooth_rotations(np.repeat(guessed[:, None], 24, axis=1), confidence, 30.0)[:, 0]
    cosine = (np.trace(smooth @ turning.transpose(0, 2, 1), axis1=1, axis2=2) - 1) / 2
    assert np.degrees(np.arccos(cosine.clip(-1, 1)))[20:40].max() < 12


def test_steady_betas_weigh_the_frames():
    betas = np.stack([np.zeros(10), np.ones(10)])
    np.testing.assert_allclose(steady_betas(betas, np.array([1.0, 3.0])), 0.75)
