"""Imitation: the humanoid repeats the estimated motion under gravity, contact and friction.

The paper's last step runs the regenerated path and the joints through a physics simulation and
names gravity, friction and a built-in inverse kinematics as what cures sliding and floating
(sections 3.3 and 4.4); it prints no gains and no equations, so what follows is our choice. It
needs no learned policy, which keeps it deterministic and small:

1. *Footing* (:mod:`ropetp_cli.physics.footing`): standing feet are planted by inverse kinematics.
2. *Control*, at every step of at most 1/240 s, by computed torque: the wanted acceleration is
   the reference's plus KP x error + KD x velocity error, critically damped at 6 Hz (KP = w^2,
   KD = 2 w, w = 2 pi 6). Non-negative least squares finds the floor forces within the friction
   cones of the soles that explain as much as possible of the wrench the root needs; they act on
   the soles, and the joint torques, limited by each joint's strength, do the rest.
3. *Residual force*: what the soles cannot explain would need a hand from outside. That wrench on
   the pelvis is granted up to a small bound (a quarter of the body weight). Where the reference
   keeps asking for more, a seat, a stair or a railing holds the person that the simulation does
   not know: there the bound grows to what is asked (*assistance*).
   Where help ends the root gives way and falls behind; the joints keep to the motion.
4. Where the humanoid loses the motion (somersaults, wrong poses) it starts anew a little later.
   What was simulated is judged in short stretches, and those that got better go over smoothly
   into the motion as it was.
5. MuJoCo integrates. Its own contacts keep every part of the body, not only the soles that are
   thought to stand, from sinking into the floor.
6. What standing feet still slip is taken up by the inverse kinematics of step 1; the path stays.

The result is taken only if it is better: see :func:`simulate`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import mujoco
import numpy as np
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d, maximum_filter1d, minimum_filter1d
from scipy.optimize import nnls
from scipy.signal import butter, sosfiltfilt

from ropetp_cli.body.model import BodyData
from ropetp_cli.body.rotations import (
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    matrix_to_quaternion,
    quaternion_to_matrix,
)
from ropetp_cli.body.skeleton import JOINT_INDEX
from ropetp_cli.errors import RopeTPError
from ropetp_cli.physics.footing import (
    Footing,
    body_points,
    find_footing,
    plant,
    runs,
    slip_velocity,
    still,
)
from ropetp_cli.physics.humanoid import (
    FRICTION,
    GRAVITY,
    SOLE_JOINTS,
    Humanoid,
    build_humanoid,
)

STEP_RATE = 240.0  # Hz, at least
TRACKING_RATE = 6.0  # Hz: how fast an error is corrected, critically damped
LOW_PASS = 8.0  # Hz: whole-body movement lies below; what is faster is mostly the estimate's noise
FREE_FORCE, FREE_TORQUE = 0.25, 0.10  # of the weight; of weight x stature: residual always allowed
HELD = 0.5  # s over which a residual force counts as being held
SUSTAINED = 0.2  # s that a demand beyond it must last to be assisted
TRACKED_ROOT = 0.3  # m off the reference and tracking counts as lost
#: m above the floor at which a sole still bears load: of a standing foot, of any other.
STANDING_REACH, TOUCHING_REACH = 0.02, 0.008
BROKEN_SPEED = 200.0  # rad/s or m/s: no body moves so, the simulation has diverged
TRACKED_POSE = 0.08  # m mean change of pose
#: Times the simulated feet are stilled. Each halves what slip is left and bends the pose by a
#: millimetre.
STILLED = 3
RESTART = 0.2  # s left out before and after tracking is lost
SHORTEST = 4  # frames that can be simulated
#: s that are simulated at a time, so that a long motion needs no more memory than a short one; and
#: by how much each part begins earlier and ends later than what is taken of it, after which it
#: does not matter any more where it began.
WINDOW, LEAD = 60.0, 2.0
BLOCK, BLOCK_SLACK = 2.0, 4.0  # s that are judged together, and how much less strictly than all
BLEND = 0.3  # s in which the simulated motion goes over into the estimated one
#: N m a kilogram that a joint can produce; twice what athletes do, since these are a reference's.
STRENGTH = {"hip": 8.0, "knee": 8.0, "ankle": 6.0, "foot": 2.0, "spine": 10.0, "neck": 2.0,
            "head": 1.5, "collar": 4.0, "shoulder": 4.0, "elbow": 3.0, "wrist": 1.0,
            "hand": 0.5}  # fmt: skip

Figures = dict[str, float]


@dataclass
class PhysicsResult:
    """The motion after the physics stage, or the input untouched where ``applied`` is False.

    rotations [N, 24, 3, 3] parent-relative, joint 0 in the y-up world; path [N, 3] m, the pelvis;
    contacts [N, 2] 0..1 (after: 1 where a standing foot bears load). ``message`` is one line for
    the user. ``before`` and ``after`` hold foot_sliding m/s, floating m, penetration m (see
    :func:`measure`), jitter 10 m/s^3; ``after`` also pose_change mm, root_change m, residual
    (mean force from outside over the weight), held (share of frames in which for half a second it
    carried more than a quarter of it: a seat, a stair, a railing, or steps the estimate missed) and
    share (of the frames that are simulated). Both are measured on all frames; ``after`` is empty
    where no part of the simulation was any good.
    """

    rotations: np.ndarray
    path: np.ndarray
    contacts: np.ndarray
    applied: bool
    message: str
    before: Figures
    after: Figures


def measure(joints: np.ndarray, soles: np.ndarray, footing: Footing, fps: float) -> Figures:
    """Figures of a motion against a given footing.

    foot_sliding: mean horizontal speed, m/s, of the load-bearing sole points of standing feet;
    floating: mean height, m, of the lowest sole point above the floor while a foot should stand
    on it; penetration: mean depth, m, of the lowest sole point below the floor over all frames;
    jitter: mean third difference of the joints x fps^3 / 10. A figure with nothing to measure is
    zero.
    """
    staying = footing.staying
    slip = np.linalg.norm(slip_velocity(soles, fps), axis=-1)
    lowest = soles[..., 1].min(axis=(1, 2))
    grounded = footing.grounded.any(axis=1)
    third = np.linalg.norm(np.diff(joints, n=3, axis=0), axis=-1) * fps**3 / 10
    return {
        "foot_sliding": float(slip[staying].mean()) if staying.any() else 0.0,
        "floating": float(np.maximum(lowest[grounded], 0).mean()) if grounded.any() else 0.0,
        "penetration": float(np.maximum(-lowest, 0).mean()),
        "jitter": float(third.mean()) if len(third) else 0.0,
    }


def simulate(
    rotations: np.ndarray,
    path: np.ndarray,
    rest_joints: np.ndarray,
    contacts: np.ndarray,
    fps: float,
    body: BodyData | None = None,
    betas: np.ndarray | None = None,
    progress: Callable[[int], None] | None = None,
    usable: np.ndarray | None = None,
) -> PhysicsResult:
    """Let the humanoid of this person imitate the motion.

    ``rotations`` [N, 24, 3, 3] parent-relative with joint 0 in the y-up world (floor at 0);
    ``path`` [N, 3] m, the pelvis; ``rest_joints`` [24, 3] m; ``contacts`` [N, 2] 0..1, the
    evidence for a standing left and right foot; ``body`` and ``betas`` [10] give the real soles
    and the weight. ``progress(count)`` is told of every ``count`` frames done. Only ``usable`` [N]
    bool frames are simulated, all if not given.

    The simulation starts anew where the root leaves the planted reference by 0.3 m, and goes over
    long motions in overlapping windows, to the same result within a millimetre. Of every two
    seconds it is taken only if the pose changed by less than 80 mm and no figure got worse, and at
    all only if that is true of the whole and a figure got better; else the input comes back with
    ``applied`` False and the reason. The same input gives the same output. Raises RopeTPError for
    arrays of impossible shapes and rates.
    """
    rotations, path = np.asarray(rotations, np.float64), np.asarray(path, np.float64)
    contacts = np.asarray(contacts, np.float64)
    count = len(rotations)
    usable = np.ones(count, dtype=bool) if usable is None else np.asarray(usable, dtype=bool)
    for name, value, shape in (
        ("rotations", rotations, (count, 24, 3, 3)), ("path", path, (count, 3)),
        ("contacts", contacts, (count, 2)), ("usable", usable, (count,)),
    ):  # fmt: skip
        if value.shape != shape:
            raise RopeTPError(f"physics: {name} is {list(value.shape)}, expected {list(shape)}")
    if not (np.isfinite(fps) and fps > 0):
        raise RopeTPError(f"physics: the frame rate is {fps}, expected more than 0")

    def untouched(
        message: str, before: Figures | None = None, after: Figures | None = None
    ) -> PhysicsResult:
        return PhysicsResult(
            rotations, path, contacts, False, f"physics not applied: {message}",
            before or {}, after or {},
        )  # fmt: skip

    parts = [
        part for start, end in runs(usable) if end - start >= SHORTEST
        for part in _windows(start, end, fps)
    ]  # fmt: skip
    if not parts:
        return untouched(
            f"{int(usable.sum())} frames are too few to simulate, at least {SHORTEST} are needed"
        )
    if not all(np.isfinite(value).all() for value in (rotations, path, contacts)):
        return untouched("the motion holds numbers that are not finite")
    humanoid = build_humanoid(rest_joints, body, betas)
    rest = np.asarray(rest_joints, np.float64)
    joints, soles = body_points(rotations, path, rest, humanoid.sole)
    footing = find_footing(contacts, soles, fps)
    before = measure(joints, soles, footing, fps)
    whole = _Run(
        rotations.copy(), path.copy(), contacts.copy(), np.zeros((count, 3)), np.zeros(count, bool)
    )
    while parts:
        span, own = parts.pop()
        planted, planned = plant(
            rotations[span], path[span], rest, humanoid.sole, footing.part(span), fps
        )
        reference = Reference(planted, planned, fps, humanoid)
        run = Imitation(humanoid, reference, footing.part(span), rest).run()
        for _ in range(STILLED):
            run.rotations = still(
                run.rotations, run.path, rest, humanoid.sole, footing.part(span), fps
            )
        if run.tracked.all():
            whole.put(span, own, run)
        else:  # what was lost has bent the reference around it
            tracked = [
                slice(span.start + start, span.start + end)
                for start, end in runs(run.tracked) if end - start >= SHORTEST
            ]  # fmt: skip
            kept = [slice(max(p.start, own.start), min(p.stop, own.stop)) for p in tracked]
            parts += [(p, k) for p, k in zip(tracked, kept, strict=True) if k.start < k.stop]
    if progress is not None:
        progress(count)
    if not whole.tracked.any():
        return untouched("the simulated body lost the motion", before)

    taken: list[tuple[slice, Figures, Figures]] = []
    reasons = []
    for span in _blocks(whole.tracked, fps):
        old = measure(joints[span], soles[span], footing.part(span), fps)
        new = _after(whole, span, rotations, path, rest, humanoid, footing, fps)
        if reason := _harm(old, new, BLOCK_SLACK):
            reasons.append(reason)
        else:
            taken.append((span, old, new))
    if not taken:
        return untouched(max(set(reasons), key=reasons.count), before)
    while True:
        kept = np.zeros(count, dtype=bool)
        for span, _, _ in taken:
            kept[span] = True
        mixed = _mix(whole, rotations, path, contacts, kept, fps)
        after = _after(mixed, slice(0, count), rotations, path, rest, humanoid, footing, fps)
        harm = _harm(before, after)
        if not harm or len(taken) == 1:
            break
        # Little harm of many may be too much: without the one that does most.
        worse = _worse(before, after, 1.0) or list(_TOLERANCE)
        taken.remove(max(taken, key=lambda each: _growth(*each, worse)))
    lasting = gaussian_filter1d(whole.residual, HELD / 2 * fps, axis=0, mode="nearest")
    after |= {
        "residual": float(np.linalg.norm(whole.residual[kept], axis=1).mean()),
        "held": float((np.linalg.norm(lasting[kept], axis=1) > FREE_FORCE).mean()),
        "share": float(kept.mean()),
    }
    if harm:
        return untouched(harm, before, after)
    if not _better(before, after):
        return untouched("the feet and the smoothness leave nothing to mend", before, after)
    where = "" if kept.all() else f" to {after['share']:.0%} of {count} frames"
    message = (
        f"physics applied{where}: foot sliding {before['foot_sliding']:.2f} -> "
        f"{after['foot_sliding']:.2f} m/s, floating {before['floating'] * 1000:.0f} -> "
        f"{after['floating'] * 1000:.0f} mm, below the floor {before['penetration'] * 1000:.0f} -> "
        f"{after['penetration'] * 1000:.0f} mm, jitter {before['jitter']:.1f} -> "
        f"{after['jitter']:.1f}, pose changed by {after['pose_change']:.0f} mm"
    )
    if after["held"] > 0.1:
        message += f", held by something unseen {after['held']:.0%} of the time"
    return PhysicsResult(
        mixed.rotations, mixed.path, mixed.contacts, True, message, before, after
    )  # fmt: skip


def _windows(start: int, end: int, fps: float) -> list[tuple[slice, slice]]:
    """The frames from ``start`` to ``end`` in parts of about WINDOW seconds: what is simulated, and
    what of that is taken."""
    size, lead = round(WINDOW * fps), round(LEAD * fps)
    edges = [*range(start, max(end - size // 2, start + 1), max(size, SHORTEST)), end]
    return [
        (slice(max(a - lead, start), min(b + lead, end)), slice(a, b)) for a, b in pairwise(edges)
    ]


def _blocks(tracked: np.ndarray, fps: float) -> list[slice]:
    """Every run of ``tracked`` [N] cut into parts of about BLOCK seconds, each judged by itself."""
    out = []
    for start, end in runs(tracked):
        if end - start >= SHORTEST:
            pieces = max(1, round((end - start) / (BLOCK * fps)))
            edges = np.linspace(start, end, pieces + 1).round().astype(int)
            out += [slice(*pair) for pair in pairwise(edges.tolist())]
    return out


def _after(
    run: "_Run", span: slice, rotations: np.ndarray, path: np.ndarray, rest: np.ndarray,
    humanoid: Humanoid, footing: Footing, fps: float,
) -> Figures:  # fmt: skip
    """:func:`measure` of a stretch of ``run``, and how far that is from the motion as it was."""
    joints, soles = body_points(run.rotations[span], run.path[span], rest, humanoid.sole)
    old, _ = body_points(rotations[span], path[span], rest, humanoid.sole)
    change = (joints - run.path[span, None]) - (old - path[span, None])
    return measure(joints, soles, footing.part(span), fps) | {
        "pose_change": float(np.linalg.norm(change, axis=-1).mean() * 1000),
        "root_change": float(np.linalg.norm(run.path[span] - path[span], axis=-1).mean()),
    }


def _mix(
    run: "_Run", rotations: np.ndarray, path: np.ndarray, contacts: np.ndarray,
    kept: np.ndarray, fps: float,
) -> "_Run":  # fmt: skip
    """``run`` where it is ``kept`` [N], the motion as it was elsewhere; over BLEND seconds inside
    the kept stretches one goes over into the other."""
    share = np.zeros(len(kept))
    width = max(1.0, BLEND * fps)
    for start, end in runs(kept):
        frame = np.arange(start, end)
        inward = np.full(end - start, np.inf)
        if start > 0:
            inward = np.minimum(inward, frame - start + 1)
        if end < len(kept):
            inward = np.minimum(inward, end - frame)
        share[start:end] = np.clip(inward / width, 0, 1)
    share = share**2 * (3 - 2 * share)
    turn = matrix_to_axis_angle(np.swapaxes(rotations, -1, -2) @ run.rotations)
    return _Run(
        rotations @ axis_angle_to_matrix(turn * share[:, None, None]),
        path + (run.path - path) * share[:, None],
        np.where(share[:, None] > 0.5, run.contacts, contacts),
        run.residual, run.tracked,
    )  # fmt: skip


def _harm(before: Figures, after: Figures, slack: float = 1.0) -> str:
    """Why what the simulation made is not to be taken; empty where it is no worse."""
    if after["pose_change"] > TRACKED_POSE * 1000:
        return (
            f"the pose changed by {after['pose_change']:.0f} mm, more than "
            f"{TRACKED_POSE * 1000:.0f}"
        )
    worse = " and ".join(_worse(before, after, slack)).replace("_", " ")
    return f"{worse} would have grown" if worse else ""


#: Figure -> (how much worse is still no harm, how much better counts as better, the level below
#: which it is as good as captured motion and does not matter), in its unit.
_TOLERANCE = {
    "foot_sliding": (0.01, 0.02, 0.02), "floating": (0.003, 0.005, 0.0),
    "penetration": (0.003, 0.003, 0.0), "jitter": (1.0, 1.0, 5.0),
}  # fmt: skip


def _worse(before: Figures, after: Figures, slack: float) -> list[str]:
    return [
        name
        for name, (harm, _, level) in _TOLERANCE.items()
        if after[name] > max(before[name] + slack * harm, level)
    ]


def _growth(span: slice, before: Figures, after: Figures, names: list[str]) -> float:
    """How much the figure among ``names`` that grew most in ``span`` adds to that of the whole, as
    a share of what is still no harm."""
    grown = max((after[name] - before[name]) / _TOLERANCE[name][0] for name in names)
    return grown * (span.stop - span.start)


def _better(before: Figures, after: Figures) -> bool:
    return any(
        before[name] > max(after[name] + gain, level)
        for name, (_, gain, level) in _TOLERANCE.items()
    )


class Reference:
    """The motion to imitate as smooth functions of time: cubic splines through the low-passed
    pelvis and quaternions, so that any frame rate gives velocities and accelerations."""

    def __init__(self, rotations: np.ndarray, path: np.ndarray, fps: float, humanoid: Humanoid):
        count = len(path)
        self.fps, self.count, self.humanoid = fps, count, humanoid
        quaternions = matrix_to_quaternion(rotations)
        flips = np.sign((quaternions[1:] * quaternions[:-1]).sum(-1, keepdims=True))
        quaternions[1:] *= np.cumprod(np.where(flips == 0, 1, flips), axis=0)
        values = np.concatenate([path, quaternions.reshape(count, 96)], axis=1)
        if LOW_PASS < 0.4 * fps:
            sections = butter(2, LOW_PASS, fs=fps, output="sos")
            pad = min(count - 1, round(fps / 2))
            values = sosfiltfilt(sections, values, axis=0, padlen=pad)
        self._spline = CubicSpline(np.arange(count) / fps, values, axis=0)

    def positions(self, times: np.ndarray) -> np.ndarray:
        """MuJoCo's qpos [M, 99] at ``times`` [M] s."""
        values = self._spline(times)
        quaternions = values[:, 3:].reshape(-1, 24, 4)
        quaternions /= np.linalg.norm(quaternions, axis=-1, keepdims=True)
        out = np.empty_like(values)
        out[:, :3] = values[:, :3]
        out[:, self.humanoid.qpos[:, None] + np.arange(4)] = quaternions
        return out

    def states(self, times: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """qpos [M, 99], qvel [M, 75] and qacc [M, 75] at ``times`` [M], ``step`` s apart."""
        grid = np.concatenate([[times[0] - step], times, [times[-1] + step]])
        grid = np.clip(grid, 0, (self.count - 1) / self.fps)
        qpos = self.positions(grid)
        rates = np.stack(
            [self._difference(a, b) for a, b in zip(qpos[:-1], qpos[1:], strict=True)]
        ) / np.maximum(np.diff(grid), step)[:, None]  # fmt: skip
        return qpos[1:-1], (rates[1:] + rates[:-1]) / 2, np.diff(rates, axis=0) / step

    def _difference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        out = np.empty(self.humanoid.model.nv)
        mujoco.mj_differentiatePos(self.humanoid.model, out, 1.0, a, b)
        return out


@dataclass
class _Run:
    """What was simulated; residual [N, 3]: force from outside over the body's weight; tracked [N]
    bool: the humanoid followed. Where it did not, rotations and path are the reference's."""

    rotations: np.ndarray
    path: np.ndarray
    contacts: np.ndarray
    residual: np.ndarray
    tracked: np.ndarray

    def put(self, span: slice, own: slice, part: "_Run") -> None:
        """Take over ``part``, which is of the frames of ``span``, in those of ``own``."""
        inside = slice(own.start - span.start, own.stop - span.start)
        for name in ("rotations", "path", "contacts", "residual", "tracked"):
            getattr(self, name)[own] = getattr(part, name)[inside]


class Imitation:
    """One run of a humanoid along a reference."""

    def __init__(
        self, humanoid: Humanoid, reference: Reference, footing: Footing, rest: np.ndarray
    ):
        self.humanoid, self.reference, self.footing = humanoid, reference, footing
        self.model = humanoid.model
        self.data = mujoco.MjData(self.model)
        self.substeps = max(1, int(np.ceil(STEP_RATE / reference.fps)))
        self.step = 1 / (reference.fps * self.substeps)
        self.model.opt.timestep = self.step
        self.weight = humanoid.mass * GRAVITY
        self.kp, self.kd = (2 * np.pi * TRACKING_RATE) ** 2, 2 * (2 * np.pi * TRACKING_RATE)
        self.limit = np.full(self.model.nv, np.inf)
        for name, joint in JOINT_INDEX.items():
            part = name.removeprefix("left_").removeprefix("right_").rstrip("123")
            if part in STRENGTH:
                start = humanoid.dofs[joint]
                self.limit[start : start + 3] = STRENGTH[part] * humanoid.mass
        self.free = np.repeat([FREE_FORCE, FREE_TORQUE * humanoid.stature], 3) * self.weight
        self.root_axes = np.eye(6, self.model.nv)
        # Friction cones as four edges a point.
        edges = np.array([[FRICTION, 1, 0], [-FRICTION, 1, 0], [0, 1, FRICTION], [0, 1, -FRICTION]])
        self.edges = edges / np.linalg.norm(edges, axis=1, keepdims=True)
        # Torque weighed as a force at the end of a lever of a third of the stature.
        self.balance = np.repeat([1.0, 3 / humanoid.stature], 3)

    def run(self) -> _Run:
        """Simulate from the first frame to the last. Where the humanoid loses the motion, the
        last frames before are not counted and it starts anew a little later."""
        count, fps = self.reference.count, self.reference.fps
        frames = self.reference.positions(np.arange(count) / fps)
        loaded = np.zeros((count, 2), dtype=bool)
        residual = np.zeros((count, 3))
        tracked = np.ones(count, dtype=bool)
        allowed = self.allowance()
        gap = max(1, round(RESTART * fps))
        frame = 0
        self.start(0)
        while frame < count - 1:
            if self.advance(frame, allowed[frame], residual, loaded):
                frame += 1
                frames[frame] = self.data.qpos
                continue
            tracked[max(frame - gap, 0) : frame + gap] = False
            frame += gap
            if frame < count:
                self.start(frame)
        loaded[-1], residual[-1] = loaded[-2], residual[-2]
        quaternions = frames[:, self.humanoid.qpos[:, None] + np.arange(4)]
        bearing = self.footing.standing & (loaded | ~self.footing.grounded)
        return _Run(
            quaternion_to_matrix(quaternions), frames[:, :3].copy(),
            bearing.astype(np.float64), residual, tracked,
        )  # fmt: skip

    def start(self, frame: int) -> None:
        """Put the humanoid where the reference is."""
        mujoco.mj_resetData(self.model, self.data)
        times = np.array([frame / self.reference.fps])
        qpos, qvel, _ = self.reference.states(times, self.step)
        self.data.qpos[:], self.data.qvel[:] = qpos[0], qvel[0]

    def advance(
        self, frame: int, allowed: np.ndarray, residual: np.ndarray, loaded: np.ndarray
    ) -> bool:
        """Simulate from ``frame`` to the next and note its residual [N, 3] and loaded feet [N, 2];
        False when the motion is lost."""
        data = self.data
        times = frame / self.reference.fps + np.arange(1, self.substeps + 1) * self.step
        for qpos, qvel, qacc in zip(*self.reference.states(times, self.step), strict=True):
            mujoco.mj_step1(self.model, data)
            help_given, loaded[frame] = self.control(qpos, qvel, qacc, frame, allowed)
            residual[frame] += help_given / self.substeps
            off = np.linalg.norm(data.qpos[:3] - qpos[:3])
            if not (off < TRACKED_ROOT and np.abs(data.qvel).max() < BROKEN_SPEED):
                return False
            mujoco.mj_step2(self.model, data)
        return True

    def control(
        self, qpos: np.ndarray, qvel: np.ndarray, qacc: np.ndarray, frame: int, allowed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Set the forces of one step towards the reference state.

        ``allowed`` [6] bounds the residual wrench. Returns the residual force [3] over the
        weight and which feet [2] bear load.
        """
        data, error = self.data, np.empty(self.model.nv)
        mujoco.mj_differentiatePos(self.model, error, 1.0, data.qpos, qpos)
        wanted = qacc + self.kp * error + self.kd * (qvel - data.qvel)
        effort = self.inertia_times(wanted) + data.qfrc_bias - data.qfrc_passive
        support, loaded = self.support(effort[:6], frame)
        asked = effort[:6] - support[:6]
        granted = np.clip(asked, -allowed, allowed)
        # The root gives way where help ends; the joints keep the accelerations they want.
        if not np.array_equal(granted, asked):
            root = np.stack([self.inertia_times(axis) for axis in self.root_axes], axis=1)
            effort += root @ np.linalg.solve(root[:6], granted - asked)
        torque = np.clip(effort - support, -self.limit, self.limit)
        data.qfrc_applied[:] = torque + support
        return granted[:3] / self.weight, loaded

    def inertia_times(self, acceleration: np.ndarray) -> np.ndarray:
        """The mass matrix of the present pose times ``acceleration`` [75]."""
        out = np.empty(self.model.nv)
        mujoco.mj_mulM(self.model, self.data, out, acceleration)
        return out

    def support(self, wrench: np.ndarray, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Generalized forces [75] of the floor on the soles that touch it which best explain the
        root's ``wrench`` [6] (force in the world, torque in the pelvis' axes), and which feet
        [2] they load."""
        out = np.zeros(self.model.nv)
        soles = self.sole_points()
        near = np.where(self.footing.grounded[frame], STANDING_REACH, TOUCHING_REACH)
        bearing = soles[..., 1] < near[:, None]
        sides, points = np.nonzero(bearing)
        loaded = bearing.any(axis=1)
        if not len(sides):
            return out, loaded
        places = soles[sides, points]
        turn = self.data.xmat[self.humanoid.bodies[0]].reshape(3, 3)
        arms = places - self.data.xpos[self.humanoid.bodies[0]]
        forces = np.tile(self.edges, (len(places), 1))
        torques = np.cross(np.repeat(arms, 4, axis=0), forces) @ turn
        columns = np.concatenate([forces, torques], axis=1).T * self.balance[:, None]
        # A little of the squared forces keeps the answer unique and the load spread.
        ridge = 0.02 * np.eye(columns.shape[1])
        target = np.concatenate([wrench * self.balance, np.zeros(columns.shape[1])])
        size = nnls(np.concatenate([columns, ridge]), target)[0]
        pushes = (size[:, None] * forces).reshape(-1, 4, 3).sum(axis=1)
        for side, point, place, push in zip(sides, points, places, pushes, strict=True):
            carrier = self.humanoid.bodies[SOLE_JOINTS[side, point]]
            mujoco.mj_applyFT(self.model, self.data, push, np.zeros(3), place, carrier, out)
        return out, loaded

    def sole_points(self) -> np.ndarray:
        """Where the sole points are now, [2, 6, 3] m."""
        carriers = self.humanoid.bodies[SOLE_JOINTS]
        turns = self.data.xmat[carriers].reshape(2, -1, 3, 3)
        return self.data.xpos[carriers] + np.einsum("spij,spj->spi", turns, self.humanoid.sole)

    def allowance(self) -> np.ndarray:
        """The bound on the residual wrench at every frame, [N, 6].

        The reference itself is asked, without feedback, what its soles cannot explain. Demands
        that outlast SUSTAINED raise the bound there; shorter ones are errors of the estimate.
        """
        reference, data = self.reference, self.data
        demand = np.empty((reference.count, 6))
        gap = 1 / reference.fps
        times = np.arange(reference.count) * gap
        for start in range(0, reference.count, 256):
            states = reference.states(times[start : start + 256], gap)
            for row, (qpos, qvel, qacc) in enumerate(zip(*states, strict=True)):
                data.qpos[:], data.qvel[:] = qpos, qvel
                mujoco.mj_step1(self.model, data)
                effort = self.inertia_times(qacc) + data.qfrc_bias
                frame = start + row
                demand[frame] = effort[:6] - self.support(effort[:6], frame)[0][:6]
        width = max(1, round(SUSTAINED * reference.fps))
        lasting = minimum_filter1d(np.abs(demand), width, axis=0, mode="nearest")
        lasting = maximum_filter1d(lasting, 2 * width, axis=0, mode="nearest")
        lasting = gaussian_filter1d(lasting, width / 2, axis=0, mode="nearest")
        mujoco.mj_resetData(self.model, data)
        return self.free + 1.2 * lasting
