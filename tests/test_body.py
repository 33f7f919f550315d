"""The embedded body, its skinning in numpy and torch, and the loading of users' SMPL files."""

import pickle
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.spatial import cKDTree
from smplx.lbs import lbs

from ropetp_cli.body.model import (
    EMBEDDED_FILE,
    NUM_POSE_FEATURES,
    BodyData,
    installed_file,
    load_body,
    skin,
)
from ropetp_cli.body.rotations import axis_angle_to_matrix, forward_kinematics
from ropetp_cli.body.skeleton import JOINT_INDEX, JOINTS, LEVELS, MIRROR, PARENTS
from ropetp_cli.body.torch_model import BodyModel
from ropetp_cli.errors import RopeTPError

FLIP = np.array([-1, 1, 1])
betas_in_cube = st.lists(st.floats(-2, 2), min_size=10, max_size=10).map(np.array)


@pytest.fixture(scope="module")
def body() -> BodyData:
    return load_body()


@pytest.fixture(scope="module")
def rig() -> tuple[np.ndarray, np.ndarray]:
    """The rig's joints: mean [24, 3] and a unit of each beta [24, 3, 10]."""
    with np.load(EMBEDDED_FILE, allow_pickle=False) as file:
        return file["rig_joints"], file["rig_shapedirs"]


def height(vertices: np.ndarray) -> float:
    return float(np.ptp(vertices[:, 1]))


def random_poses(count: int, spread: float = 0.4) -> np.ndarray:
    rng = np.random.default_rng(3)
    return axis_angle_to_matrix(rng.normal(0, spread, (count, 24, 3)))


def test_layout_is_smpls(body):
    assert body.v_template.shape == (6890, 3)
    assert body.faces.shape == (13776, 3)
    assert body.label == f"ropetp-cc0-1:{body.sha256}" and len(body.sha256) == 64
    assert body.vertex_joint.shape == (6890,)
    assert set(LEVELS["indep"][body.vertex_joint]) == set(range(24))
    assert EMBEDDED_FILE.with_suffix(".LICENSE.md").read_text().count("CC0 1.0 Universal") >= 2


def test_surface_is_closed_whole_and_faces_outwards(body):
    edges = np.concatenate([body.faces[:, [k, (k + 1) % 3]] for k in range(3)])
    directed = {tuple(edge) for edge in edges.tolist()}
    assert len(directed) == len(edges)
    assert all((second, first) in directed for first, second in directed)
    assert len(np.unique(body.faces)) == 6890
    graph = sparse.coo_matrix((np.ones(len(edges)), edges.T), shape=(6890, 6890))
    pieces, _ = sparse.csgraph.connected_components(graph)
    assert pieces == 1 and 6890 - len(edges) // 2 + len(body.faces) == 2
    a, b, c = (body.v_template[body.faces[:, k]] for k in range(3))
    volume = np.einsum("fi,fi->", a, np.cross(b, c)) / 6
    assert 0.05 < volume < 0.08


def test_stands_in_a_t_pose_facing_z(body):
    joints = dict(zip(JOINTS, body.rest_joints(np.zeros(10)), strict=True))
    assert height(body.v_template) == pytest.approx(1.70, abs=0.01)
    assert joints["left_wrist"][0] > 0.5 > -0.5 > joints["right_wrist"][0]
    assert abs(joints["left_wrist"][1] - joints["left_shoulder"][1]) < 0.05
    assert joints["head"][1] > joints["pelvis"][1] > joints["left_knee"][1]
    assert joints["left_foot"][2] > joints["left_ankle"][2] + 0.05
    assert 0.09 < np.linalg.norm(joints["left_hip"] - joints["pelvis"]) < 0.12
    nose = body.v_template[body.vertex_joint == JOINT_INDEX["head"], 2].max()
    assert nose > joints["head"][2] + 0.05


def test_surface_joints_and_weights_are_symmetric(body):
    distance, mirror = cKDTree(body.v_template).query(body.v_template * FLIP)
    assert distance.max() < 1e-6
    off_midline = mirror != np.arange(len(mirror))
    gap = np.abs(body.weights[mirror][:, list(MIRROR)] - body.weights).max(1)
    assert gap[off_midline].max() < 1e-6
    # A fifth influence that ties with its twin is cut from some midline vertices of the chest.
    assert gap.max() < 0.08 and (gap > 1e-6).sum() < 20
    np.testing.assert_allclose(
        body.shapedirs[mirror] * FLIP[:, None], body.shapedirs, atol=1e-6, rtol=0
    )
    joints = body.rest_joints(np.array([1.5, -1, 2, 0, 1, 0, -2, 0, 0, 1]))
    np.testing.assert_allclose(joints[list(MIRROR)] * FLIP, joints, atol=1e-5)


def test_weights_are_convex_with_four_influences(body):
    assert (body.weights >= 0).all()
    np.testing.assert_allclose(body.weights.sum(1), 1, atol=1e-5)
    assert (body.weights > 0).sum(1).max() <= 4


def test_regressor_is_convex(body):
    assert (body.J_regressor >= 0).all()
    np.testing.assert_allclose(body.J_regressor.sum(1), 1, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(betas=betas_in_cube)
def test_regressed_joints_stay_within_5_mm_of_the_rig(body, rig, betas):
    surface = body.v_template + body.shapedirs @ betas
    gap = np.linalg.norm(body.J_regressor @ surface - (rig[0] + rig[1] @ betas), axis=1)
    assert gap.max() < 0.005


def test_regressor_bound_holds_at_every_corner_of_the_cube(body, rig):
    """The largest error over |beta| <= 2 is at a corner: all 1024 of them are tried."""
    corners = 2.0 * (1 - 2 * (np.arange(1024)[:, None] >> np.arange(10) & 1))
    missed = body.rest_joints_mean - rig[0]
    drift = body.rest_joints_shapedirs - rig[1]
    gaps = np.linalg.norm(missed + np.einsum("jck,nk->njc", drift, corners), axis=-1)
    assert gaps.max() < 0.005


def test_first_beta_is_height(body):
    def stature(k: int, beta: float) -> float:
        return height(body.rest_vertices(beta * np.eye(10)[k]))

    growth = [stature(0, step) - stature(0, 0) for step in (-2, -1, 1, 2)]
    assert growth == sorted(growth)
    np.testing.assert_allclose(growth, 0.104 * np.array([-2, -1, 1, 2]), atol=0.01)
    for k in range(1, 10):
        assert abs(stature(k, 2) - stature(k, -2)) < 0.02


@settings(max_examples=30, deadline=None)
@given(betas=betas_in_cube, wanted=st.floats(1.4, 2.0))
@example(betas=np.array([-2.0, -2, 0, 0, 1, 0, 0, 0, 0, 0]), wanted=2.0)
def test_a_shape_is_given_a_height(body, betas, wanted):
    sized = body.with_height(betas, wanted)
    assert body.height(sized) == pytest.approx(wanted, abs=1e-3)
    np.testing.assert_allclose(sized[1:], betas[1:], atol=0.15)  # the rest of the shape stays


@pytest.mark.parametrize("wanted", [0.6, 2.6])
def test_a_height_nobody_has_is_refused(body, wanted):
    with pytest.raises(RopeTPError, match="height"):
        body.with_height(np.zeros(10), wanted)


@settings(max_examples=20, deadline=None)
@given(betas=betas_in_cube)
def test_rest_joints_are_the_regressed_surface(body, betas):
    expected = body.J_regressor @ body.rest_vertices(betas)
    np.testing.assert_allclose(body.rest_joints(betas), expected, atol=1e-5)


def test_rest_joints_take_batches(body):
    betas = np.random.default_rng(0).normal(size=(2, 3, 10))
    joints = body.rest_joints(betas)
    assert joints.shape == (2, 3, 24, 3)
    np.testing.assert_allclose(joints[1, 2], body.rest_joints(betas[1, 2]))


def test_pelvis_lands_at_trans_plus_j0(body):
    rng = np.random.default_rng(1)
    betas, trans = rng.normal(size=10), rng.normal(size=(3, 3))
    rotations = random_poses(3)
    _, joints = BodyModel(body)(*map(torch.Tensor, (rotations, np.tile(betas, (3, 1)), trans)))
    np.testing.assert_allclose(joints[:, 0], trans + body.rest_joints(betas)[0], atol=1e-5)
    assert np.linalg.norm(body.rest_joints(betas)[0]) > 0.1


@pytest.mark.parametrize("with_correctives", [False, True])
def test_numpy_torch_and_smplx_skin_alike(body, with_correctives):
    rng = np.random.default_rng(2)
    if with_correctives:
        posedirs = rng.normal(0, 1e-3, body.posedirs.shape).astype(np.float32)
        body = replace(body, posedirs=posedirs)
    betas, trans, rotations = rng.normal(size=10), rng.normal(size=(2, 3)), random_poses(2)
    by_numpy = skin(body, rotations, betas, trans)
    assert by_numpy.dtype == np.float32
    pose, shape = torch.Tensor(rotations), torch.Tensor(betas).expand(2, 10)
    by_torch, joints = BodyModel(body)(pose, shape, torch.Tensor(trans))
    by_smplx, _ = lbs(
        shape,
        pose,
        *map(torch.Tensor, (body.v_template, body.shapedirs)),
        torch.Tensor(body.posedirs.reshape(-1, NUM_POSE_FEATURES).T.copy()),
        torch.Tensor(body.J_regressor),
        torch.tensor(PARENTS),
        torch.Tensor(body.weights),
        pose2rot=False,
    )
    np.testing.assert_allclose(by_numpy, by_torch, atol=1e-5)
    np.testing.assert_allclose(by_smplx.numpy() + trans[:, None], by_torch, atol=1e-5)
    expected = forward_kinematics(rotations, body.rest_joints(betas), trans)
    np.testing.assert_allclose(joints, expected, atol=1e-5)


def test_torch_model_is_differentiable_and_has_no_parameters(body):
    model = BodyModel(body)
    betas = torch.zeros(1, 10, requires_grad=True)
    vertices, joints = model(torch.Tensor(random_poses(1)), betas)
    (vertices.square().mean() + joints.square().mean()).backward()
    assert betas.grad.abs().min() > 0
    assert not list(model.parameters()) and not model.state_dict()


def test_a_turned_root_turns_the_surface(body):
    quarter = np.tile(np.eye(3), (1, 24, 1, 1))
    quarter[0, 0] = axis_angle_to_matrix(np.array([0, np.pi / 2, 0]))
    root = body.rest_joints(np.zeros(10))[0]
    turned = skin(body, quarter, np.zeros(10), np.zeros((1, 3)))[0]
    expected = (body.v_template - root) @ quarter[0, 0].T + root
    np.testing.assert_allclose(turned, expected, atol=1e-5)


@pytest.mark.parametrize("joint", ["left_elbow", "right_knee"])
def test_a_deep_bend_keeps_the_limb_thick(body, joint):
    """At 120 degrees the surface keeps nine tenths of its volume about the joint."""
    angle = np.zeros((2, 24, 3))
    angle[1, JOINT_INDEX[joint]] = np.radians((120, 0, 0) if "knee" in joint else (0, -120, 0))
    straight, bent = skin(body, axis_angle_to_matrix(angle), np.zeros(10), np.zeros((2, 3)))
    a, b, c = (body.faces[:, k] for k in range(3))

    def volume(v: np.ndarray) -> float:
        return float(np.einsum("fi,fi->", v[a], np.cross(v[b], v[c])) / 6)

    limb = np.isin(body.vertex_joint, [JOINT_INDEX[joint], PARENTS[JOINT_INDEX[joint]]])
    limb_share = limb.mean() * volume(straight)
    assert abs(volume(bent) - volume(straight)) < 0.1 * limb_share


# ---- users' files


class FakeChumpyArray:
    """Pickles as chumpy's arrays do: an object with its numbers under ``x``."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x

    def __reduce_ex__(self, protocol: int):
        import copyreg

        return copyreg.__newobj__, (type(self),), {"x": self.x, "dirty": True}


@pytest.fixture
def chumpy(monkeypatch):
    """A module named chumpy that only pickling sees."""
    package, module = types.ModuleType("chumpy"), types.ModuleType("chumpy.ch")
    kind = type("Ch", (FakeChumpyArray,), {"__module__": "chumpy.ch", "__qualname__": "Ch"})
    module.Ch = package.Ch = kind
    package.ch = module
    monkeypatch.setitem(sys.modules, "chumpy", package)
    monkeypatch.setitem(sys.modules, "chumpy.ch", module)
    yield kind
    monkeypatch.undo()


def smpl_arrays(shapes: int = 300) -> dict:
    """A small body in the layout of SMPL's files."""
    rng = np.random.default_rng(4)
    count = 60
    weights = rng.dirichlet(np.ones(24), count)
    return {
        "v_template": rng.normal(size=(count, 3)),
        "shapedirs": rng.normal(size=(count, 3, shapes)),
        "posedirs": rng.normal(size=(count, 3, NUM_POSE_FEATURES)),
        "J_regressor": sparse.csc_matrix(rng.dirichlet(np.ones(count), 24)),
        "weights": weights,
        "f": rng.integers(0, count, (90, 3)).astype(np.uint32),
        "kintree_table": np.array([[2**32 - 1, *PARENTS[1:]], range(24)], dtype=np.uint32),
        "bs_type": "lrotmin",
    }


def check(loaded: BodyData, arrays: dict) -> None:
    np.testing.assert_allclose(loaded.v_template, arrays["v_template"], rtol=1e-6)
    np.testing.assert_allclose(loaded.shapedirs, arrays["shapedirs"][..., :10], rtol=1e-6)
    np.testing.assert_allclose(loaded.J_regressor, arrays["J_regressor"].toarray(), rtol=1e-6)
    np.testing.assert_array_equal(loaded.faces, arrays["f"])
    assert loaded.name == "smpl" and loaded.has_pose_correctives


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("layout", ["csc", "csr", "coo"])
def test_pickles_of_every_protocol_load(tmp_path, protocol, layout):
    arrays = smpl_arrays()
    arrays["J_regressor"] = arrays["J_regressor"].asformat(layout)
    file = tmp_path / "basicmodel_neutral_lbs_10_207_0_v1.1.0.pkl"
    file.write_bytes(pickle.dumps(arrays, protocol))
    check(load_body(file), arrays)


def test_chumpy_arrays_load_without_chumpy(tmp_path, chumpy, monkeypatch):
    arrays = smpl_arrays(shapes=10)
    wrapped = dict(arrays)
    for key in ("v_template", "shapedirs", "posedirs", "weights"):
        wrapped[key] = chumpy(arrays[key])
    content = pickle.dumps(wrapped, 2)
    assert b"chumpy" in content
    monkeypatch.delitem(sys.modules, "chumpy.ch")
    monkeypatch.delitem(sys.modules, "chumpy")
    file = tmp_path / "SMPL_FEMALE.pkl"
    file.write_bytes(content)
    check(load_body(file), arrays)


def test_npz_is_known_by_its_content(tmp_path):
    arrays = smpl_arrays()
    dense = {**arrays, "J_regressor": arrays["J_regressor"].toarray()}
    np.savez(tmp_path / "SMPL_NEUTRAL.npz", **dense)
    file = (tmp_path / "SMPL_NEUTRAL.npz").rename(tmp_path / "body")
    check(load_body(file), arrays)


class Attack:
    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attacks(marker) -> dict:
    import builtins
    import os

    return {
        "system": Attack(os.system, f"touch {marker}"),
        "eval": Attack(builtins.eval, f"open({str(marker)!r}, 'w')"),
        "open": Attack(builtins.open, str(marker), "w"),
        "getattr": Attack(builtins.getattr, "text", "format"),
        "numpy": Attack(np.save, str(marker), np.zeros(2)),
        "scipy": Attack(sparse.save_npz, str(marker), sparse.eye(2)),
        "memmap": Attack(np.memmap, str(marker), "u1", "w+", 0, (4,)),
    }


@pytest.mark.parametrize("name", list(attacks("x")))
def test_pickles_that_run_code_are_refused(tmp_path, name):
    marker = tmp_path / "ran"
    for wrapped in (attacks(marker)[name], {**smpl_arrays(), "v_template": attacks(marker)[name]}):
        file = tmp_path / "SMPL_NEUTRAL.pkl"
        file.write_bytes(pickle.dumps(wrapped))
        with pytest.raises(RopeTPError, match="refused"):
            load_body(file)
    assert [path.name for path in tmp_path.iterdir()] == ["SMPL_NEUTRAL.pkl"]


@pytest.mark.parametrize("module", ["a\rb", "a\x85b", "a\x1b[2Jb", "a\u2028b"])
def test_what_a_pickle_asks_for_is_told_in_one_printable_line(tmp_path, module):
    file = tmp_path / "SMPL_NEUTRAL.pkl"
    words = [b"\x8c" + bytes([len(word)]) + word for word in (module.encode(), b"name")]
    file.write_bytes(b"\x80\x04" + b"".join(words) + b"\x93.")
    with pytest.raises(RopeTPError) as refusal:
        load_body(file)
    assert str(refusal.value).isprintable() and "b.name" in str(refusal.value)


def broken_files() -> dict[str, bytes]:
    arrays = smpl_arrays()
    return {
        "empty": b"",
        "text": b"this is no body",
        "half": pickle.dumps(arrays)[:5000],
        "npz": b"PK\x03\x04 not a zip",
        "list": pickle.dumps([1, 2]),
        "no regressor": pickle.dumps({k: v for k, v in arrays.items() if k != "J_regressor"}),
        "other joints": pickle.dumps({**arrays, "kintree_table": np.zeros((2, 55), int)}),
        "two vertices": pickle.dumps({**arrays, "v_template": arrays["v_template"][:2]}),
        "not finite": pickle.dumps({**arrays, "v_template": arrays["v_template"] * np.nan}),
        "faces": pickle.dumps({**arrays, "f": arrays["f"] + 1000}),
        "objects": pickle.dumps({**arrays, "weights": np.array([{}], dtype=object)}),
    }


@pytest.mark.parametrize("name", list(broken_files()))
def test_files_that_are_no_body_say_so_in_one_line(tmp_path, name):
    file = tmp_path / "SMPL_NEUTRAL.pkl"
    file.write_bytes(broken_files()[name])
    with pytest.raises(RopeTPError) as error:
        load_body(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RopeTPError, match="nowhere.pkl"):
        load_body(tmp_path / "nowhere.pkl")


def test_setup_body_installs_a_file_that_body_smpl_finds(tmp_path, monkeypatch):
    from ropetp_cli.cli.setup import command

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    with pytest.raises(RopeTPError, match="setup body"):
        load_body("smpl")
    arrays = smpl_arrays()
    file = tmp_path / "downloaded"
    file.write_bytes(pickle.dumps(arrays, 2))
    result = CliRunner().invoke(command, ["body", str(file)])
    assert result.exit_code == 0, result.output
    assert installed_file() == tmp_path / "share" / "ropetp" / "body" / "smpl.pkl"
    check(load_body("smpl"), arrays)
    assert load_body().name == "ropetp-cc0-1"

    np.savez(file, **{**arrays, "J_regressor": arrays["J_regressor"].toarray()})
    result = CliRunner().invoke(command, ["body", f"{file}.npz"])
    assert result.exit_code == 0
    assert [path.name for path in installed_file().parent.iterdir()] == ["smpl.npz"]


def test_setup_body_keeps_what_is_installed_when_the_new_file_is_bad(tmp_path, monkeypatch):
    from ropetp_cli.cli.setup import command

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    good, bad = tmp_path / "good.pkl", tmp_path / "bad.pkl"
    good.write_bytes(pickle.dumps(smpl_arrays()))
    bad.write_bytes(b"text")
    assert CliRunner().invoke(command, ["body", str(good)]).exit_code == 0
    result = CliRunner().invoke(command, ["body", str(bad)])
    assert isinstance(result.exception, RopeTPError)
    assert load_body("smpl").name == "smpl"


def test_setup_weights_fails_when_a_file_is_not_whole(monkeypatch):
    from ropetp_cli import weights
    from ropetp_cli.cli.setup import command
    from ropetp_cli.people import detector

    monkeypatch.setattr(detector, "default_weights", lambda: "yolo11n-pose.pt")
    monkeypatch.setattr(
        weights, "verify", lambda directory: [("rope.safetensors", True, "rope, 9 MB")]
    )
    result = CliRunner().invoke(command, ["weights"])
    assert result.exit_code == 0 and "rope.safetensors" in result.output
    monkeypatch.setattr(
        weights, "verify", lambda directory: [("rope.safetensors", False, "missing")]
    )
    assert CliRunner().invoke(command, ["weights"]).exit_code == 1
