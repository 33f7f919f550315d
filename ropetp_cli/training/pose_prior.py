"""What poses people take: learnt from motion capture, for sampling and for fitting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ropetp_cli.body.rot6d import matrix_to_rot6d as matrix_to_rot6d_torch
from ropetp_cli.body.rotations import matrix_to_rot6d, quaternion_to_matrix
from ropetp_cli.body.skeleton import MIRROR, NUM_JOINTS
from ropetp_cli.errors import RopeTPError

#: Joints the prior judges: all but the root, whose direction is free.
BODY_JOINTS = tuple(range(1, NUM_JOINTS))


def load_mocap_rotations(path: str | Path, step: int = 1) -> np.ndarray:
    """Parent-relative rotations float32 [F, 24, 3, 3] of every ``step``-th frame that has them.

    Joint 0 is in the world (y up). Raises :class:`RopeTPError` where the file lacks rotations.
    """
    with np.load(path, allow_pickle=False) as data:
        if "rot_local_quat" not in data or not data["has_rot"].any():
            raise RopeTPError(f"{path}: holds no joint rotations; give a mocap_*.npz that does")
        has_rot = np.repeat(data["has_rot"], np.diff(data["offsets"]))
        quaternions = data["rot_local_quat"][has_rot][::step]
    return quaternion_to_matrix(quaternions.astype(np.float32)).astype(np.float32)


def spread_weights(rotations: np.ndarray, clusters: int = 400, power: float = 0.6) -> np.ndarray:
    """Sampling weights [F] that make rare poses about as frequent as common ones.

    Frames are assigned to the nearest of ``clusters`` randomly drawn poses; a frame weighs its
    cluster's size to the ``-power``. ``rotations`` [F, 24, 3, 3].
    """
    rng = np.random.default_rng(0)
    flat = matrix_to_rot6d(rotations[:, 1:22]).reshape(len(rotations), -1).astype(np.float32)
    centres = flat[rng.choice(len(flat), min(clusters, len(flat)), replace=False)]
    for _ in range(4):
        distance = np.square(centres).sum(1) - 2 * flat @ centres.T
        owner = distance.argmin(1)
        size = np.bincount(owner, minlength=len(centres))
        sums = np.zeros_like(centres)
        np.add.at(sums, owner, flat)
        centres = np.where(size[:, None] > 0, sums / np.maximum(size, 1)[:, None], centres)
    weights = size[owner].astype(np.float64) ** -power
    return weights / weights.sum()


def mirror_rotations(rotations: np.ndarray) -> np.ndarray:
    """Rotations [..., 24, 3, 3] of the pose seen in a mirror across x = 0."""
    flip = np.array([1.0, -1.0, -1.0], rotations.dtype)
    return rotations[..., list(MIRROR), :, :] * flip[:, None] * flip


def twist_vector(rotations: Tensor) -> Tensor:
    """sin(angle) x axis of rotations [..., 3, 3], [..., 3]: smooth where a logarithm is not."""
    upper = torch.stack([rotations[..., 2, 1], rotations[..., 0, 2], rotations[..., 1, 0]], -1)
    lower = torch.stack([rotations[..., 1, 2], rotations[..., 2, 0], rotations[..., 0, 1]], -1)
    return (upper - lower) / 2


@dataclass
class PosePrior:
    """A Gaussian mixture over the leading components of local rot6d, and joint ranges.

    D = 23 joints x 6. ``mean`` [D] and ``basis`` [D, K] (divided by each component's deviation)
    whiten a pose; what the basis leaves over has deviation ``rest`` a dimension. Mixture:
    ``log_weights`` [M] (with the normalisers), ``means`` [M, K], ``whiteners`` [M, K, K] (inverse
    Cholesky factors). ``low``, ``high`` [23, 3] bound :func:`twist_vector`.
    """

    mean: Tensor
    basis: Tensor
    scale: Tensor
    rest: float
    log_weights: Tensor
    means: Tensor
    whiteners: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def learn(
        cls, rotations: np.ndarray, modes: int = 16, components: int = 48, sample: int = 24000
    ) -> PosePrior:
        """Fits the prior to poses [F, 24, 3, 3]; rare poses count as much as common ones."""
        rng = np.random.default_rng(0)
        rows = rng.choice(len(rotations), sample, p=spread_weights(rotations))
        poses = np.concatenate([rotations[rows], mirror_rotations(rotations[rows])])
        local = torch.from_numpy(poses[:, list(BODY_JOINTS)])
        flat = matrix_to_rot6d_torch(local).flatten(1)
        mean = flat.mean(0)
        _, singular, directions = torch.linalg.svd(flat - mean, full_matrices=False)
        deviation = singular / len(flat) ** 0.5
        basis, scale = directions[:components].T, deviation[:components]
        rest = float(deviation[components:].square().mean().sqrt())
        inner = (flat - mean) @ (basis / scale)
        log_weights, means, whiteners = _mixture(inner, modes)
        twist = twist_vector(local).flatten(1)
        low = torch.quantile(twist[::4], 0.003, dim=0).reshape(-1, 3)
        high = torch.quantile(twist[::4], 0.997, dim=0).reshape(-1, 3)
        return cls(mean, basis, scale, rest, log_weights, means, whiteners, low, high)

    def energy(self, local: Tensor) -> Tensor:
        """How unusual each pose is, about 1 for a typical one.

        ``local`` [B, 23, 3, 3] rotations of :data:`BODY_JOINTS`; returns [B].
        """
        offset = matrix_to_rot6d_torch(local).flatten(1) - self.mean
        inner = offset @ self.basis
        left = offset.square().sum(1) - inner.square().sum(1)
        whitened = inner / self.scale
        gaps = whitened[:, None] - self.means
        distance = torch.einsum("mij,bmj->bmi", self.whiteners, gaps).square().sum(-1)
        mixture = -torch.logsumexp(self.log_weights - distance / 2, dim=1)
        dimensions = len(self.mean)
        return (2 * mixture + left / self.rest**2) / dimensions

    def excess(self, local: Tensor) -> Tensor:
        """Squared overshoot of the joint ranges, summed over joints, [B]."""
        twist = twist_vector(local)
        over = torch.relu(twist - self.high) + torch.relu(self.low - twist)
        return over.square().sum((1, 2))


def _mixture(points: Tensor, modes: int, rounds: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """EM for a full-covariance mixture of points [N, K] with unit overall variance."""
    count, size = points.shape
    generator = torch.Generator().manual_seed(0)
    means = points[torch.randperm(count, generator=generator)[:modes]]
    log_weights = torch.zeros(modes)
    whiteners = torch.eye(size).expand(modes, size, size)
    for _ in range(rounds):
        gaps = points[:, None] - means
        distance = torch.einsum("mij,bmj->bmi", whiteners, gaps).square().sum(-1)
        duty = torch.softmax(log_weights - distance / 2, dim=1)
        mass = duty.sum(0).clamp_min(size)
        means = duty.T @ points / mass[:, None]
        gaps = points[:, None] - means
        spread = torch.einsum("bm,bmi,bmj->mij", duty, gaps, gaps) / mass[:, None, None]
        spread = 0.85 * spread + 0.15 * torch.eye(size) * 0.5
        factor = torch.linalg.cholesky(spread)
        whiteners = torch.linalg.inv(factor)
        log_det = torch.diagonal(factor, dim1=1, dim2=2).log().sum(1)
        log_weights = (mass / count).log() - log_det
    return log_weights, means, whiteners
