"""What a camera that stays in its place adds to the regenerated path.

The paper regenerates the path from the poses alone, whose errors add up: somebody who stands still
drifts. A camera that does not travel saw where the person was all along, exactly across its line
of sight and roughly along it. That departs from the paper, so ``--path diffusion`` leaves it out.
The regenerated path keeps its movements over short times, the camera says where they lead:

- *Depth* is off by one factor for the whole video if the focal length is not known; the factor is
  sought with which people are as fast before the camera as on their regenerated paths.
- *Over the floor*, a smooth correction brings the path to where the camera saw the person. It
  follows sooner across the line of sight than along it, and little where the pose is a guess.
- *Height* stays the regenerated one above whatever the person stands on, but for a drift that the
  camera did not see and that leaves the feet in the air or in the ground (:func:`settle`). Where a
  person goes from
  one lasting level to another, or two people stand on different ones, the camera tells how far
  they are apart (:func:`find_levels`); less than MIN_LEVEL is not believed.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.ndimage import binary_opening, gaussian_filter1d
from scipy.sparse.linalg import spsolve

ACROSS, ALONG = 0.25, 1.0  # s: shorter wishes of the camera, across and along its sight, are noise
HOLD = 4.0  # s: a drift of the regenerated path that lasts longer is taken back
#: s: the same of who stands on both feet for longer than BOTH, s, and so goes nowhere.
HOLD_STANDING, BOTH = 0.4, 0.5
ODD_ACROSS, ODD_ALONG = 0.15, 0.06  # m, share of the distance: from here on a sight counts less
LAG = 2.0  # s between the two sights a speed is taken from
DEPTH_NOISE = 0.04  # of the distance
SCALES = np.linspace(0.5, 1.6, 111)
MIN_LEVEL = 0.3  # m between two levels, at least
LEVEL_SLOPE = 0.05  # of the way between two people: how far a wrong tilt moves their levels apart
CHANGE = 0.15  # m s of disagreement that a change of level must explain
RISE = 1.0  # s that a change of level may take
FLOOR_SHARE = 0.2  # of what was seen, at least, is seen on the floor
NOT_A_JUMP = 0.08  # m above the level that may be an error of the pose
LONGEST_JUMP = 0.8  # s
SURE = 0.25  # trust from which a jump, or a level that nobody was seen to reach, is believed
#: m: so far may the joints of standing feet be from what they stand on, and heights from the truth.
FOOT_HEIGHT = 0.03
SETTLING = 0.12  # s: drifts that last shorter are noise

GROUND = [0, 2]


@dataclass
class Sight:
    """One person as the camera saw them: place [M, 3] m about the camera and axis [M, 3], where
    the camera looked, both in world axes; trust [M] 0..1."""

    place: np.ndarray
    axis: np.ndarray
    trust: np.ndarray

    def scaled(self, factor: float) -> "Sight":
        """With every depth times ``factor``."""
        depth = (self.place * self.axis).sum(-1, keepdims=True)
        return Sight(self.place + (factor - 1) * depth * self.axis, self.axis, self.trust)


@dataclass
class Fused:
    """path [M, 3] m in the one world of all people, its origin on the floor under the camera;
    level [M] m: how high above the floor what the person stands on is, in a fall or a climb
    somewhere between."""

    path: np.ndarray
    level: np.ndarray


def fuse_people(
    paths: list[np.ndarray],
    feet: list[np.ndarray],
    contacts: list[np.ndarray],
    sights: list[Sight],
    fps: float,
    focal_error: float,
    turning: bool,
) -> list[Fused] | None:
    """Regenerated paths [M, 3] m (heights above what is stood on) brought to where a camera that
    stays in its place saw people; ``feet`` [M] m: each one's lowest foot above the pelvis, so less
    than 0; ``contacts`` [M, 2] 0..1: feet on the ground; ``focal_error``: by how much the logarithm
    of the focal length may be off, and so of all depths. None where a ``turning`` camera must have
    travelled: nobody goes as fast before it as the poses say."""
    if turning and not speeds_agree(paths, sights, fps):
        return None
    factor = depth_factor(paths, sights, fps, focal_error)
    sights = [sight.scaled(factor) for sight in sights]
    paths = [
        fuse(path, stands_still(touching, fps), sight, fps)
        for path, touching, sight in zip(paths, contacts, sights, strict=True)
    ]
    for path, low, sight, height in zip(
        paths, feet, sights, seen_levels(paths, sights, fps), strict=True
    ):
        path[:, 1] -= settle(path, low, _plateaus(height, sight.trust, fps), sight, fps)
    out = []
    for path, (level, jump) in zip(paths, find_levels(paths, sights, fps), strict=True):
        path[:, 1] += level + jump
        out.append(Fused(path, level))
    return out


def settle(
    path: np.ndarray, lowest: np.ndarray, level: np.ndarray, sight: Sight, fps: float
) -> np.ndarray:
    """How much too high a path [M, 3] m above ``level`` [M] m has drifted, [M] m; ``lowest`` [M] m
    is the lowest foot above the pelvis.

    Legs that are drawn up look like a body that crouches, and the other way round: the poses alone
    do not tell which of the two leaves its height. The camera does. Taken is the smaller of how far
    the feet are from what is stood on and of how far the camera saw them lower (or higher).
    """
    trust = np.maximum(sight.trust, 1e-3)
    clearance = _beyond(path[:, 1] + lowest, FOOT_HEIGHT)
    standing = clearance == 0
    if not standing.any():
        return np.zeros(len(path))
    excess = path[:, 1] + level - seen_height(path, sight)
    excess = _beyond(excess - _weighted_median(excess[standing], trust[standing]), FOOT_HEIGHT)
    agreed = np.minimum(np.abs(clearance), np.abs(excess)) * np.sign(clearance)
    agreed = np.where(clearance * excess > 0, agreed, 0.0) * trust
    width = SETTLING * fps
    return gaussian_filter1d(agreed, width, mode="nearest") / gaussian_filter1d(
        trust, width, mode="nearest"
    )


def _beyond(values: np.ndarray, margin: float) -> np.ndarray:
    """What is left of ``values`` when they come nearer to 0 by ``margin``."""
    return np.sign(values) * np.maximum(np.abs(values) - margin, 0)


def _speeds(
    path: np.ndarray, sight: Sight, fps: float, factors: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances over LAG seconds: walked [K] m on the path, seen [F, K] m with depths times each
    of ``factors`` [F], and how much each is worth [K], all of a second together 1."""
    lag = min(round(LAG * fps), len(path) - 1)
    walked = np.linalg.norm((path[lag:] - path[:-lag])[:, GROUND], axis=1)
    depth = (sight.place * sight.axis).sum(-1, keepdims=True) * sight.axis
    along = (depth[lag:] - depth[:-lag])[:, GROUND]
    across = (sight.place[lag:] - sight.place[:-lag])[:, GROUND] - along
    noise = 2 * (DEPTH_NOISE * np.linalg.norm(sight.place, axis=1)[lag:]) ** 2
    squared = ((across + factors[:, None, None] * along) ** 2).sum(-1)
    seen = np.sqrt(np.maximum(squared - factors[:, None] ** 2 * noise, 0))
    return walked, seen, np.minimum(sight.trust[lag:], sight.trust[:-lag]) / fps


def speeds_agree(paths: list[np.ndarray], sights: list[Sight], fps: float) -> bool:
    """Whether people go about as far before the camera as on their regenerated paths."""
    off, total = 0.0, 0.0
    for path, sight in zip(paths, sights, strict=True):
        if len(path) > 1:
            walked, seen, weight = _speeds(path, sight, fps, np.ones(1))
            off += (weight * (np.abs(seen[0] - walked) > 0.5 + 0.5 * walked)).sum()
            total += weight.sum()
    return off < 0.3 * total


def depth_factor(paths: list[np.ndarray], sights: list[Sight], fps: float, spread: float) -> float:
    """The factor on all depths with which speeds agree best; ``spread`` of its prior about 1."""
    cost = (np.log(SCALES) / spread) ** 2
    for path, sight in zip(paths, sights, strict=True):
        if len(path) > LAG * fps:
            walked, seen, weight = _speeds(path, sight, fps, SCALES)
            miss = (seen - walked) / (0.1 + 0.2 * walked)
            cost = cost + (weight / LAG * np.log1p(miss**2)).sum(-1)
    return float(SCALES[np.argmin(cost)])


def stands_still(contacts: np.ndarray, fps: float) -> np.ndarray:
    """Frames [M] bool in which both feet are on the ground, ``contacts`` [M, 2] 0..1, for longer
    than a step takes."""
    return binary_opening(contacts.min(axis=1) > 0.5, np.ones(max(1, round(BOTH * fps)), bool))


def fuse(path: np.ndarray, still: np.ndarray, sight: Sight, fps: float) -> np.ndarray:
    """The path [M, 3] m over the floor as the camera saw it, about the camera; heights unchanged.

    With e the correction and g what the camera asks of it, minimises the sum over time of
    trust ((e - g)_across^2 / ACROSS^4 + (e - g)_along^2 / ALONG^4) + e''^2 + e'^2 / HOLD^2, sights
    far off counting less (Geman and McClure's weights); while somebody stands ``still`` [M] bool,
    HOLD_STANDING in the place of HOLD.
    """
    count = len(path)
    asked = (sight.place - path)[:, GROUND]
    distance = np.linalg.norm(sight.place[:, GROUND], axis=1)
    sightline = sight.place[:, GROUND] / np.maximum(distance, 1e-6)[:, None]
    held = np.where(still, HOLD_STANDING, HOLD)[1:] ** -2.0
    stiff = _differences(count, 2, fps) + _differences(count, 1, fps, held)
    stiff = sparse.kron(stiff, sparse.eye(2))
    trust = np.maximum(sight.trust, 1e-3)
    across, along = trust / ACROSS**4, trust / ALONG**4
    fit = np.zeros_like(asked)
    for step in range(12):
        if step:
            left = asked - fit
            depth = (left * sightline).sum(-1)
            side = np.linalg.norm(left - depth[:, None] * sightline, axis=1)
            side, depth = side / ODD_ACROSS, depth / (ODD_ALONG * np.maximum(distance, 1))
            across = trust / ACROSS**4 / np.sqrt(1 + side**2)
            along = trust / ALONG**4 / np.sqrt(1 + depth**2)
        blocks = across[:, None, None] * np.eye(2) + (along - across)[:, None, None] * (
            sightline[:, :, None] * sightline[:, None, :]
        )
        rows = np.arange(count)
        pull = sparse.bsr_matrix((blocks, rows, np.arange(count + 1)))
        right = np.einsum("nij,nj->ni", blocks, asked).ravel()
        fit = spsolve((pull + stiff).tocsc(), right).reshape(count, 2)
    fused = path.copy()
    fused[:, GROUND] += fit
    return fused


def _differences(
    count: int, order: int, fps: float, weight: np.ndarray | float = 1.0
) -> sparse.spmatrix:
    """The squared ``order``-th time derivative of [N], times ``weight`` [N - order], as a
    matrix."""
    if count <= order:
        return sparse.csr_matrix((count, count))
    stencil = np.diff(np.eye(order + 1), n=order, axis=0)[0] * fps**order
    rows = sparse.diags(stencil, range(order + 1), shape=(count - order, count))
    return rows.T @ sparse.diags(np.broadcast_to(weight, count - order)) @ rows


def seen_height(path: np.ndarray, sight: Sight) -> np.ndarray:
    """The pelvis's height [M] m about the camera where the path [M, 3] m (over the floor as
    :func:`fuse` gives it) crosses the line of sight. Bearings are exact, so it is too, unless the
    camera looks steeply down."""
    flat = sight.place[:, GROUND]
    reach = (path[:, GROUND] * flat).sum(-1) / np.maximum((flat**2).sum(-1), 1e-6)
    return sight.place[:, 1] * np.clip(reach, 0.5, 2.0)


def seen_levels(paths: list[np.ndarray], sights: list[Sight], fps: float) -> list[np.ndarray]:
    """How high above the heights of the paths the camera saw people, [M] m each."""
    return [
        gaussian_filter1d(seen_height(path, sight) - path[:, 1], 0.05 * fps, mode="nearest")
        for path, sight in zip(paths, sights, strict=True)
    ]


def find_levels(
    paths: list[np.ndarray], sights: list[Sight], fps: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """What each person stands on, [M] m above the floor, and how far jumps, which the poses do not
    show, take them above it, [M] m. ``paths`` as :func:`fuse` gives them."""
    seen = seen_levels(paths, sights, fps)
    levels = [
        _plateaus(height, sight.trust, fps) for height, sight in zip(seen, sights, strict=True)
    ]
    trust = np.concatenate([sight.trust for sight in sights])
    every = np.concatenate(levels)
    lasting = [
        level for level in np.unique(every)
        if trust[np.abs(every - level) < MIN_LEVEL].sum() >= FLOOR_SHARE * trust.sum()
    ]  # fmt: skip
    floor = min(lasting, default=np.sort(every)[len(every) // 2])
    near = np.abs(every - floor) < MIN_LEVEL
    floor = _weighted_median(every[near], trust[near])  # the lowest may be the least trusted
    on_floor = np.concatenate(paths)[near][:, GROUND].mean(axis=0)
    out = []
    for path, height, level, sight in zip(paths, seen, levels, sights, strict=True):
        lowest = level.min()
        way = np.linalg.norm(path[level == lowest][:, GROUND].mean(axis=0) - on_floor)
        raised = lowest - floor > MIN_LEVEL + LEVEL_SLOPE * way
        base = floor if raised and np.median(sight.trust) > SURE else lowest
        between = _follow(height, level, fps)
        jump = np.where(between == level, _jumps(height - level, sight.trust, fps), 0.0)
        smooth = gaussian_filter1d(between, 0.05 * fps, mode="nearest")
        out.append((smooth - base, jump))
    return out


def _jumps(excess: np.ndarray, trust: np.ndarray, fps: float) -> np.ndarray:
    """The part of ``excess`` [M] m that is a jump: a short rise well above the level."""
    jump = np.zeros(len(excess))
    edges = np.flatnonzero(np.diff(np.pad((excess > NOT_A_JUMP).astype(np.int8), 1)))
    for start, end in edges.reshape(-1, 2):
        if end - start <= LONGEST_JUMP * fps and trust[start:end].min() > SURE:
            jump[start:end] = excess[start:end] - NOT_A_JUMP
    return jump


def _plateaus(height: np.ndarray, trust: np.ndarray, fps: float) -> np.ndarray:
    """The piecewise constant levels [M] nearest to ``height`` [M] (weighted absolute differences
    and a price on every change, by dynamic programming over 5 cm steps), without changes that are
    small or slow."""
    grid = np.arange(height.min(), height.max() + 0.05, 0.05)
    price = CHANGE * fps
    cost = np.zeros(len(grid))
    best = np.zeros(len(height), dtype=int)  # where a change in this frame comes from
    changed = np.zeros((len(height), len(grid)), dtype=bool)
    for frame, (now, sure) in enumerate(zip(height, trust, strict=True)):
        best[frame] = np.argmin(cost)
        changed[frame] = cost > cost[best[frame]] + price
        cost = np.minimum(cost, cost[best[frame]] + price)
        cost = cost + sure * np.minimum(np.abs(now - grid), 1.0)
    level = np.empty(len(height), dtype=int)
    level[-1] = np.argmin(cost)
    for frame in range(len(height) - 1, 0, -1):
        stays = level[frame]
        level[frame - 1] = best[frame] if changed[frame, stays] else stays
    edges = np.flatnonzero(np.diff(level)) + 1
    half = max(1, round(RISE * fps / 2))
    bounds = [0]
    for edge, end in zip(edges, np.append(edges, len(level))[1:], strict=True):
        step = grid[level[edge]] - np.median(height[bounds[-1] : edge])
        rise = height[min(edge + half, end - 1)] - height[max(edge - half, bounds[-1])]
        if abs(step) > MIN_LEVEL and rise / step > 0.6:
            bounds.append(edge)
    out = np.empty(len(height))
    for start, end in zip(bounds, [*bounds[1:], len(height)], strict=True):
        out[start:end] = _weighted_median(height[start:end], trust[start:end])
    return out


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order] + 1e-9)
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


def _follow(height: np.ndarray, level: np.ndarray, fps: float) -> np.ndarray:
    """``level`` [M], but the seen ``height`` [M] from where it leaves one level to where it reaches
    the next."""
    out = level.copy()
    for edge in np.flatnonzero(np.diff(level)) + 1:
        reach = round(2 * RISE * fps)
        old, new = level[edge - 1], level[edge]
        start, end = max(edge - reach, 0), min(edge + reach, len(level))
        part = (height[start:end] - old) / (new - old)  # 0 on the old level, 1 on the new
        left = np.flatnonzero(part[: edge - start] < 0.1)
        there = np.flatnonzero(part[edge - start :] > 0.9)
        first = start + left[-1] + 1 if len(left) else start
        last = edge + there[0] if len(there) else end
        out[first:last] = old + (new - old) * np.clip(part[first - start : last - start], 0, 1)
    return out
