"""Whose feet are on one floor. A camera does not tell a tall person far away from a short one near
by, but whoever is taken for too tall stands too deep below the camera: of people who stand on one
floor, only one size each, relative to one another, puts all their feet there."""

import numpy as np

#: By how much, as a logarithm, a body's size is off that was guessed, and one that is known.
GUESSED, KNOWN = 0.08, 0.005
#: How far, m, the lowest foot in the median is off the floor: soles, steps, poses.
FOOT = 0.05
#: Whoever is at least so far below the camera, m, can be told by it.
BELOW = 0.3
#: What it costs to stand elsewhere, as a logarithm of how rare that is.
ELSEWHERE = 4.0


def sizes_on_one_floor(
    below: np.ndarray, away: np.ndarray, known: np.ndarray, tilted: float
) -> np.ndarray:
    """By which factor [P] everybody is larger than thought.

    ``below`` [P] m: how far everybody's feet are below the camera at the size they are taken for;
    ``away`` [P] m along the ground; ``known`` [P] bool: whose size is known; ``tilted`` rad: by how
    much up may be off. The camera is exp(h) m above the floor for the h of least

        sum_p min((h - log below_p)^2 / (2 (size_p^2 + foot_p^2)), ELSEWHERE),

    size_p being how well a size and foot_p how well a foot's place is known, as a logarithm.
    """
    sizes = np.ones(len(below))
    told = np.flatnonzero(below > BELOW)
    if len(told) < 2:
        return sizes
    depth = np.log(below[told])
    foot = np.hypot(FOOT, tilted * away[told]) / below[told]
    size = np.where(known[told], KNOWN, GUESSED)
    heights = np.linspace(depth.min(), depth.max(), 501)[:, None]
    cost = (heights - depth) ** 2 / (2 * (size**2 + foot**2))
    best = np.minimum(cost, ELSEWHERE).sum(axis=1).argmin()
    there = cost[best] < ELSEWHERE
    share = size**2 / (size**2 + foot**2)
    sizes[told[there]] = np.exp(share * (heights[best] - depth))[there]
    return sizes
