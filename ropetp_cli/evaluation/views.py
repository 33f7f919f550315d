"""Where a person is whom several calibrated cameras see: a reference for what one of them says."""

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from operator import attrgetter

import cv2
import numpy as np
import torch
from scipy.ndimage import median_filter

from ropetp_cli.body.skeleton import LIMB_KEYPOINTS

#: A point less sure says nothing; one so far, px, from where the other views see it counts half.
SURE, OUTLIER = 0.5, 15.0
#: Bones are as long as they are to so much, m; joints are sped up by so much, m/s^2.
SAME_LENGTH, ACCELERATION = 0.01, 10.0
STEPS = 800
_ORDER = list(LIMB_KEYPOINTS.values())
HIPS = [_ORDER.index(f"{side}_hip") for side in ("left", "right")]
BONES = [
    (_ORDER.index(f"{side}_{one}"), _ORDER.index(f"{side}_{other}"))
    for side in ("left", "right")
    for one, other in (("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"),
                       ("elbow", "wrist"))
]  # fmt: skip


@dataclass
class View:
    """A calibrated camera: ``rotation`` [3, 3] from the laboratory's axes to OpenCV's, ``place``
    [3] m, ``matrix`` [3, 3] px and ``distortion`` [4]."""

    rotation: np.ndarray
    place: np.ndarray
    matrix: np.ndarray
    distortion: np.ndarray

    @property
    def focal(self) -> float:
        return float(self.matrix[[0, 1], [0, 1]].mean())

    def rays(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 2] px as seen at one metre by a camera without distortion."""
        flat = cv2.undistortPoints(points.reshape(-1, 1, 2), self.matrix, self.distortion)
        return flat.reshape(points.shape)

    def before(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 3] m of the laboratory in the camera's axes."""
        return (points - self.place) @ self.rotation.T


def read_cameras(text: bytes) -> list[View]:
    """The cameras of a Qualisys calibration: places in mm, sensors in 64ths of a pixel."""
    views = []
    for camera in ET.fromstring(text).iter("camera"):

        def values(tag: str, *names: str, camera: ET.Element = camera) -> np.ndarray:
            return np.array([float(camera.find(tag).get(name)) for name in names])

        turn = values("transform", *(f"r{i}{j}" for i in (1, 2, 3) for j in (1, 2, 3)))
        across, down, u, v = values(
            "intrinsic", "focalLengthU", "focalLengthV", "centerPointU", "centerPointV"
        ) / 64  # fmt: skip
        bends = ("radialDistortion1", "radialDistortion2", "tangentalDistortion1",
                 "tangentalDistortion2")  # fmt: skip
        views.append(
            View(
                np.diag([1.0, -1.0, -1.0]) @ turn.reshape(3, 3),
                values("transform", "x", "y", "z") / 1000,
                np.array([[across, 0, u], [0, down, v], [0, 0, 1]]),
                values("intrinsic", *bends),
            )
        )
    return views


@dataclass
class Observation:
    """A person as one ``view`` sees her in N frames: the track's ``id`` and ``points`` [N, 12, 3],
    where limbs are, px, and how surely."""

    view: View
    id: int
    points: np.ndarray

    @property
    def rays(self) -> np.ndarray:
        return self.view.rays(self.points[..., :2].copy())

    @property
    def trust(self) -> np.ndarray:
        return np.where(self.points[..., 2] > SURE, self.points[..., 2], 0.0)


def meeting(observations: list[Observation]) -> tuple[np.ndarray, np.ndarray]:
    """Where ``observations`` of one person meet: limbs [N, 12, 3] m of the laboratory, and how far,
    px, each is from them [S, N, 12] (nan where it does not see them). What contradicts the others
    counts less."""
    rays, trust = (np.array([getattr(s, n) for s in observations]) for n in ("rays", "trust"))
    focal = np.array([s.view.focal for s in observations])[:, None, None]
    matrices = np.array(
        [np.column_stack([s.view.rotation, -s.view.rotation @ s.view.place]) for s in observations]
    )[:, None, None]
    weight = trust
    for _ in range(10):
        system = weight[..., None, None] * (
            rays[..., None] * matrices[..., 2:, :] - matrices[..., :2, :]
        )
        system = np.moveaxis(system, 0, 2).reshape(*rays.shape[1:3], -1, 4)
        answer = np.linalg.svd(system)[2][..., -1, :]
        points = answer[..., :3] / answer[..., 3:]
        seen = np.array([s.view.before(points) for s in observations])
        off = np.linalg.norm(seen[..., :2] / seen[..., 2:] - rays, axis=-1) * focal
        weight = trust / (1 + (off / OUTLIER) ** 2)
    return points, np.where(trust > 0, off, np.nan)


def reference(observations: list[Observation], fps: float) -> tuple[np.ndarray, np.ndarray]:
    """A person's limbs [N, 12, 3] m in the laboratory and how far, px, every observation is from
    them [S, N, 12]: where the views meet, if bones are as long in every frame and on either side
    and joints are not sped up without need."""
    start, off = meeting(observations)
    rays, trust, turn, place, focal = (
        torch.tensor(np.array([attrgetter(name)(s) for s in observations]))
        for name in ("rays", "trust", "view.rotation", "view.place", "view.focal")
    )
    points = torch.tensor(median_filter(start, (9, 1, 1))).requires_grad_()
    one, other = (list(ends) for ends in zip(*BONES, strict=True))
    sizes = torch.tensor(lengths(start).reshape(2, -1).mean(axis=0)).requires_grad_()
    optimizer = torch.optim.Adam([points, sizes], 0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        seen = torch.einsum("sij,snkj->snki", turn, points - place[:, None, None])
        away = (seen[..., :2] / seen[..., 2:] - rays).norm(dim=-1) * focal[:, None, None]
        long = (points[:, one] - points[:, other]).norm(dim=-1)
        loss = (
            (trust * (away / OUTLIER).square().log1p()).sum()
            + ((long - sizes.repeat(2)) / SAME_LENGTH).square().sum()
            + (points.diff(n=2, dim=0) * fps**2 / ACCELERATION).square().sum()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return points.detach().numpy(), np.where(np.isnan(off), np.nan, away.detach())


def lengths(limbs: np.ndarray) -> np.ndarray:
    """The median length of every bone of ``limbs`` [N, 12, 3], [8] m."""
    one, other = zip(*BONES, strict=True)
    return np.median(np.linalg.norm(limbs[:, one] - limbs[:, other], axis=-1), axis=0)
