"""Crops turned upright before Rope looks at them, by a person's keypoints (beyond the paper).

A trunk that has seen people on their feet is at its best on people on their feet. Where the
detector shows hips and shoulders, the crop is turned until the trunk of the body points up, and
made smaller until its limbs are well inside; what Rope says is turned back.
"""

from dataclasses import dataclass

import cv2
import numpy as np

_SHOULDERS, _HIPS = [5, 6], [11, 12]
#: A keypoint below this confidence does not say which way is up.
SURE = 0.3
#: Nor does a trunk shorter than this, in half crops: it points at the camera or away.
SHORTEST = 0.12
#: How far out keypoints may lie after the turn, in half crops. Single pictures are read best from a
#: little way off; Rope over time was trained behind looks from near by.
FAR, NEAR = 0.68, 0.88
#: How far out people reach in crops made for them.
BOX = 1 / 1.2


@dataclass
class Views:
    """How each crop is seen: turned by ``angle`` [N] rad (clockwise in the picture) about its
    middle and enlarged by ``scale`` [N]."""

    angle: np.ndarray
    scale: np.ndarray

    @property
    def turn(self) -> np.ndarray:
        """[N, 3, 3], from the crop's axes (x right, y down, z forward) to the view's."""
        matrix = np.zeros((len(self.angle), 3, 3))
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        matrix[:, 0, 0] = matrix[:, 1, 1] = cosine
        matrix[:, 0, 1], matrix[:, 1, 0] = -sine, sine
        matrix[:, 2, 2] = 1
        return matrix

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points of the crops [N, K, 2] (-1..1) in the views."""
        return self.scale[:, None, None] * points @ self.turn[:, :2, :2].transpose(0, 2, 1)

    def points_back(self, points: np.ndarray) -> np.ndarray:
        """Points of the views [N, K, 2] in the crops."""
        return points @ self.turn[:, :2, :2] / self.scale[:, None, None]

    def keypoints(self, keypoints: np.ndarray) -> np.ndarray:
        """Keypoints [N, 17, 3] of the crops in the views, confidences unchanged."""
        return np.concatenate([self.points(keypoints[..., :2]), keypoints[..., 2:]], axis=-1)

    def images(self, crops: np.ndarray) -> np.ndarray:
        """Crops uint8 [N, S, S, 3] as the views show them; black where nothing is known."""
        half = (crops.shape[1] - 1) / 2
        views = np.empty_like(crops)
        for view, crop, matrix, scale in zip(views, crops, self.turn, self.scale, strict=True):
            linear = scale * matrix[:2, :2]
            shift = half - linear @ [half, half]
            affine = np.concatenate([linear, shift[:, None]], axis=1)
            view[:] = cv2.warpAffine(crop, affine, crop.shape[1::-1], flags=cv2.INTER_LINEAR)
        return views


def upright_views(keypoints: np.ndarray, reach: float = FAR) -> Views:
    """Views of crops with ``keypoints`` [N, 17, 3] (x, y in -1..1, confidence), made smaller where
    people reach farther out than ``reach``; where no keypoint is seen, they reach out to BOX."""
    sure = keypoints[..., 2] > SURE
    up = _middle(keypoints, sure, _SHOULDERS) - _middle(keypoints, sure, _HIPS)
    known = sure[:, _SHOULDERS].any(axis=1) & sure[:, _HIPS].any(axis=1)
    known &= np.linalg.norm(up, axis=1) > SHORTEST
    angle = np.where(known, -np.arctan2(up[:, 0], -up[:, 1]), 0.0)
    views = Views(angle, np.ones(len(angle)))
    outermost = (np.abs(views.points(keypoints[..., :2])).max(axis=-1) * sure).max(axis=1)
    outermost[~sure.any(axis=1)] = BOX
    views.scale = reach / np.maximum(outermost, reach)
    return views


def _middle(keypoints: np.ndarray, sure: np.ndarray, members: list[int]) -> np.ndarray:
    weight = sure[:, members, None]
    return (keypoints[:, members, :2] * weight).sum(axis=1) / np.maximum(weight.sum(axis=1), 1)
