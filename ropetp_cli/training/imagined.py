"""Motion capture before made-up cameras, with the errors Rope made on other films, to train Rope
over time on: of films there are too few.

Filming a minute takes minutes; reckoning where limbs come to lie in a picture takes none. What was
not filmed borrows its errors from what was (how far off every joint is, which keypoints are seen
and how far from where they should be): mostly from the frames of other windows in which people look
most like it, for Rope errs alike on what looks alike; else from any window, and then its limbs lose
some of their depth, as they do in Rope's eyes.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

from ropetp_cli.body.model import BodyData
from ropetp_cli.body.rot6d import rot6d_to_matrix
from ropetp_cli.body.rotations import (
    axis_angle_to_matrix,
    forward_kinematics,
    global_to_local,
    knee_bends,
    local_to_global,
    matrix_to_axis_angle,
    matrix_to_rot6d,
)
from ropetp_cli.body.skeleton import JOINT_INDEX, NUM_BETAS, NUM_JOINTS, PARENTS
from ropetp_cli.camera.placement import look_along
from ropetp_cli.errors import RopeTPError
from ropetp_cli.rope.temporal import Frames, speed_in_crops
from ropetp_cli.training.filming import leg_length, place_camera
from ropetp_cli.training.mocap import Clip, crouched
from ropetp_cli.training.noise import TURNS_WITH, flattening
from ropetp_cli.training.sightings import Sightings, Window, posed, windows_of

#: By how much, and how slowly, a person seems to come and go, because the size Rope sees wavers.
WOBBLE, WOBBLE_FRAMES = 0.025, 5.0
#: How high, m, a camera may hang, as a guard's, higher than those of the films, and how often it
#: hangs above people's heads.
HIGHEST, ABOVE = 6.0, 0.4
#: How often errors come from frames that look alike, of one in so many windows, in which much the
#: same of people was seen; so many frames apart they are sought, the so many most alike, and going
#: on elsewhere costs so much, in lengths of a leg.
LIKE, LENDERS, KEY, ALIKE, JUMP = 0.8, 3, 5, 8, 0.1
#: In how many windows knees are made straighter than converters left them.
STRAIGHTER = 0.5
#: In how many windows Rope seems to bend legs even more, by up to so much, rad, the straighter they
#: are, and how fast that fades with their bend: it does so on photographs of people who stand.
CROUCHED, MOST_CROUCHED, CROUCH_FADES = 0.4, 0.8, 0.5
#: The joint each COCO keypoint goes with: nose, eyes and ears with the head, the others their own.
GOES_WITH = tuple(
    JOINT_INDEX[name]
    for name in ["head"] * 5
    + [f"{s}_{n}" for n in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
       for s in ("left", "right")]
)  # fmt: skip
#: The trunk, legs and arms, by number.
_LIMB_OF = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 0, 0, 3, 4, 3, 4, 3, 4, 3, 4])


#: What :class:`Errors` say of every frame.
_BY_FRAME = ("turns", "keypoints", "seen", "confidence", "looks")


@dataclass
class Errors:
    """What was wrong in a filmed window of N frames: turns [N, 24, 3] rad in crop axes; keypoints
    [N, 17, 2] m, off from where they should be, and their confidence [N, 17]; confidence [N, 24];
    lengths [24], seen over true. ``looks`` [N, 72]: the true joints about the pelvis in crop axes,
    in lengths of a leg."""

    turns: np.ndarray
    keypoints: np.ndarray
    seen: np.ndarray
    confidence: np.ndarray
    lengths: np.ndarray
    looks: np.ndarray

    def __len__(self) -> int:
        return len(self.turns)

    def at(self, index: np.ndarray) -> "Errors":
        """The frames at ``index``."""
        return replace(self, **{name: getattr(self, name)[index] for name in _BY_FRAME})

    def stretched(self, count: int) -> "Errors":
        """For ``count`` frames, there and back again."""
        last = len(self) - 1
        return self.at(last - np.abs(np.arange(count) % (2 * last) - last))

    def towards(self, other: "Errors", share: np.ndarray) -> "Errors":
        """``share`` [N] of the way to the ``other``; a keypoint counts where both saw it."""
        mixed = {}
        for name in _BY_FRAME:
            one, two = getattr(self, name), getattr(other, name)
            mixed[name] = one + share.reshape(-1, *[1] * (one.ndim - 1)) * (two - one)
        mixed["seen"] = mixed["seen"] * (self.seen > 0) * (other.seen > 0)
        mixed["keypoints"] = mixed["keypoints"] * (mixed["seen"][..., None] > 0)
        return replace(self, **mixed)

    @classmethod
    def joined(cls, parts: list["Errors"]) -> "Errors":
        """Windows laid end to end; the lengths are the first one's."""
        values = {n: np.concatenate([getattr(part, n) for part in parts]) for n in _BY_FRAME}
        return cls(lengths=parts[0].lengths, **values)


def seen_alike(windows: list[Errors], rng: np.random.Generator) -> list[Errors]:
    """The ``windows`` in which about as much of people was seen as in one of them, drawn by chance:
    who is cut by the picture's edge does not lend to those who are not."""
    seen = np.array([window.confidence.mean(axis=0) for window in windows])
    unlike = np.linalg.norm(seen - seen[rng.integers(len(seen))], axis=1)
    count = -(-len(seen) // LENDERS)
    return [windows[k] for k in np.argsort(unlike, kind="stable")[:count]]


def errors_like(looks: np.ndarray, lenders: list[Errors]) -> Errors:
    """The errors that ``lenders`` made on what looks most like ``looks`` [N, 72].

    Every few frames the most alike are sought, and among them the way through the lenders that
    costs least: how unlike each is, and :data:`JUMP` wherever it does not just go on in the window.
    """
    count = len(looks)
    keys = np.unique(np.append(np.arange(0, count, KEY), count - 1))
    pool = Errors.joined(lenders)
    ends = np.cumsum([len(lender) for lender in lenders])
    asked, offered = (torch.as_tensor(v, dtype=torch.float32) for v in (looks[keys], pool.looks))
    unlike, alike = torch.cdist(asked, offered).topk(min(ALIKE, len(pool)), largest=False)
    unlike, alike = unlike.double().numpy() / NUM_JOINTS**0.5, alike.numpy()
    window = np.searchsorted(ends, alike, side="right")
    cost, came_from = unlike[0], []
    for k in range(1, len(keys)):
        ahead = alike[k] - alike[k - 1][:, None] - (keys[k] - keys[k - 1])
        follows = (window[k] == window[k - 1][:, None]) & (np.abs(ahead) <= KEY // 2)
        total = cost[:, None] + JUMP * ~follows
        came_from.append(total.argmin(0))
        cost = total.min(0) + unlike[k]
    way = [int(cost.argmin())]
    for before in reversed(came_from):
        way.insert(0, int(before[way[0]]))
    frame, of = (values[np.arange(len(keys)), way] for values in (alike, window))
    low, high = np.append(0, ends)[of], ends[of] - 1

    times = np.arange(count)
    last = np.clip(np.searchsorted(keys, times, side="right") - 1, 0, len(keys) - 1)
    following = np.minimum(last + 1, len(keys) - 1)
    on, back = (
        pool.at(np.clip(frame[k] + times - keys[k], low[k], high[k])) for k in (last, following)
    )
    return on.towards(back, (times - keys[last]) / np.maximum(keys[following] - keys[last], 1))


class Imagination:
    """Windows of clips that nobody filmed."""

    def __init__(
        self, clips: list[Clip], sightings: Sightings, body: BodyData, frames: int = 150,
        fps: float = 30.0, crouched: float = CROUCHED, mixed: float = 0.0,
    ):  # fmt: skip
        """``clips`` have rotations; ``sightings`` lend their errors; in ``crouched`` of the windows
        Rope seems to bend straight legs even more than there, in ``mixed`` of them people move as
        in one clip up to the hips and as in another above."""
        self.clips, self.body, self.frames, self.fps = clips, body, frames, fps
        self.crouched, self.mixed = crouched, mixed
        windows = windows_of(sightings, body, fps)
        self.offsets = keypoint_offsets(windows)
        self.errors = [_errors(window, self.offsets) for window in windows]
        weights = np.array(
            [len(c) * (1 + min(1, c.rise / 0.2) + 3 * min(1, c.speed / 1.2)) for c in clips]
        )
        self.weights = weights / weights.sum()

    def draw(self, rng: np.random.Generator) -> Window:
        """One window."""
        while True:
            clip = self.clips[rng.choice(len(self.clips), p=self.weights)]
            first = int(rng.integers(max(len(clip) - self.frames, 0) + 1))
            part = clip.part(first, first + self.frames)
            if rng.random() < STRAIGHTER:
                part = part.straighter(rng)
            other = self.clips[rng.choice(len(self.clips), p=self.weights)]
            if mixed := rng.random() < self.mixed and len(other) >= len(part):
                first = int(rng.integers(len(other) - len(part) + 1))
                part = part.below(other.part(first, first + len(part)))
            try:
                window = self._film(part, rng)
            except RopeTPError:
                continue
            # Two halves that never balanced one another tell nothing of up.
            return replace(window, up=torch.zeros_like(window.up)) if mixed else window

    def _film(self, clip: Clip, rng: np.random.Generator) -> Window:
        betas = np.clip(rng.normal(0, 1, NUM_BETAS), -2.5, 2.5)
        rest = self.body.rest_joints(betas)
        rest = rest - rest[0]
        path = clip.on_floor() * leg_length(rest) / leg_length(clip.rest)
        position, camera = place_camera(path, rng, HIGHEST, ABOVE)
        turned = clip.rotations.astype(np.float64)
        turned[:, 0] = camera @ turned[:, 0]
        joints = forward_kinematics(turned, rest)
        pelvis = (path - position) @ camera.T
        seen = joints + pelvis[:, None]
        if seen[..., 2].min() < 0.5:
            raise RopeTPError("somebody walks through the camera")
        flat = seen[..., :2] / seen[..., 2:]
        turn = look_along((flat.min(1) + flat.max(1)) / 2, 1.0, np.zeros(2))
        turned[:, 0] = turn.swapaxes(-1, -2) @ turned[:, 0]
        columns = local_to_global(turned)
        placed = seen @ turn
        if alike := rng.random() < LIKE:
            errors = errors_like(looks_of(placed, rest), seen_alike(self.errors, rng))
        else:
            errors = self.errors[rng.integers(len(self.errors))].stretched(len(clip))
        up = camera[:, 1]
        return self._seen(columns, placed, pelvis, turn, up, rest, errors, alike, rng)

    def _seen(
        self, columns: np.ndarray, placed: np.ndarray, pelvis: np.ndarray, turn: np.ndarray,
        up: np.ndarray, rest: np.ndarray, errors: Errors, alike: bool, rng: np.random.Generator,
    ) -> Window:  # fmt: skip
        """``columns`` [N, 24, 3, 3] in crop axes and joints ``placed`` [N, 24, 3] m before the
        camera that looks at the crop; ``up`` [3] in the camera's axes; ``alike``: whether the
        ``errors`` are those made on people who look so."""
        count = len(columns)
        if alike:
            wrong = axis_angle_to_matrix(rng.uniform(0.8, 1.2) * errors.turns) @ columns
        else:
            off = axis_angle_to_matrix(rng.uniform(0.3, 1.0) * errors.turns * [1.0, 1.0, 0.5])
            wrong = off @ _flatter(placed, rng) @ columns
        if rng.random() < self.crouched:
            wrong = _crouching(columns, wrong, rng)
        bones = rest.copy()
        for joint, parent in enumerate(PARENTS[1:], start=1):
            bones[joint] = bones[parent] + (rest[joint] - rest[parent]) * errors.lengths[joint]

        points = placed[:, list(GOES_WITH)] + np.einsum(
            "nkij,kj->nki", columns[:, list(GOES_WITH)], self.offsets
        )
        depth = placed[:, :1, 2:]
        flat = depth * (points[..., :2] / points[..., 2:] - placed[:, :1, :2] / depth)
        keypoints = np.where(errors.seen[..., None] > 0, flat + errors.keypoints, 0)
        keypoints = np.concatenate([keypoints, errors.seen[..., None]], axis=-1)
        wobble = gaussian_filter1d(rng.normal(0, 1, (count, 1)), WOBBLE_FRAMES, axis=0)
        nearer = np.exp(WOBBLE * wobble / wobble.std())
        velocity = speed_in_crops(pelvis * nearer, turn, self.fps)
        given = (matrix_to_rot6d(wrong), bones, keypoints, errors.confidence, velocity)
        frames = Frames(
            *(torch.as_tensor(value, dtype=torch.float32)[None] for value in given), torch.ones(1)
        )
        true = (matrix_to_rot6d(columns), rest, up @ turn)
        return Window(frames, *(torch.as_tensor(v, dtype=torch.float32)[None] for v in true))


def _crouching(columns: np.ndarray, wrong: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What was seen, ``wrong`` [N, 24, 3, 3] in crop axes, of legs of ``columns``, the same as they
    are, with knees bent more, most where they are straight."""
    straight = np.exp(-knee_bends(global_to_local(columns)).mean(axis=1) / CROUCH_FADES)
    wavers = gaussian_filter1d(rng.normal(0, 1, len(wrong)), WOBBLE_FRAMES)
    by = rng.uniform(0, MOST_CROUCHED) * straight * np.exp(0.3 * wavers / wavers.std())
    return local_to_global(crouched(global_to_local(wrong), by))


def _flatter(placed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotations [N, 24, 3, 3] that take from limbs and trunk a share of their depth."""
    lost = np.where(rng.random(5) < 0.7, rng.uniform(0, 0.8, 5), 0.0) * [0.5, 1, 1, 1, 1]
    bones = placed[:, 1:] - placed[:, list(PARENTS[1:])]
    turns_with = np.array(TURNS_WITH) - 1
    share = torch.as_tensor(lost[_LIMB_OF])[None]
    turns = flattening(torch.as_tensor(bones[:, turns_with])[None], torch.zeros(1).double(), share)
    return axis_angle_to_matrix(turns[0].numpy())


def keypoint_offsets(windows: list[Window]) -> np.ndarray:
    """Where each keypoint lies in the axes of the joint it goes with, [17, 3] m, by least squares
    over what was seen."""
    offsets = np.zeros((len(GOES_WITH), 3))
    joints, turned, keypoints = _stacked(windows)
    for k, joint in enumerate(GOES_WITH):
        seen = keypoints[:, k, 2] > 0.5
        system = turned[seen, joint, :2].reshape(-1, 3)
        right = (keypoints[seen, k, :2] - joints[seen, joint, :2]).reshape(-1)
        # A centimetre of trust in nothing, for what is hardly seen.
        system = np.concatenate([system, np.eye(3)])
        offsets[k] = np.linalg.lstsq(system, np.append(right, np.zeros(3)), rcond=None)[0]
    return offsets


def _stacked(windows: list[Window]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True joints about the pelvis [F, 24, 3] m, their rotations [F, 24, 3, 3] in crop axes and
    keypoints [F, 17, 3] of all windows."""
    joints = torch.cat([posed(w.true, w.true_rest)[0] for w in windows])
    turned = rot6d_to_matrix(torch.cat([w.true[0] for w in windows]))
    keypoints = torch.cat([w.frames.keypoints[0] for w in windows])
    return tuple(value.double().numpy() for value in (joints, turned, keypoints))


def _errors(window: Window, offsets: np.ndarray) -> Errors:
    joints, turned, keypoints = _stacked([window])
    points = joints[:, list(GOES_WITH)] + np.einsum(
        "nkij,kj->nki", turned[:, list(GOES_WITH)], offsets
    )
    seen = keypoints[..., 2]
    away = np.where(seen[..., None] > 0, keypoints[..., :2] - points[..., :2], 0)
    found = rot6d_to_matrix(window.frames.columns[0]).double().numpy()
    turns = matrix_to_axis_angle(found @ turned.swapaxes(-1, -2))
    parents = list(PARENTS[1:])
    long, true_long = (
        np.linalg.norm(r[0, 1:].numpy() - r[0, parents].numpy(), axis=1)
        for r in (window.frames.rest, window.true_rest)
    )
    confidence = window.frames.confidence[0].double().numpy()
    looks = looks_of(joints, window.true_rest[0].double().numpy())
    return Errors(turns, away, seen, confidence, np.append(1.0, long / true_long), looks)


def looks_of(joints: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Joints [N, 24, 3] m in crop axes, as what to tell poses apart by, [N, 72]: about the pelvis,
    in lengths of a leg of rest joints [24, 3] m."""
    return ((joints - joints[:, :1]) / leg_length(rest)).reshape(len(joints), -1)
