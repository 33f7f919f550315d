"""TrajDenoiser against two baselines on motion capture with its true path."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ropetp_cli.body.rotations import forward_kinematics, quaternion_to_matrix
from ropetp_cli.body.skeleton import ANKLES, FEET, PARENTS
from ropetp_cli.errors import RopeTPError
from ropetp_cli.evaluation import metrics
from ropetp_cli.physics import simulate
from ropetp_cli.training.mocap import Clip, noisy_clips
from ropetp_cli.trajectory.sampling import TrajectoryResult

Method = Callable[[np.ndarray, float], np.ndarray]


def constant_position(joints: np.ndarray, fps: float) -> np.ndarray:
    """Joints minus pelvis [N, 24, 3] m -> a pelvis that never moves, [N, 3] m."""
    return np.zeros((len(joints), 3))


def foot_pinning(joints: np.ndarray, fps: float) -> np.ndarray:
    """Joints minus pelvis [N, 24, 3] m -> the path [N, 3] m on which, at every step, the lowest of
    toes and ankles stands still on the floor."""
    feet = joints[:, list(FEET + ANKLES)].astype(np.float64)
    lowest = feet[..., 1].argmin(1)
    frames = np.arange(len(joints))
    path = np.zeros((len(joints), 3))
    path[1:] = (feet[frames[:-1], lowest[:-1]] - feet[frames[1:], lowest[:-1]]).cumsum(0)
    path[:, 1] = -feet[frames, lowest, 1]
    return path


@dataclass
class Scores:
    """Figures of one method on one clip, one entry a frame (see :mod:`metrics` for units)."""

    w_mpjpe: np.ndarray
    wa_mpjpe: np.ndarray
    rte: np.ndarray
    accel: np.ndarray
    jitter: np.ndarray
    foot_sliding: np.ndarray


NAMES = tuple(Scores.__dataclass_fields__)


def score(joints: np.ndarray, path: np.ndarray, clip: Clip) -> Scores:
    """``joints`` [N, 24, 3] m minus pelvis as the method saw them, on its ``path`` [N, 3] m,
    against the clip's truth."""
    pred, truth = joints + path[:, None], clip.joints + clip.root[:, None]
    return Scores(
        metrics.w_mpjpe(pred, truth),
        metrics.wa_mpjpe(pred, truth),
        metrics.rte(path, clip.root),
        metrics.accel(pred, truth, clip.fps),
        metrics.jitter(pred, clip.fps),
        metrics.foot_sliding(pred, truth),
    )


def summarize(scores: list[Scores]) -> dict[str, float]:
    """All frames of all clips laid end to end, then the mean."""
    return {name: metrics.mean(getattr(each, name) for each in scores) for name in NAMES}


def evaluate(
    clips: list[Clip], method: Method, noise: str = "clean", seed: int = 0
) -> list[Scores]:
    """A method's figures on every clip. ``noise`` is ``clean`` (the true joints) or ``rope`` (with
    a pose network's errors)."""
    seen = noisy_clips(clips, seed) if noise == "rope" else clips
    return [
        score(view.joints, method(view.joints, clip.fps), clip)
        for clip, view in zip(clips, seen, strict=True)
    ]


@dataclass
class Comparison:
    """Every clip's figures by method; the first method is the one that is judged."""

    clips: list[Clip]
    scores: dict[str, list[Scores]]
    noise: str

    def totals(self) -> dict[str, dict[str, float]]:
        """Method -> metric -> mean over all frames."""
        return {method: summarize(each) for method, each in self.scores.items()}

    def groups(self) -> dict[str, dict[str, float]]:
        """Action -> method -> W-MPJPE, mm, the most frames first. Clips without a description go
        by their subject."""
        members: dict[str, list[int]] = {}
        for index, clip in enumerate(self.clips):
            members.setdefault(clip.desc or clip.subject, []).append(index)
        by_size = sorted(members, key=lambda key: -sum(len(self.clips[k]) for k in members[key]))
        return {
            action: {
                method: metrics.mean(each[k].w_mpjpe for k in members[action])
                for method, each in self.scores.items()
            }
            for action in by_size
        }

    def worst(self, count: int = 5) -> list[dict[str, str | float]]:
        """The clips with the highest W-MPJPE of the first method."""
        figures = [float(each.w_mpjpe.mean()) for each in next(iter(self.scores.values()))]
        order = sorted(range(len(figures)), key=lambda k: -figures[k])[:count]
        return [
            {"name": self.clips[k].name, "desc": self.clips[k].desc, "w_mpjpe": figures[k]}
            for k in order
        ]


def compare(clips: list[Clip], denoiser: Method, noise: str = "clean", seed: int = 0) -> Comparison:
    """TrajDenoiser, constant position and foot pinning on the same joints."""
    methods = {
        "trajdenoiser": denoiser,
        "constant_position": constant_position,
        "foot_pinning": foot_pinning,
    }
    scores = {name: evaluate(clips, method, noise, seed) for name, method in methods.items()}
    return Comparison(clips, scores, noise)


def physics_rows(
    mocap: Path, clips: list[Clip], denoiser: Callable[[np.ndarray, float], TrajectoryResult]
) -> tuple[dict[str, dict[str, float]], int, int]:
    """The last rows of the paper's Table 5 on the clips of ``mocap`` that have rotations: the path
    alone and with physics. Returns the table, on how many clips physics was applied, of how many.

    What physics does to the body is added to the clip's joints, which differ a little from those
    of its rotations on its rest skeleton.
    """
    scores: dict[str, list[Scores]] = {"without physics": [], "full": []}
    applied = 0
    for clip, posed in zip(clips, load_rotations(mocap, clips), strict=True):
        if posed is None:
            continue
        rotations, rest = posed
        found = denoiser(clip.joints, clip.fps)
        done = simulate(rotations, found.path, rest, found.contacts, clip.fps)
        before, after = (
            forward_kinematics(each, rest, -rest[0]) for each in (rotations, done.rotations)
        )
        scores["without physics"].append(score(clip.joints, found.path, clip))
        scores["full"].append(score(clip.joints + (after - before), done.path, clip))
        applied += done.applied
    if not scores["full"]:
        raise RopeTPError(f"{mocap}: no clip has rotations (has_rot), which physics needs")
    table = {name: summarize(each) for name, each in scores.items()}
    return table, applied, len(scores["full"])


def load_rotations(
    mocap: Path, clips: list[Clip]
) -> list[tuple[np.ndarray, np.ndarray] | None]:  # fmt: skip
    """Parent-relative rotations [N, 24, 3, 3] and rest joints [24, 3] m of each clip, None where
    it has none: ``rot_local_quat`` int16 [F, 24, 4] wxyz, ``rest_offsets`` [C, 24, 3] m, and
    ``has_rot`` [C] of the file."""
    with np.load(mocap, allow_pickle=False) as file:
        if not {"rot_local_quat", "rest_offsets", "has_rot"} <= set(file.files):
            return [None] * len(clips)
        quaternions, offsets = file["rot_local_quat"], file["offsets"]
        bones, known = file["rest_offsets"].astype(np.float64), file["has_rot"]
    out: list[tuple[np.ndarray, np.ndarray] | None] = []
    for k in range(len(clips)):
        rest = np.zeros((24, 3))
        for joint, parent in enumerate(PARENTS):
            if parent >= 0:
                rest[joint] = rest[parent] + bones[k, joint]
        turns = quaternion_to_matrix(quaternions[offsets[k] : offsets[k + 1]])
        out.append((turns, rest) if known[k] else None)
    return out
