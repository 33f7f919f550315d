"""The simulated person: SMPL's 24 joints as a MuJoCo humanoid with this person's bones and weight.

The pelvis floats freely, the other 23 joints are ball joints at the body's own rest positions, so
a pose of the body is a pose of the humanoid without any retargeting. Flesh is capsules along the
bones, feet are boxes under the real soles, density is water's. Gravity points along -y; the floor
is the plane y = 0; the parts touch the floor but not one another.
"""

from dataclasses import dataclass

import mujoco
import numpy as np

from ropetp_cli.body.model import BodyData
from ropetp_cli.body.skeleton import ANKLES, FEET, JOINT_INDEX, JOINTS, PARENTS
from ropetp_cli.errors import RopeTPError

GRAVITY = 9.81
DENSITY = 1000.0  # kg/m^3
FRICTION = 0.9  # sole on floor
STATURE = 1.70  # m: the size the radii below are given for
SOLE_POINTS = 6  # a foot: heel, ball, toe tip, each on the inner and the outer side
#: Which joint carries each sole point: the ankle carries heel and ball, the foot joint the toes.
SOLE_JOINTS = np.array([[ankle] * 4 + [foot] * 2 for ankle, foot in zip(ANKLES, FEET, strict=True)])

#: Limb capsules run from their joint to the joint that follows: joint -> (end, radius m).
_LIMBS = {
    "hip": ("knee", 0.070), "knee": ("ankle", 0.047), "collar": ("shoulder", 0.045),
    "shoulder": ("elbow", 0.043), "elbow": ("wrist", 0.034), "wrist": ("hand", 0.028),
}  # fmt: skip
#: Trunk capsules lie across the body: joint -> (half length m, rise above the joint m, radius m).
_TRUNK = {
    "pelvis": (0.075, -0.02, 0.100), "spine1": (0.065, 0.05, 0.095),
    "spine2": (0.065, 0.04, 0.095), "spine3": (0.085, 0.09, 0.100),
}  # fmt: skip


@dataclass
class Humanoid:
    """model: the compiled MuJoCo model. MuJoCo numbers bodies depth first; for each of SMPL's
    joints, bodies [24] is its body, qpos [24] where its quaternion starts, dofs [24] where its
    angular velocity starts (joint 0: after the root's 3 coordinates). sole [2, 6, 3] m: the sole
    points of the left and right foot relative to their joints (:data:`SOLE_JOINTS`) in the rest
    pose; mass kg; stature m."""

    model: mujoco.MjModel
    sole: np.ndarray
    stature: float

    def __post_init__(self) -> None:
        self.bodies = np.array([self.model.body(name).id for name in JOINTS])
        joints = self.model.body_jntadr[self.bodies]
        self.qpos = self.model.jnt_qposadr[joints].copy()
        self.dofs = self.model.jnt_dofadr[joints].copy()
        self.qpos[0] += 3
        self.dofs[0] += 3
        self.mass = float(self.model.body_mass.sum())


@dataclass
class _Capsule:
    joint: int
    start: np.ndarray
    end: np.ndarray
    radius: float

    def volume(self, girth: float) -> float:
        radius = self.radius * girth
        return np.pi * radius**2 * (np.linalg.norm(self.end - self.start) + 4 / 3 * radius)


def build_humanoid(
    rest_joints: np.ndarray, body: BodyData | None = None, betas: np.ndarray | None = None
) -> Humanoid:
    """The humanoid of one person.

    ``rest_joints`` [24, 3] m of the person's shape, y up, facing +z. With ``body`` and ``betas``
    [10] the soles are the mesh's and the flesh is scaled until its volume is the mesh's; without,
    both follow the stature. Raises RopeTPError for joints that are no skeleton.
    """
    rest = np.asarray(rest_joints, dtype=np.float64)
    if rest.shape != (24, 3) or not np.isfinite(rest).all():
        raise RopeTPError(f"rest joints have shape {list(rest.shape)}, expected finite 24 x 3")
    height = rest[JOINT_INDEX["head"], 1] - rest[list(ANKLES), 1].mean()
    if not 0.4 < height < 3:
        raise RopeTPError(f"the rest joints are {height:.2f} m tall from ankle to head")
    stature = height * STATURE / 1.47
    vertices = None
    if body is not None:
        shape = np.zeros(10) if betas is None else np.asarray(betas, dtype=np.float64)
        vertices = body.v_template + body.shapedirs @ shape
    if body is None or vertices is None:
        sole = _sole_by_stature(rest, stature)
    else:
        sole = _sole_of_mesh(rest, vertices, body.vertex_joint)
    capsules = _capsules(rest, stature / STATURE)
    girth = 1.0
    if body is not None and vertices is not None:
        wanted = _mesh_volume(vertices, body.faces) - _feet_volume(rest, sole)
        for _ in range(8):  # a fixed point: volume grows a little less than girth squared
            girth *= (max(wanted, 0.01) / sum(c.volume(girth) for c in capsules)) ** 0.5
    model = mujoco.MjModel.from_xml_string(_mjcf(rest, capsules, girth, sole))
    return Humanoid(model, sole, float(stature))


def _sole_by_stature(rest: np.ndarray, stature: float) -> np.ndarray:
    """Soles 2 cm (of a 1.70 m person) under the foot joints, 9 cm wide."""
    scale = stature / STATURE
    points = np.zeros((2, SOLE_POINTS, 3))
    for side, (ankle, foot) in enumerate(zip(ANKLES, FEET, strict=True)):
        ground = min(rest[foot, 1], rest[ankle, 1]) - 0.02 * scale
        rows = ((rest[ankle], -0.05), (rest[foot], 0.0), (rest[foot], 0.065))
        for row, (joint, ahead) in enumerate(rows):
            for edge, across in enumerate((-0.045, 0.045)):
                at = joint + np.array([across, 0.0, ahead]) * scale
                points[side, 2 * row + edge] = [at[0], ground, at[2]]
    return points - rest[SOLE_JOINTS]


def _sole_of_mesh(rest: np.ndarray, vertices: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Soles under the mesh's feet: as low as their lowest vertices, as wide and long as they."""
    points = np.zeros((2, SOLE_POINTS, 3))
    for side, (ankle, foot) in enumerate(zip(ANKLES, FEET, strict=True)):
        flesh = vertices[(owner == ankle) | (owner == foot)]
        ground = flesh[:, 1].min()
        under = flesh[flesh[:, 1] < ground + 0.04]
        left, right = np.quantile(under[:, 0], [0.1, 0.9])
        rows = (under[:, 2].min() + 0.01, rest[foot, 2], under[:, 2].max() - 0.01)
        points[side] = [[across, ground, ahead] for ahead in rows for across in (left, right)]
    return points - rest[SOLE_JOINTS]


def _capsules(rest: np.ndarray, scale: float) -> list[_Capsule]:
    capsules = []
    for name, (half, rise, radius) in _TRUNK.items():
        joint = JOINT_INDEX[name]
        middle, across = np.array([0, rise, 0]) * scale, np.array([half, 0, 0]) * scale
        capsules.append(_Capsule(joint, middle - across, middle + across, radius * scale))
    for side in ("left_", "right_"):
        for name, (end, radius) in _LIMBS.items():
            joint, target = JOINT_INDEX[side + name], JOINT_INDEX[side + end]
            bone = rest[target] - rest[joint]
            capsules.append(_Capsule(joint, np.zeros(3), bone, radius * scale))
        hand, wrist = JOINT_INDEX[side + "hand"], JOINT_INDEX[side + "wrist"]
        ahead = rest[hand] - rest[wrist]
        ahead = ahead / max(np.linalg.norm(ahead), 1e-6) * 0.07 * scale
        capsules.append(_Capsule(hand, np.zeros(3), ahead, 0.022 * scale))
    neck, head = JOINT_INDEX["neck"], JOINT_INDEX["head"]
    capsules.append(_Capsule(neck, np.zeros(3), rest[head] - rest[neck], 0.05 * scale))
    up = np.array([0, 0.11, 0.01]) * scale
    capsules.append(_Capsule(head, up * 0.2, up, 0.08 * scale))
    return capsules


def _mesh_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return abs(float(np.einsum("ij,ij->", a, np.cross(b, c)))) / 6


def _foot_boxes(rest: np.ndarray, sole: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(joint, centre relative to the joint, half sizes) of the two boxes of each foot."""
    boxes = []
    for side, (ankle, foot) in enumerate(zip(ANKLES, FEET, strict=True)):
        floor = sole[side] + rest[SOLE_JOINTS[side]]
        instep = 0.55 * (rest[ankle, 1] - floor[0, 1])
        for joint, rows, height in ((ankle, floor[:4], instep), (foot, floor[2:], 0.6 * instep)):
            low, high = rows.min(axis=0), rows.max(axis=0)
            high[1] = low[1] + max(height, 0.02)
            half = np.maximum((high - low) / 2, 0.005)
            boxes.append((joint, (low + high) / 2 - rest[joint], half))
    return boxes


def _feet_volume(rest: np.ndarray, sole: np.ndarray) -> float:
    return float(sum(8 * half.prod() for _, _, half in _foot_boxes(rest, sole)))


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.6f}" for value in np.atleast_1d(values))


def _mjcf(rest: np.ndarray, capsules: list[_Capsule], girth: float, sole: np.ndarray) -> str:
    geoms: dict[int, list[str]] = {joint: [] for joint in range(24)}
    for capsule in capsules:
        ends = _numbers(np.concatenate([capsule.start, capsule.end]))
        size = _numbers(capsule.radius * girth)
        geoms[capsule.joint].append(f'<geom type="capsule" fromto="{ends}" size="{size}"/>')
    for joint, centre, half in _foot_boxes(rest, sole):
        geoms[joint].append(
            f'<geom type="box" name="{JOINTS[joint]}_sole" pos="{_numbers(centre)}" '
            f'size="{_numbers(half)}"/>'
        )

    def body_xml(joint: int) -> str:
        parent = PARENTS[joint]
        place = np.zeros(3) if parent < 0 else rest[joint] - rest[parent]
        kind = '<freejoint name="root"/>' if parent < 0 else f'<joint name="{JOINTS[joint]}"/>'
        children = "".join(body_xml(k) for k in range(24) if PARENTS[k] == joint)
        return (
            f'<body name="{JOINTS[joint]}" pos="{_numbers(place)}">{kind}'
            f"{''.join(geoms[joint])}{children}</body>"
        )

    return f"""
    <mujoco model="person">
      <option gravity="0 {-GRAVITY} 0" integrator="implicitfast" iterations="20"/>
      <default>
        <joint type="ball" armature="0.01" damping="0.2"/>
        <geom density="{DENSITY}" contype="0" conaffinity="1" condim="3"
              friction="{FRICTION} 0.01 0.001" solref="0.015 1"/>
      </default>
      <worldbody>
        <geom name="floor" type="plane" size="0 0 1" zaxis="0 1 0" contype="1" conaffinity="0"/>
        {body_xml(0)}
      </worldbody>
    </mujoco>"""
