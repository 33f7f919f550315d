"""TrajDenoiser: diffusion, network, losses, whole-sequence sampling, training data, commands."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from filmed import seen_by
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from ropetp_cli.body.model import load_body
from ropetp_cli.body.rot6d import rot6d_to_matrix
from ropetp_cli.body.rotations import (
    axis_angle_to_matrix,
    forward_kinematics,
    local_to_global,
    matrix_to_quaternion,
)
from ropetp_cli.body.skeleton import ANKLES, FEET, JOINT_INDEX, MIRROR, PARENTS
from ropetp_cli.cli.evaluate import command as evaluate_command
from ropetp_cli.cli.train import command as train_command
from ropetp_cli.errors import RopeTPError
from ropetp_cli.evaluation.trajectory import (
    compare,
    constant_position,
    evaluate,
    foot_pinning,
    physics_rows,
    views,
)
from ropetp_cli.preview.figure import PALETTE
from ropetp_cli.training.mocap import (
    TOE_HEIGHT,
    Clip,
    global_columns,
    load_clips,
    load_turned_clips,
    local_rot6d,
    turn,
)
from ropetp_cli.training.noise import PoseNoise, flattening, noisy_clips
from ropetp_cli.training.observed import Filmed, ObservedErrors, differences, put_on
from ropetp_cli.training.sightings import Sightings
from ropetp_cli.training.trajectory import TrajTraining, train, validation_clips
from ropetp_cli.training.windows import WindowSampler
from ropetp_cli.trajectory import sampling
from ropetp_cli.trajectory.denoiser import (
    CONDITIONS,
    OUTPUTS,
    Movement,
    TrajConfig,
    TrajDenoiser,
    load_denoiser,
    save_denoiser,
)
from ropetp_cli.trajectory.diffusion import Diffusion, ddim_step, q_sample
from ropetp_cli.trajectory.losses import (
    TrajLossWeights,
    foot_contact,
    foot_loss,
    foot_positions,
    trajectory_loss,
)
from ropetp_cli.trajectory.sampling import (
    TrajectoryResult,
    _integrate,
    foot_contacts,
    regenerate_path,
    resample,
    there_and_back,
)

TINY = TrajConfig(layers=2, heads=2, width=16, feedforward=16, window=16)


def body() -> np.ndarray:
    """A standing body [24, 3] m, pelvis at 0, feet .9 below."""
    joints = np.random.default_rng(0).normal(0, 0.1, (24, 3))
    joints[0] = 0
    for side, x in (("left", 0.1), ("right", -0.1)):
        for name, y in (("hip", -0.08), ("knee", -0.45), ("ankle", -0.83), ("foot", -0.9)):
            joints[JOINT_INDEX[f"{side}_{name}"]] = [x, y, 0.1 if name == "foot" else 0.0]
    return joints


def swaying(count: int, fps: float = 30.0) -> tuple[np.ndarray, np.ndarray]:
    """A body whose feet never move while the pelvis wanders: joints minus pelvis [N, 24, 3],
    root [N, 3] with the floor under the feet."""
    time = np.arange(count) / fps
    height = 0.9 + TOE_HEIGHT + 0.05 * (np.cos(3 * time) - 1)
    root = np.stack([0.2 * np.sin(2 * time), height, 0.3 * time], -1)
    joints = np.tile(body(), (count, 1, 1))
    feet = list(FEET + ANKLES)
    joints[:, feet] += (root[0] - root)[:, None]
    return joints.astype(np.float32), root.astype(np.float32)


def write_mocap(path, lengths=(40, 90)) -> None:
    parts = [swaying(length) for length in lengths]
    joints = np.concatenate([part[0] for part in parts])
    np.savez(
        path,
        root_pos=np.concatenate([part[1] for part in parts]),
        joints_rel=np.round(joints / 1e-4).astype(np.int16),
        joints_rel_scale=np.float32(1e-4),
        offsets=np.cumsum([0, *lengths]),
        names=np.array([f"clip{k}" for k in range(len(lengths))]),
        subjects=np.array([f"subject{k % 2}" for k in range(len(lengths))]),
        desc=np.array(["sway"] * len(lengths)),
        fps=np.float32(30),
    )


def turning(count: int) -> Clip:
    """A symmetric body that turns all its joints, with rotations that give its joints."""
    rest = body()
    rest = (rest + rest[list(MIRROR)] * [-1, 1, 1]) / 2
    phase = np.random.default_rng(1).uniform(0, 6, (24, 3))
    angles = 0.4 * np.sin(np.arange(count)[:, None, None] / 9 + phase)
    rotations = axis_angle_to_matrix(angles)
    joints = forward_kinematics(rotations, rest, -rest[0]).astype(np.float32)
    root = np.tile(np.float32([0, 0.95, 0]), (count, 1))
    return Clip("turn", "s", "asf", "", joints, root, 30.0, rotations.astype(np.float32), rest)


def pinned_on(joint: str, config: TrajConfig = TINY) -> TrajDenoiser:
    """A network that always takes one joint as fixed in the world and on the floor."""
    torch.manual_seed(0)
    model = TrajDenoiser(config)
    with torch.no_grad():
        for head in (model.pivot, model.floor):
            head.weight.zero_()
            head.bias.zero_()
            head.bias[JOINT_INDEX[joint]] = 60.0
    return model.eval()


# ---- diffusion -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_schedule_goes_from_clean_to_noise(kind):
    alphas = Diffusion(1000, kind).alphas
    assert len(alphas) == 1000
    assert (alphas.diff() < 0).all()
    assert alphas[0] > 0.999
    assert 0 <= alphas[-1] < 1e-4


def test_schedule_rejects_what_it_does_not_know():
    for wrong in (lambda: Diffusion(1000, "square"), lambda: Diffusion(1)):
        with pytest.raises(RopeTPError):
            wrong()
    for count in (0, 1001):
        with pytest.raises(RopeTPError, match="DDIM"):
            Diffusion().timesteps(count)


@given(st.integers(1, 1000))
def test_timesteps_fall_without_repeats(count):
    steps = Diffusion().timesteps(count)
    assert len(set(steps)) == count == len(steps)
    assert steps == sorted(steps, reverse=True)
    assert steps[0] == 999
    assert count == 1 or steps[-1] == 0


def test_q_sample_is_equation_4_applied_step_by_step():
    diffusion = Diffusion(20, "linear")
    signal, variance = 1.0, 0.0
    for beta in diffusion.betas.tolist():
        signal, variance = signal * (1 - beta) ** 0.5, variance * (1 - beta) + beta
    x0, noise = torch.full((1, 4, 3), 2.0), torch.ones(1, 4, 3)
    found = q_sample(x0, noise, diffusion.alphas[-1:])
    assert torch.allclose(found, torch.tensor(2 * signal + variance**0.5), atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 999), st.integers(0, 2**31 - 1))
def test_ddim_with_the_true_path_keeps_its_noise(step, seed):
    """Equations 7 and 8 with sigma = 0: the same noise at a lower level, down to none."""
    alphas = Diffusion().alphas
    x0, noise = torch.randn(2, 1, 30, 3, generator=torch.Generator().manual_seed(seed)).double()
    noisy = q_sample(x0, noise, alphas[step : step + 1])
    lower = ddim_step(noisy, x0, float(alphas[step]), float(alphas[step // 2]))
    expected = q_sample(x0, noise, alphas[step // 2][None])
    assert torch.allclose(lower, expected, atol=1e-6)
    assert torch.allclose(ddim_step(noisy, x0, float(alphas[step]), 1.0), x0)


# ---- network ---------------------------------------------------------------------------------


def test_default_is_the_papers_configuration():
    model = TrajDenoiser()
    assert len(model.layers) == 12
    assert {layer.heads for layer in model.layers} == {8}
    assert len(model.skips) == 6
    assert isinstance(model.encode_condition, torch.nn.Linear)
    assert model.encode_condition.out_features == model.encode_path.out_features
    assert model.merge.in_features == 2 * model.encode_path.out_features
    assert Diffusion(model.config.diffusion_steps).steps == 1000


def test_configurations_that_cannot_be_built():
    with pytest.raises(RopeTPError, match="even"):
        TrajConfig(layers=11)
    with pytest.raises(RopeTPError, match="width"):
        TrajConfig(width=100)
    for wrong in ({"condition": "quaternions"}, {"output": "velocity"}):
        with pytest.raises(RopeTPError, match="expected .* or "):
            TrajConfig(**wrong)


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_forward_takes_any_length_and_starts_over_the_origin(count):
    model = TrajDenoiser(TINY)
    condition = model.condition(torch.randn(3, count, 24, 3))
    path = model(torch.randn(3, count, 3), torch.tensor([0, 500, 999]), condition)
    assert path.shape == (3, count, 3)
    assert (path[:, 0, [0, 2]] == 0).all()


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_every_weight_learns_and_the_noisy_path_matters(condition, output):
    torch.manual_seed(0)
    model = TrajDenoiser(replace(TINY, condition=condition, output=output))
    if output == "pivots":
        torch.nn.init.normal_(model.rest.weight, std=0.1)
    condition = model.condition(torch.randn(2, 16, 24, 3), torch.randn(2, 16, 24, 6))
    noisy = torch.randn(2, 16, 3, requires_grad=True)
    model(noisy, torch.tensor([3, 900]), condition).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert noisy.grad.abs().sum() > 0


def test_what_does_not_guide_is_not_looked_at():
    joints, turns = torch.randn(2, 1, 16, 24, 6)
    for condition, output, by_joints, by_turns in (
        ("joints", "xyz", True, False),
        ("rot6d", "xyz", False, True),
        ("joints", "pivots", True, False),
        ("rot6d", "pivots", True, True),
    ):
        torch.manual_seed(0)
        model = TrajDenoiser(replace(TINY, condition=condition, output=output))

        def path(joints, turns, model=model):
            seen = model.condition(joints[..., :3], turns)
            return model(torch.zeros(1, 16, 3), torch.tensor([500]), seen)

        first = path(joints, turns)
        assert (path(joints.flip(1), turns) != first).any() == by_joints
        assert (path(joints, turns.flip(1)) != first).any() == by_turns


def test_a_path_named_in_places_comes_out_as_named():
    """The head says xyz; the windows' movements sum to just that, over the origin."""
    model = TrajDenoiser(replace(TINY, output="xyz")).eval()
    joints, _ = swaying(16)
    noisy, step = torch.randn(1, 16, 3), torch.tensor([500])
    with torch.no_grad():
        model.place.weight.mul_(5)
        seen = model.condition(torch.from_numpy(joints)[None])
        movement, path = model.movement(noisy, step, seen), model(noisy, step, seen)
    assert torch.allclose(path[..., 1], movement.height, atol=1e-4)
    assert path[0, :, 1].std() > 0.05
    assert (path[:, 0, [0, 2]] == 0).all()
    assert torch.allclose(path.diff(dim=1), movement.displacement[:, :-1], atol=1e-4)


def test_condition_encoder_is_linear_in_the_joints():
    model = TrajDenoiser(TINY)
    a, b = torch.randn(2, 1, 20, 24, 3)
    bias = model.condition(torch.zeros(1, 20, 24, 3)).tokens
    both = model.condition(a + 2 * b).tokens - bias
    apart = model.condition(a).tokens + 2 * model.condition(b).tokens - 3 * bias
    assert torch.allclose(both, apart, atol=1e-4)


def test_height_follows_steps_at_once_and_the_floor_where_it_holds():
    model = TrajDenoiser(TINY)
    steps = torch.zeros(1, 300, 3)
    steps[:, 150:156, 1] = 0.1  # six steps up, while the floor is still thought to be where it was
    floor = torch.full((1, 300), 0.9)
    held = model.integrate(Movement(steps, floor, torch.ones(1, 300)))[0, :, 1]
    assert held[156] - held[150] == pytest.approx(0.5, abs=0.1)
    assert held[0] == pytest.approx(0.9, abs=1e-3)
    assert held[-1] == pytest.approx(0.9, abs=1e-3)
    below = (torch.arange(300) < 150).float()[None]  # nothing holds it after the climb
    free = model.integrate(Movement(steps, floor, below))[0, :, 1]
    assert free[:140].mean() == pytest.approx(0.9, abs=0.02)
    assert free[160:].mean() == pytest.approx(1.5, abs=0.1)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.integers(0, 1000))
def test_long_sequences_are_summed_as_windows_are(count, seed):
    generator = torch.Generator().manual_seed(seed)
    movement = Movement(
        torch.randn(1, count, 3, generator=generator) * 0.05,
        torch.randn(1, count, generator=generator),
        torch.rand(1, count, generator=generator),
    )
    expected = TrajDenoiser(TINY).integrate(movement)[0].double()
    assert torch.allclose(_integrate(movement, TINY.pull(movement.hold)), expected, atol=1e-4)


def test_weights_come_back_with_their_configuration(tmp_path):
    model = pinned_on("left_foot")
    save_denoiser(model, tmp_path / "w.safetensors")
    again = load_denoiser(tmp_path / "w.safetensors")
    assert again.config == TINY
    assert not again.training
    for name, value in model.state_dict().items():
        assert torch.allclose(again.state_dict()[name], value, atol=1e-3, rtol=1e-3)


def test_files_that_are_no_weights(tmp_path):
    with pytest.raises(RopeTPError, match="no such"):
        load_denoiser(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    save_file({"a": torch.zeros(2)}, str(tmp_path / "other.safetensors"), {"format": "else"})
    save_file(
        {"a": torch.zeros(2)},
        str(tmp_path / "wrong.safetensors"),
        {"format": "ropetp-trajectory-1", "config": "{}"},
    )
    for name in ("text", "other", "wrong"):
        with pytest.raises(RopeTPError, match=f"{name}.*not a TrajDenoiser") as caught:
            load_denoiser(tmp_path / f"{name}.safetensors")
        assert "\n" not in str(caught.value)


# ---- losses ----------------------------------------------------------------------------------


def test_losses_vanish_on_the_truth():
    joints, root = map(torch.from_numpy, swaying(50))
    total, terms = trajectory_loss(root[None], root[None], joints[None], 30.0, TrajLossWeights())
    assert set(terms) == {"simple", "velocity", "foot"}
    assert float(total) < 1e-3


def test_foot_loss_lets_the_body_move_and_holds_the_foot():
    joints, root = map(torch.from_numpy, swaying(50))
    joints, root = joints[None], root[None]
    moving = root.diff(dim=1).norm(dim=-1).mean() * 30
    assert moving > 0.2
    assert foot_loss(root, root, joints, 30.0) < 1e-2
    assert foot_loss(torch.zeros_like(root), root, joints, 30.0) > 0.2


def test_contact_leaves_out_the_top_of_a_swing():
    time = torch.arange(60) / 30
    feet = torch.zeros(1, 60, 2, 3)
    feet[0, 20:40, 1, 1] = 0.12 * torch.sin((time[20:40] - time[20]) / (20 / 30) * torch.pi)
    contact = foot_contact(feet, 30.0)
    assert contact.shape == (1, 59, 2)
    assert contact[..., 0].all()
    assert not contact[0, 20:39, 1].any()
    assert contact[0, :15, 1].all()
    assert contact[0, 45:, 1].all()


# ---- sampling --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 100])
def test_regenerated_path_of_any_length(count):
    joints, root = swaying(count)
    result = regenerate_path(pinned_on("left_foot"), joints, 30.0, steps=4)
    assert result.path.shape == (count, 3)
    assert result.contacts.shape == (count, 2)
    # Wherever windows meet, the pinned foot stands still: the path is the true one.
    assert np.abs(result.path - (root - [0, TOE_HEIGHT, 0])).max() < 1e-3
    assert result.contacts.min() > 0.8


@pytest.mark.parametrize("at_once", [1, 3])
def test_windows_give_what_the_whole_gives(monkeypatch, at_once):
    """Within a micrometre, however many windows of the sequence are in memory at a time."""
    joints, _ = swaying(200)
    torch.manual_seed(0)
    model = TrajDenoiser(TINY)
    whole = regenerate_path(model, joints, 30.0, steps=5)
    monkeypatch.setattr(sampling, "WINDOWS_AT_ONCE", at_once)
    parts = regenerate_path(model, joints, 30.0, steps=5)
    assert np.ptp(whole.path, axis=0).max() > 0.01
    np.testing.assert_allclose(parts.path, whole.path, atol=1e-6)
    np.testing.assert_allclose(parts.contacts, whole.contacts, atol=1e-5)


@pytest.mark.parametrize("fps", [12.5, 29.97, 59.94, 120.0])
def test_path_comes_back_at_the_callers_rate(fps):
    joints, root = swaying(round(3 * fps), fps)
    path = regenerate_path(pinned_on("right_foot"), joints, fps, steps=2).path
    assert path.shape == root.shape
    assert np.abs(path - (root - [0, TOE_HEIGHT, 0])).max() < 0.01
    speed = (path[-1] - path[0])[2] / ((len(path) - 1) / fps)
    assert speed == pytest.approx(0.3, rel=0.02)


def test_seed_decides_bit_for_bit():
    torch.manual_seed(1)
    model = TrajDenoiser(TINY)
    torch.nn.init.normal_(model.rest.weight)
    joints, _ = swaying(70)
    paths = [regenerate_path(model, joints, 30.0, steps=5, seed=seed).path for seed in (0, 0, 1)]
    assert np.array_equal(paths[0], paths[1])
    assert not np.array_equal(paths[0], paths[2])


def test_sampling_rejects_wrong_input():
    model = pinned_on("left_foot")
    good = np.zeros((4, 24, 3))
    for joints, fps in ((np.zeros((4, 22, 3)), 30), (good[:0], 30), (good, 0), (good, np.nan)):
        with pytest.raises(RopeTPError):
            regenerate_path(model, joints, fps, steps=2)
    with pytest.raises(RopeTPError, match="DDIM"):
        regenerate_path(model, good, 30.0, steps=0)
    with pytest.raises(RopeTPError, match="rotations"):
        regenerate_path(TrajDenoiser(replace(TINY, condition="rot6d")), good, 30.0, steps=2)


def test_contacts_tell_a_swinging_foot_from_a_standing_one():
    joints, root = swaying(40)
    joints[:, FEET[1], 2] += np.linspace(0, 2, 40)
    contacts = foot_contacts(root, joints, 30.0)
    assert contacts[:, 0].min() > 0.8
    assert contacts[:, 1].max() < 0.2


@given(st.integers(1, 30), st.integers(2, 60))
def test_resampling_keeps_ends_and_lines(count, new):
    line = np.linspace(0, 1, count)[:, None] * np.ones(3) if count > 1 else np.ones((1, 3))
    found = resample(line, new)
    assert found.shape == (new, 3)
    assert np.allclose(found[0], line[0])
    assert np.allclose(found[-1], line[-1])
    if count > 1:
        assert np.allclose(np.diff(found, axis=0), 1 / (new - 1))


def test_short_sequences_fill_a_window_by_going_back():
    assert there_and_back(np.arange(3), 9).tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0]
    assert there_and_back(np.arange(1), 3).tolist() == [0, 0, 0]
    assert there_and_back(np.arange(4), 2).tolist() == [0, 1, 2, 3]


# ---- training data ---------------------------------------------------------------------------


def sway_clip(count: int) -> Clip:
    joints, root = swaying(count)
    return Clip("sway", "s", "asf", "", joints, root, 30.0)


def test_augmented_windows_keep_still_feet_still():
    """Mirror, turn, scale, time warp, reversal and the way back of a short clip: none of them may
    part the path from the legs."""
    sampler = WindowSampler([sway_clip(50), sway_clip(300)], 64, 30.0, "cpu", seed=3)
    batch = sampler(32, clean=1.0)
    assert batch.path.shape == (32, 64, 3)
    assert torch.equal(batch.joints, batch.seen)
    assert batch.path[:, 0, [0, 2]].abs().max() < 1e-6
    feet = foot_positions(batch.path, batch.joints)
    assert feet.diff(dim=1).norm(dim=-1).max() < 2e-3
    assert (feet[..., 1] - TOE_HEIGHT).abs().max() < 0.006
    assert batch.path[:, -1, [0, 2]].norm(dim=-1).median() > 0.1


def test_sampler_repeats_for_a_seed_and_mixes_conditions():
    one, two = (WindowSampler([sway_clip(200)], 32, 30.0, "cpu", seed=5)(40) for _ in range(2))
    assert torch.equal(one.seen, two.seen)
    exact = (one.seen == one.joints).flatten(1).all(1).float().mean()
    assert 0.2 < exact < 0.8


def test_noise_bends_bones_and_keeps_their_lengths():
    joints = torch.from_numpy(swaying(60)[0])[None].repeat(8, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    seen, heading, _ = PoseNoise(proportions=0.0, swap_share=0.0)(joints, generator)
    parents = list(PARENTS[1:])

    def lengths(body):
        return (body[:, :, 1:] - body[:, :, parents]).norm(dim=-1)

    assert torch.allclose(lengths(seen), lengths(joints), atol=1e-4)
    error = (seen - joints).norm(dim=-1).mean()
    assert 0.02 < error < 0.12
    assert heading.shape == (8, 60)
    assert (heading[:, 0] == 0).all()
    none, still, _ = PoseNoise()(joints, generator, torch.zeros(8))
    assert torch.allclose(none, joints, atol=1e-5)
    assert (still == 0).all()


SIDES = ("left", "right")


def bone_directions(joints):
    bones = joints[..., 1:, :] - joints[..., list(PARENTS[1:]), :]
    return bones / np.linalg.norm(bones, axis=-1, keepdims=True)


def test_rotations_stay_with_the_joints_through_mirror_turn_and_time():
    clip = turning(200)
    batch = WindowSampler([clip], 32, 30.0, "cpu", seed=2)(16, clean=1.0)
    local = rot6d_to_matrix(batch.rot6d).numpy()
    posed = bone_directions(forward_kinematics(local, clip.rest))
    error = np.abs(posed - bone_directions(batch.seen.numpy())).max((0, 1, 3))
    scaled_apart = [bone - 1 for bone in range(1, 24) if PARENTS[bone] == JOINT_INDEX["spine3"]]
    assert np.delete(error, scaled_apart).max() < 0.02
    assert WindowSampler([clip, sway_clip(50)], 32, 30.0, "cpu")(2).rot6d is None


def test_noise_turns_rotations_as_it_turns_bones():
    clip = turning(60)
    (seen,) = noisy_clips([clip], seed=4)
    (plain,) = noisy_clips([replace(clip, rotations=None)], seed=4)
    assert np.array_equal(seen.joints, plain.joints)
    assert plain.rotations is None
    turned = local_to_global(seen.rotations)
    assert np.allclose(turned @ turned.swapaxes(-1, -2), np.eye(3), atol=1e-4)
    posed, wanted = (
        bone_directions(forward_kinematics(each.rotations, clip.rest)) for each in (seen, clip)
    )
    found = bone_directions(seen.joints)
    error, change = (np.abs(posed - each).max((0, 2)) for each in (found, wanted))
    alone = [bone - 1 for bone in range(1, 24) if PARENTS.count(PARENTS[bone]) == 1]
    assert error[alone].max() < 0.01 < 0.1 < change.min()


def test_turn_is_a_rotation():
    vectors = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    angles = torch.tensor([[0.0, torch.pi / 2, 0.0], [0.0, 0.0, 0.0]])
    assert torch.allclose(turn(vectors, angles), torch.tensor([[0, 0, -1.0], [0, 2, 0]]), atol=1e-6)


def test_mocap_files_are_read_and_bad_ones_named(tmp_path):
    write_mocap(tmp_path / "m.npz")
    clips = load_clips(tmp_path / "m.npz")
    assert [len(clip) for clip in clips] == [40, 90]
    assert np.abs(clips[0].joints - swaying(40)[0]).max() < 1e-4
    assert clips[0].on_floor()[0] == pytest.approx([0, 0.92, 0], abs=2e-3)
    with np.load(tmp_path / "m.npz") as file:
        content = dict(file)
    content["joints_rel"][40, 12:] += 2000  # the second clip begins with its arms elsewhere
    np.savez(tmp_path / "rest.npz", **content)
    begun = load_clips(tmp_path / "rest.npz")
    assert [len(clip) for clip in begun] == [40, 89]
    np.testing.assert_array_equal(begun[1].root, clips[1].root[1:])
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", a=1)
    for name in ("none", "text", "other"):
        with pytest.raises(RopeTPError, match=f"{name}.npz"):
            load_clips(tmp_path / f"{name}.npz")
    with np.load(tmp_path / "m.npz") as file:
        content = dict(file)
    content |= {"rest_offsets": np.zeros((2, 24, 3)), "has_rot": np.array([True, False])}
    for turns, message in ((np.ones((5, 24, 4)), "shapes"), (np.zeros((130, 24, 4)), "length")):
        np.savez(tmp_path / "turned.npz", rot_local_quat=turns, **content)
        assert len(load_clips(tmp_path / "turned.npz")) == 2
        with pytest.raises(RopeTPError, match=f"turned.npz.*{message}"):
            load_clips(tmp_path / "turned.npz", rotations=True)


def seen_wrongly(clip: Clip, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The clip's rotations and rest joints with smooth errors."""
    rng = np.random.default_rng(seed)
    sway = np.sin(np.linspace(0, 4, len(clip)))[:, None, None]
    off = axis_angle_to_matrix(0.3 * rng.normal(size=(1, 24, 3)) * (0.5 + sway))
    return off @ clip.rotations, clip.rest * 1.05


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_observed_errors_bring_back_what_was_seen(seed):
    clip = turning(60)
    wrong, rest = seen_wrongly(clip, seed)
    turns, lengths = differences(wrong, rest, clip.rotations, clip.rest)
    assert lengths[1:] == pytest.approx(1.05)
    joints = forward_kinematics(clip.rotations, clip.rest).astype(np.float32)
    joints -= joints[:, :1]
    columns = global_columns(clip.rotations)[None]
    seen = put_on(
        torch.from_numpy(joints)[None],
        columns,
        torch.from_numpy(turns)[None].float(),
        torch.from_numpy(lengths)[None].float(),
    )
    # All but the heading, of which only the changes count.
    about = np.linalg.lstsq(
        (expected := forward_kinematics(wrong, rest) - (rest[:1])).reshape(-1, 3)[:, [0, 2]],
        seen.joints[0].numpy().reshape(-1, 3)[:, [0, 2]], rcond=None,
    )[0]  # fmt: skip
    assert about.T @ about == pytest.approx(np.eye(2), abs=1e-3)
    assert np.allclose(expected[..., [0, 2]] @ about, seen.joints[0][..., [0, 2]], atol=2e-3)
    assert np.allclose(expected[..., 1], seen.joints[0][..., 1], atol=2e-3)
    turned = forward_kinematics(rot6d_to_matrix(local_rot6d(seen.columns[0])).numpy(), rest)
    assert np.allclose(turned - rest[:1], seen.joints[0], atol=2e-3)


def test_observed_errors_belong_to_clips():
    clip = turning(60)
    sightings = [seen_by(clip.rotations[f : f + 40], clip.name, f) for f in (0, 10)]
    errors = ObservedErrors.of(Sightings.joined(sightings), load_body(), None, 30.0)
    part = errors.parts([clip])[1]
    assert np.array_equal(part.clip.joints, clip.joints[10:50])
    seen = part.seen()
    assert 0.02 < np.linalg.norm(seen.joints - part.clip.joints, axis=-1).mean() < 0.4
    with pytest.raises(RopeTPError, match="other: frames 0 to 40"):
        replace(errors, names=np.array(["other"] * 2)).parts([clip])


def test_windows_of_filmed_clips_carry_what_was_seen_of_them():
    """In a mirror, turned, stretched and backwards the errors stay with the limbs they are of: the
    same leg is always seen too long."""
    clip = turning(60)
    turns = np.zeros((60, 24, 3), np.float32)
    turns[:, JOINT_INDEX["left_knee"], 0] = 0.5
    lengths = np.ones(24, np.float32)
    lengths[JOINT_INDEX["left_ankle"]] = 1.5
    filmed = [Filmed(clip, turns, lengths)]
    sampler = WindowSampler([replace(clip, rotations=None)], 32, 30.0, "cpu", 1, filmed)
    sampler.weights[0] = 0
    batch = sampler(16, clean=0.0)

    def shin(joints, side):
        ankle, knee = (JOINT_INDEX[f"{side}_{name}"] for name in ("ankle", "knee"))
        return joints[:, :, ankle] - joints[:, :, knee]

    long = [shin(batch.seen, s).norm(dim=-1) / shin(batch.joints, s).norm(dim=-1) for s in SIDES]
    longer, same = torch.stack(long).sort(0, descending=True).values
    assert longer.min() > 1.3 and torch.allclose(same, torch.ones(()), atol=1e-3)
    assert (long[0] > 1.2).all(1).any() and (long[1] > 1.2).all(1).any()
    bent = [
        torch.nn.functional.cosine_similarity(shin(batch.seen, s), shin(batch.joints, s), dim=-1)
        for s in SIDES
    ]
    assert torch.stack(bent).amax(0).min() > 0.999 > 0.97 > torch.stack(bent).amin(0).mean()


def test_flattened_limbs_lose_depth_and_keep_their_length():
    bones = torch.randn(3, 5, 2, 3, generator=torch.Generator().manual_seed(0))
    side, lost = torch.tensor([0.0, torch.pi / 2, 1.0]), torch.tensor([[0.6, 0.0]]).expand(3, 2)
    found = turn(bones, flattening(bones, side, lost))
    assert torch.allclose(found.norm(dim=-1), bones.norm(dim=-1), atol=1e-5)
    assert torch.allclose(found[:, :, 1], bones[:, :, 1], atol=1e-5)
    for row, axis in ((0, 2), (1, 0)):  # the depth, beside what the picture shows
        kept = [axis != k for k in range(3)]
        slope = found[row, :, 0, axis] / found[row, :, 0][:, kept].norm(dim=-1)
        before = bones[row, :, 0, axis] / bones[row, :, 0][:, kept].norm(dim=-1)
        assert torch.allclose(slope, 0.4 * before, atol=1e-4)


# ---- evaluation, training, commands ----------------------------------------------------------


def test_baselines_on_feet_that_stand():
    clips = [sway_clip(150)]
    found = compare(views(clips), constant_position).totals()
    assert found["trajdenoiser"] == found["constant_position"]
    assert found["foot_pinning"]["w_mpjpe"] < 1
    assert found["constant_position"]["w_mpjpe"] > 100
    noisy = [evaluate(views(clips, "rope", 1), foot_pinning)[0].w_mpjpe for _ in range(2)]
    assert np.array_equal(*noisy)
    assert noisy[0].mean() > 5


def test_learning_rate_warms_up_and_comes_down():
    training = TrajTraining(minutes=1, rate=1.0, warmup=100)
    assert training.rate_at(0, 0) == pytest.approx(0.01)
    assert training.rate_at(99, 0) == pytest.approx(1)
    assert training.rate_at(5000, 1.0) == pytest.approx(training.final_rate)
    with pytest.raises(RopeTPError):
        TrajTraining(minutes=0)


def test_validation_takes_subjects_in_turn():
    clips = [Clip("", s, "", "", *swaying(50), 30.0) for s in ("a", "a", "b", "b")]
    assert [clip.subject for clip in validation_clips(clips, 100)] == ["a", "b"]


def test_a_leg_learns_and_another_goes_on(tmp_path):
    for part in ("train", "val"):
        write_mocap(tmp_path / f"mocap_{part}.npz")
    lines: list[str] = []
    leg = TrajTraining(steps=3, batch=2, check_minutes=1, check_frames=50, check_ddim=1)
    out = tmp_path / "w.safetensors"
    figures = train(tmp_path, out, leg, TINY, device="cpu", report=lines.append)
    assert set(figures) == {f"{n}_{m}" for n in ("clean", "rope") for m in ("w_mpjpe", "wa_mpjpe")}
    first = torch.load(out.with_suffix(".ckpt"), weights_only=True)
    resume = ["--resume", str(out.with_suffix(".ckpt")), "--minutes", "0.01", "--batch", "2"]
    args = ["trajectory", str(tmp_path), "--out", str(out), *resume, "--device", "cpu"]
    gone_on = CliRunner().invoke(train_command, args)
    assert gone_on.exit_code == 0, gone_on.output
    assert "validation:" in gone_on.stderr
    again = torch.load(out.with_suffix(".ckpt"), weights_only=True)
    assert again["step"] > first["step"] == 3
    assert again["minutes"] > first["minutes"] + 0.01
    assert load_denoiser(out).config == TINY
    with pytest.raises(RopeTPError, match="safetensors"):
        train(tmp_path, tmp_path / "w.bin", leg)
    with pytest.raises(RopeTPError, match="mocap_val.npz: no clip has rotations"):
        train(tmp_path, out, leg, replace(TINY, condition="rot6d"), device="cpu")


def write_turning(path) -> None:
    """Clip 0 of :func:`write_mocap` without rotations and a :func:`turning` one."""
    clip = turning(40)
    write_mocap(path, (30, 40))
    with np.load(path) as file:
        content = dict(file)
    content["joints_rel"][30:] = np.round(clip.joints / 1e-4)
    turns = np.zeros((70, 24, 4), np.int16)
    turns[30:] = np.round(matrix_to_quaternion(clip.rotations) * 32000)
    bones = clip.rest - clip.rest[[max(parent, 0) for parent in PARENTS]]
    np.savez(
        path, rot_local_quat=turns, rest_offsets=np.stack([0 * bones, bones]),
        has_rot=np.array([False, True]), **content,
    )  # fmt: skip


def test_networks_of_the_papers_options_are_trained_and_measured(tmp_path):
    for part in ("train", "val"):
        write_turning(tmp_path / f"mocap_{part}.npz")
    clips = load_clips(tmp_path / "mocap_val.npz", rotations=True)
    assert clips[0].rotations is None
    assert np.allclose(clips[1].rotations, turning(40).rotations, atol=1e-3)
    out = tmp_path / "w.safetensors"
    options = ["--steps", "3", "--batch", "2", "--width", "16", "--window", "16"]
    args = ["trajectory", str(tmp_path), "--out", str(out), "--device", "cpu", *options]
    args += ["--condition", "rot6d", "--output", "xyz"]
    trained = CliRunner().invoke(train_command, args)
    assert trained.exit_code == 0, trained.output
    assert torch.load(out.with_suffix(".ckpt"), weights_only=True)["step"] == 3
    config = load_denoiser(out).config
    assert (config.condition, config.output, config.width) == ("rot6d", "xyz", 16)
    args = ["trajectory", str(tmp_path / "mocap_val.npz"), "--weights", str(out), "--steps", "2"]
    errors = tmp_path / "errors.npz"
    seen_by(clips[1].rotations[:20], clips[1].name).save(errors)
    for told, count in (
        (("--noise", "clean"), 1),
        (("--noise", "rope"), 1),
        (("--errors", errors), 1),
    ):
        shown = CliRunner().invoke(evaluate_command, [*args, *map(str, told), "--json"])
        assert shown.exit_code == 0, shown.output
        report = json.loads(shown.stdout)
        assert report["clips"] == count
        assert 0 < report["w_mpjpe"] < 5000
    leg = TrajTraining(steps=1, batch=2)
    figures = train(tmp_path, out, leg, TINY, device="cpu", errors=(errors, errors))
    assert figures["observed_w_mpjpe"] > 0


def test_evaluate_prints_figures_and_one_json_object(tmp_path):
    write_mocap(tmp_path / "m.npz")
    save_denoiser(pinned_on("left_foot"), tmp_path / "w.safetensors")
    args = ["trajectory", str(tmp_path / "m.npz"), "--weights", str(tmp_path / "w.safetensors")]
    shown = CliRunner().invoke(evaluate_command, [*args, "--steps", "2", "--json"])
    assert shown.exit_code == 0, shown.output
    report = json.loads(shown.stdout)
    wanted = {"w_mpjpe", "wa_mpjpe", "rte", "jitter", "foot_sliding"}
    assert wanted <= set(report)
    assert wanted <= set(report["foot_pinning"]) & set(report["constant_position"])
    assert report["w_mpjpe"] < 1 < report["constant_position"]["w_mpjpe"]
    table = CliRunner().invoke(evaluate_command, [*args, "--steps", "2", "--noise", "rope"])
    assert table.exit_code == 0, table.output
    assert "foot_pinning" in table.stdout and "sway" in table.stdout
    assert report["true_path"]["w_mpjpe"] < 1e-3  # the joints are true
    assert CliRunner().invoke(evaluate_command, [*args, "--noise", "loud"]).exit_code == 2
    lacks = CliRunner().invoke(evaluate_command, [*args, "--steps", "2", "--physics"])
    assert isinstance(lacks.exception, RopeTPError) and "m.npz" in str(lacks.exception)


def test_the_worst_clips_of_every_action_are_drawn(tmp_path):
    write_mocap(tmp_path / "m.npz", (40, 90, 50, 60))
    save_denoiser(pinned_on("head"), tmp_path / "w.safetensors")
    args = ["trajectory", str(tmp_path / "m.npz"), "--weights", str(tmp_path / "w.safetensors")]
    args += ["--steps", "2", "--plot", str(tmp_path / "worst")]
    shown = CliRunner().invoke(evaluate_command, args)
    assert shown.exit_code == 0, shown.output
    pictures = sorted((tmp_path / "worst").glob("*.png"))
    assert [picture.name[:7] for picture in pictures] == ["sway_1_", "sway_2_", "sway_3_"]
    image = cv2.imread(str(pictures[0]))
    for color in ((60, 60, 60), *PALETTE[:3]):  # the truth and three methods
        assert (np.abs(image.astype(int) - color).sum(-1) < 20).sum() > 50


def test_physics_rows_are_measured_on_the_clips_with_rotations(tmp_path):
    """A man stands; his path sways by the denoiser's fault, and physics plants his feet."""
    rest = load_body().rest_joints(np.zeros(10))
    rest -= rest[0]
    bones = rest - rest[[max(parent, 0) for parent in PARENTS]]
    write_mocap(tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz") as file:
        content = dict(file)
    frames = int(content["offsets"][-1])
    still = np.zeros((frames, 24, 4), np.int16)
    still[..., 0] = 32767
    content["joints_rel"] = np.round(
        np.tile(rest, (frames, 1, 1)) / content["joints_rel_scale"]
    ).astype(np.int16)
    content["root_pos"] = np.tile([0.0, -rest[:, 1].min() + 0.02, 0.0], (frames, 1))
    content |= {
        "rot_local_quat": still,
        "rest_offsets": np.stack([0 * bones, bones]),
        "has_rot": np.array([False, True]),
    }
    np.savez(tmp_path / "m.npz", **content)
    clips = load_turned_clips(tmp_path / "m.npz")

    def swaying(clip):
        path = np.tile(clip.root[0].astype(float), (len(clip), 1))
        path[:, 0] += 0.03 * np.sin(np.arange(len(clip)) / clip.fps * 6)
        return TrajectoryResult(path, np.ones((len(clip), 2)))

    rows, applied = physics_rows(views(clips), swaying)
    assert len(clips) == applied == 1
    assert rows["full"]["foot_sliding"] < 0.5 * rows["without physics"]["foot_sliding"]
