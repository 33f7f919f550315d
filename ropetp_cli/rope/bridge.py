"""Moments in which Rope saw next to nothing, bridged from the frames before and after: glare, blur,
a somersault the detector lost; or left out, where people walk into the picture or out of it."""

from dataclasses import replace

import numpy as np
import torch

from ropetp_cli.body.rotations import slerp
from ropetp_cli.rope.network import perspective
from ropetp_cli.rope.predictor import CropPoses, posed_joints

#: A frame whose mean confidence is lower says nothing.
BLIND = 0.3
#: The longest bridge, s. What is hidden for longer is left to Rope's guess.
LONGEST = 0.5
#: How far off, in half crops, joints may be that nobody saw.
NOTHING = 100.0
#: Whom an edge cuts, so near as a share of the picture's width, and Rope sees less surely than
#: this, is hardly there.
EDGE, HARDLY = 0.01, 0.8


def in_sight(answer: CropPoses, boxes: np.ndarray, width: float, fps: float) -> slice:
    """The frames of one person, found in ``boxes`` [N, 4] px of pictures ``width`` px wide, without
    the half second at most at either end in which there is hardly anything of her left inside: what
    Rope says of a shoulder and a hand is a guess, often somebody turned round. All of them, where
    less than half a second would remain."""
    cut = (boxes[:, 0] <= EDGE * width) | (boxes[:, 2] >= (1 - EDGE) * width)
    there = np.flatnonzero(~cut | (answer.confidence.mean(axis=1) >= HARDLY))
    if not len(there):
        return slice(0, len(answer))
    longest, first, last = LONGEST * fps, int(there[0]), int(there[-1]) + 1
    first = first if first <= longest else 0
    last = last if len(answer) - last <= longest else len(answer)
    return slice(first, last) if last - first >= longest else slice(0, len(answer))


def bridged(
    answer: CropPoses,
    centers: np.ndarray,
    sizes: np.ndarray,
    widths: np.ndarray,
    rest: np.ndarray,
    fps: float,
) -> tuple[CropPoses, np.ndarray]:
    """One person's answers in consecutive frames, the blind ones between their neighbours:
    rotations, place and size in the picture, no evidence. Their confidence stays as low as it was;
    the weights [N, 24] that go with them are those of the neighbours.

    ``centers`` [N, 2] and ``sizes`` [N] px of the crops, ``widths`` [N] m of theirs at one metre,
    ``rest`` [24, 3] m.
    """
    known = np.flatnonzero(answer.confidence.mean(axis=1) >= BLIND)
    frames = np.arange(len(answer))
    after = np.searchsorted(known, frames)
    inner = (after > 0) & (after < len(known))
    after = after * inner
    if not inner.any():
        return answer, answer.confidence
    before, after = known[after - 1], known[after]
    blind = inner & (frames != after) & (after - before <= LONGEST * fps + 1)
    if not blind.any():
        return answer, answer.confidence
    rows, first, last = frames[blind], before[blind], after[blind]
    part = (rows - first) / (last - first)

    def between(values: np.ndarray) -> np.ndarray:
        share = part.reshape(-1, *[1] * (values.ndim - 1))
        return (1 - share) * values[first] + share * values[last]

    halves = sizes / 2
    per_metre = np.exp(between(np.log(answer.cam[:, 0] * halves)))  # px
    pelvis = between(centers + halves[:, None] * answer.cam[:, :1] * answer.cam[:, 1:])  # px
    scale = per_metre / halves[rows]
    shift = (pelvis - centers[rows]) / per_metre[:, None]

    new = replace(answer, **{name: value.copy() for name, value in vars(answer).items()})
    new.rotations[rows] = slerp(known, answer.rotations[known], rows)
    new.cam[rows] = np.concatenate([scale[:, None], shift], axis=1)
    joints = posed_joints(new.rotations[rows], rest)
    seen = (torch.from_numpy(value) for value in (joints, new.cam[rows], widths[rows] / 2))
    new.joints2d[rows] = perspective(*seen).numpy()
    new.evidence[rows] = between(new.evidence)
    new.evidence[rows, :, 2] = NOTHING
    weights = answer.confidence.copy()
    weights[rows] = between(weights)
    return new, weights
