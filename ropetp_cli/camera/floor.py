"""How tall people are who stand on one floor. A camera does not tell a tall person far away from a
short one near by, but who is taken for too tall stands too deep below the camera: of people on one
floor, only one size each, relative to one another, puts all their feet there."""

import numpy as np

#: Sizes of people, as logarithms, about what Rope takes them for: share, mean and spread of those
#: who are as most are, and of children and short people. And of those whose size is known.
GUESSED = np.array([[0.9, 0.0, 0.06], [0.1, -0.15, 0.1]])
KNOWN = np.array([[1.0, 0.0, 0.005]])
#: How likely, by the same unit, it is that somebody stands on something else: one in ten.
ELSEWHERE = 0.1 * 0.8
#: How far, m, the lowest foot is off the floor in the median: soles, steps, poses.
FOOT = 0.05
#: Whose feet are less below the camera, m, it sees on no floor.
BELOW = 0.3


def sizes_on_one_floor(
    below: np.ndarray, away: np.ndarray, known: np.ndarray, tilted: float
) -> np.ndarray:
    """By which factor [P] everybody is larger than thought.

    ``below`` [P] m: how far everybody's feet are below the camera at the size they are taken for;
    ``away`` [P] m along the ground; ``known`` [P] bool: whose size is known; ``tilted`` rad: by how
    much up may be off. A floor exp(h) m below the camera makes the logarithm of a size h -
    log(below); every h counts as much as it is likely by what all sizes then are. Who more likely
    stands on something else is as tall as thought.
    """
    factors = np.ones(len(below))
    told = np.flatnonzero(below > BELOW)
    if len(told) < 2:
        return factors
    depth = np.log(below[told])
    foot = np.hypot(FOOT, tilted * away[told]) / below[told]
    floor = np.linspace(depth.min(), depth.max(), 201)
    likely, there, larger = np.zeros((3, len(told), len(floor)))
    for p, person in enumerate(told):
        share, mean, spread = (KNOWN if known[person] else GUESSED).T[..., None]
        off, variance = floor - depth[p] - mean, spread**2 + foot[p] ** 2
        each = share * np.exp(-(off**2) / variance / 2) / np.sqrt(2 * np.pi * variance)
        likely[p] = np.log(each.sum(axis=0) + ELSEWHERE)
        there[p] = each.sum(axis=0) / (each.sum(axis=0) + ELSEWHERE)
        size = mean + off * spread**2 / variance
        larger[p] = (each * size).sum(axis=0) / np.maximum(each.sum(axis=0), 1e-300)
    weight = np.exp(likely.sum(axis=0) - likely.sum(axis=0).max())
    weight = there * weight / weight.sum()
    sure = weight.sum(axis=1)
    on_it = told[sure > 0.5]
    if len(on_it) < len(told):  # what the others would be on it says nothing
        factors[on_it] = sizes_on_one_floor(below[on_it], away[on_it], known[on_it], tilted)
    else:
        factors[told] = np.exp((weight * larger).sum(axis=1) / sure)
    return factors
