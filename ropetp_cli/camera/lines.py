"""Which way is up and how long the lens is, read off straight edges: rooms, houses and what stands
in them are built along three directions at right angles, and where each of these vanishes in the
picture tells how the camera is held and, together, its focal length (a "Manhattan world", Coughlan
and Yuille, 1999; edges by von Gioi et al., 2010).

An edge runs along one of the three directions, or anyhow. Directions R [3, 3] in the camera's axes
(rows: up and two level ones) and a focal length f have, by all edges s, the likelihood

    log p(R, f) / p_0 = sum_s w_s log(1 - sum_k q_k + sum_k q_k N(a_sk; 0, sigma_s) / u_s),

a_sk being the angle in the picture between edge s and the way from its middle to where direction k
vanishes, q_k the share of edges that run along it, w_s how long the edge is, u_s how likely an edge
of this picture runs about as this one does, for whatever reason.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy.optimize import minimize

from ropetp_cli.body.rotations import axis_angle_to_matrix
from ropetp_cli.camera.gravity import DOWN

#: The longest side, px, of the picture that is worked on. Edges shorter than so much of it, and
#: those nearer than BORDER px to its border, are left out.
LONGEST_SIDE, SHORTEST_EDGE, BORDER = 1280, 0.02, 3.0
#: An edge over so much of a side and, rad, so exactly along it is a black bar's, not the scene's.
BAR, BAR_ANGLE = 0.6, 0.002
#: Shares of edges that run upwards and along either level direction, and how far they are off it,
#: rad, beside a pixel at one end.
SHARES, EDGE_ERROR = np.array([0.35, 0.2, 0.2]), np.radians(1.0)
#: More edges than so many are of the same things and say no more.
MOST_WORTH = 40.0
#: Edges that run anyhow do so as those of the picture on the whole, smeared by so much, rad: the
#: edges of gravel or grass, seen from the side, lie nearly level.
SMEAR = np.radians(4.0)
#: Focal lengths of cameras, in image diagonals, and the spread of their logarithm; of a given one.
FOCAL, FOCAL_SPREAD, GIVEN_SPREAD = 0.8, 0.35, 0.01
#: How far cameras are off level in roll and in pitch, rad; some are by far more. Less is made of
#: it than where people's balance is weighed against it.
USUAL_ROLL, USUAL_PITCH = np.radians(4.0), np.radians(12.0)
#: The search begins on a grid of STEP rad, with the LONGEST edges alone and more play, rad.
STEP, ROLLS, PITCHES = np.radians(4.0), np.radians([-45, 45]), np.radians([-36, 68])
LONGER, LONGEST, PLAY = (-1.0, 0.0, 1.0), 120, np.radians(3.0)
#: The best STARTS of its places that differ by APART rad, or by another lens, are refined. What
#: comes out APART is another reading, and another lens with the logarithm so far off.
STARTS, APART, OTHER_LENS = 6, np.radians(6.0), 0.2
#: What is believed: so many edges, that say so much each, and so much more than for another
#: reading or lens; and of a focal length's logarithm so small an error. (Of views of panoramas with
#: 20 to 59 edges one in eight was read wrong by more than 10 degrees.)
EDGES, EVIDENCE, ODDS, FOCAL_ERROR = 60, 0.2, 3.0, 0.1
#: What edges are off by beside what they say themselves: lenses bend them, rad.
UP_ERROR = np.radians(1.0)


@dataclass(frozen=True)
class Perspective:
    """What the straight edges of a picture say of its camera.

    ``up`` [3], unit, in the camera's axes, and ``error`` [2] rad, how far it may be off in roll and
    in pitch; ``focal`` px, or None where they do not tell; ``frame``, the picture's number in its
    video.
    """

    up: np.ndarray
    error: np.ndarray
    focal: float | None
    frame: int = 0


def straight_edges(picture: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The straight edges [S, 4] px (x, y of one end, x, y of the other) of a ``picture``, uint8 [H,
    W, 3] BGR, but for those inside people's ``boxes`` [P, 4] xyxy px."""
    scale = min(1.0, LONGEST_SIDE / max(picture.shape[:2]))
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    if scale < 1:
        small = [max(1, round(side * scale)) for side in grey.shape[::-1]]
        grey = cv2.resize(grey, small, interpolation=cv2.INTER_AREA)
    found = cv2.createLineSegmentDetector(cv2.LSD_REFINE_STD).detect(grey)[0]
    if found is None:
        return np.zeros((0, 4))
    edges, sides = np.reshape(found, (-1, 4)).astype(np.float64), np.array(grey.shape[1::-1])
    along = np.abs(edges[:, 2:] - edges[:, :2])
    middle = (edges[:, :2] + edges[:, 2:]) / 2
    length = np.linalg.norm(along, axis=1)
    bar = (along[:, ::-1] < BAR_ANGLE * length[:, None]) & (along > BAR * sides)
    kept = (length > SHORTEST_EDGE * max(sides)) & ~bar.any(axis=1)
    kept &= (np.minimum(middle, sides - 1 - middle) > BORDER).all(axis=1)
    middle = (middle + 0.5) / scale - 0.5
    for box in boxes:
        kept &= ~((middle > box[:2]) & (middle < box[2:])).all(axis=1)
    return (edges[kept] + 0.5) / scale - 0.5


def read_perspective(
    edges: np.ndarray, size: tuple[int, int], focal: float | None = None
) -> Perspective | None:
    """What ``edges`` [S, 4] px of a picture of ``size`` (width, height) px say of its camera, whose
    ``focal`` length, px, may be known. None where they say nothing: too few, or hardly any three
    directions in them, or several that explain them as well."""
    if len(edges) < EDGES:
        return None
    diagonal = float(np.hypot(*size))
    typical, spread = np.log(FOCAL), FOCAL_SPREAD
    if focal is not None:
        typical, spread = np.log(focal / diagonal), GIVEN_SPREAD
    seen = _Edges.of(edges, size)

    def lens(longer: float) -> float:
        return float(np.exp(typical + np.clip(longer, -5, 5) * spread))

    def told(directions: np.ndarray, longer: float) -> float:
        return float(seen.likelihood(*seen.along(directions, lens(longer), EDGE_ERROR)))

    def cost(change: np.ndarray, start: np.ndarray) -> float:
        """Of ``change`` [4]: a turn, rad, and by how many spreads the lens is longer."""
        directions = start @ axis_angle_to_matrix(change[:3]).T
        return change[3] ** 2 / 2 - told(directions, change[3]) - float(_held(directions[0]))

    found = []
    lenses = [(longer, lens(longer)) for longer in (LONGER if focal is None else (0.0,))]
    for start, longer in _starts(seen.longest(LONGEST), lenses):
        best = minimize(cost, np.array([0.0, 0.0, 0.0, longer]), args=(start,))
        directions = start @ axis_angle_to_matrix(best.x[:3]).T
        ways = _roll_and_pitch(directions[0])
        if all(low < way < high for way, (low, high) in zip(ways, (ROLLS, PITCHES), strict=True)):
            found.append((best.fun, directions, best.x[3]))  # else what is level was taken for up
    if not found:
        return None
    least, directions, longer = min(found, key=lambda each: each[0])
    up = directions[0]
    rivals = [(turned[0], theirs) for other, turned, theirs in found if other - least < ODDS]
    apart = max(float(np.arccos(np.clip(theirs @ up, -1, 1))) for theirs, _ in rivals)
    if told(directions, longer) < EVIDENCE * seen.worth.sum() or apart > APART:
        return None
    doubt = _inverse_curvature(
        lambda change: cost(change + np.array([0.0, 0.0, 0.0, longer]), directions)
    )
    pitching = np.cross(up, [0.0, 0.0, 1.0])
    pitching /= np.linalg.norm(pitching)
    rolling = np.cross(up, pitching)
    own = np.array([axis @ doubt[:3, :3] @ axis for axis in (rolling, pitching)])
    sure = np.sqrt(doubt[3, 3]) * spread < FOCAL_ERROR and all(
        abs(theirs - longer) * spread < OTHER_LENS for _, theirs in rivals
    )
    return Perspective(
        up=up,
        error=np.sqrt(own + UP_ERROR**2 + apart**2),
        focal=lens(longer) * diagonal if sure else None,
    )


@dataclass(frozen=True)
class _Edges:
    """Edges about the picture's middle."""

    middle: np.ndarray  # [S, 2] image diagonals
    direction: np.ndarray  # [S, 2], unit
    length: np.ndarray  # [S] px of the picture that was worked on
    worth: np.ndarray  # [S]
    usual: np.ndarray  # [S] how many edges, more than if they ran everywhere, run about as this one

    @classmethod
    def of(cls, edges: np.ndarray, size: tuple[int, int]) -> "_Edges":
        along = edges[:, 2:] - edges[:, :2]
        length = np.linalg.norm(along, axis=1)
        worth = length / length.mean() * min(1.0, MOST_WORTH / len(edges))
        middle = ((edges[:, :2] + edges[:, 2:]) / 2 - np.array(size) / 2) / np.hypot(*size)
        turn = np.arctan2(along[:, 1], along[:, 0])
        apart = np.abs((turn[:, None] - turn + np.pi / 2) % np.pi - np.pi / 2) / SMEAR
        usual = np.exp(-(apart**2) / 2) @ worth / worth.sum() * np.sqrt(np.pi / 2) / SMEAR
        scale = min(1.0, LONGEST_SIDE / max(size))
        return cls(middle, along / length[:, None], length * scale, worth, usual)

    def longest(self, count: int) -> "_Edges":
        chosen = np.argsort(-self.length)[:count]
        return replace(self, **{name: values[chosen] for name, values in vars(self).items()})

    def along(self, directions: np.ndarray, focal: float, play: float) -> np.ndarray:
        """How much likelier it is that an edge looks as it does if it runs along ``directions``
        [..., 3] than if anyhow: [..., S]."""
        toward = focal * directions[..., None, :2] - self.middle * directions[..., None, 2:]
        off = toward[..., 0] * self.direction[:, 1] - toward[..., 1] * self.direction[:, 0]
        off /= np.maximum(np.linalg.norm(toward, axis=-1), 1e-9)
        sigma = np.hypot(play, 1 / self.length)
        return np.exp(-((off / sigma) ** 2) / 2) * np.sqrt(np.pi / 2) / sigma

    def likelihood(self, *along: np.ndarray) -> np.ndarray:
        """log p / p_0 of edges ``along`` up and the two level directions, each [..., S]."""
        mixed = sum(share * each for share, each in zip(SHARES, along, strict=True))
        return (self.worth * np.log(1 - SHARES.sum() + mixed / self.usual)).sum(axis=-1)


def _held(up: np.ndarray) -> np.ndarray:
    """How likely, as a logarithm, cameras are held so that ``up`` [..., 3] is up."""
    rolled, pitched = _roll_and_pitch(up)
    off = np.stack([rolled / USUAL_ROLL, (pitched - DOWN) / USUAL_PITCH])
    return -np.where(np.abs(off) < 1, off**2 / 2, np.abs(off) - 0.5).sum(axis=0)


def _roll_and_pitch(up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far, rad, a camera is rolled and looks down that sees ``up`` [..., 3]."""
    return np.arctan2(up[..., 0], -up[..., 1]), np.arcsin(np.clip(-up[..., 2], -1, 1))


def _starts(edges: _Edges, lenses: list[tuple[float, float]]) -> list[tuple[np.ndarray, float]]:
    """Where to begin: directions [3, 3] and by how many spreads the lens is longer, of ``lenses``
    (that, focal length in diagonals), the likeliest first."""
    roll, pitch = np.meshgrid(np.arange(*ROLLS, STEP), np.arange(*PITCHES, STEP), indexing="ij")
    up = np.stack(
        [np.sin(roll) * np.cos(pitch), -np.cos(roll) * np.cos(pitch), -np.sin(pitch)], axis=-1
    ).reshape(-1, 3)
    turn = np.arange(0, np.pi / 2, STEP)[:, None]
    best = []
    for longer, focal in lenses:
        for above in up:
            across = np.cross(above, [0.0, 0.0, 1.0])
            across /= np.linalg.norm(across)
            ahead = np.cross(across, above)
            one = np.cos(turn) * ahead + np.sin(turn) * across
            other = np.cos(turn) * across - np.sin(turn) * ahead
            along = (edges.along(each, focal, PLAY) for each in (above, one, other))
            score = edges.likelihood(*along) + _held(above) - longer**2 / 2
            k = score.argmax()
            best.append((score[k], np.stack([above, one[k], other[k]]), longer))
    best.sort(key=lambda each: -each[0])
    starts: list[tuple[np.ndarray, float]] = []
    for _, directions, longer in best:
        if not any(d[0] @ directions[0] > np.cos(APART) and o == longer for d, o in starts):
            starts.append((directions, longer))
        if len(starts) == STARTS:
            break
    return starts


def _inverse_curvature(cost: Callable[[np.ndarray], float], step: float = 1e-4) -> np.ndarray:
    """The inverse [4, 4] of the second derivatives of a ``cost`` about 0, as a covariance."""
    steps = np.array([step, step, step, 20 * step])
    curved = np.empty((4, 4))
    for i, one in enumerate(np.diag(steps)):
        for j, other in enumerate(np.diag(steps)):
            around = sum(a * b * cost(a * one + b * other) for a in (-1, 1) for b in (-1, 1))
            curved[i, j] = around / (4 * steps[i] * steps[j])
    values, axes = np.linalg.eigh((curved + curved.T) / 2)
    return axes / np.maximum(values, 1.0) @ axes.T
