"""TrajDenoiser against two baselines on motion capture with its true path."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ropetp_cli.body.rotations import forward_kinematics
from ropetp_cli.body.skeleton import ANKLES, FEET
from ropetp_cli.evaluation import metrics
from ropetp_cli.physics import simulate
from ropetp_cli.training.mocap import Clip
from ropetp_cli.training.noise import noisy_clips
from ropetp_cli.trajectory.sampling import TrajectoryResult

#: What a method makes of a clip's joints (and rotations): a path [N, 3] m.
Method = Callable[[Clip], np.ndarray]


def constant_position(clip: Clip) -> np.ndarray:
    """A pelvis that never moves, [N, 3] m."""
    return np.zeros((len(clip), 3))


def foot_pinning(clip: Clip) -> np.ndarray:
    """The path [N, 3] m on which, at every step, the lowest of toes and ankles stands still on the
    floor."""
    feet = clip.joints[:, list(FEET + ANKLES)].astype(np.float64)
    lowest = feet[..., 1].argmin(1)
    frames = np.arange(len(clip))
    path = np.zeros((len(clip), 3))
    path[1:] = (feet[frames[:-1], lowest[:-1]] - feet[frames[1:], lowest[:-1]]).cumsum(0)
    path[:, 1] = -feet[frames, lowest, 1]
    return path


@dataclass
class Scores:
    """Figures of one method on one clip, one entry a frame (see :mod:`metrics` for units), and
    its path [N, 3] m."""

    w_mpjpe: np.ndarray
    wa_mpjpe: np.ndarray
    rte: np.ndarray
    accel: np.ndarray
    jitter: np.ndarray
    foot_sliding: np.ndarray
    path: np.ndarray


NAMES = tuple(name for name in Scores.__dataclass_fields__ if name != "path")


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
        path,
    )


def summarize(scores: list[Scores]) -> dict[str, float]:
    """All frames of all clips laid end to end, then the mean."""
    return {name: metrics.mean(getattr(each, name) for each in scores) for name in NAMES}


#: A clip as it was and as a pose network saw it.
View = tuple[Clip, Clip]


def views(clips: list[Clip], noise: str = "clean", seed: int = 0) -> list[View]:
    """Every clip with what a method is given: ``noise`` is ``clean`` (the true joints) or ``rope``
    (made-up errors; ``training.observed`` gives views with Rope's own)."""
    seen = noisy_clips(clips, seed) if noise == "rope" else clips
    return list(zip(clips, seen, strict=True))


def evaluate(pairs: Iterable[View], method: Method) -> list[Scores]:
    """A method's figures on every view."""
    return [score(seen.joints, method(seen), clip) for clip, seen in pairs]


@dataclass
class Comparison:
    """Every clip's figures by method; the first method is the one that is judged."""

    clips: list[Clip]
    scores: dict[str, list[Scores]]

    def totals(self) -> dict[str, dict[str, float]]:
        """Method -> metric -> mean over all frames."""
        return {method: summarize(each) for method, each in self.scores.items()}

    def members(self) -> dict[str, list[int]]:
        """Action -> the indices of its clips, the most frames first. Clips without a description
        go by their subject."""
        found: dict[str, list[int]] = {}
        for index, clip in enumerate(self.clips):
            found.setdefault(clip.desc or clip.subject, []).append(index)
        return dict(
            sorted(found.items(), key=lambda item: -sum(len(self.clips[k]) for k in item[1]))
        )

    def groups(self) -> dict[str, dict[str, float]]:
        """Action -> method -> W-MPJPE, mm."""
        return {
            action: {
                method: metrics.mean(each[k].w_mpjpe for k in members)
                for method, each in self.scores.items()
            }
            for action, members in self.members().items()
        }

    def ranked(self, indices: Iterable[int]) -> list[int]:
        """Clips by the W-MPJPE of the first method, the worst first."""
        judged = next(iter(self.scores.values()))
        return sorted(indices, key=lambda k: -judged[k].w_mpjpe.mean())

    def worst(self, count: int = 5) -> list[dict[str, str | float]]:
        """The clips with the highest W-MPJPE of the first method."""
        judged = next(iter(self.scores.values()))
        return [
            {
                "name": self.clips[k].name,
                "desc": self.clips[k].desc,
                "w_mpjpe": float(judged[k].w_mpjpe.mean()),
            }
            for k in self.ranked(range(len(self.clips)))[:count]
        ]


def compare(pairs: list[View], denoiser: Method) -> Comparison:
    """TrajDenoiser, constant position and foot pinning on the same joints; and the true path, whose
    figures are those of the joints' own errors, which no path can mend."""
    methods = {
        "trajdenoiser": denoiser,
        "constant_position": constant_position,
        "foot_pinning": foot_pinning,
        "true_path": lambda clip: clip.root.astype(np.float64),
    }
    scores = {name: evaluate(pairs, method) for name, method in methods.items()}
    return Comparison([clip for clip, _ in pairs], scores)


def physics_rows(
    pairs: list[View], denoiser: Callable[[Clip], TrajectoryResult]
) -> tuple[dict[str, dict[str, float]], int]:
    """The last rows of the paper's Table 5 on clips with rotations: the path alone and with
    physics. Returns the table, and on how many clips physics was applied.

    What physics does to the body is added to the clip's joints, which differ a little from those
    of its rotations on its rest skeleton.
    """
    scores: dict[str, list[Scores]] = {"without physics": [], "full": []}
    applied = 0
    for clip, view in pairs:
        rotations = view.rotations.astype(np.float64)
        found = denoiser(view)
        done = simulate(rotations, found.path, clip.rest, found.contacts, clip.fps)
        before, after = (
            forward_kinematics(each, clip.rest, -clip.rest[0])
            for each in (rotations, done.rotations)
        )
        scores["without physics"].append(score(view.joints, found.path, clip))
        scores["full"].append(score(view.joints + (after - before), done.path, clip))
        applied += done.applied
    table = {name: summarize(each) for name, each in scores.items()}
    return table, applied
