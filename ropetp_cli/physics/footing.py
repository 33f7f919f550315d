"""Where the feet stand, and the reference whose feet stand still there.

The estimated path floats, sinks and skates. Before the humanoid imitates it, the reference is
planted: the path is lifted or lowered until standing soles meet the floor, it is shifted until
they move less, and the legs take up the rest by inverse kinematics. All corrections are smooth
in time and are held near zero, so the motion stays the one that was seen.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solveh_banded
from scipy.ndimage import binary_closing, binary_opening

from ropetp_cli.body.rotations import axis_angle_to_matrix, forward_kinematics, local_to_global
from ropetp_cli.body.skeleton import ANKLES, JOINT_INDEX
from ropetp_cli.physics.humanoid import SOLE_JOINTS

#: m: a standing foot further from the floor than this stands on something the video did not tell
#: us of (a stair, a stool), and is left where it is.
FLOOR_REACH = 0.12
LEVEL = 0.015  # m: sole points this near the lowest one share the load
MAX_SHIFT = 0.12  # m a foot may be moved by inverse kinematics, in each direction
PATH_LEASH, FOOT_LEASH = 0.2, 0.5  # s: how long path and foot may stay away from where they were
PATH_SMOOTHING, FOOT_SMOOTHING = 0.07, 0.05  # s


@dataclass
class Footing:
    """standing [N, 2] bool: the foot stands, on the floor or elsewhere; grounded [N, 2] bool: it
    stands on the floor."""

    standing: np.ndarray
    grounded: np.ndarray

    @property
    def staying(self) -> np.ndarray:
        """[N - 1, 2] bool: the foot stands in this frame and in the next."""
        return self.standing[1:] & self.standing[:-1]

    def part(self, span: slice) -> "Footing":
        """The frames of ``span`` alone."""
        return Footing(self.standing[span], self.grounded[span])


def body_points(
    rotations: np.ndarray, path: np.ndarray, rest_joints: np.ndarray, sole: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Joints [N, 24, 3] and sole points [N, 2, 6, 3], m, in the world.

    ``rotations`` [N, 24, 3, 3] parent-relative, ``path`` [N, 3] the pelvis, ``sole`` [2, 6, 3]
    relative to its joints.
    """
    joints = forward_kinematics(rotations, rest_joints, path - rest_joints[0])
    turned = local_to_global(rotations)
    soles = joints[:, SOLE_JOINTS] + np.einsum("nspij,spj->nspi", turned[:, SOLE_JOINTS], sole)
    return joints, soles


def find_footing(contacts: np.ndarray, soles: np.ndarray, fps: float) -> Footing:
    """Standing feet from contact probabilities [N, 2] and sole points [N, 2, 6, 3].

    Gaps and touches shorter than 70 ms are noise. Whether a stance is on the floor is decided by
    its median height, so that one stance is never cut in two.
    """
    width = max(1, round(0.07 * fps))
    element = np.ones(width, dtype=bool)
    standing = np.zeros(contacts.shape, dtype=bool)
    grounded = np.zeros_like(standing)
    height = soles[..., 1].min(axis=-1)
    for side in range(2):
        padded = np.pad(contacts[:, side] > 0.5, width, mode="edge")
        closed = binary_opening(binary_closing(padded, element), element)
        standing[:, side] = closed[width:-width]
        for start, end in runs(standing[:, side]):
            level = np.median(height[start:end, side])
            grounded[start:end, side] = abs(level) < FLOOR_REACH
    return Footing(standing, grounded)


def runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Start and end (one past the last) of every run of True."""
    edges = np.flatnonzero(np.diff(np.pad(flags.astype(np.int8), 1)))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def slip_velocity(soles: np.ndarray, fps: float) -> np.ndarray:
    """Horizontal velocity [N-1, 2, 2] m/s (x, z) of each foot's load-bearing sole points between
    frames: the mean of the points within 15 mm of its lowest one. A foot that rolls from heel to
    toe without skidding has none."""
    height = np.maximum(soles[:-1, ..., 1], soles[1:, ..., 1])
    bearing = height < height.min(axis=-1, keepdims=True) + LEVEL
    step = np.diff(soles[..., [0, 2]], axis=0) * fps
    return (step * bearing[..., None]).sum(axis=-2) / bearing.sum(axis=-1)[..., None]


def plant(
    rotations: np.ndarray,
    path: np.ndarray,
    rest_joints: np.ndarray,
    sole: np.ndarray,
    footing: Footing,
    fps: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The same motion with its standing feet still, on the floor: rotations, path.

    The path moves by the smoothest shift that stands the lowest foot on the floor (vertical) and
    takes away the slip of the feet (horizontal, on a leash); two-bone inverse kinematics then
    moves each foot by what is left, and lifts feet that would sink.
    """
    path = path.copy()
    _, soles = body_points(rotations, path, rest_joints, sole)
    support = np.where(footing.grounded, soles[..., 1].min(axis=-1), np.inf).min(axis=1)
    known = np.isfinite(support)
    path[:, 1] -= _smooth(np.where(known, support, 0.0), known * 1.0, fps, 2 * PATH_SMOOTHING, 1e-6)

    _, soles = body_points(rotations, path, rest_joints, sole)
    slip, staying = slip_velocity(soles, fps), footing.staying
    count = staying.sum(axis=1)
    mean_slip = (slip * staying[..., None]).sum(axis=1) / np.maximum(count, 1)[:, None]
    path[:, [0, 2]] += _hold(mean_slip, np.minimum(count, 1), fps, PATH_LEASH, PATH_SMOOTHING)
    return still(rotations, path, rest_joints, sole, footing, fps), path


def still(
    rotations: np.ndarray,
    path: np.ndarray,
    rest_joints: np.ndarray,
    sole: np.ndarray,
    footing: Footing,
    fps: float,
) -> np.ndarray:
    """Legs bent so that standing feet slip less and none sinks: rotations. The path stays."""
    _, soles = body_points(rotations, path, rest_joints, sole)
    slip, staying = slip_velocity(soles, fps), footing.staying
    shift = np.zeros((len(path), 2, 3))
    for side in range(2):
        shift[:, side, [0, 2]] = _hold(
            slip[:, side], staying[:, side], fps, FOOT_LEASH, FOOT_SMOOTHING
        )
        low = soles[:, side, :, 1].min(axis=-1)
        held = footing.grounded[:, side] | (low < 0)
        shift[:, side, 1] = _smooth(np.where(held, -low, 0.0), held * 1.0, fps, 0.03, 0.05)
    return move_feet(rotations, path, rest_joints, np.clip(shift, -MAX_SHIFT, MAX_SHIFT))


def _second_differences(count: int, weight: float) -> np.ndarray:
    """Upper bands [3, N] of weight * D2' D2, as solveh_banded wants them."""
    bands = np.zeros((3, count))
    for row, stencil in ((2, (1, 4, 1)), (1, (-2, -2)), (0, (1,))):
        for offset, value in enumerate(stencil):
            shift = offset + (2 - row)
            bands[row, shift : shift + count - 2] += value * weight
    return bands


def _smooth(
    target: np.ndarray, weight: np.ndarray, fps: float, seconds: float, pull: float
) -> np.ndarray:
    """The curve [N] near ``target`` where ``weight`` says so, with bends shorter than ``seconds``
    smoothed away: straight across gaps, level beyond the ends. ``pull`` draws it to zero where
    nothing is known."""
    bands = _second_differences(len(target), (seconds * fps) ** 4)
    slope = (seconds * fps) ** 2
    bands[2] += weight + pull + 2 * slope
    bands[2, [0, -1]] -= slope
    bands[1, 1:] -= slope
    return solveh_banded(bands, weight * target)


def _hold(
    slip: np.ndarray, weight: np.ndarray, fps: float, leash: float, smoothing: float
) -> np.ndarray:
    """The shift d [N, 2] m that takes ``slip`` [N-1, 2] m/s away where ``weight`` [N-1] says so.

    Minimises  sum w (d' + slip)^2 + (d / leash)^2 + (smoothing d'')^2.
    """
    count, rate = len(slip) + 1, weight * fps**2
    bands = _second_differences(count, smoothing**2 * fps**4)
    bands[2] += leash**-2
    bands[2, :-1] += rate
    bands[2, 1:] += rate
    bands[1, 1:] -= rate
    force = np.zeros((count, 2))
    flow = weight[:, None] * slip * fps
    force[:-1] += flow
    force[1:] -= flow
    return solveh_banded(bands, force)


def move_feet(
    rotations: np.ndarray, path: np.ndarray, rest_joints: np.ndarray, shift: np.ndarray
) -> np.ndarray:
    """Legs bent so that the ankles move by ``shift`` [N, 2, 3] m; the feet keep their direction.

    Two-bone inverse kinematics: the knee opens or closes in its own plane, the hip turns the leg
    to the target. Legs near their full length reach as far as they can and no further.
    """
    out = np.array(rotations, dtype=np.float64)
    joints = forward_kinematics(rotations, rest_joints, path - rest_joints[0])
    turned = local_to_global(rotations)
    for side, ankle in enumerate(ANKLES):
        hip, knee = ankle - 6, ankle - 3
        thigh = np.linalg.norm(rest_joints[knee] - rest_joints[hip])
        shin = np.linalg.norm(rest_joints[ankle] - rest_joints[knee])
        old = joints[:, ankle] - joints[:, hip]
        new = old + shift[:, side]
        length = np.linalg.norm(old, axis=-1)
        reach = _reach(length, np.linalg.norm(new, axis=-1), thigh + shin)
        reach = np.maximum(reach, abs(thigh - shin) + 0.05)
        opening = _knee_angle(thigh, shin, reach) - _knee_angle(thigh, shin, length)
        # The hinge: normal of the leg's plane, or the thigh's own x where the leg is straight.
        bend = np.cross(joints[:, knee] - joints[:, hip], joints[:, ankle] - joints[:, knee])
        lateral = turned[:, hip, :, 0]
        size = np.linalg.norm(bend, axis=-1, keepdims=True)
        forward = (bend * lateral).sum(-1, keepdims=True) > 0
        share = np.where(forward, np.clip(size / (0.2 * thigh * shin), 0, 1), 0)
        hinge = share * bend / np.maximum(size, 1e-9) + (1 - share) * lateral
        hinge /= np.linalg.norm(hinge, axis=-1, keepdims=True)
        swing = axis_angle_to_matrix(-hinge * opening[:, None])
        after = joints[:, knee] - joints[:, hip]
        after = after + np.einsum("nij,nj->ni", swing, joints[:, ankle] - joints[:, knee])
        aim = _between(after, new)
        hip_turned = aim @ turned[:, hip]
        knee_turned = aim @ swing @ turned[:, knee]
        out[:, hip] = np.swapaxes(turned[:, JOINT_INDEX["pelvis"]], -1, -2) @ hip_turned
        out[:, knee] = np.swapaxes(hip_turned, -1, -2) @ knee_turned
        out[:, ankle] = np.swapaxes(knee_turned, -1, -2) @ turned[:, ankle]
    return out


def _reach(old: np.ndarray, new: np.ndarray, full: float) -> np.ndarray:
    """The hip-ankle distance ``new`` as far as a leg of length ``full`` can follow from ``old``.
    Stretching slows down over the last 3 % so that no knee snaps; folding follows at once."""
    easy = np.maximum(old, 0.97 * full)
    room = np.maximum(0.9999 * full - easy, 1e-9)
    return np.minimum(new, easy) + room * -np.expm1(-np.maximum(new - easy, 0) / room)


def _knee_angle(thigh: float, shin: float, distance: np.ndarray) -> np.ndarray:
    """The angle inside the knee, radians; pi is straight."""
    cosine = (thigh**2 + shin**2 - distance**2) / (2 * thigh * shin)
    return np.arccos(np.clip(cosine, -1, 1))


def _between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest rotations [N, 3, 3] that turn directions ``a`` [N, 3] into ``b``."""
    a = a / np.linalg.norm(a, axis=-1, keepdims=True)
    b = b / np.linalg.norm(b, axis=-1, keepdims=True)
    axis = np.cross(a, b)
    sine = np.linalg.norm(axis, axis=-1)
    angle = np.arctan2(sine, (a * b).sum(-1))
    return axis_angle_to_matrix(axis * (angle / np.maximum(sine, 1e-12))[:, None])
