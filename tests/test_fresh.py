"""Crops drawn while training goes on, and what is done to them on the device."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from ropetp_cli.body.model import load_body
from ropetp_cli.body.skeleton import JOINT_INDEX, NUM_JOINTS
from ropetp_cli.errors import RopeTPError
from ropetp_cli.people.detector import Detector
from ropetp_cli.rope.losses import IGNORED, RopeTargets
from ropetp_cli.rope.pinpoint import load_pinpoint
from ropetp_cli.rope.predictor import posed_joints
from ropetp_cli.training.crops import BACKGROUND, CropSet
from ropetp_cli.training.detections import (
    TracedDetector,
    detect_in_set,
    in_halves,
    person_boxes,
    trace_detector,
)
from ropetp_cli.training.fresh import FreshCrops, Pool, Studios, pool_of
from ropetp_cli.training.pinpoint import PinpointTraining
from ropetp_cli.training.pinpoint import train as train_pinpoint
from ropetp_cli.training.rope import RelativeSteps, TrainOptions, rate_share, train
from ropetp_cli.training.variation import Crops, degraded, flipped, hidden, moved, varied
from ropetp_cli.weights import find_weights


@pytest.fixture(scope="module")
def mocap(tmp_path_factory):
    """Forty frames of a person who bends and turns, laid out as the mocap files are."""
    path = tmp_path_factory.mktemp("mocap") / "mocap_train.npz"
    rng = np.random.default_rng(0)
    angles = rng.normal(0, 0.3, (40, NUM_JOINTS, 3))
    angles[:, 0] = [0, 1, 0]
    for joint, down in (("left_shoulder", -1.1), ("right_shoulder", 1.1)):
        angles[:, JOINT_INDEX[joint], 2] += down
    xyzw = Rotation.from_rotvec(angles.reshape(-1, 3)).as_quat().reshape(40, NUM_JOINTS, 4)
    np.savez(path, rot_local_quat=np.round(np.roll(xyzw, 1, -1) * 32767).astype(np.int16),
             has_rot=np.array([True]), offsets=np.array([0, 40]))  # fmt: skip
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory, mocap):
    """A rendered set of 16 with the detector's keypoints, and the same as a real one."""
    folder = tmp_path_factory.mktemp("sets")
    images, labels = next(iter(FreshCrops(mocap, folder, None, 5)))
    for name in ("syn_test", "real_train"):
        np.save(folder / f"{name}_images.npy", images)
        lsp2d = np.zeros((len(images), 14, 3), np.float32)
        labels.save(folder / f"{name}_labels.npz", **({"lsp2d": lsp2d} if "real" in name else {}))
        detect_in_set(folder, name, Detector())
    return folder


@pytest.fixture(scope="module")
def crops(data) -> Crops:
    pool = pool_of(CropSet.load(data, "syn_test"), "cpu")
    assert len(pool) == 16
    torch.manual_seed(0)
    return pool.draw(12)


def assert_consistent(crops: Crops) -> None:
    """Joints are where the rotations put them."""
    targets = crops.targets
    rest = load_body().rest_joints(targets.betas.numpy().astype(float))
    joints = posed_joints(targets.rotations.numpy().astype(float), rest)
    np.testing.assert_allclose(joints, targets.joints.numpy(), atol=1e-5)


def test_variations_keep_labels_true(crops):
    """A joint's weak-perspective image follows its joint through mirror, turn and shift."""
    torch.manual_seed(1)
    angle, scale = torch.randn(12), torch.exp(0.2 * torch.randn(12))
    after = moved(flipped(crops), angle, scale, 0.1 * torch.randn(12, 2))
    assert_consistent(after)
    for batch in (crops, after):
        centred = batch.targets.joints[..., :2] - batch.targets.joints[..., :2].mean(1, True)
        seen = batch.targets.joints2d - batch.targets.joints2d.mean(1, True)
        fit = (centred * seen).sum((1, 2)) / centred.square().sum((1, 2))
        assert (seen - fit[:, None, None] * centred).abs().max() < 0.25
    assert_consistent(varied(crops))


def test_a_batch_is_moved_as_one_crop_is(data, crops):
    """The device's variations against those made one crop at a time."""
    sample = CropSet.load(data, "syn_test").sample(3)
    pool = Pool(1, "cpu", rendered=True)
    pool.add([sample])
    one = sample.flipped().moved(0.4, 0.9, np.array([0.1, -0.05]))
    batch = moved(flipped(pool.draw(1)), torch.tensor([0.4]), torch.tensor([0.9]),
                  torch.tensor([[0.1, -0.05]]))  # fmt: skip
    np.testing.assert_allclose(batch.keypoints[0], one.keypoints, atol=1e-5)
    for name, value in (("rotations", one.rotations), ("joints", one.joints3d),
                        ("joints2d", one.joints2d), ("weight2d", one.visible)):  # fmt: skip
        np.testing.assert_allclose(getattr(batch.targets, name)[0], value, atol=1e-5)
    picture = (batch.images[0].permute(1, 2, 0) * 255).numpy()
    assert np.abs(picture - one.image).mean() < 3
    assert (batch.targets.part[0].numpy() == one.part).mean() > 0.97


def test_what_hides_a_person_hides_mask_and_keypoints_too(crops):
    torch.manual_seed(2)
    white = torch.full_like(crops.images, 9.0)
    after = hidden(crops, white)
    changed = (after.images != crops.images).any(1)
    assert 0.03 < changed.float().mean() < 0.6
    part, before = after.targets.part, crops.targets.part
    assert (part[part != before] == BACKGROUND).all() and (part != before).any()
    assert (after.keypoints[..., 2] <= crops.keypoints[..., 2]).all()
    doubted = after.keypoints[..., 2] < crops.keypoints[..., 2]
    elsewhere = (after.keypoints[..., :2] != crops.keypoints[..., :2]).any(-1)
    assert doubted.any() and torch.equal(elsewhere, doubted)
    unknown = torch.full_like(before, IGNORED)
    real = replace(crops, targets=replace(crops.targets, part=unknown))
    assert (hidden(real, white).targets.part == IGNORED).all()


def test_degraded_images_stay_images(crops):
    after = degraded(crops.images)
    assert after.shape == crops.images.shape and 0 <= after.min() and after.max() <= 1
    assert 0.01 < (after - crops.images).abs().mean() < 0.3


def test_a_full_pool_lets_the_oldest_go(data):
    crops = CropSet.load(data, "syn_test")
    pool = Pool(6, "cpu", rendered=True)
    pool.add([crops.sample(k) for k in range(4)])
    assert len(pool) == 4
    pool.add([crops.sample(k) for k in range(4, 9)])
    assert len(pool) == 6
    kept = np.sort(pool.rows["betas"].numpy()[:, 0])
    np.testing.assert_allclose(kept, np.sort(crops.labels["betas"][3:9, 0]))


def test_the_traced_detector_sees_what_the_detector_sees(data, tmp_path):
    trace_detector(Detector(), tmp_path / "detector.pt")
    crops = CropSet.load(data, "syn_test")
    boxes = torch.from_numpy(person_boxes(crops.labels["joints2d"])).float()
    found = TracedDetector(tmp_path / "detector.pt").keypoints_in_crops(
        torch.from_numpy(np.array(crops.images)), boxes
    )
    off = np.abs(in_halves(found.numpy()) - crops.keypoints).max((1, 2))
    assert (off < 0.02).mean() > 0.8
    with pytest.raises(RopeTPError, match="no traced detector"):
        TracedDetector(tmp_path / "none.pt")


def test_steps_are_as_large_as_what_they_change():
    """Filters of one layer that differ a hundredfold each change by the same share."""
    filters = torch.tensor([1.0, 0.1, 10.0]).view(3, 1, 1, 1) * torch.ones(3, 1, 3, 3)
    weights = [torch.nn.Parameter(filters.clone()), torch.nn.Parameter(torch.tensor([4.0, 400.0]))]
    other = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW(
        [{"params": weights, "lr": 0.02, "weight_decay": 0}, {"params": [other], "lr": 0.1}], eps=0
    )
    steps = RelativeSteps(weights)
    for each in (*weights, other):
        each.grad = torch.full_like(each, 1e-6)
    steps.step(optimizer)
    share = (1 - weights[0] / filters).detach().flatten(1).mean(1)
    assert share.tolist() == pytest.approx([0.02, 0.02, 0.02], rel=1e-3)
    size = 0.3 * ((4.0**2 + 400.0**2) / 2) ** 0.5
    moved = torch.tensor([4.0, 400.0]) - weights[1].detach()
    assert moved.tolist() == pytest.approx([0.02 * size] * 2, rel=1e-3)
    assert other.tolist() == pytest.approx([0.9, 0.9], rel=2e-3)


def test_a_leg_warms_up_and_cools_down():
    assert rate_share(0, 0.0) < 0.01 and rate_share(0, 0.025) == pytest.approx(0.5, rel=0.01)
    assert rate_share(400, 0.01) == pytest.approx(1, rel=0.01)
    assert rate_share(30, 0.5) == pytest.approx(0.51) and rate_share(30, 1.0) == pytest.approx(0.02)


def test_a_leg_on_fresh_crops_trains_the_trunk(data, mocap, tmp_path):
    trace_detector(Detector(), tmp_path / "detector.pt")
    options = TrainOptions(
        data=data, out=tmp_path / "rope.safetensors", sets=("real_train",), share=(0.5, 0.5),
        tests=("syn_test",), train_trunk=True, train_after="pose16",
        start=find_weights("rope"), steps=2, batch=4,
        minutes=5, device="cpu", fresh=mocap, detector=tmp_path / "detector.pt", capacity=16,
    )  # fmt: skip
    found = train(options, log=lambda line: None)
    assert found["syn_test"]["mpjpe_mm"] < 400
    assert (tmp_path / "rope.safetensors").stat().st_size > 1e7


def test_a_leg_of_pinpoint_on_fresh_crops(data, mocap, tmp_path):
    trace_detector(Detector(), tmp_path / "detector.pt")
    leg = PinpointTraining(
        data, tmp_path / "pin.safetensors", sets=("real_train",), share=(0.5, 0.5),
        tests=("syn_test",), minutes=0.02, batch=4, workers=0, device="cpu",
        fresh=mocap, detector=tmp_path / "detector.pt", capacity=16,
    )  # fmt: skip
    lines = []
    found = train_pinpoint(leg, report=lines.append)
    assert found["syn_test"]["median"] > 0 and "crops drawn" in lines[-1]
    assert load_pinpoint(leg.out).told.weight.abs().max() > 0


def test_a_studio_that_fails_is_heard_of(data, tmp_path):
    trace_detector(Detector(), tmp_path / "detector.pt")
    (tmp_path / "mocap.npz").write_bytes(b"nothing")
    source = FreshCrops(tmp_path / "mocap.npz", data, None, 0)
    studios = Studios(source, tmp_path / "detector.pt", 16, 0, "cpu")
    with pytest.raises(ValueError):
        studios.wait()


def test_joined_batches_keep_every_row(crops):
    both = Crops.joined([crops, flipped(crops)])
    assert len(both.images) == 24
    chosen = torch.arange(24) < 12
    picked = both.where(chosen, Crops.joined([crops, crops]))
    for field in fields(RopeTargets):
        torch.testing.assert_close(
            getattr(picked.targets, field.name)[12:], getattr(crops.targets, field.name)
        )
