"""Pictures of our own body with exact labels, drawn on the CPU.

One sample: a motion-capture pose (mirrored, perturbed, upper and lower body mixed), a random
shape, a camera at any yaw from below head height to looking down, clothes and skin as vertex
colours, a backdrop, things and people in the way, and what a camera and a codec do to it. The
virtual camera looks at the middle of the square crop, as the tool's crops assume: the axes are
OpenCV's and the person stands 2.5 to 12 m away. Every sample depends on (seed, index) alone.

``python -m ropetp_cli.training.synthetic --help`` writes a data set.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from scipy import sparse

from ropetp_cli.body.model import BodyData, load_body
from ropetp_cli.body.rotations import axis_angle_to_matrix, local_to_global
from ropetp_cli.body.skeleton import JOINT_INDEX, JOINTS, NUM_BETAS, NUM_JOINTS, PARENTS
from ropetp_cli.errors import RopeTPError
from ropetp_cli.training.augment import degrade
from ropetp_cli.training.mocap import some_straightened
from ropetp_cli.training.pose_prior import load_mocap_rotations, mirror_rotations, spread_weights
from ropetp_cli.training.teacher import RealCrops, in_validation

CROP = 256
_RENDER = 512  # drawn at twice the crop's size, then shrunk
MASK = 64
BACKGROUND = 255
_Z_NEAR, _Z_FAR = 0.2, 60.0
_LEAST_JOINTS = 7
_EMPTY = 0.99 * _Z_FAR  # depths beyond it hold nothing
#: OpenCV camera axes to the rasterizer's (y up, z towards the viewer).
_TO_GL = np.diag([1.0, -1.0, -1.0, 1.0]).astype(np.float32)

_UPPER = [
    index
    for index, name in enumerate(JOINTS)
    if not any(part in name for part in ("pelvis", "hip", "knee", "ankle", "foot"))
]
_LEGS = [index for index in range(1, NUM_JOINTS) if index not in _UPPER]


@dataclass
class Labels:
    """What is true of n crops; the arrays of ``<name>_labels.npz``.

    rotations [n, 24, 3, 3] parent-relative, the root in camera axes; betas [n, 10]; joints3d
    [n, 24, 3] m, camera axes, pelvis at 0; joints2d [n, 24, 2], -1..1 across the crop; visible
    [n, 24] 1 where the joint lies in the picture and nothing but the person covers it; cam
    [n, 3] the (s, tx, ty) that fits joints2d = s (X + tx, Y + ty) best; has_pose, has_mask [n];
    masks uint8 [n, 64, 64] the joint that moves the seen surface, 255 elsewhere.
    """

    rotations: np.ndarray
    betas: np.ndarray
    joints3d: np.ndarray
    joints2d: np.ndarray
    visible: np.ndarray
    cam: np.ndarray
    has_pose: np.ndarray
    has_mask: np.ndarray
    masks: np.ndarray

    @classmethod
    def empty(cls, count: int) -> Labels:
        return cls(
            rotations=np.zeros((count, NUM_JOINTS, 3, 3), np.float32),
            betas=np.zeros((count, NUM_BETAS), np.float32),
            joints3d=np.zeros((count, NUM_JOINTS, 3), np.float32),
            joints2d=np.zeros((count, NUM_JOINTS, 2), np.float32),
            visible=np.zeros((count, NUM_JOINTS), np.float32),
            cam=np.zeros((count, 3), np.float32),
            has_pose=np.zeros(count, bool),
            has_mask=np.zeros(count, bool),
            masks=np.full((count, MASK, MASK), BACKGROUND, np.uint8),
        )

    def __len__(self) -> int:
        return len(self.cam)

    def take(self, rows: np.ndarray) -> Labels:
        """The labels of some of the crops."""
        return Labels(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def save(self, path: Path, **more: np.ndarray) -> None:
        """Writes the npz in one step, so that a reader never meets half a file."""
        draft = path.with_suffix(".part.npz")
        np.savez(draft, **{f.name: getattr(self, f.name) for f in fields(self)}, **more)
        os.replace(draft, path)


def fit_weak_camera(joints3d: np.ndarray, joints2d: np.ndarray) -> np.ndarray:
    """Least-squares (s, tx, ty) with joints2d = s (X + tx, Y + ty).

    ``joints3d`` [..., 24, 3] m, ``joints2d`` [..., 24, 2]; returns [..., 3].
    """
    flat, target = joints3d[..., :2], joints2d
    middle3, middle2 = flat.mean(-2, keepdims=True), target.mean(-2, keepdims=True)
    spread = np.square(flat - middle3).sum((-1, -2))
    scale = ((flat - middle3) * (target - middle2)).sum((-1, -2)) / spread
    shift = middle2[..., 0, :] / scale[..., None] - middle3[..., 0, :]
    return np.concatenate([scale[..., None], shift], -1)


class PoseSource:
    """Poses drawn from motion capture, rare ones as often as common ones.

    ``rotations`` [F, 24, 3, 3], parent-relative, the root in a world with y up. In a share
    ``straight`` of what is drawn knees are straighter: converters leave the straightest legs a
    little bent, and people stand on straight ones.
    """

    def __init__(self, rotations: np.ndarray, straight: float = 0.0) -> None:
        self.rotations, self.straight = rotations.astype(np.float32), straight
        self._cumulative = np.cumsum(spread_weights(self.rotations))

    def _frame(self, rng: np.random.Generator) -> np.ndarray:
        index = np.searchsorted(self._cumulative, rng.uniform(0, self._cumulative[-1]))
        pose = self.rotations[min(index, len(self.rotations) - 1)]
        if rng.random() < 0.5:
            pose = mirror_rotations(pose)
        return pose.copy()

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """[24, 3, 3] float32; the root stands as it did in the world."""
        pose = self._frame(rng)
        if rng.random() < 0.35:
            pose[_UPPER] = self._frame(rng)[_UPPER]
        if rng.random() < 0.15:
            legs = self._frame(rng)
            pose[_LEGS] = legs[_LEGS]
        if self.straight > 0:
            pose = some_straightened(pose[None], self.straight, rng)[0]
        spread = np.full(NUM_JOINTS, rng.choice([0.02, 0.06, 0.12]))
        spread[[JOINT_INDEX[n] for n in ("head", "left_wrist", "right_wrist")]] += 0.15
        spread[0] = 0.05
        noise = axis_angle_to_matrix(rng.normal(0, 1, (NUM_JOINTS, 3)) * spread[:, None])
        return (pose @ noise).astype(np.float32)


def draw_view(rng: np.random.Generator) -> np.ndarray:
    """Camera-from-world rotation [3, 3] (world y up, camera y down, z forward).

    Any yaw; mostly near head height, a third looks down by 20 to 75 degrees; slight roll, and
    now and then any roll at all.
    """
    yaw = rng.uniform(-np.pi, np.pi)
    choice = rng.random()
    low, high = (-12, 20) if choice < 0.62 else (20, 45) if choice < 0.9 else (45, 75)
    pitch = np.radians(rng.uniform(low, high))
    roll = np.radians(rng.normal(0, 5) if rng.random() < 0.9 else rng.uniform(-180, 180))
    turn = axis_angle_to_matrix(np.array([[0, yaw, 0], [pitch, 0, 0], [0, 0, roll]]))
    return (turn[2] @ turn[1] @ np.diag([1.0, -1.0, -1.0]) @ turn[0]).astype(np.float32)


class Figure:
    """The body model, prepared for dressing and drawing one figure at a time.

    Skinning is linear; a licensed model's pose correctives are left out.
    """

    def __init__(self, body: BodyData) -> None:
        self.template = np.asarray(body.v_template, np.float32)
        count = len(self.template)
        self.faces = np.ascontiguousarray(body.faces, np.int32)
        self.part = np.asarray(body.vertex_joint)
        self._shapes = np.asarray(body.shapedirs, np.float32).reshape(count * 3, -1)
        self._weights = np.ascontiguousarray(body.weights, np.float32)
        self._regressor = sparse.csr_matrix(np.asarray(body.J_regressor, np.float32))
        corners = sparse.coo_matrix(
            (np.ones(self.faces.size, np.float32), (self.faces.ravel(), self._corner_faces())),
            (count, len(self.faces)),
        )
        self._faces_of = corners.tocsr()
        self.rest_joints = self._regressor @ self.template
        self.along = self._along_bone()
        self.head = self._head_frame()

    def _corner_faces(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.faces)), 3)

    def _along_bone(self) -> np.ndarray:
        """How far down its bone each vertex lies, 0 at the joint and 1 at the next one."""
        child = np.arange(NUM_JOINTS)
        for joint, parent in enumerate(PARENTS):
            if parent > 0 and parent != JOINT_INDEX["spine3"]:
                child[parent] = joint
        start = self.rest_joints[self.part]
        bone = self.rest_joints[child[self.part]] - start
        length = np.maximum(np.square(bone).sum(1), 1e-6)
        return np.clip(((self.template - start) * bone).sum(1) / length, -0.5, 1.5)

    def _head_frame(self) -> np.ndarray:
        """Head vertices in units of the head's half width, height (0 chin, 1 top) and depth."""
        head = self.part == JOINT_INDEX["head"]
        low, high = self.template[head].min(0), self.template[head].max(0)
        out = np.full((len(self.template), 3), np.nan, np.float32)
        unit = (self.template[head] - low) / (high - low)
        out[head] = unit * [2, 1, 1] - [1, 0, 0]
        return out

    def normals(self, vertices: np.ndarray) -> np.ndarray:
        """Unit vertex normals [V, 3]."""
        a, b, c = (vertices[self.faces[:, k]] for k in range(3))
        summed = self._faces_of @ np.cross(b - a, c - a)
        return summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-9)

    def pose(
        self, rotations: np.ndarray, betas: np.ndarray, puff: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vertices [V, 3] and joints [24, 3] m, pelvis at 0.

        ``puff`` [V] m moves the shaped surface along its normals: clothes and hair.
        """
        shaped = self.template + (self._shapes[:, : len(betas)] @ betas).reshape(-1, 3)
        rest = self._regressor @ shaped
        shaped = shaped + self.normals(shaped) * puff[:, None]
        turned = local_to_global(rotations).astype(np.float32)
        joints = np.zeros((NUM_JOINTS, 3), np.float32)
        for joint, parent in enumerate(PARENTS[1:], start=1):
            joints[joint] = joints[parent] + turned[parent] @ (rest[joint] - rest[parent])
        shift = joints - np.einsum("jab,jb->ja", turned, rest)
        transforms = np.concatenate([turned.reshape(NUM_JOINTS, 9), shift], 1)
        blended = self._weights @ transforms
        vertices = np.einsum("vab,vb->va", blended[:, :9].reshape(-1, 3, 3), shaped)
        return vertices + blended[:, 9:], joints


@dataclass
class Outfit:
    """Linear vertex colours [V, 3] in 0..1 and how far cloth and hair stand off, m [V]."""

    colours: np.ndarray
    puff: np.ndarray


_SKIN = np.array(
    [
        [0.95, 0.78, 0.68],
        [0.88, 0.66, 0.52],
        [0.72, 0.5, 0.36],
        [0.48, 0.31, 0.21],
        [0.28, 0.17, 0.12],
    ]
)
_HAIR = np.array(
    [
        [0.06, 0.05, 0.05],
        [0.22, 0.13, 0.08],
        [0.45, 0.3, 0.16],
        [0.78, 0.62, 0.38],
        [0.6, 0.58, 0.56],
    ]
)


def _waves(points: np.ndarray, rng: np.random.Generator, scale: float, count: int) -> np.ndarray:
    """A smooth random field of unit variance at points [V, 3]; ``scale`` is its grain, m."""
    turns = rng.normal(0, 1 / scale, (3, count)).astype(np.float32)
    phase = rng.uniform(0, 2 * np.pi, count).astype(np.float32)
    return np.sin(points @ turns + phase).sum(1) * np.sqrt(2 / count)


def _colour(rng: np.random.Generator) -> np.ndarray:
    """Cloth: often black, white, grey or denim, otherwise anything."""
    choice = rng.random()
    if choice < 0.35:
        return np.clip(
            rng.choice([0.04, 0.1, 0.3, 0.55, 0.85, 0.95]) + rng.normal(0, 0.03, 3), 0, 1
        )
    if choice < 0.5:
        return np.clip(np.array([0.18, 0.25, 0.4]) * rng.uniform(0.5, 1.8), 0, 1)
    hsv = np.array([[[rng.uniform(0, 179), rng.uniform(60, 255), rng.uniform(40, 250)]]], np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0] / 255.0


def _cloth(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Colours [V, 3] of a garment: plain, striped, checked, blotched, shaded or with a print."""
    base, second = _colour(rng), _colour(rng)
    choice = rng.random()
    mix = np.zeros(len(points), np.float32)
    if choice < 0.12:
        axis, pitch = rng.choice([0, 1, 1]), rng.uniform(0.03, 0.2)
        mix = ((points[:, axis] / pitch + rng.random()) % 1 < rng.uniform(0.2, 0.6)) * 1.0
    elif choice < 0.2:
        pitch = rng.uniform(0.04, 0.15)
        mix = (np.floor(points / pitch).sum(1) % 2) * rng.uniform(0.3, 1)
    elif choice < 0.34:
        mix = (_waves(points, rng, rng.uniform(0.02, 0.12), 8) > rng.uniform(-0.5, 1)) * 1.0
    elif choice < 0.4:
        mix = np.clip(points[:, rng.integers(2)] / 0.6 + rng.uniform(0, 1), 0, 1)
    elif choice < 0.5:
        centre = np.array([rng.uniform(-0.08, 0.08), rng.uniform(-0.1, 0.12)])
        inside = np.abs(points[:, :2] - centre) < rng.uniform(0.03, 0.13, 2)
        mix = (inside.all(1) & (points[:, 2] > 0)) * 1.0
    elif choice < 0.56:
        mix = (np.abs(points[:, 0]) > rng.uniform(0.08, 0.2)) * 1.0
    return base + mix[:, None] * (second - base)


def draw_outfit(figure: Figure, rng: np.random.Generator) -> Outfit:
    """Skin, top, bottom, shoes, hair or headgear of one random person."""
    points, part, along = figure.template, figure.part, figure.along
    named = {name: part == index for name, index in JOINT_INDEX.items()}

    def both(name: str) -> np.ndarray:
        return named[f"left_{name}"] | named[f"right_{name}"]

    tone = rng.uniform(0, len(_SKIN) - 1.001)
    skin = _SKIN[int(tone)] + (tone % 1) * (_SKIN[int(tone) + 1] - _SKIN[int(tone)])
    colours = np.tile(skin * rng.uniform(0.85, 1.1), (len(points), 1))
    colours *= 1 + 0.04 * _waves(points, rng, 0.05, 6)[:, None]
    puff = np.zeros(len(points), np.float32)
    wrinkles = _waves(points, rng, rng.uniform(0.03, 0.08), 10)

    def dress(where: np.ndarray, looseness: float, cloth: np.ndarray) -> None:
        puff[where] = np.maximum(puff[where], looseness * (1 + 0.35 * wrinkles[where]))
        colours[where] = cloth[where] * (1 + 0.06 * wrinkles[where, None])

    hips = named["pelvis"] & (points[:, 1] < figure.rest_joints[0, 1] + 0.06)
    legs = np.where(both("hip"), along, np.where(both("knee"), 1 + along, np.nan))
    arms = np.where(both("shoulder"), along, np.where(both("elbow"), 1 + along, np.nan))
    torso = named["spine1"] | named["spine2"] | named["spine3"] | both("collar") | named["pelvis"]
    one_piece = rng.random() < 0.14
    length = rng.choice([0.15, 0.5, 0.8, 1.15, 1.95], p=[0.08, 0.16, 0.12, 0.06, 0.58])
    bottom_cloth = _cloth(points, rng)
    dress(hips | (legs < length), rng.choice([0.002, 0.01, 0.022]), bottom_cloth)
    sleeve = rng.choice([-0.5, 0.25, 0.65, 1.3, 1.95], p=[0.12, 0.13, 0.4, 0.05, 0.3])
    bare = not one_piece and rng.random() < 0.09
    if not bare:
        hem = figure.rest_joints[0, 1] + rng.uniform(-0.12, 0.08)
        top = (torso & (points[:, 1] > hem)) | (arms < sleeve)
        cloth = bottom_cloth if one_piece else _cloth(points, rng)
        dress(top, rng.choice([0.002, 0.01, 0.02, 0.032], p=[0.3, 0.35, 0.25, 0.1]), cloth)
    feet = both("ankle") | both("foot")
    if rng.random() < 0.88:
        dress(feet, rng.uniform(0.002, 0.012), np.tile(_colour(rng), (len(points), 1)))
        sock = rng.uniform(0.5, 1.0)
        if length < 1.2 and rng.random() < 0.6:
            dress(legs > 1 + sock, 0.003, np.tile(_colour(rng), (len(points), 1)))
    if rng.random() < 0.06:
        gloves = both("wrist") | both("hand")
        dress(gloves, rng.uniform(0.002, 0.012), np.tile(_colour(rng), (len(points), 1)))
    _draw_head(figure, colours, puff, rng)
    return Outfit(np.clip(colours, 0, 1).astype(np.float32), puff)


def _draw_head(
    figure: Figure, colours: np.ndarray, puff: np.ndarray, rng: np.random.Generator
) -> None:
    """Eyes, brows, mouth, and hair, a cap or a helmet, in place."""
    x, y, z = (np.nan_to_num(figure.head[:, k], nan=-9.0) for k in range(3))
    front = z > 0.62

    def spot(at_x: float, at_y: float, wide: float, high: float) -> np.ndarray:
        return front & (((np.abs(x) - at_x) / wide) ** 2 + ((y - at_y) / high) ** 2 < 1)

    colours[spot(0.38, 0.52, 0.2, 0.035)] = 0.08
    colours[spot(0.4, 0.59, 0.26, 0.02)] *= 0.45
    colours[spot(0.0, 0.25, 0.28, 0.03)] *= [0.8, 0.45, 0.45]
    beard = rng.random() < 0.12
    if beard:
        colours[(y < 0.32) & (y > -1) & (z > 0.3) & ~spot(0.0, 0.25, 0.28, 0.03)] *= 0.4
    kind = rng.choice(["hair", "long", "cap", "helmet", "bald"], p=[0.56, 0.2, 0.1, 0.06, 0.08])
    if kind == "bald":
        return
    line = rng.uniform(0.62, 0.8)
    scalp = (y > line) | ((z < rng.uniform(0.42, 0.6)) & (y > rng.uniform(0.1, 0.45)))
    colour = _HAIR[rng.integers(len(_HAIR))] * rng.uniform(0.7, 1.3)
    if kind == "long":
        scalp |= (z < 0.5) & (y > -1)
        scalp |= (figure.part == JOINT_INDEX["neck"]) & (
            figure.template[:, 2] < figure.rest_joints[JOINT_INDEX["neck"], 2]
        )
    if kind in ("cap", "helmet"):
        scalp, colour = y > line - (0.1 if kind == "helmet" else 0), _colour(rng)
    thick = {"hair": (0.004, 0.025), "long": (0.01, 0.04), "cap": (0.008, 0.02)}
    puff[scalp] = rng.uniform(*thick.get(kind, (0.02, 0.035)))
    grain = 1 + 0.15 * _waves(figure.template, rng, 0.012, 8)
    colours[scalp] = (colour * np.ones((len(x), 3)) * grain[:, None])[scalp]


@dataclass
class Light:
    """A directional light over an ambient one; directions in camera axes."""

    direction: np.ndarray
    strength: np.ndarray
    sky: np.ndarray
    ambient: np.ndarray

    @classmethod
    def draw(cls, up: np.ndarray, rng: np.random.Generator) -> Light:
        """``up`` [3] is the world's up in camera axes."""
        direction = rng.normal(0, 1, 3) + 1.1 * up + np.array([0, 0, -0.5])
        key = rng.uniform(0.2, 0.95)
        tint = 1 + rng.normal(0, 0.06, 3)
        return cls(direction / np.linalg.norm(direction), key * tint, up, (1.05 - 0.7 * key) / tint)

    def shade(self, colours: np.ndarray, normals: np.ndarray) -> np.ndarray:
        lit = np.maximum(normals @ self.direction, 0)[:, None] * self.strength
        soft = (0.7 + 0.3 * (normals @ self.sky))[:, None] * self.ambient
        return np.clip(colours * (lit + soft), 0, 1).astype(np.float32)


def rasterize(
    vertices: np.ndarray,
    faces: np.ndarray,
    colours: np.ndarray,
    width: float,
    size: int,
    flat: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws triangles seen by a camera at 0 whose square picture is ``width`` m wide at 1 m.

    Returns colours float32 [size, size, 3], 0 where empty, and depth [size, size] m.
    """
    settings = cv2.TriangleRasterizeSettings()
    settings.setCullingMode(cv2.RASTERIZE_CULLING_CW)
    settings.setShadingType(cv2.RASTERIZE_SHADING_FLAT if flat else cv2.RASTERIZE_SHADING_SHADED)
    image = np.zeros((size, size, 3), np.float32)
    depth = np.full((size, size), _Z_FAR, np.float32)
    fov = 2 * np.arctan(width / 2)
    points, paint = (np.ascontiguousarray(a, np.float32) for a in (vertices, colours))
    return cv2.triangleRasterize(
        points, faces, paint, image, depth, _TO_GL, fov, _Z_NEAR, _Z_FAR, settings
    )


class Backdrops:
    """Backgrounds uint8 [256, 256, 3]: drawn rooms, gradients, noise, and person-free photographs.

    ``photos`` is a list of uint8 RGB images of any size, without people.
    """

    def __init__(self, photos: list[np.ndarray]) -> None:
        self.photos = photos

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        choice = rng.random()
        if self.photos and choice < 0.55:
            return self._photo(rng)
        return self._room(rng) if choice < 0.85 else self._plain(rng)

    def texture(self, rng: np.random.Generator) -> np.ndarray:
        """Something to cover an occluder with."""
        if self.photos and rng.random() < 0.5:
            return self._photo(rng)
        return self._plain(rng)

    def cover(
        self,
        image: np.ndarray,
        covered: np.ndarray,
        box: np.ndarray,
        rng: np.random.Generator,
        least: int = 0,
    ) -> None:
        """Pastes flat occluders over a crop about the person's ``box`` [4] xyxy px, ``least`` or
        more: polygons, ellipses, bars; updates ``covered`` [256, 256]."""
        for _ in range(max(least, rng.choice([0, 1, 2, 3], p=[0.66, 0.2, 0.09, 0.05]))):
            stencil = np.zeros((CROP, CROP), np.uint8)
            x0, y0, x1, y1 = box
            centre = rng.uniform([x0, y0], [x1, y1])
            reach = np.array([x1 - x0, y1 - y0]) * rng.uniform(0.06, 0.3, 2) + 4
            choice = rng.random()
            if choice < 0.35:
                turn = float(rng.uniform(0, 180))
                corners = cv2.boxPoints((centre.tolist(), (2 * reach).tolist(), turn))
                cv2.fillPoly(stencil, [corners.astype(np.int32)], 1)
            elif choice < 0.6:
                axes = np.maximum(reach, 3).astype(int).tolist()
                cv2.ellipse(
                    stencil, centre.astype(int).tolist(), axes, rng.uniform(0, 180), 0, 360, 1, -1
                )
            elif choice < 0.85:
                angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(4, 10)))
                radius = rng.uniform(0.4, 1.2, len(angles))[:, None]
                blob = centre + np.stack([np.cos(angles), np.sin(angles)], 1) * reach * radius
                cv2.fillPoly(stencil, [blob.astype(np.int32)], 1)
            elif rng.random() < 0.5:
                stencil[int(centre[1]) :] = 1 if centre[1] > (y0 + y1) / 2 else 0
            else:
                half = rng.uniform(3, 18)
                stencil[:, int(max(centre[0] - half, 0)) : int(max(centre[0] + half, 0))] = 1
            if stencil.sum() > 0.45 * stencil.size:
                continue
            paste = stencil > 0
            image[paste] = self.texture(rng)[paste]
            covered |= paste

    def _photo(self, rng: np.random.Generator) -> np.ndarray:
        photo = self.photos[rng.integers(len(self.photos))]
        height, width = photo.shape[:2]
        side = max(24, int(min(height, width) * rng.uniform(0.5, 1)))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        patch = photo[top : top + side, left : left + side]
        if rng.random() < 0.5:
            patch = patch[:, ::-1]
        patch = cv2.resize(patch, (CROP, CROP), interpolation=cv2.INTER_LINEAR)
        return cv2.GaussianBlur(patch, (0, 0), rng.uniform(0.5, 4))

    def _plain(self, rng: np.random.Generator) -> np.ndarray:
        corners = np.stack([_colour(rng) for _ in range(4)]).reshape(2, 2, 3) * 255
        middle = corners.mean((0, 1))
        corners = middle + rng.uniform(0.1, 0.9) * (corners - middle)
        grey, tint = corners.mean(-1, keepdims=True), rng.uniform()
        corners = grey + tint * (corners - grey)
        field = cv2.resize(corners.astype(np.float32), (CROP, CROP), interpolation=cv2.INTER_LINEAR)
        for grain in (4, 16, 64):
            noise = rng.normal(
                0, rng.uniform(0, 22), (grain, grain, 1 if rng.random() < 0.8 else 3)
            )
            grown = cv2.resize(
                noise.astype(np.float32), (CROP, CROP), interpolation=cv2.INTER_CUBIC
            )
            field = field + grown.reshape(CROP, CROP, -1)
        return np.clip(field, 0, 255).astype(np.uint8)

    def _room(self, rng: np.random.Generator) -> np.ndarray:
        image, floor = self._plain(rng), self._plain(rng)
        horizon = int(rng.uniform(0.2, 0.95) * CROP)
        tilt = rng.uniform(-0.15, 0.15)
        rows, columns = np.mgrid[:CROP, :CROP]
        below = rows > horizon + tilt * (columns - CROP / 2)
        image[below] = floor[below]
        for _ in range(rng.integers(0, 14)):
            colour = (_colour(rng) * 255 * rng.uniform(0.4, 1)).tolist()
            corner, size = rng.integers(-60, CROP, 2), rng.integers(6, 140, 2)
            turn = rng.normal(0, 6)
            box = cv2.boxPoints(((corner + size / 2).tolist(), size.tolist(), turn)).astype(
                np.int32
            )
            if rng.random() < 0.75:
                cv2.fillPoly(image, [box], colour)
            if rng.random() < 0.5:
                edge = (np.array(colour) * rng.uniform(0.4, 1.5)).clip(0, 255).tolist()
                cv2.polylines(image, [box], True, edge, int(rng.integers(1, 5)))
        return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 3))


class Studio:
    """Everything a sample is made from."""

    def __init__(self, figure: Figure, poses: PoseSource, backdrops: Backdrops) -> None:
        self.figure, self.poses, self.backdrops = figure, poses, backdrops

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, Labels]:
        """One crop, uint8 RGB [256, 256, 3], and its labels (n = 1); at least 7 joints show."""
        for _ in range(5):
            image, labels = self._shoot(rng)
            if labels.visible.sum() >= _LEAST_JOINTS:
                break
        return image, labels

    def _shoot(self, rng: np.random.Generator) -> tuple[np.ndarray, Labels]:
        figure = self.figure
        view = draw_view(rng)
        up = view @ np.array([0.0, 1.0, 0.0], np.float32)
        light = Light.draw(up, rng)
        rotations = self.poses.draw(rng)
        rotations[0] = view @ _yaw(rng) @ rotations[0]
        betas = np.clip(rng.normal(0, 1, NUM_BETAS), -2.5, 2.5).astype(np.float32)
        outfit = draw_outfit(figure, rng)
        vertices, joints = figure.pose(rotations, betas, outfit.puff)
        shaded = light.shade(outfit.colours, figure.normals(vertices))

        distance = np.exp(rng.uniform(np.log(2.5), np.log(12)))
        frame = _frame_crop(vertices, distance, rng)
        vertices = vertices + frame.shift
        colour, depth = rasterize(vertices, figure.faces, shaded, frame.width, _RENDER, flat=False)
        drawn = depth < _EMPTY
        image = cv2.resize(self.backdrops.draw(rng), (_RENDER, _RENDER)).astype(np.float32) / 255
        if rng.random() < 0.5:
            self._cast_shadow(image, vertices, light, up, frame.width, rng)
        covered = np.zeros((_RENDER, _RENDER), bool)
        others = self._others(view, up, light, frame, rng)
        behind = [o for o in others if not o[2]]
        for other_colour, other_depth, _ in behind:
            seen = other_depth < _EMPTY
            image[seen] = other_colour[seen]
        image[drawn] = colour[drawn]
        for other_colour, other_depth, in_front in others:
            if in_front:
                seen = other_depth < np.minimum(depth, _EMPTY)
                image[seen] = other_colour[seen]
                covered |= seen & drawn
        image = (cv2.resize(image, (CROP, CROP), interpolation=cv2.INTER_AREA) * 255).astype(
            np.uint8
        )
        covered = (
            cv2.resize(covered.astype(np.uint8), (CROP, CROP), interpolation=cv2.INTER_AREA) > 0
        )
        self.backdrops.cover(image, covered, frame.box, rng)
        fill = self._outside_fill(image, rng)
        image = degrade(image, rng)
        image[frame.outside] = fill[frame.outside]
        labels = self._label(rotations, betas, joints, frame, vertices, covered | frame.outside)
        return image, labels

    def _label(
        self,
        rotations: np.ndarray,
        betas: np.ndarray,
        joints: np.ndarray,
        frame: CropFrame,
        vertices: np.ndarray,
        hidden: np.ndarray,
    ) -> Labels:
        """Labels of one figure; ``hidden`` [256, 256] marks what others or the edge cover."""
        labels = Labels.empty(1)
        placed = joints + frame.shift
        points = placed[:, :2] / placed[:, 2:] * (2 / frame.width)
        pixels = np.floor((points + 1) * (CROP / 2)).astype(int)
        inside = ((pixels >= 0) & (pixels < CROP)).all(1)
        x, y = np.clip(pixels, 0, CROP - 1).T
        codes = np.repeat(self.figure.part[:, None], 3, 1).astype(np.float32) / 32
        parts, depth = rasterize(vertices, self.figure.faces, codes, frame.width, MASK, flat=True)
        mask = np.where(depth < _EMPTY, np.rint(parts[..., 0] * 32), BACKGROUND).astype(np.uint8)
        small = cv2.resize(hidden.astype(np.float32), (MASK, MASK), interpolation=cv2.INTER_AREA)
        mask[small > 0.5] = BACKGROUND
        labels.rotations[0], labels.betas[0] = rotations, betas
        labels.joints3d[0], labels.joints2d[0] = joints, points
        labels.visible[0] = inside & ~hidden[y, x]
        labels.cam[0] = fit_weak_camera(joints, points)
        labels.has_pose[0] = labels.has_mask[0] = True
        labels.masks[0] = mask
        return labels

    def _cast_shadow(
        self,
        image: np.ndarray,
        vertices: np.ndarray,
        light: Light,
        up: np.ndarray,
        width: float,
        rng: np.random.Generator,
    ) -> None:
        """Darkens where the figure's shadow falls on the floor below its lowest point."""
        if light.direction @ up < 0.25:
            return
        height = vertices @ up
        drop = (height - height.min()) / (light.direction @ up)
        fallen = vertices - drop[:, None] * light.direction
        if fallen[:, 2].min() < _Z_NEAR * 2:
            return
        both = np.concatenate([self.figure.faces, self.figure.faces[:, ::-1]])
        _, depth = rasterize(fallen, both, np.ones_like(fallen), width, MASK * 2, flat=True)
        dark = cv2.GaussianBlur((depth < _EMPTY).astype(np.float32), (0, 0), rng.uniform(0.7, 3))
        dark = cv2.resize(dark, image.shape[:2], interpolation=cv2.INTER_LINEAR)
        image *= 1 - rng.uniform(0.2, 0.6) * dark[..., None]

    def _others(
        self,
        view: np.ndarray,
        up: np.ndarray,
        light: Light,
        frame: CropFrame,
        rng: np.random.Generator,
    ) -> list[tuple[np.ndarray, np.ndarray, bool]]:
        """People and solid boxes around the person: (colour, depth, may cover the person)."""
        layers = []
        for _ in range(rng.choice([0, 1, 2], p=[0.68, 0.24, 0.08])):
            rotations = self.poses.draw(rng)
            rotations[0] = view @ _yaw(rng) @ rotations[0]
            outfit = draw_outfit(self.figure, rng)
            betas = rng.normal(0, 1, NUM_BETAS).astype(np.float32)
            vertices, _ = self.figure.pose(rotations, betas, outfit.puff)
            in_front = bool(rng.random() < 0.4)
            right, away = np.cross(up, [0, 0, 1.0]), np.array([0, 0, 1.0])
            away = away - (away @ up) * up
            aside = rng.choice([-1, 1]) * rng.uniform(0.3, 1.2) * (1.2 if in_front else 1)
            back = -rng.uniform(0.3, 0.9) if in_front else rng.uniform(0.3, 3.0)
            vertices = vertices + frame.shift + right * aside + away * back
            if vertices[:, 2].min() < 0.6:
                continue
            shaded = light.shade(outfit.colours, self.figure.normals(vertices))
            drawn = rasterize(vertices, self.figure.faces, shaded, frame.width, _RENDER, flat=False)
            layers.append((*drawn, in_front))
        if rng.random() < 0.14:
            vertices, faces, colours = _box(frame, up, rng)
            if vertices[:, 2].min() > 0.5:
                drawn = rasterize(vertices, faces, colours, frame.width, _RENDER, flat=True)
                layers.append((*drawn, True))
        return layers

    def _outside_fill(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What a crop shows beyond the edge of its picture: mostly black."""
        fill = np.zeros_like(image)
        if rng.random() < 0.15:
            fill[:] = rng.choice([114, 128, 255])
        return fill


def _yaw(rng: np.random.Generator) -> np.ndarray:
    return axis_angle_to_matrix(np.array([0, rng.uniform(-np.pi, np.pi), 0]))


@dataclass
class CropFrame:
    """Where the camera looks: ``shift`` [3] m puts the pelvis, ``width`` is the picture's at 1 m,
    ``box`` xyxy px the person in the crop, ``outside`` [256, 256] beyond the photograph's edge."""

    shift: np.ndarray
    width: float
    box: np.ndarray
    outside: np.ndarray


def _frame_crop(vertices: np.ndarray, distance: float, rng: np.random.Generator) -> CropFrame:
    """A square crop as the tool makes it: the seen person's box x 1.2, centre and scale jittered.

    A third of the people are cut by the edge of the photograph; the box is then of what is left.
    """
    shift = np.array([0, 0, distance], np.float32)
    edges = np.array([-np.inf, -np.inf, np.inf, np.inf])
    cut = rng.random() < 0.3
    sides, reach = rng.random(4), rng.random(4)
    jitter, zoom = rng.uniform(-0.1, 0.1, 2), 1.2 * np.exp(rng.uniform(np.log(0.8), np.log(1.25)))
    close = rng.random() < 0.12
    for _ in range(2):
        placed = vertices + shift
        points = placed[:, :2] / placed[:, 2:]
        low, high = points.min(0), points.max(0)
        if cut:
            size = high - low
            if sides[0] < 0.65:  # the bottom edge, anywhere from the chest down
                edges[3] = low[1] + size[1] * (0.4 + 0.55 * reach[0])
            if sides[1] < 0.2:
                edges[0] = low[0] + size[0] * 0.45 * reach[1]
            if sides[2] < 0.2:
                edges[2] = high[0] - size[0] * 0.45 * reach[2]
            if sides[3] < 0.08:
                edges[1] = low[1] + size[1] * 0.3 * reach[3]
        seen_low, seen_high = np.maximum(low, edges[:2]), np.minimum(high, edges[2:])
        side = (seen_high - seen_low).max()
        centre = (seen_low + seen_high) / 2 + jitter * side
        shift = shift - np.append(centre, 0).astype(np.float32) * distance
        edges = edges - np.tile(centre, 2)
    width = float(side * zoom)
    if not cut and not close:
        edges = np.where(
            rng.random(4) < 0.12, np.tile([-1, -1, 1, 1], 1) * width / 2 * 0.85, np.inf
        )
        edges[:2] = np.where(np.isinf(edges[:2]), -np.inf, edges[:2])
    placed = vertices + shift
    points = placed[:, :2] / placed[:, 2:]
    to_px = CROP / width
    box = np.concatenate([points.min(0), points.max(0)]) * to_px + CROP / 2
    grid = (np.arange(CROP) + 0.5 - CROP / 2) / to_px
    columns = (grid < edges[0]) | (grid > edges[2])
    rows = (grid < edges[1]) | (grid > edges[3])
    box = np.clip(box, 0, CROP)
    return CropFrame(shift, width, box, rows[:, None] | columns[None])


def _box(
    frame: CropFrame, up: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A table, bench or crate standing before the person: vertices, faces and flat colours."""
    away = np.array([0, 0, 1.0]) - up[2] * up
    away /= max(np.linalg.norm(away), 1e-6)
    right = np.cross(up, away)
    half = rng.uniform([0.25, 0.15, 0.15], [1.0, 0.5, 0.5])
    corners = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1], indexing="ij"), -1).reshape(-1, 3)
    turn = axis_angle_to_matrix(np.array([0, rng.uniform(-0.6, 0.6), 0]))
    local = (corners * half) @ turn.T
    centre = frame.shift - up * rng.uniform(0.3, 0.8) + right * rng.normal(0, 0.4)
    centre = centre - away * (half[2] + rng.uniform(0.35, 0.7))
    world = centre + local @ np.stack([right, up, away])
    quads = np.array(
        [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    )
    vertices = world[quads].reshape(-1, 3)
    order = np.array([[0, 1, 2], [0, 2, 3], [0, 2, 1], [0, 3, 2]])
    faces = (np.arange(6)[:, None, None] * 4 + order).reshape(-1, 3).astype(np.int32)
    base = _colour(rng)
    tints = rng.uniform(0.4, 1.0, 6)
    colours = np.repeat(np.clip(base * tints[:, None], 0, 1), 4, 0)
    return vertices, faces, colours


def person_free_patches(crops: RealCrops, limit: int) -> list[np.ndarray]:
    """:func:`free_strips` of LSPET crops; those held out for validation are left out."""
    usable = np.flatnonzero(~in_validation(crops.ids))
    images = (image for rows in np.split(usable, range(200, len(usable), 200))
              for image in crops.images(rows))  # fmt: skip
    return free_strips(images, crops.joints[usable], limit)


def free_strips(images: Iterable[np.ndarray], joints: np.ndarray, limit: int) -> list[np.ndarray]:
    """Strips beside or above labelled people, uint8 RGB, at least 56 px wide.

    ``images`` uint8 [256, 256, 3] each; ``joints`` [n, J, 3] x, y px and whether labelled: people
    of whom fewer than 12 are may reach anywhere and are left out, as is black padding.
    """
    patches = []
    for image, points in zip(images, joints, strict=True):
        seen = points[points[:, 2] > 0, :2]
        if len(seen) < 12:
            continue
        low, high = seen.min(0) - 22, seen.max(0) + 22
        free = [(0, 0, CROP, low[1]), (0, 0, low[0], CROP), (high[0], 0, CROP, CROP)]
        strip = max(free, key=lambda s: (s[2] - s[0]) * (s[3] - s[1]))
        x0, y0, x1, y1 = (int(edge) for edge in strip)
        if min(x1 - x0, y1 - y0) < 64:
            continue
        patch = image[y0:y1, x0:x1]
        lit = patch.max(2) > 8
        patch = patch[lit.mean(1) > 0.2][:, lit.mean(0) > 0.2]
        if min(patch.shape[:2]) >= 56 and patch.std() > 8:
            patches.append(patch.copy())
        if len(patches) == limit:
            break
    return patches


_studio: Studio | None = None


def _open_studio(
    mocap: Path, crops: Path | None, joints: Path | None, straight: float, label: str
) -> None:
    """Prepares a worker; ``label`` names the body that the set says it was drawn with."""
    global _studio
    body = load_body()
    if body.label != label:
        raise RopeTPError(f"{label}: the body file changed while drawing; start again")
    cv2.setNumThreads(1)
    photos = person_free_patches(RealCrops.open(crops, joints), 1500) if crops and joints else []
    poses = PoseSource(load_mocap_rotations(mocap), straight)
    _studio = Studio(Figure(body), poses, Backdrops(photos))


def _render(job: tuple[int, int, int]) -> tuple[int, np.ndarray, Labels]:
    seed, first, last = job
    images, labels = np.empty((last - first, CROP, CROP, 3), np.uint8), Labels.empty(last - first)
    for row, index in enumerate(range(first, last)):
        images[row], one = _studio.sample(np.random.default_rng([seed, index]))
        for field in fields(Labels):
            getattr(labels, field.name)[row] = getattr(one, field.name)[0]
    return first, images, labels


def generate(
    out: Path,
    name: str,
    count: int,
    mocap: Path,
    crops: Path | None = None,
    joints: Path | None = None,
    straight: float = 0.0,
    seed: int = 0,
    workers: int = 1,
) -> None:
    """Writes ``<name>_images.npy`` and ``<name>_labels.npz`` to ``out``, complete or not at all.

    ``mocap`` gives the poses, ``straight`` of them with straighter knees (:class:`PoseSource`); the
    LSPET ``crops`` and ``joints`` give photographic backgrounds.
    """
    if count < 1:
        raise RopeTPError(f"{name}: the number of samples must be at least 1")
    out.mkdir(parents=True, exist_ok=True)
    draft = out / f"{name}_images.part.npy"
    images = np.lib.format.open_memmap(draft, "w+", np.uint8, (count, CROP, CROP, 3))
    labels, chunk, started = Labels.empty(count), 100, time.time()
    jobs = [(seed, first, min(first + chunk, count)) for first in range(0, count, chunk)]
    label, context = load_body().label, get_context("spawn")
    told = (mocap, crops, joints, straight, label)
    with ProcessPoolExecutor(workers, context, _open_studio, told) as pool:
        for first, some, part in pool.map(_render, jobs):
            done = first + len(some)
            images[first:done] = some
            for field in fields(Labels):
                getattr(labels, field.name)[first:done] = getattr(part, field.name)
            if done % 1000 == 0 or done == count:
                each = (time.time() - started) / done
                print(f"{name}: {done}/{count}, {each:.3f} s each", flush=True)
    images.flush()
    os.replace(draft, out / f"{name}_images.npy")
    labels.save(out / f"{name}_labels.npz", body=np.array(label))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw crops of the body with exact labels.")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--name", default="syn_train")
    parser.add_argument("--count", type=int, default=16000)
    parser.add_argument("--mocap", type=Path, required=True, help="poses, mocap_*.npz")
    parser.add_argument("--crops", type=Path, help="LSPET crops (zip), for backgrounds")
    parser.add_argument("--joints", type=Path, help="LSPET joints (npz)")
    parser.add_argument("--straight", type=float, default=0.0, help="share with straighter knees")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    options = vars(parser.parse_args(arguments))
    generate(**options)


if __name__ == "__main__":
    main()
