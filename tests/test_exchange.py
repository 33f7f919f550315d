"""Files out and in: every format is read back by something other than its writer's own maths."""

import io
import os
import runpy
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ropetp_cli import exchange
from ropetp_cli.body.model import load_body
from ropetp_cli.body.rotations import forward_kinematics, local_to_global
from ropetp_cli.body.skeleton import JOINT_INDEX, JOINTS, PARENTS
from ropetp_cli.cli import group
from ropetp_cli.cli.options import SKELETONS as NAMES_OFFERED
from ropetp_cli.errors import RopeTPError
from ropetp_cli.exchange.bvh import continuous_euler, read_bvh
from ropetp_cli.exchange.names import SKELETONS, joint_names
from ropetp_cli.exchange.npz import load_motion, save_motion
from ropetp_cli.exchange.resample import resampled
from ropetp_cli.motion import Motion


@pytest.fixture(scope="module")
def body():
    return load_body()


def make_motion(body, frames=7, seed=0, fps=30.0, **changes) -> Motion:
    """A motion with every field set, wild in pose, consistent by forward kinematics."""
    rng = np.random.default_rng(seed)
    betas = rng.uniform(-2, 2, 10)
    rest = body.rest_joints(betas)
    poses = Rotation.random(frames * 24, rng=rng).as_rotvec().reshape(frames, 72)
    trans = rng.uniform(-5, 5, (frames, 3))
    local = Rotation.from_rotvec(poses.reshape(-1, 3)).as_matrix().reshape(frames, 24, 3, 3)
    fields = {
        "poses": poses,
        "trans": trans,
        "betas": betas,
        "fps": fps,
        "joints": forward_kinematics(local, rest, trans),
        "timestamps": 2.0 + np.arange(frames) / fps,
        "frame_index": 60 + np.arange(frames),
        "boxes": rng.uniform(0, 900, (frames, 4)),
        "confidence": rng.random(frames),
        "joint_confidence": rng.random((frames, 24)),
        "contacts": rng.random((frames, 2)),
        "joints2d": rng.uniform(0, 900, (frames, 24, 2)),
        "camera_poses": rng.normal(size=(frames, 72)),
        "camera_trans": rng.normal(size=(frames, 3)),
        "camera_rotation": Rotation.random(frames, rng=rng).as_matrix(),
        "camera_focal": 1234.5,
        "camera_center": np.array([640.0, 360.0]),
        "gender": "neutral",
        "body": body.label,
        "person": 3,
    }
    return Motion(**(fields | changes))


def assert_same(a: Motion, b: Motion, tolerance: float = 1e-5) -> None:
    for name in (
        "trans", "betas", "joints", "timestamps", "frame_index", "confidence", "contacts",
        "camera_poses", "camera_trans", "camera_rotation", "camera_center", "fps", "camera_focal",
        "joint_confidence",
    ):  # fmt: skip
        assert np.allclose(getattr(a, name), getattr(b, name), atol=tolerance), name
    assert np.allclose(a.boxes, b.boxes, atol=1e-3) and np.allclose(
        a.joints2d, b.joints2d, atol=1e-3
    )
    assert np.allclose(a.rotations, b.rotations, atol=tolerance)
    assert (a.gender, a.body, a.person) == (b.gender, b.body, b.person)


# ---------------------------------------------------------------------------------------- npz


@pytest.mark.parametrize("up", ["y", "z"])
def test_npz_comes_back_as_it_went(body, tmp_path, up):
    motion = make_motion(body, fps=30000 / 1001)
    save_motion(motion, tmp_path / "a.npz", up=up)
    assert_same(load_motion(tmp_path / "a.npz"), motion)
    assert load_motion(tmp_path / "a.npz").fps == motion.fps


def test_a_file_that_knows_no_joints_confidence_has_the_frames(body, tmp_path):
    motion = make_motion(body, joint_confidence=None)
    assert motion.joint_confidence.shape == (7, 24)
    assert (motion.joint_confidence == motion.confidence[:, None]).all()
    with pytest.raises(RopeTPError, match=r"Motion\.joint_confidence"):
        make_motion(body, joint_confidence=np.ones((7, 3)))


def test_npz_is_z_up_and_consistent_in_the_file(body, tmp_path):
    motion = make_motion(body)
    save_motion(motion, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        data = dict(file)
    assert data["up_axis"] == "z"
    assert data["poses"].shape == (7, 72) and data["betas"].shape == (10,)
    assert data["mocap_framerate"].dtype == data["mocap_frame_rate"].dtype == np.float64
    assert np.allclose(data["joints"][..., 0], motion.joints[..., 0], atol=1e-5)
    assert np.allclose(data["joints"][..., 2], motion.joints[..., 1], atol=1e-5)
    assert np.allclose(data["joints"][..., 1], -motion.joints[..., 2], atol=1e-5)
    rest = body.rest_joints(data["betas"].astype(float))
    local = Rotation.from_rotvec(data["poses"].reshape(-1, 3)).as_matrix().reshape(7, 24, 3, 3)
    posed = forward_kinematics(local, rest, data["trans"].astype(float))
    assert np.abs(posed - data["joints"]).max() < 1e-4
    assert np.allclose(data["joints"][:, 0], data["trans"] + rest[0], atol=1e-5)
    # What the camera sees does not depend on the world's axes.
    world = data["camera_R"] @ np.array([0.0, 0.0, 1.0])
    ours = motion.camera_rotation @ np.array([0.0, 0.0, 1.0])
    assert np.allclose(world, np.stack([ours[:, 0], -ours[:, 2], ours[:, 1]], 1), atol=1e-5)
    assert np.allclose(data["camera_poses"], motion.camera_poses, atol=1e-5)


def test_npz_bytes_depend_on_the_motion_alone(body, tmp_path):
    for name in ("a.npz", "b.npz"):
        save_motion(make_motion(body), tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_amass_layout_has_resting_hands_and_reads_back(body, tmp_path):
    motion = make_motion(body)
    save_motion(motion, tmp_path / "a.npz", layout="amass")
    with np.load(tmp_path / "a.npz") as file:
        assert file["poses"].shape == (7, 156) and not file["poses"][:, 66:].any()
        assert file["betas"].shape == (16,)
    back = load_motion(tmp_path / "a.npz")
    assert np.allclose(back.rotations[:, :22], motion.rotations[:, :22], atol=1e-6)
    assert np.allclose(back.betas, motion.betas, atol=1e-6)


def test_amass_flavour_is_what_its_readers_take(body, tmp_path):
    """z up, SMPL-H's columns and a whole frame rate: some readers cut the rate to an integer."""
    from click.testing import CliRunner

    motion = make_motion(body, frames=40, fps=30000 / 1001)
    motion.timestamps[:] = np.arange(40) / motion.fps
    save_motion(motion, tmp_path / "m.npz")
    words = ["export", str(tmp_path / "m.npz"), "--to", "npz", "--npz-layout", "amass"]
    result = CliRunner().invoke(group, [*words, "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    with np.load(tmp_path / "out" / "m.npz") as file:
        assert file["poses"].shape == (40, 156) and file["up_axis"] == "z"
        assert int(file["mocap_framerate"]) == file["mocap_frame_rate"] == 30
    with pytest.raises(RopeTPError, match="z up"):
        save_motion(motion, tmp_path / "y.npz", up="y", layout="amass")


def test_resampling_keeps_times_joints_and_the_skeleton(body):
    motion = make_motion(body, frames=31, fps=30.0)
    slow = resampled(motion, 10.0)
    assert len(slow) == 11 and slow.fps == 10.0
    assert np.allclose(slow.timestamps, motion.timestamps[::3])
    assert np.array_equal(slow.frame_index, motion.frame_index[::3])
    for name in ("joints", "trans", "contacts", "joints2d", "camera_rotation"):
        assert np.allclose(getattr(slow, name), getattr(motion, name)[::3], atol=1e-6), name
    fast = resampled(motion, 59.94)
    assert fast.duration == pytest.approx(motion.duration, abs=1 / 30)
    assert np.allclose(exchange.rest_joints(fast), exchange.rest_joints(motion), atol=1e-9)


@pytest.mark.parametrize("columns", [72, 156, 165])
@pytest.mark.parametrize("rate_key", ["mocap_framerate", "mocap_frame_rate", "fps"])
def test_any_amass_file_is_read(body, tmp_path, columns, rate_key):
    rng = np.random.default_rng(1)
    poses, trans = rng.normal(size=(5, columns)), rng.normal(size=(5, 3))
    betas = rng.normal(size=16)
    np.savez(
        tmp_path / "m.npz", poses=poses, trans=trans, betas=betas, gender=b"female",
        **{rate_key: np.array(119.88)},
    )  # fmt: skip
    motion = load_motion(tmp_path / "m.npz", body=body)
    assert motion.fps == 119.88 and motion.gender == "female"
    assert np.array_equal(motion.betas, betas[:10])
    kept = 24 if columns == 72 else 22
    local = Rotation.from_rotvec(poses[:, :72].reshape(-1, 3)).as_matrix().reshape(5, 24, 3, 3)
    if kept == 22:
        local[:, 22:] = np.eye(3)
    z_up = forward_kinematics(local, body.rest_joints(betas[:10]), trans)
    y_up = np.stack([z_up[..., 0], z_up[..., 2], -z_up[..., 1]], -1)
    assert np.abs(motion.joints - y_up).max() < 1e-9
    mean = load_motion(tmp_path / "m.npz")  # the embedded body does not know these betas
    assert np.allclose(exchange.rest_joints(mean), body.rest_joints(np.zeros(10)), atol=1e-9)


def write_npz(path, drop=(), **changes):
    data = {"poses": np.zeros((4, 72)), "trans": np.zeros((4, 3)), "betas": np.zeros(10),
            "mocap_framerate": 30.0, "joints": np.zeros((4, 24, 3))} | changes  # fmt: skip
    np.savez(path, **{key: value for key, value in data.items() if key not in drop})


def truncated(path):
    write_npz(path)
    path.write_bytes(path.read_bytes()[:-200])


def lying_header(path):
    """An array that claims to be far larger than what follows."""
    write_npz(path, drop=("poses",))
    array = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**13, 72)}
    np.lib.format.write_array_header_1_0(array, header)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("poses.npy", array.getvalue())


HOSTILE = {
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("not an npz"),
    "truncated": truncated,
    "lying header": lying_header,
    "a bare array": lambda p: np.save(open(p, "wb"), np.zeros(3)),
    "pickled": lambda p: write_npz(p, poses=np.array([{"a": 1}], dtype=object)),
    "pickled joints": lambda p: write_npz(p, joints=np.array([print], dtype=object)),
    "no poses": lambda p: write_npz(p, drop=("poses",)),
    "no trans": lambda p: write_npz(p, drop=("trans",)),
    "no rate": lambda p: write_npz(p, drop=("mocap_framerate",)),
    "rate of zero": lambda p: write_npz(p, mocap_framerate=0.0),
    "two rates": lambda p: write_npz(p, mocap_framerate=np.array([30.0, 25.0])),
    "nan": lambda p: write_npz(p, trans=np.full((4, 3), np.nan)),
    "infinite joints": lambda p: write_npz(p, joints=np.full((4, 24, 3), np.inf)),
    "words for poses": lambda p: write_npz(p, poses=np.full((4, 72), "x")),
    "complex poses": lambda p: write_npz(p, poses=np.zeros((4, 72), dtype=complex)),
    "70 columns": lambda p: write_npz(p, poses=np.zeros((4, 70))),
    "one column": lambda p: write_npz(p, poses=np.zeros((4, 1))),
    "no frames": lambda p: write_npz(
        p, poses=np.zeros((0, 72)), trans=np.zeros((0, 3)), joints=np.zeros((0, 24, 3))
    ),
    "short trans": lambda p: write_npz(p, trans=np.zeros((3, 3))),
    "flat trans": lambda p: write_npz(p, trans=np.zeros(12)),
    "few joints": lambda p: write_npz(p, joints=np.zeros((4, 22, 3))),
    "betas a frame": lambda p: write_npz(p, betas=np.zeros((4, 10))),
    "sideways": lambda p: write_npz(p, up_axis="x"),
    "short boxes": lambda p: write_npz(p, boxes=np.zeros((3, 4))),
    "two focals": lambda p: write_npz(p, camera_focal=np.zeros(2)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_npz_ends_in_one_line_with_the_name(tmp_path, kind):
    path = tmp_path / "hostile.npz"
    HOSTILE[kind](path)
    with pytest.raises(RopeTPError) as caught:
        load_motion(path)
    assert "hostile.npz" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_and_unknown_files_say_so(tmp_path):
    with pytest.raises(RopeTPError, match="no such file"):
        exchange.read(tmp_path / "none.npz")
    with pytest.raises(RopeTPError, match="known are npz"):
        exchange.read(tmp_path / "a.bvh")
    with pytest.raises(RopeTPError, match="known are npz, bvh, glb, fbx"):
        exchange.write(make_motion(load_body()), tmp_path / "a.c3d")


def test_a_failed_write_keeps_the_old_file(body, tmp_path, monkeypatch):
    path = tmp_path / "a.bvh"
    path.write_text("old")
    monkeypatch.setattr(np, "savetxt", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(RopeTPError, match="a.bvh.*full"):
        exchange.write(make_motion(body), path)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.bvh"]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_rest_skeleton_is_recovered_from_any_motion(seed):
    body = load_body()
    motion = make_motion(body, frames=3, seed=seed)
    assert np.allclose(exchange.rest_joints(motion), body.rest_joints(motion.betas), atol=1e-9)


# ---------------------------------------------------------------------------------------- bvh


def bvh_joints(path) -> np.ndarray:
    """Joint positions in our order, by transform matrices down the file's own tree."""
    bvh = read_bvh(path)
    count = len(bvh.positions)
    world: list[np.ndarray] = []
    for joint, parent in enumerate(bvh.parents):
        matrix = np.tile(np.eye(4), (count, 1, 1))
        matrix[:, :3, :3], matrix[:, :3, 3] = bvh.rotations[:, joint], bvh.positions[:, joint]
        world.append(matrix if parent < 0 else world[parent] @ matrix)
    return np.stack([world[bvh.names.index(name)][:, :3, 3] for name in JOINTS], axis=1)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), frames=st.integers(1, 6))
def test_bvh_keeps_every_joint_within_a_tenth_of_a_millimetre(tmp_path_factory, seed, frames):
    motion = make_motion(load_body(), frames=frames, seed=seed)
    path = tmp_path_factory.mktemp("bvh") / "a.bvh"
    exchange.write(motion, path)
    assert np.abs(bvh_joints(path) - motion.joints).max() < 1e-4


def test_bvh_at_the_singular_angle(body, tmp_path):
    turns = Rotation.from_euler("ZXY", [[20, 90, 30], [20, -90, 30], [0, 90, 0]], degrees=True)
    poses = np.tile(turns.as_rotvec(), (1, 24)).reshape(3, 72)
    rest = body.rest_joints(np.zeros(10))
    local = np.repeat(turns.as_matrix()[:, None], 24, axis=1)
    joints = forward_kinematics(local, rest, np.zeros((3, 3)))
    motion = Motion(poses, np.zeros((3, 3)), np.zeros(10), 25.0, joints)
    exchange.write(motion, tmp_path / "a.bvh")
    assert np.abs(bvh_joints(tmp_path / "a.bvh") - joints).max() < 1e-4


@pytest.mark.parametrize("fps", [24.0, 30000 / 1001, 30.0, 59.94, 120.0])
def test_bvh_rate_and_rest_pose(body, tmp_path, fps):
    motion = make_motion(body, fps=fps)
    exchange.write(motion, tmp_path / "a.bvh")
    text = (tmp_path / "a.bvh").read_text()
    stated = next(line for line in text.splitlines() if line.startswith("Frame Time"))
    assert len(stated.split(".")[1]) == 9
    bvh = read_bvh(tmp_path / "a.bvh")
    assert 1 / bvh.frame_time == pytest.approx(fps, rel=1e-7)
    assert bvh.parents[0] == -1 and set(bvh.names) == set(JOINTS)
    place = np.zeros((24, 3))
    for joint, parent in enumerate(bvh.parents[1:], start=1):
        place[joint] = place[parent] + bvh.offsets[joint]
    at = {name: place[bvh.names.index(name)] for name in JOINTS}
    rest = body.rest_joints(motion.betas)
    assert all(
        np.linalg.norm(bvh.offsets[bvh.names.index(JOINTS[j])])
        == pytest.approx(np.linalg.norm(rest[j] - rest[p]), abs=2e-6)
        for j, p in enumerate(PARENTS)
        if j
    )
    assert at["head"][1] > 0.4 and at["left_foot"][1] < -0.6  # metres, y up
    assert at["left_wrist"][0] > 0.4 and at["right_wrist"][0] < -0.4  # a T, left is +x
    assert at["left_foot"][2] - at["left_ankle"][2] > 0.05  # the toes point to +z
    ends = [line for line in text.partition("MOTION")[0].splitlines()]
    sites = [ends[k + 2].split()[1:] for k, line in enumerate(ends) if line.strip() == "End Site"]
    assert len(sites) == 5 and all(np.linalg.norm(np.array(s, float)) > 0.03 for s in sites)


def test_euler_angles_do_not_jump():
    yaw = np.linspace(0, 1400, 300)  # nearly four turns
    angles = np.stack([10 * np.sin(yaw / 50), 120 * np.sin(yaw / 200), yaw], axis=1)
    matrices = Rotation.from_euler("ZXY", angles, degrees=True).as_matrix()[:, None]
    found = continuous_euler(matrices)[:, 0]
    assert np.abs(np.diff(found, axis=0)).max() < 12
    back = Rotation.from_euler("ZXY", found, degrees=True).as_matrix()
    assert np.allclose(back, matrices[:, 0], atol=1e-9)


def test_every_skeleton_names_every_joint_once():
    assert set(SKELETONS) == set(NAMES_OFFERED)
    for skeleton, table in SKELETONS.items():
        assert set(table) == set(JOINTS) and len(set(table.values())) == 24, skeleton
        assert not any(" " in name for name in table.values())
    assert joint_names("mixamo")[JOINT_INDEX["left_elbow"]] == "mixamorig:LeftForeArm"
    assert joint_names("ue5")[JOINT_INDEX["right_hip"]] == "thigh_r"
    assert joint_names("unity")[JOINT_INDEX["left_collar"]] == "LeftShoulder"
    assert joint_names("rigify")[JOINT_INDEX["right_foot"]] == "toe.R"


@pytest.mark.parametrize("skeleton", list(SKELETONS))
def test_renamed_files_move_as_before(body, tmp_path, skeleton):
    pygltflib = pytest.importorskip("pygltflib")
    motion = make_motion(body, frames=3)
    names = joint_names(skeleton)
    exchange.write(motion, tmp_path / "a.bvh", skeleton=skeleton)
    bvh = read_bvh(tmp_path / "a.bvh")
    assert set(bvh.names) == set(names)
    exchange.write(motion, tmp_path / "smpl.bvh")
    assert np.array_equal(bvh.rotations, read_bvh(tmp_path / "smpl.bvh").rotations)
    exchange.write(motion, tmp_path / "a.glb", skeleton=skeleton)
    gltf = pygltflib.GLTF2().load(str(tmp_path / "a.glb"))
    assert tuple(node.name for node in gltf.nodes[:24]) == names


def test_bvh_agrees_with_another_reader(body, tmp_path):
    bvhio = pytest.importorskip("bvhio")
    motion = make_motion(body, frames=4)
    exchange.write(motion, tmp_path / "a.bvh")
    root = bvhio.readAsHierarchy(str(tmp_path / "a.bvh"))
    for frame in range(4):
        root.loadPose(frame)
        place = {joint.Name: np.array(joint.PositionWorld) for joint, _, _ in root.layout()}
        read = np.array([place[name] for name in JOINTS])
        assert np.abs(read - motion.joints[frame]).max() < 1e-4


@pytest.mark.parametrize(
    "text",
    ["", "HIERARCHY", "HIERARCHY\nROOT a\n{\nOFFSET 0 0\n", "MOTION\nFrames: 1\nFrame Time: 0.1\n1",
     "HIERARCHY ROOT a { OFFSET 0 0 0 CHANNELS 1 Xrotation } MOTION Frames: 2 Frame Time: .1 5"],
)  # fmt: skip
def test_broken_bvh_is_named(tmp_path, text):
    (tmp_path / "broken.bvh").write_text(text)
    with pytest.raises(RopeTPError, match="broken.bvh"):
        read_bvh(tmp_path / "broken.bvh")


# ---------------------------------------------------------------------------------------- glb

WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}
DTYPES = {5126: "<f4", 5125: "<u4", 5121: "u1"}


def accessor(gltf, index) -> np.ndarray:
    entry = gltf.accessors[index]
    view = gltf.bufferViews[entry.bufferView]
    width = WIDTHS[entry.type]
    data = np.frombuffer(
        gltf.binary_blob(), DTYPES[entry.componentType], entry.count * width, view.byteOffset
    )
    return data.reshape(entry.count, width)


def glb_pose(gltf, frame) -> np.ndarray:
    """World matrices of the 24 joint nodes at a key, [24, 4, 4]."""
    local = {}
    for index, node in enumerate(gltf.nodes[:24]):
        local[index] = np.eye(4)
        local[index][:3, 3] = node.translation
    for channel in gltf.animations[0].channels:
        values = accessor(gltf, gltf.animations[0].samplers[channel.sampler].output)[frame]
        if channel.target.path == "translation":
            local[channel.target.node][:3, 3] = values
        else:
            local[channel.target.node][:3, :3] = Rotation.from_quat(values).as_matrix()
    world = {0: local[0]}
    for index, node in enumerate(gltf.nodes[:24]):
        for child in node.children or []:
            world[child] = world[index] @ local[child]
    return np.stack([world[index] for index in range(24)])


def test_glb_moves_joints_and_mesh_as_the_body_does(body, tmp_path):
    pygltflib = pytest.importorskip("pygltflib")
    from ropetp_cli.body.model import skin

    motion = make_motion(body, fps=29.97)
    exchange.write(motion, tmp_path / "a.glb")
    gltf = pygltflib.GLTF2().load(str(tmp_path / "a.glb"))
    assert [node.name for node in gltf.nodes[:24]] == list(JOINTS)
    times = accessor(gltf, gltf.animations[0].samplers[0].input)[:, 0]
    assert np.allclose(times, np.arange(7) / 29.97, atol=1e-6)
    assert all(sampler.input == gltf.animations[0].samplers[0].input
               for sampler in gltf.animations[0].samplers)  # fmt: skip

    part = gltf.meshes[0].primitives[0]
    vertices = accessor(gltf, part.attributes.POSITION)
    weights = accessor(gltf, part.attributes.WEIGHTS_0)
    bones = accessor(gltf, part.attributes.JOINTS_0)
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-5)
    assert accessor(gltf, part.indices).max() == len(vertices) - 1
    bind = accessor(gltf, gltf.skins[0].inverseBindMatrices).reshape(24, 4, 4).transpose(0, 2, 1)
    truth = skin(body, motion.rotations, motion.betas, motion.trans)
    for frame in (0, 6):
        world = glb_pose(gltf, frame)
        assert np.abs(world[:, :3, 3] - motion.joints[frame]).max() < 1e-4
        moves = np.einsum("vk,vkab->vab", weights, (world @ bind)[bones])
        placed = np.einsum("vab,vb->va", moves[:, :3, :3], vertices) + moves[:, :3, 3]
        assert np.abs(placed - truth[frame]).mean() < 2e-3


def test_one_glb_holds_everybody_in_step(body, tmp_path):
    pygltflib = pytest.importorskip("pygltflib")
    early = make_motion(body, frames=30, person=1)
    late = make_motion(body, frames=12, seed=1, person=2)
    late.timestamps[:] = early.timestamps[9:21]
    exchange.write([early, late], tmp_path / "people.glb")
    gltf = pygltflib.GLTF2().load(str(tmp_path / "people.glb"))
    assert len(gltf.skins) == len(gltf.meshes) == 2
    assert [animation.name for animation in gltf.animations] == ["people"]
    roots = [gltf.nodes[index].name for index in gltf.scenes[0].nodes]
    assert [name for name in roots if name.startswith("person")] == ["person_01", "person_02"]
    animation = gltf.animations[0]
    keys, scales = {}, {}
    for channel in animation.channels:
        sampler = animation.samplers[channel.sampler]
        times, values = accessor(gltf, sampler.input)[:, 0], accessor(gltf, sampler.output)
        name = gltf.nodes[channel.target.node].name
        if channel.target.path == "scale":
            assert sampler.interpolation == "STEP"
            scales[name] = list(zip(times.tolist(), values[:, 0].tolist(), strict=True))
        elif channel.target.path == "translation":
            keys[channel.target.node] = (times, values)
    (_, first), (_, second) = sorted(keys.items())
    assert np.allclose(first[0], np.arange(30) / 30, atol=1e-6)
    assert np.allclose(second[0], np.arange(9, 21) / 30, atol=1e-6)
    assert np.allclose(second[1], late.joints[:, 0], atol=1e-6)
    assert list(scales) == ["person_02"]  # the first one is always there
    there = np.array(scales["person_02"])
    assert there[:, 1].tolist() == [0, 1, 0]
    assert np.allclose(there[:, 0], [0, 8.5 / 30, 20.5 / 30], atol=1e-5)


def test_glb_quaternions_never_flip(body, tmp_path):
    pygltflib = pytest.importorskip("pygltflib")
    turn = Rotation.from_euler("y", np.linspace(0, 1000, 60)[:, None], degrees=True)
    poses = np.zeros((60, 72))
    poses[:, :3] = turn.as_rotvec()
    joints = forward_kinematics(
        Rotation.from_rotvec(poses.reshape(-1, 3)).as_matrix().reshape(60, 24, 3, 3),
        body.rest_joints(np.zeros(10)),
    )
    exchange.write(Motion(poses, np.zeros((60, 3)), np.zeros(10), 30.0, joints), tmp_path / "a.glb")
    gltf = pygltflib.GLTF2().load(str(tmp_path / "a.glb"))
    animation = gltf.animations[0]
    root = next(c for c in animation.channels if c.target.node == 0 and c.target.path == "rotation")
    values = accessor(gltf, animation.samplers[root.sampler].output)
    assert ((values[1:] * values[:-1]).sum(axis=1) > 0.9).all()


def test_glb_of_another_body_is_a_skeleton(body, tmp_path):
    pygltflib = pytest.importorskip("pygltflib")
    motion = replace(make_motion(body), body="smpl, sha256 0123")
    exchange.write(motion, tmp_path / "a.glb")
    gltf = pygltflib.GLTF2().load(str(tmp_path / "a.glb"))
    assert not gltf.meshes and len(gltf.nodes) == 24 and len(gltf.skins[0].joints) == 24
    with pytest.raises(RopeTPError, match="smpl, sha256 0123"):
        exchange.write(motion, tmp_path / "b.glb", with_mesh=True)
    own = replace(motion, body=body.label)
    exchange.write(own, tmp_path / "c.glb", with_mesh=False)
    assert not pygltflib.GLTF2().load(str(tmp_path / "c.glb")).meshes


def test_glb_opens_in_trimesh(body, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    pytest.importorskip("pygltflib")
    exchange.write(make_motion(body), tmp_path / "a.glb")
    scene = trimesh.load(tmp_path / "a.glb")
    mesh = next(iter(scene.geometry.values()))
    assert mesh.vertices.shape == body.v_template.shape and mesh.volume > 0


# ---------------------------------------------------------------------------------------- fbx


def test_fbx_without_blender_names_the_fix(body, tmp_path):
    if subprocess.run([sys.executable, "-c", "import bpy"], capture_output=True).returncode == 0:
        exchange.write(make_motion(body), tmp_path / "a.fbx")
        assert (tmp_path / "a.fbx").read_bytes().startswith(b"Kaydara FBX Binary")
        return
    with pytest.raises(RopeTPError, match=r"pip install 'ropetp\[fbx\]'"):
        exchange.write(make_motion(body), tmp_path / "a.fbx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("skeleton, fps", [("smpl", 30.0), ("mixamo", 24.0)])
def test_fbx_says_to_ufbx_what_the_npz_says(body, tmp_path, skeleton, fps):
    """Rate, bone lengths, and every joint within a millimetre."""
    ufbx = pytest.importorskip("ufbx")
    python = os.environ.get("BLENDER_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import bpy"], capture_output=True).returncode:
        pytest.skip("Blender's module is not installed: pip install 'ropetp[fbx]' (Python 3.11)")
    motion = make_motion(body, frames=6, fps=fps)
    exchange.write(motion, tmp_path / "a.fbx", skeleton=skeleton, python=python)
    path = Path(__file__).parents[1] / "scripts" / "format_table.py"
    rate, joints = runpy.run_path(str(path))["by_ufbx"](
        tmp_path / "a.fbx", motion, joint_names(skeleton)
    )
    assert rate == pytest.approx(fps, abs=1e-4)
    scene = ufbx.load_file(str(tmp_path / "a.fbx"))
    assert scene.settings.frames_per_second == pytest.approx(fps)
    assert np.abs(joints - motion.joints).max() < 1e-3


def fake_python(folder, script: str) -> str:
    """An interpreter that runs ``script`` instead of what it is told; $3 and $4 are the files."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_fbx_goes_where_a_relative_path_says(body, tmp_path, monkeypatch):
    """The converter runs in a folder of its own."""
    python = fake_python(tmp_path, 'cp "$3" "$4"')
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    exchange.write(make_motion(body), "out/a.fbx", python=python)
    assert (tmp_path / "out" / "a.fbx").read_text().startswith("HIERARCHY")
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_fbx_tells_the_error_among_blenders_words(body, tmp_path):
    python = fake_python(tmp_path, "echo 'Error: no such bone' >&2; echo 'at ops.py' >&2; exit 1")
    with pytest.raises(RopeTPError, match="a.fbx.*no such bone"):
        exchange.write(make_motion(body), tmp_path / "a.fbx", python=python)
    with pytest.raises(RopeTPError, match="a.fbx.*no message"):  # a success that wrote nothing
        exchange.write(make_motion(body), tmp_path / "a.fbx", python=fake_python(tmp_path, ":"))


def test_fbx_reports_a_python_that_cannot_run(body, tmp_path):
    with pytest.raises(RopeTPError, match="a.fbx"):
        exchange.write(make_motion(body), tmp_path / "a.fbx", python=str(tmp_path / "nothing"))


# ------------------------------------------------------------------------------- command line


def test_export_writes_what_is_asked_without_torch(body, tmp_path):
    save_motion(make_motion(body), tmp_path / "m.npz")
    code = (
        "import sys\nfrom ropetp_cli.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as stop:\n"
        "    assert 'torch' not in sys.modules, 'torch was imported'\n    raise\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "export", str(tmp_path / "m.npz"), "--to", "bvh,glb,npz",
         "--up", "y", "-o", str(tmp_path / "out")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "out" / f"m.{s}") for s in ("bvh", "glb", "npz")]
    with np.load(tmp_path / "out" / "m.npz") as file:
        assert file["up_axis"] == "y"
    assert_same(load_motion(tmp_path / "out" / "m.npz"), load_motion(tmp_path / "m.npz"))


def test_export_puts_people_together_and_renames(body, tmp_path):
    from click.testing import CliRunner

    for person in (1, 2):
        save_motion(make_motion(body, person=person), tmp_path / f"person_0{person}.npz")
    sources = [str(path) for path in sorted(tmp_path.glob("*.npz"))]
    words = ["--to", "bvh,glb", "--one-glb", "--skeleton", "mixamo", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(group, ["export", *sources, *words])
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["people.glb", "person_01.bvh", "person_02.bvh"]
    assert "mixamorig:Hips" in (tmp_path / "out" / "person_02.bvh").read_text()
    twice = CliRunner().invoke(group, ["export", sources[0], sources[0], "-o", str(tmp_path)])
    assert twice.exit_code == 2 and "same name" in twice.output


def test_export_of_a_licensed_body_says_why_the_mesh_is_missing(body, tmp_path):
    from click.testing import CliRunner

    save_motion(replace(make_motion(body), body="smpl:0123"), tmp_path / "m.npz")
    words = ["export", str(tmp_path / "m.npz"), "--to", "glb", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(group, words)
    assert result.exit_code == 0 and "licence" in result.output and "--with-mesh" in result.output
    silent = CliRunner().invoke(group, [*words, "--no-mesh"])
    assert silent.exit_code == 0 and "licence" not in silent.output


@pytest.mark.parametrize(
    "arguments, code",
    [(["--to", "c3d"], 2), (["--to", "npz"], 2), (["--up", "x"], 2), (["--to", "bvh"], 0)],
)
def test_export_exit_codes(body, tmp_path, arguments, code):
    from click.testing import CliRunner

    save_motion(make_motion(body), tmp_path / "m.npz")
    before = (tmp_path / "m.npz").read_bytes()
    result = CliRunner().invoke(group, ["export", str(tmp_path / "m.npz"), *arguments])
    assert result.exit_code == code, result.output
    assert (tmp_path / "m.npz").read_bytes() == before


def test_feet_stay_feet(body, tmp_path):
    """Left stays left through every turn of axes: the left foot of the T-pose is at +x."""
    poses = np.zeros((2, 72))
    rest = body.rest_joints(np.zeros(10))
    motion = Motion(poses, np.zeros((2, 3)), np.zeros(10), 30.0, np.stack([rest, rest]))
    save_motion(motion, tmp_path / "a.npz")
    back = load_motion(tmp_path / "a.npz")
    assert back.joints[0, JOINT_INDEX["left_foot"], 0] > 0.03
    assert np.allclose(local_to_global(back.rotations), np.eye(3), atol=1e-6)
