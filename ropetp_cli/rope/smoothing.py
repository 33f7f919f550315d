"""One person's frames made one motion: a constant shape and rotations without frame noise."""

import numpy as np
from scipy.ndimage import gaussian_filter1d

from ropetp_cli.body.rotations import matrix_to_rot6d, rot6d_to_matrix

#: Standard deviation of the time window, s: about one frame of a 25 fps video. Arm swing (1-2
#: Hz) keeps over 95 % of its amplitude: exp(-(2 pi f sigma)^2 / 2).
SIGMA = 0.04
#: The window, s, for joints whose confidence is below the second figure, in full below the first.
GUESSED_SIGMA = 0.12
GUESSED = (0.1, 0.35)


def steady_betas(betas: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """One shape for a person: the weighted mean of the frames, [N, 10], [N] -> [10]."""
    weights = np.maximum(weights, 1e-3)
    return (betas * weights[:, None]).sum(0) / weights.sum()


def smooth_rotations(
    rotations: np.ndarray, confidence: np.ndarray, fps: float, sigma: float = SIGMA
) -> np.ndarray:
    """Rotations [N, 24, 3, 3] averaged over a short Gaussian window, [N, 24, 3, 3].

    ``confidence`` [N, 24]: frames Rope is unsure of lean on their neighbours, and what is hardly
    seen at all on those of a longer time (``GUESSED_SIGMA``). Zero phase: no lag. ``sigma`` 0
    returns the input.
    """
    if sigma <= 0 or len(rotations) < 3:
        return rotations
    rot6d = matrix_to_rot6d(rotations)
    near = _weighted_mean(rot6d, np.maximum(confidence, 0.05), sigma * fps)
    around = _weighted_mean(rot6d, np.maximum(confidence, 0.01) ** 2, GUESSED_SIGMA * fps)
    low, high = GUESSED
    seen = np.clip((confidence - low) / (high - low), 0, 1)[..., None]
    return rot6d_to_matrix(seen * near + (1 - seen) * around)


def _weighted_mean(values: np.ndarray, weights: np.ndarray, width: float) -> np.ndarray:
    """Gaussian mean over time of [N, 24, 6] by [N, 24]; ``width`` in frames."""
    total = gaussian_filter1d(values * weights[..., None], width, axis=0, mode="nearest")
    return total / gaussian_filter1d(weights, width, axis=0, mode="nearest")[..., None]


def smooth_points(points: np.ndarray, fps: float, sigma: float = SIGMA) -> np.ndarray:
    """Positions [N, ...] over the same window, zero phase."""
    if sigma <= 0 or len(points) < 3:
        return points
    return gaussian_filter1d(points, sigma * fps, axis=0, mode="nearest")
