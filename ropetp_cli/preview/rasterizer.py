"""Meshes over images with OpenCV's own rasterizer: no OpenGL, nothing headless to fail.

OpenCV's camera looks down -z with y up and its principal point is the image's centre. A shear
of the camera axes moves the principal point anywhere, so that only the pixels around the people
are ever touched: the buffers are as large as the meshes' box in the image.
"""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from ropetp_cli.exchange.glb import vertex_normals

Mesh = tuple[np.ndarray, tuple[int, int, int]]

NEAR, FAR = 0.05, 1000.0  # m
AMBIENT = 0.42
#: Direction towards the light in camera axes and its strength: a key light from above left
#: behind the camera, a weak fill from the right.
LIGHTS = (((-0.45, -0.75, -0.75), 0.55), ((0.9, 0.1, -0.4), 0.18))


@dataclass
class Drawing:
    """Meshes seen by a camera, cut to their box in the image.

    color uint8 [h, w, 3] BGR; mask uint8 [h, w], 255 where a mesh is; x, y: the box's corner px.
    """

    color: np.ndarray
    mask: np.ndarray
    x: int
    y: int

    def within(self, image: np.ndarray) -> np.ndarray:
        """The part of ``image`` under the drawing, a view."""
        height, width = self.mask.shape
        return image[self.y : self.y + height, self.x : self.x + width]


def draw_meshes(
    image: np.ndarray,
    meshes: list[Mesh],
    faces: np.ndarray,
    focal: float,
    center: np.ndarray,
    alpha: float = 0.85,
) -> np.ndarray:
    """Draw ``meshes`` into ``image`` uint8 [H, W, 3] BGR, in place, and return it.

    Each mesh is (vertices [V, 3] m in OpenCV camera axes, BGR colour 0..255); all share ``faces``
    [F, 3], counter-clockwise seen from outside. A point lands at ``focal * xy / z + center``,
    where pixel k covers k to k + 1. Nearer meshes hide those behind them.
    """
    drawing = rasterize(meshes, faces, focal, center, image.shape[1::-1])
    if drawing is not None:
        under = drawing.within(image)
        cv2.copyTo(cv2.addWeighted(drawing.color, alpha, under, 1 - alpha, 0), drawing.mask, under)
    return image


def rasterize(
    meshes: list[Mesh],
    faces: np.ndarray,
    focal: float,
    center: np.ndarray,
    size: tuple[int, int],
) -> Drawing | None:
    """What :func:`draw_meshes` blends, for an image of ``size`` (width, height) px.

    None when nothing is in sight.
    """
    box = _box([vertices for vertices, _ in meshes], focal, center, size)
    if box is None:
        return None
    x, y, width, height = box
    axes = np.diag([1.0, -1.0, -1.0, 1.0])
    axes[0, 2] = (center[0] - x - width / 2) / focal
    axes[1, 2] = -(center[1] - y - height / 2) / focal
    fov = 2 * np.arctan(height / 2 / focal)
    color = np.zeros((height, width, 3), np.float32)
    depth = np.full((height, width), FAR, np.float32)
    faces = np.ascontiguousarray(faces, dtype=np.int32)
    for vertices, paint in meshes:
        vertices = np.ascontiguousarray(vertices, dtype=np.float32)
        cv2.triangleRasterize(
            vertices, faces, _shade(vertices, faces, paint), color, depth,
            axes, fov, NEAR, FAR, _settings(),
        )  # fmt: skip
    # The rasterizer hands untouched depths back a little off FAR.
    mask = cv2.compare(depth, 0.99 * FAR, cv2.CMP_LT)
    return Drawing(cv2.convertScaleAbs(color, alpha=255.0), mask, x, y)


@cache
def _settings() -> "cv2.TriangleRasterizeSettings":
    settings = cv2.TriangleRasterizeSettings()
    settings.setCullingMode(cv2.RASTERIZE_CULLING_CW)
    settings.setShadingType(cv2.RASTERIZE_SHADING_SHADED)
    return settings


def _box(
    meshes: list[np.ndarray], focal: float, center: np.ndarray, size: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """x, y, width, height px of what the meshes cover in the image, or None."""
    low, high = np.array(size, dtype=float), np.zeros(2)
    for vertices in meshes:
        depth = vertices[:, 2]
        if depth.max() <= NEAR:
            continue
        if depth.min() <= NEAR:  # partly behind the camera: it may cover anything
            low, high = np.zeros(2), np.array(size, dtype=float)
            break
        points = vertices[:, :2] * (focal / depth)[:, None] + center
        low, high = np.minimum(low, points.min(axis=0)), np.maximum(high, points.max(axis=0))
    x, y = np.floor(np.clip(low, 0, size)).astype(int).tolist()
    right, bottom = np.ceil(np.clip(high, 0, size)).astype(int).tolist()
    return (x, y, right - x, bottom - y) if right > x and bottom > y else None


def _shade(vertices: np.ndarray, faces: np.ndarray, paint: tuple[int, int, int]) -> np.ndarray:
    """Vertex colours 0..1 under the two lights, float32 [V, 3]."""
    normals = vertex_normals(vertices, faces)
    light = np.full(len(vertices), AMBIENT, dtype=np.float32)
    for direction, strength in LIGHTS:
        toward = np.array(direction, dtype=np.float32)
        light += strength * np.maximum(normals @ (toward / np.linalg.norm(toward)), 0)
    return np.minimum(light[:, None] * (np.array(paint, dtype=np.float32) / 255), 1.0)
