"""TrajDenoiser against two baselines on motion capture with its true path."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ropetp_cli.body.skeleton import ANKLES, FEET
from ropetp_cli.evaluation import metrics
from ropetp_cli.training.mocap import Clip, noisy_clips

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
