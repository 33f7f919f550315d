"""Training data: the BlazePose graph, drawn crops, the teacher's frames, the fit to photographs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ropetp_cli.body.model import load_body
from ropetp_cli.body.rotations import (
    axis_angle_to_matrix,
    forward_kinematics,
    knee_bends,
    local_to_global,
    mirror_pose,
)
from ropetp_cli.body.skeleton import JOINT_INDEX, LIMB_KEYPOINTS, NUM_JOINTS
from ropetp_cli.errors import RopeTPError
from ropetp_cli.people.crops import CROP_SCALE
from ropetp_cli.people.detector import Detector
from ropetp_cli.rope import depthwise
from ropetp_cli.rope.blazepose import LANDMARKS, BlazePose, import_tflite
from ropetp_cli.rope.depthwise import Depthwise
from ropetp_cli.rope.movenet import load_movenet
from ropetp_cli.rope.network import load_rope
from ropetp_cli.rope.pinpoint import Pinpoint, load_pinpoint
from ropetp_cli.rope.predictor import CropPoses, RopePredictor
from ropetp_cli.training.augment import degrade
from ropetp_cli.training.crops import CropSet, Sample, augment
from ropetp_cli.training.filming import film, look_at
from ropetp_cli.training.fitting import (
    BONES,
    Evidence,
    JointBody,
    believable,
    fit_bodies,
    gather_evidence,
    mend_swaps,
    real_labels,
)
from ropetp_cli.training.mocap import Clip, straightened
from ropetp_cli.training.observed import ObservedErrors
from ropetp_cli.training.pack import pack, unpack
from ropetp_cli.training.pinpoint import PinpointTraining
from ropetp_cli.training.pinpoint import train as train_pinpoint
from ropetp_cli.training.pose_prior import PosePrior, mirror_rotations
from ropetp_cli.training.rope import FrozenMaps, TrainOptions, train
from ropetp_cli.training.sightings import sighting
from ropetp_cli.training.stiffness import stiffness_of, turns_in_views
from ropetp_cli.training.synthetic import (
    BACKGROUND,
    Backdrops,
    Figure,
    Labels,
    PoseSource,
    Studio,
    fit_weak_camera,
)
from ropetp_cli.training.teacher import LSP_JOINTS, Lesson, in_validation, teach, upright_regions
from ropetp_cli.weights import find_weights


@pytest.fixture(scope="module")
def poses() -> np.ndarray:
    """Mild random poses [600, 24, 3, 3] standing upright in a y-up world."""
    rng = np.random.default_rng(0)
    angles = rng.normal(0, 0.25, (600, NUM_JOINTS, 3))
    angles[:, 0] *= 0.3
    knees = [JOINT_INDEX["left_knee"], JOINT_INDEX["right_knee"]]
    angles[:, knees] = np.abs(angles[:, knees]) * [1, 0, 0]
    return axis_angle_to_matrix(angles).astype(np.float32)


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.fixture(scope="module")
def prior(poses) -> PosePrior:
    return PosePrior.learn(poses, modes=2, components=24, sample=400)


# BlazePose -------------------------------------------------------------------------------------


def _conv(name: str, source: str, shape: list[int], inputs: int, **fields) -> dict:
    node = {"name": name, "op": "conv", "inputs": [source], "shape": shape, "groups": 1}
    node |= {"in_channels": inputs, "kernel": [3, 3], "stride": [1, 1], "pad": [1, 1, 1, 1]}
    return {**node, "activation": "none", **fields}


def test_half_precision_is_for_matrices_over_the_channels():
    """Depthwise filters and the first stage answer to the last digit as without it."""
    nodes = [
        _conv("wide", "image", [4, 64, 64], 3, kernel=[1, 1], pad=[0] * 4),
        _conv("spread", "image", [3, 64, 64], 3, groups=3),
        _conv("narrow", "image", [4, 32, 32], 3, kernel=[1, 1], stride=[2, 2], pad=[0] * 4),
    ]
    spec = {"variant": "toy", "nodes": nodes, "outputs": {}, "taps": {n: n for n in _WAYS}}
    network = BlazePose.from_spec(spec).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        alone = network.features(image, _WAYS)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = network.features(image, _WAYS)
    assert [mixed[name].dtype for name in _WAYS] == [torch.float32, torch.float32, torch.bfloat16]
    assert torch.equal(mixed["wide"], alone["wide"])
    assert torch.equal(mixed["spread"], alone["spread"])
    assert torch.allclose(mixed["narrow"].float(), alone["narrow"], atol=0.02)


_WAYS = ("wide", "spread", "narrow")


def _toy_spec() -> dict:
    nodes = [
        _conv("a", "image", [4, 4, 4], 3, stride=[2, 2], pad=[0, 1, 0, 1], activation="relu"),
        _conv("b", "a", [4, 4, 4], 4),
        {"name": "c", "op": "add", "inputs": ["a", "b"], "shape": [4, 4, 4], "activation": "none"},
        {"name": "d", "op": "resize", "inputs": ["c"], "shape": [4, 8, 8]},
        {"name": "e", "op": "pad_channels", "inputs": ["d"], "shape": [6, 8, 8], "pad": [0, 2]},
        {"name": "f", "op": "sigmoid", "inputs": ["a"], "shape": [4, 4, 4]},
    ]
    return {"variant": "toy", "nodes": nodes, "outputs": {"heatmaps": "e"}, "taps": {"low": "f"}}


def test_graph_runs_only_what_is_asked_and_survives_json():
    network = BlazePose.from_spec(_toy_spec()).eval()
    image = torch.rand(2, 3, 8, 8)
    a = torch.relu(network.convs["a"](torch.nn.functional.pad(image, (0, 1, 0, 1))))
    full = network.features(image, ("heatmaps", "low"))
    assert full["heatmaps"].shape == (2, 6, 8, 8)
    assert torch.allclose(full["low"], a.sigmoid(), atol=1e-6)
    assert full["heatmaps"][:, 4:].abs().max() == 0
    again = BlazePose.from_spec(network.spec_json())
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.features(image, ("heatmaps",))["heatmaps"], full["heatmaps"])
    network.convs["b"].weight.data.fill_(float("nan"))
    assert torch.equal(network.features(image, ("low",))["low"], full["low"])


def test_graph_refuses_unknown_features_operations_and_files(tmp_path):
    network = BlazePose.from_spec(json.dumps(_toy_spec()))
    with pytest.raises(RopeTPError, match="no feature 'pose9'"):
        network.features(torch.rand(1, 3, 8, 8), ("pose9",))
    spec = _toy_spec()
    spec["nodes"][5]["op"] = "fft"
    with pytest.raises(RopeTPError, match="unknown operation 'fft'"):
        BlazePose(spec).features(torch.rand(1, 3, 8, 8), ("low",))
    pytest.importorskip("tflite")
    with pytest.raises(RopeTPError, match="no such BlazePose file"):
        import_tflite(tmp_path / "absent.tflite")


def test_training_ends_at_the_frozen_map():
    network = BlazePose.from_spec(_toy_spec())
    first, second = network.convs["a"].weight, network.convs["b"].weight
    network.train_after(None)
    assert first.requires_grad and second.requires_grad
    network.train_after("low")
    assert not first.requires_grad and not second.requires_grad


@pytest.mark.parametrize("size, stride, padding", [(5, 1, 2), (5, 2, 2), (3, 2, 1), (3, 2, 0)])
@pytest.mark.parametrize("at_once", [1 << 20, 100], ids=["all rows", "row by row"])
def test_gradients_of_depthwise_filters_are_the_usual_ones(
    size, stride, padding, at_once, monkeypatch
):
    monkeypatch.setattr(depthwise, "_VALUES", at_once)
    torch.manual_seed(0)
    ours = Depthwise(6, size, stride, padding)
    usual = torch.nn.Conv2d(6, 6, size, stride, padding, groups=6)
    usual.load_state_dict(ours.state_dict())
    x = torch.randn(3, 6, 7, 16)
    way = torch.randn_like(usual(x))
    gradients = []
    for conv in (ours, usual):
        put = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=conv is ours):
            out = conv(put)
        (out * way).sum().backward()
        gradients.append([out, put.grad, conv.weight.grad, conv.bias.grad])
    assert gradients[0][0].dtype == torch.bfloat16
    for found, expected in zip(*gradients, strict=True):
        assert found.shape == expected.shape
        assert (found.float() - expected).norm() < 0.01 * expected.norm()


# drawn crops -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(poses, body) -> tuple[list[np.ndarray], list[Labels]]:
    studio = Studio(Figure(body), PoseSource(poses), Backdrops([]))
    pairs = [studio.sample(np.random.default_rng([3, index])) for index in range(12)]
    repeat, _ = studio.sample(np.random.default_rng([3, 0]))
    assert np.array_equal(repeat, pairs[0][0])
    return [image for image, _ in pairs], [labels for _, labels in pairs]


@given(by=st.floats(0, 2))
@settings(max_examples=20, deadline=None)
def test_straighter_knees_leave_feet_and_all_else_as_they_were(poses, by):
    some = poses[:50].astype(float)
    new = straightened(some, by)
    assert knee_bends(new) == pytest.approx(np.maximum(knee_bends(some) - by, 0), abs=1e-6)
    before, after = local_to_global(some), local_to_global(new)
    legs = [JOINT_INDEX[f"{side}_{n}"] for side in ("left", "right") for n in ("hip", "knee")]
    others = [joint for joint in range(NUM_JOINTS) if joint not in legs]
    assert after[:, others] == pytest.approx(before[:, others], abs=1e-9)
    for hip, knee in ((1, 4), (2, 5)):  # the line from hip to ankle keeps its way
        ways = []
        for turned in (before, after):
            way = turned[:, hip, :, 1] + turned[:, knee, :, 1]  # thigh and shank of one length
            ways.append(way / np.linalg.norm(way, axis=-1, keepdims=True))
        assert ways[1] == pytest.approx(ways[0], abs=1e-6)


def test_drawn_knees_are_straighter_in_the_share_that_is_asked_for(poses):
    bent = []
    for share in (0.0, 1.0):
        source = PoseSource(poses, share)
        drawn = np.stack([source.draw(np.random.default_rng(seed)) for seed in range(60)])
        bent.append(knee_bends(drawn).mean())
    assert bent[1] < 0.8 * bent[0]


def test_drawn_labels_agree_with_the_body(drawn, body):
    for image, labels in zip(*drawn, strict=True):
        assert image.shape == (256, 256, 3) and image.dtype == np.uint8
        rest = body.rest_joints(labels.betas[0])
        posed = forward_kinematics(labels.rotations[0], rest)
        assert np.abs(posed - posed[0] - labels.joints3d[0]).max() < 1e-3
        assert np.linalg.det(labels.rotations[0]) == pytest.approx(np.ones(24), abs=1e-3)
        inside = np.abs(labels.joints2d[0]).max(-1) <= 1
        assert not labels.visible[0][~inside].any()
        scale, *shift = labels.cam[0]
        guess = scale * (labels.joints3d[0, :, :2] + shift)
        extent = np.ptp(labels.joints2d[0], axis=0).max()
        assert np.linalg.norm(guess - labels.joints2d[0], axis=-1).mean() < 0.05 * extent


def test_drawn_masks_lie_where_the_joints_are(drawn):
    """Knees and elbows that show lie on a pixel of a neighbouring part, nearly always."""
    near = {"left_knee": (1, 4), "right_knee": (2, 5), "left_elbow": (16, 18)}
    hits = []
    for labels in drawn[1]:
        assert set(np.unique(labels.masks[0])) <= {*range(NUM_JOINTS), BACKGROUND}
        for name, parts in near.items():
            if labels.visible[0, JOINT_INDEX[name]]:
                x, y = ((labels.joints2d[0, JOINT_INDEX[name]] + 1) * 32).astype(int)
                window = labels.masks[0][max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
                hits.append(np.isin(window, parts).any())
    assert len(hits) > 10 and np.mean(hits) > 0.7


@given(st.floats(0.2, 3), st.floats(-1, 1), st.floats(-1, 1), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_weak_camera_is_found_exactly(scale, tx, ty, seed):
    joints = np.random.default_rng(seed).normal(0, 0.5, (24, 3))
    points = scale * (joints[:, :2] + [tx, ty])
    assert fit_weak_camera(joints, points) == pytest.approx([scale, tx, ty], abs=1e-6)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_degraded_images_keep_their_form(seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (64, 64, 3), np.uint8)
    out = degrade(image, rng)
    assert out.shape == image.shape and out.dtype == np.uint8 and out.flags["C_CONTIGUOUS"]


def write_set(folder, name: str, images: list, labels: list[Labels]) -> None:
    """A crop set of drawn samples."""
    np.save(folder / f"{name}_images.npy", np.stack(images))
    joined = {f: np.concatenate([getattr(k, f) for k in labels]) for f in vars(labels[0])}
    Labels(**joined).save(folder / f"{name}_labels.npz", body=np.array("b"))


def test_packed_crops_come_back_in_order_and_nearly_the_same(drawn, tmp_path):
    write_set(tmp_path, "a", *drawn)
    before = CropSet.load(tmp_path, "a")
    keypoints = np.random.default_rng(0).uniform(-1, 1, (len(before), 17, 3))
    np.save(tmp_path / "a_keypoints.npy", keypoints.astype(np.float32))
    one = sum(v[:1].nbytes for v in before.labels.values() if v.ndim) / 1e6
    pieces = pack(tmp_path, tmp_path / "small", ["a"], megabytes=7 * one)
    assert len(pieces) > 1
    assert all(path.stat().st_size < 7e6 * one for path in pieces)
    assert unpack(tmp_path / "small", tmp_path / "back") == {"a": len(before)}
    after = CropSet.load(tmp_path / "back", "a")
    assert np.abs(after.images.astype(int) - before.images).mean() < 6
    assert np.abs(after.keypoints - keypoints).max() < 1e-3
    assert after.labels.keys() == before.labels.keys() and str(after.labels["body"]) == "b"
    for name, values in before.labels.items():
        assert after.labels[name].dtype == values.dtype
        if values.ndim:
            assert np.allclose(after.labels[name], values, atol=2e-3)
    pieces[0].rename(tmp_path / "small" / "kept")
    with pytest.raises(RopeTPError, match="a.001.npz: not the next piece"):
        unpack(tmp_path / "small", tmp_path / "back")
    (tmp_path / "small" / "kept").rename(pieces[0])
    pieces[-1].write_bytes(b"short")
    with pytest.raises(RopeTPError, match=pieces[-1].name):
        unpack(tmp_path / "small", tmp_path / "back")
    pieces[-1].unlink()
    with pytest.raises(RopeTPError, match="a piece is missing"):
        unpack(tmp_path / "small", tmp_path / "back")
    with pytest.raises(RopeTPError, match="no pieces"):
        unpack(tmp_path / "back", tmp_path / "back")


@pytest.mark.parametrize("whole", [False, True], ids=["frozen trunk", "end of the trunk"])
def test_a_leg_of_rope_goes_on_where_the_last_one_ended(drawn, body, tmp_path, whole):
    for name in ("syn_train", "syn_test"):
        write_set(tmp_path, name, *drawn)
    given = find_weights("rope")
    leg = TrainOptions(
        tmp_path, tmp_path / "rope.safetensors", sets=("syn_train",), share=(1,), variants=(1,),
        tests=("syn_test",), start=given, train_trunk=whole, train_after="pose16", steps=2,
        batch=4, device="cpu",
    )  # fmt: skip
    first = train(leg, log=lambda line: None)
    assert 0 < first["syn_test"]["mpjpe_mm"] < 1000
    train(replace(leg, resume=leg.out.with_suffix(".ckpt"), steps=3), log=lambda line: None)
    state = torch.load(leg.out.with_suffix(".ckpt"), weights_only=True)
    assert state["step"] == 3
    before, after = load_rope(given, body).state_dict(), state["rope"]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("regressor.") for name in changed)
    trunk = [name for name in changed if name.startswith("backbone.net.")]
    end = load_rope(given, body).backbone.net
    end.train_after("pose16")
    learns = {f"backbone.net.{name}" for name, p in end.named_parameters() if p.requires_grad}
    assert 60 < len(learns) < 120 and bool(trunk) == whole and learns.issuperset(trunk)


def test_a_leg_of_pinpoint_learns_and_leaves_the_first_stages(drawn, tmp_path):
    keypoints = np.full((len(drawn[1]), 17, 3), 0.9, np.float32)
    for row, labels in zip(keypoints, drawn[1], strict=True):
        for keypoint, joint in LIMB_KEYPOINTS.items():
            row[keypoint, :2] = labels.joints2d[0, JOINT_INDEX[joint]]
    for name in ("syn_train", "syn_test"):
        write_set(tmp_path, name, *drawn)
        np.save(tmp_path / f"{name}_keypoints.npy", keypoints)
    leg = PinpointTraining(
        tmp_path, tmp_path / "pin.safetensors", sets=("syn_train",), share=(1,),
        tests=("syn_test",), minutes=0.02, batch=4, workers=0, device="cpu",
    )  # fmt: skip
    torch.manual_seed(leg.seed)
    before = Pinpoint.from_movenet(load_movenet(find_weights("keypoints"))).state_dict()
    found = train_pinpoint(leg, report=lambda line: None)
    assert 0 <= found["syn_test"]["pck@0.2"] <= 1 and found["syn_test"]["median"] > 0
    after = load_pinpoint(leg.out).state_dict()
    changed = {name for name in before if not torch.equal(before[name].half().float(), after[name])}
    assert {"told.weight", "head.1.weight", "stages.3.0.layers.0.weight", "believed",
            "reasoning.leave.weight", "reasoning.coarse.weight", "reasoning.depth.weight",
            } <= changed  # fmt: skip
    assert found["syn_test"]["depth mm"] > 0
    assert not any(name.startswith(("stem", *(f"stages.{k}." for k in range(3))))
                   for name in changed)  # fmt: skip
    with pytest.raises(RopeTPError, match="pin.pt: weights are written as .safetensors"):
        train_pinpoint(replace(leg, out=tmp_path / "pin.pt"))


def test_how_answers_err_is_measured_joints_together():
    """Turns of a hip that a knee takes back are found as such, wholly wrong answers hardly
    count."""
    rng = np.random.default_rng(0)
    hip, knee = JOINT_INDEX["left_hip"], JOINT_INDEX["left_knee"]
    turns = rng.normal(0, 0.1, (4000, 24, 3))
    turns[:, knee] -= turns[:, hip]
    turns[:40] *= 20
    turns[40:80, 0] += 3
    found = np.linalg.inv(stiffness_of(turns)).reshape(24, 3, 24, 3)
    each = found[range(24), :, range(24), :].diagonal(axis1=1, axis2=2)
    assert np.allclose(each[hip], 0.01, rtol=0.3) and np.allclose(each[knee], 0.02, rtol=0.3)
    assert np.allclose(found[hip, range(3), knee, range(3)], -0.009, rtol=0.3)
    with pytest.raises(RopeTPError, match="100 crops tell too little"):
        stiffness_of(turns[-100:])


def test_turns_off_bring_answers_to_the_truth():
    rng = np.random.default_rng(1)
    truth = axis_angle_to_matrix(rng.normal(0, 0.4, (3, 24, 3)))
    ours = truth.copy()
    knee = JOINT_INDEX["right_knee"]
    ours[:, knee] = truth[:, knee] @ axis_angle_to_matrix(np.array([0.0, 0.0, 0.3])).T
    keypoints = np.zeros((3, 17, 3))
    keypoints[:, [5, 6], 0], keypoints[..., 2] = 0.5, 0.9  # who lies is looked at upright
    answers = CropPoses(ours, *np.zeros((4, 3, 1)), keypoints, np.ones((3, 24, 3)))
    turns = turns_in_views(answers, truth)
    others = [k for k in range(24) if k != knee]
    assert np.abs(turns[:, others]).max() < 1e-9
    assert np.allclose(np.linalg.norm(turns[:, knee], axis=1), 0.3)
    axis = local_to_global(truth)[:, knee] @ [0.0, 0.0, 0.3]
    assert np.allclose(turns[:, knee], [[y, -x, z] for x, y, z in axis], atol=1e-9)


def test_maps_left_half_written_are_made_again(drawn, body, tmp_path):
    write_set(tmp_path, "syn_train", *drawn)
    crops, rope = CropSet.load(tmp_path, "syn_train"), load_rope(find_weights("rope"), body)
    marks = load_movenet(find_weights("keypoints"))

    def fill(seed: int, log=lambda line: None) -> FrozenMaps:
        return FrozenMaps.fill(tmp_path / "cache", crops, rope, marks, 1, seed, log)

    def killed(line: str) -> None:
        raise KeyboardInterrupt

    before = [np.array(level) for level in fill(0).maps]
    with pytest.raises(KeyboardInterrupt):
        fill(1, killed)
    for level, again in zip(before, fill(0).maps, strict=True):
        np.testing.assert_array_equal(again, level)


# prior -----------------------------------------------------------------------------------------


def test_mirroring_matrices_is_mirroring_axis_angles(poses):
    angles = np.random.default_rng(1).normal(0, 0.5, (5, NUM_JOINTS, 3))
    expected = axis_angle_to_matrix(mirror_pose(angles))
    assert np.allclose(mirror_rotations(axis_angle_to_matrix(angles)), expected, atol=1e-9)
    assert np.allclose(mirror_rotations(mirror_rotations(poses)), poses)


def test_prior_tells_people_from_nonsense(prior, poses):
    likely = torch.from_numpy(poses[:50, 1:])
    angles = np.random.default_rng(2).normal(0, 1.2, (50, NUM_JOINTS - 1, 3))
    odd = torch.from_numpy(axis_angle_to_matrix(angles)).float()
    assert prior.energy(likely).max() < prior.energy(odd).min()
    assert prior.excess(likely).mean() < 0.05 * prior.excess(odd).mean()


# teacher ---------------------------------------------------------------------------------------


class _Oracle:
    """Stands for BlazePose: always sees the hips in the middle and points straight up."""

    def features(self, image, names):
        count = len(image)
        landmarks = torch.zeros(count, 39, 5)
        landmarks[..., :2] = 128.0
        landmarks[:, 0, 1] = 28.0
        world = torch.zeros(count, 39, 3)
        world[:, 0] = torch.tensor([0.0, -0.6, -0.1])
        return {"landmarks": landmarks, "world": world, "presence": torch.ones(count)}


def _stick_figure(turn: float) -> np.ndarray:
    """LSP joints [14, 3] px of a person turned clockwise by ``turn`` rad about its hips."""
    at = {
        "ankle": (0.15, 0.9), "knee": (0.13, 0.45), "hip": (0.1, 0.0),
        "wrist": (0.35, -0.05), "elbow": (0.3, -0.25), "shoulder": (0.18, -0.5),
    }  # fmt: skip
    joints = np.ones((14, 3), np.float32)
    for row, name in enumerate(LSP_JOINTS):
        side, _, part = name.partition("_")
        x, y = at.get(part, (0.0, -0.55 if name == "neck" else -0.8))
        x = x if side == "left" else -x if side == "right" else 0.0
        cos, sin = np.cos(turn), np.sin(turn)
        joints[row, :2] = 128 + 100 * np.array([cos * x - sin * y, sin * x + cos * y])
    return joints


@pytest.mark.parametrize("turn", [0.0, 1.0, -2.5, np.pi])
def test_teacher_answers_in_the_crops_own_axes(turn):
    joints = _stick_figure(turn)[None]
    lesson = teach(_Oracle(), np.zeros((1, 256, 256, 3), np.uint8), joints)
    up = np.array([np.sin(turn), -np.cos(turn)])
    assert lesson.landmarks[0, 5] == pytest.approx([128, 128], abs=1e-2)
    _, side, _ = upright_regions(joints)
    assert lesson.landmarks[0, 0] == pytest.approx(128 + up * 100 * side[0] / 256, abs=1e-2)
    assert lesson.world[0, 0] == pytest.approx([*(0.6 * up), -0.1], abs=1e-5)


def test_unlabelled_joints_do_not_move_the_region():
    whole, partly = _stick_figure(0.4), _stick_figure(0.4)
    partly[LSP_JOINTS.index("left_wrist")] = [-900, -900, 0]
    for a, b in zip(upright_regions(whole[None]), upright_regions(partly[None]), strict=True):
        assert np.allclose(a, b)


def test_validation_crops_are_chosen_by_id_alone():
    ids = np.arange(1, 3001)
    chosen = in_validation(ids, 100)
    order = np.random.default_rng(0).permutation(len(ids))
    assert chosen.sum() == 100
    assert np.array_equal(in_validation(ids[order], 100), chosen[order])


# the fit ---------------------------------------------------------------------------------------


def _lesson_of(joints: np.ndarray) -> Lesson:
    """A teacher that agrees with LSP joints [n, 14, 3]."""
    count = len(joints)
    landmarks = np.full((count, 33, 2), 128.0)
    for row, name in enumerate(LSP_JOINTS):
        if name in LANDMARKS:
            landmarks[:, LANDMARKS.index(name)] = joints[:, row, :2]
    world = np.random.default_rng(0).normal(0, 0.3, (count, 33, 3))
    return Lesson(landmarks, world, np.ones((count, 33)), np.ones(count))


def test_exchanged_sides_are_mended_and_opposites_doubted():
    truth = np.stack([_stick_figure(0.2)] * 3)
    lesson = _lesson_of(truth)
    labelled = truth.copy()
    legs, arms = (
        [[LSP_JOINTS.index(f"{side}_{name}") for name in names] for side in ("left", "right")]
        for names in (("hip", "knee", "ankle"), ("shoulder", "elbow", "wrist"))
    )
    labelled[1:, legs[0] + legs[1]] = labelled[1:, legs[1] + legs[0]]
    labelled[2, arms[0] + arms[1]] = labelled[2, arms[1] + arms[0]]
    mended, swapped, doubtful = mend_swaps(labelled, lesson)
    assert swapped.tolist() == [[False, False], [True, False], [False, False]]
    assert doubtful.tolist() == [False, False, True]
    assert np.array_equal(mended[:2], truth[:2])


def test_a_teacher_that_disagrees_is_not_trusted():
    joints = np.stack([_stick_figure(0.0)] * 2)
    lesson = _lesson_of(joints)
    lesson.landmarks[1] += 80
    evidence = gather_evidence(joints, lesson)
    assert evidence.agreement[0] > 0.99 and evidence.agreement[1] < 0.01
    assert evidence.trust[1].max() < 0.01 < evidence.trust[0].max()


def _evidence_of(body: JointBody, local: np.ndarray, scale: float) -> Evidence:
    """What perfect labels and a perfect teacher would say of poses [n, 24, 3, 3]."""
    from ropetp_cli.training import fitting

    rotations = torch.from_numpy(local)
    _, points = fitting._place(body, rotations, torch.zeros(len(local), 10))
    named = [points[fitting.LSP_TO_BODY[name][0]] for name in LSP_JOINTS]
    flat = scale * torch.stack(named, 1)[..., :2]
    spans = torch.stack([points[end] - points[start] for *_, start, end, _ in BONES], 1)
    count = len(local)
    size = (flat.amax(1) - flat.amin(1)).amax(1)
    return Evidence(
        flat,
        torch.ones(count, 14),
        size,
        torch.nn.functional.normalize(spans, dim=-1),
        torch.ones(count, len(BONES)),
        torch.ones(count),
        torch.full((count,), scale),
    )


def test_fit_recovers_known_poses_and_labels_keep_the_clicks(body, prior, poses):
    local = poses[:6].copy()
    local[:, 0] = np.diag([1.0, -1.0, -1.0]).astype(np.float32) @ local[:, 0]
    joint_body = JointBody.of(body)
    evidence = _evidence_of(joint_body, local, 0.9)
    fit = fit_bodies(joint_body, prior, evidence, steps=(60, 60, 60))
    assert fit.error2d.max() < 0.03
    assert np.degrees(fit.error3d).max() < 15
    doubtful = np.zeros(6, bool)
    doubtful[5] = True
    kept = believable(fit, evidence, doubtful)
    assert kept.tolist() == [True] * 5 + [False]
    labels = real_labels(fit, evidence, kept, doubtful)
    wrist = JOINT_INDEX["left_wrist"]
    clicked = evidence.points[:, LSP_JOINTS.index("left_wrist")].numpy()
    assert np.allclose(labels.joints2d[:, wrist], clicked)
    assert labels.visible[0, wrist] == 1 and not labels.visible[5].any()
    assert np.allclose(labels.rotations[5], np.eye(3))


def test_labels_are_written_whole(tmp_path):
    labels = Labels.empty(3).take(np.array([0, 2]))
    labels.save(tmp_path / "set_labels.npz", ids=np.arange(2))
    assert [path.name for path in tmp_path.iterdir()] == ["set_labels.npz"]
    with np.load(tmp_path / "set_labels.npz", allow_pickle=False) as data:
        assert len(data["masks"]) == 2 and data["ids"].tolist() == [0, 1]


def labelled_sample(rng) -> Sample:
    """A person whom the detector sees exactly where the labels say."""
    rotations = axis_angle_to_matrix(rng.normal(0, 0.3, (NUM_JOINTS, 3))).astype(np.float32)
    joints = rng.normal(0, 0.4, (NUM_JOINTS, 3)).astype(np.float32)
    joints2d = joints[:, :2] * 0.8
    keypoints = np.zeros((17, 3), np.float32)
    for coco, name in LIMB_KEYPOINTS.items():
        keypoints[coco] = [*joints2d[JOINT_INDEX[name]], 0.9]
    image = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    part = np.full((64, 64), 24, np.uint8)
    return Sample(image, rotations, np.zeros(10, np.float32), joints, joints2d,
                  np.ones(NUM_JOINTS, np.float32), np.float32(1), part, keypoints)  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_keypoints_go_where_the_labels_go(seed):
    rng = np.random.default_rng(seed)
    sample = labelled_sample(rng)
    after = augment(sample, rng, sample.image, rendered=False)
    rows, joints = list(LIMB_KEYPOINTS), [JOINT_INDEX[n] for n in LIMB_KEYPOINTS.values()]
    off = np.linalg.norm(after.keypoints[rows, :2] - after.joints2d[joints], axis=1)
    sure = after.keypoints[rows, 2] > 0.8
    assert (off[sure] < 1e-5).all()
    assert (off[~sure] > 1e-4).all()  # what is hidden is found elsewhere, if at all
    assert (after.keypoints[:, 2] <= sample.keypoints[:, 2].max()).all()


def test_who_stands_on_bent_legs_rises_as_they_straighten(body):
    angles = np.zeros((30, NUM_JOINTS, 3))
    for side in ("left", "right"):
        for name, angle in (("hip", -0.3), ("knee", 0.6), ("ankle", -0.3)):
            angles[:, JOINT_INDEX[f"{side}_{name}"], 0] = angle
    rotations = axis_angle_to_matrix(angles).astype(np.float32)
    rest = body.rest_joints(np.zeros(10))
    rest = rest - rest[0]
    joints = forward_kinematics(rotations, rest).astype(np.float32)
    root = np.tile(np.array([0, 0.9, 0], np.float32), (30, 1))
    clip = Clip("crouch", "s", "asf", "", joints, root, 30.0, rotations, rest)
    new = clip.straighter(np.random.default_rng(2))
    assert (knee_bends(new.rotations) < knee_bends(clip.rotations) - 0.05).all()
    assert (new.root[:, 1] > clip.root[:, 1] + 0.002).all()
    soles = [
        (c.joints + c.root[:, None])[:, [JOINT_INDEX["left_foot"], JOINT_INDEX["right_ankle"]]]
        for c in (clip, new)
    ]
    assert soles[1] == pytest.approx(soles[0], abs=0.01)  # where they stood


def test_a_filmed_walker_is_seen_about_as_he_walked(tmp_path, body):
    """Film, detector, Rope and what the tool does with its answers, on a man who swings legs."""
    count = 12
    angles = np.zeros((count, NUM_JOINTS, 3))
    swing = 0.4 * np.sin(np.arange(count) / 3)
    for name, share in (("left_hip", -1), ("right_hip", 1)):
        angles[:, JOINT_INDEX[name], 0] = share * swing
    for name, down in (("left_shoulder", -1.2), ("right_shoulder", 1.2)):
        angles[:, JOINT_INDEX[name], 2] = down
    rotations = axis_angle_to_matrix(angles).astype(np.float32)
    rest = body.rest_joints(np.zeros(10))
    joints = forward_kinematics(rotations, rest, -rest[0]).astype(np.float32)
    root = np.linspace([0, 0.95, 0], [0.3, 0.95, 0.2], count).astype(np.float32)
    clip = Clip("walk", "s", "asf", "", joints, root, 30.0, rotations, rest - rest[0])
    straight = clip.straighter(np.random.default_rng(0))  # its knees are: nothing to straighten
    assert straight.root == pytest.approx(clip.root, abs=1e-6)
    assert straight.rotations == pytest.approx(clip.rotations, abs=1e-6)
    shot = film(Figure(body), Backdrops([]), clip, np.random.default_rng(3))
    assert shot.crops.shape == (count, 256, 256, 3) and shot.crops.std() > 10
    assert shot.boxes.min() > 0 and shot.boxes.max() < 256
    sides = (shot.boxes[:, 2:] - shot.boxes[:, :2]).max(axis=1)
    assert sides == pytest.approx(256 / CROP_SCALE, rel=0.1)
    answer = look_at(shot, Detector(), RopePredictor.from_weights(body))
    seen = sighting(
        answer, shot.turn, shot.width, shot.rotations, shot.camera, shot.betas, "walk", 0
    )
    errors = ObservedErrors.of(seen, body, None, clip.fps)
    legs = [JOINT_INDEX[f"{side}_{name}"] for side in ("left", "right") for name in ("hip", "knee")]
    off = np.degrees(np.linalg.norm(errors.turns, axis=-1))
    assert 1 < off[:, legs].mean() < 30
    assert off[:, 0].mean() < 25
    assert errors.lengths == pytest.approx(1, abs=0.35)
    away = seen.frames(0, body.rest_joints(shot.betas), clip.fps)
    assert away.velocity.norm(dim=-1).mean() == pytest.approx(0.3 * 30 / count, abs=0.6)


def _standing(body, count: int) -> Clip:
    """Somebody in the rest pose who is pushed sideways by .3 m."""
    rest = body.rest_joints(np.zeros(10))
    rotations = np.tile(np.eye(3, dtype=np.float32), (count, NUM_JOINTS, 1, 1))
    joints = forward_kinematics(rotations, rest, -rest[0]).astype(np.float32)
    root = np.linspace([0, 0.95, 0], [0.3, 0.95, 0], count).astype(np.float32)
    return Clip("t", "s", "asf", "", joints, root, 30.0, rotations, rest - rest[0])


def test_cameras_hung_high_look_down_at_people(body):
    clip, figure, down = _standing(body, 2), Figure(body), {}
    for high in (False, True):
        shots = [
            film(figure, Backdrops([]), clip, np.random.default_rng(seed), high=high)
            for seed in range(8)
        ]
        rays = np.array([shot.camera.T @ shot.turn[0, :, 2] for shot in shots])
        down[high] = np.degrees(np.arcsin(-rays[:, 1]))
    assert 5 < down[True].min() and down[True].max() < 60
    assert down[False].mean() + 8 < down[True].mean()


def test_a_picture_may_end_in_the_person_filmed(body):
    """Beyond its edge is nothing, and the crop is about what is inside."""
    clip = _standing(body, 12)
    figure, edges = Figure(body), set()
    for seed in range(5):
        whole, shot = (
            film(figure, Backdrops([]), clip, np.random.default_rng(seed), cut)
            for cut in (False, True)
        )
        assert not (whole.crops == 0).all(axis=-1).all(axis=1).any()
        black = (shot.crops == 0).all(axis=-1)
        rows, columns = black.all(axis=2).any(axis=0), black.all(axis=1).any(axis=0)
        sides = (rows[0], rows[-1], columns[0], columns[-1])
        assert any(sides)
        edges.add(sides)
        for beyond, (x0, y0, x1, y1) in zip(black, np.rint(shot.boxes).astype(int), strict=True):
            assert beyond[max(y0, 0) : y1, max(x0, 0) : x1].mean() < 0.05
            assert max(x1 - x0, y1 - y0) == pytest.approx(256 / CROP_SCALE, rel=0.1)
    assert len(edges) > 1
