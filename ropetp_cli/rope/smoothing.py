"""One person's frames made one motion: a constant shape and rotations without frame noise."""

import numpy as np
from scipy.ndimage import gaussian_filter1d

from ropetp_cli.body.rotations import matrix_to_rot6d, rot6d_to_matrix

#: Standard deviation of the time window, s: about one frame of a 25 fps video. Arm swing (1-2
#: Hz) keeps over 95 % of its amplitude: exp(-(2 pi f sigma)^2 / 2).
SIGMA = 0.04


def steady_betas(betas: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """One shape for a person: the weighted mean of the frames, [N, 10], [N] -> [10]."""
    weights = np.maximum(weights, 1e-3)
    return (betas * weights[:, None]).sum(0) / weights.sum()


def smooth_rotations(
    rotations: np.ndarray, confidence: np.ndarray, fps: float, sigma: float = SIGMA
) -> np.ndarray:
    """Rotations [N, 24, 3, 3] averaged over a short Gaussian window, [N, 24, 3, 3].

    ``confidence`` [N, 24]: frames Rope is unsure of lean on their neighbours. Zero phase: no
    lag. ``sigma`` 0 returns the input.
    """
    if sigma <= 0 or len(rotations) < 3:
        return rotations
    width = sigma * fps
    weight = np.maximum(confidence, 0.05)[..., None]
    rot6d = matrix_to_rot6d(rotations)
    mean = gaussian_filter1d(rot6d * weight, width, axis=0, mode="nearest")
    return rot6d_to_matrix(mean / gaussian_filter1d(weight, width, axis=0, mode="nearest"))


def smooth_points(points: np.ndarray, fps: float, sigma: float = SIGMA) -> np.ndarray:
    """Positions [N, ...] over the same window, zero phase."""
    if sigma <= 0 or len(points) < 3:
        return points
    return gaussian_filter1d(points, sigma * fps, axis=0, mode="nearest")
