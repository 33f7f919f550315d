"""A moving camera's rotation from the background behind the people.

Corners outside the people's boxes are followed from a keyframe by pyramidal Lucas-Kanade, and
a rotation of the camera is fitted to them by RANSAC and refined by Kabsch's method. A rotation
needs no depth; where the camera also travels, the fit holds to the far or dominant part of the
scene and the inlier ratio tells how much of the picture agrees.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from ropetp_cli.body.rotations import matrix_to_axis_angle, slerp

LONGEST_SIDE = 640  # px of the image that is worked on; lengths below are in its pixels
MAX_FEATURES = 180
MIN_INLIERS = 15
MIN_RATIO = 0.25
BOX_MARGIN = 0.12  # of a box's longer side
ROUND_TRIP = 0.7  # px a feature may miss its start by when followed back
TOLERANCE = 1.5  # px between a feature and where the rotation puts it
STILL = 1.5  # px of background motion, in all, that still counts as none
KEYFRAME_SHIFT = 0.12  # of LONGEST_SIDE; further off, a wrong focal length bends the picture
PATIENCE = 15  # frames without an answer before the keyframe is given up
HYPOTHESES = 64
PLACE_HELD = 0.9  # of the features agree with a pure rotation: the camera did not travel

_FLOW = {
    "winSize": (15, 15),
    "maxLevel": 3,
    "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 15, 0.02),
    "flags": cv2.OPTFLOW_USE_INITIAL_FLOW,
}


@dataclass(frozen=True)
class BackgroundMotion:
    """What the background says of the camera.

    ``rotation`` [N, 3, 3] camera_0-from-camera_i, the first the identity (all of them when not
    ``moving``); ``inliers`` [N] the share of followed features that agree with the rotation,
    0 where there was no answer; ``evidence`` one line for the report.
    """

    rotation: np.ndarray
    moving: bool
    evidence: str
    inliers: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.inliers)
        if self.rotation.shape != (count, 3, 3) or self.inliers.shape != (count,):
            raise ValueError(
                f"rotation {self.rotation.shape} and inliers {self.inliers.shape} do not match"
            )

    @property
    def travels(self) -> bool:
        """Whether the camera's place changes: near and far things move apart."""
        return self.moving and float(self.inliers[self.inliers > 0].mean()) < PLACE_HELD


@dataclass
class _Keyframe:
    """A frame features are followed from: the small grey picture, features, rotation."""

    grey: np.ndarray  # [h, w] uint8
    points: np.ndarray  # [F, 2] px
    rotation: np.ndarray  # [3, 3] camera_0-from-this
    reach: int | None = None  # inliers of the first frame that was measured against it


class BackgroundTracker:
    """Follows the background through a video, frame by frame, keeping one small picture.

    ``focal`` px and ``center`` [2] px belong to the full-size frames. A wrong focal length
    scales the rotation found.
    """

    def __init__(self, focal: float, center: np.ndarray) -> None:
        self._full_focal = float(focal)
        self._full_center = np.asarray(center, dtype=np.float64)
        self._scale: float | None = None
        self._keyframe: _Keyframe | None = None
        self._rotations: list[np.ndarray] = []
        self._ratios: list[float] = []
        self._anchors: list[int] = []  # frames whose rotation others are measured from
        self._misses = 0
        self._random = np.random.default_rng(0)

    def add(self, frame: np.ndarray, boxes: np.ndarray) -> None:
        """Takes the next frame, BGR uint8 [H, W, 3], and the people to ignore, [P, 4] xyxy px."""
        if self._scale is None:
            self._scale = min(1.0, LONGEST_SIDE / max(frame.shape[:2]))
            self._focal = self._full_focal * self._scale
            self._center = (self._full_center + 0.5) * self._scale - 0.5
        grey = self._shrink(frame)
        boxes = self._grow(boxes)

        answer = self._measure(grey, boxes) if self._keyframe else None
        if answer is None:
            self._rotations.append(self._rotations[-1] if self._rotations else np.eye(3))
            self._ratios.append(0.0 if self._keyframe else 1.0)
            self._misses += 1
            hopeless = self._keyframe is None or len(self._keyframe.points) < MIN_INLIERS
            if hopeless or self._misses > PATIENCE:
                self._start_keyframe(grey, boxes)
            return
        rotation, inliers, ratio, shift = answer
        self._misses = 0
        self._rotations.append(rotation)
        self._ratios.append(ratio)
        self._keyframe.reach = self._keyframe.reach or inliers
        if inliers < 0.5 * self._keyframe.reach or shift > KEYFRAME_SHIFT * LONGEST_SIDE:
            self._start_keyframe(grey, boxes)

    def finish(self) -> BackgroundMotion:
        """The rotations of all frames and whether the camera moved.

        Frames without an answer are filled by slerp. With answers on fewer than half of the
        frames, or a background that stays in place within STILL px, the camera is still.
        """
        count = len(self._rotations)
        ratios = np.array(self._ratios, dtype=np.float64)
        still = np.repeat(np.eye(3)[None], count, axis=0)
        good = np.flatnonzero(ratios > 0)
        if len(good) < max(2, 0.5 * count):
            answered = max(len(good) - 1, 0)
            evidence = (
                f"camera taken as still: too few background features to tell "
                f"({answered} of {max(count - 1, 0)} frames)"
            )
            return BackgroundMotion(still, False, evidence, ratios)

        found = np.stack(self._rotations)
        angle = np.linalg.norm(matrix_to_axis_angle(found[good]), axis=1)
        travel = np.sort(np.tan(np.minimum(angle, 1.5)) * self._focal)
        # A few bad frames must not make a still camera move.
        steady = travel[-min(5, len(travel) // 2 + 1)]
        agree = f"{np.median(ratios[good]):.0%} of background features agree"
        if steady < STILL:
            evidence = f"camera still: background within {steady / self._scale:.2f} px, {agree}"
            return BackgroundMotion(still, False, evidence, ratios)
        known = np.union1d(good, np.array(self._anchors, dtype=int))
        rotation = slerp(known.astype(np.float64), found[known], np.arange(count, dtype=np.float64))
        evidence = (
            f"camera moving: turns by up to {np.degrees(angle.max()):.1f} degrees, {agree} "
            f"({len(good)} of {count} frames)"
        )
        return BackgroundMotion(rotation, True, evidence, ratios)

    def _shrink(self, frame: np.ndarray) -> np.ndarray:
        size = tuple(max(1, round(side * self._scale)) for side in frame.shape[1::-1])
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        return cv2.resize(grey, size, interpolation=cv2.INTER_AREA)

    def _grow(self, boxes: np.ndarray) -> np.ndarray:
        boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * self._scale
        margin = BOX_MARGIN * np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
        return boxes + margin[:, None] * np.array([-1.0, -1.0, 1.0, 1.0])

    def _start_keyframe(self, grey: np.ndarray, boxes: np.ndarray) -> None:
        mask = np.full(grey.shape, 255, dtype=np.uint8)
        for x0, y0, x1, y1 in np.maximum(boxes.round().astype(int), 0):
            mask[y0:y1, x0:x1] = 0
        points = cv2.goodFeaturesToTrack(grey, MAX_FEATURES, 0.01, 9.0, mask=mask)
        points = np.zeros((0, 2)) if points is None else points.reshape(-1, 2)
        self._keyframe = _Keyframe(grey, points.astype(np.float32), self._rotations[-1])
        self._misses = 0
        if len(points) >= MIN_INLIERS:
            self._anchors.append(len(self._rotations) - 1)

    def _measure(
        self, grey: np.ndarray, boxes: np.ndarray
    ) -> tuple[np.ndarray, int, float, float] | None:
        """This frame against the keyframe: rotation [3, 3] camera_0-from-this, inliers, their
        share, median shift px; None without a trustworthy answer."""
        key = self._keyframe
        if len(key.points) < MIN_INLIERS:
            return None
        bearings = self._bearings(key.points)
        guess = self._predict().T @ key.rotation
        expected = self._project(bearings @ guess.T).astype(np.float32)
        there, found, _ = cv2.calcOpticalFlowPyrLK(
            key.grey, grey, key.points, expected.copy(), **_FLOW
        )
        # Back from where it was found, starting as far off as the way there ended up.
        start = key.points + (there - expected)
        back, returned, _ = cv2.calcOpticalFlowPyrLK(grey, key.grey, there, start, **_FLOW)
        kept = (found.ravel() > 0) & (returned.ravel() > 0)
        kept &= np.linalg.norm(back - key.points, axis=1) < ROUND_TRIP
        for x0, y0, x1, y1 in boxes:
            x, y = there.T
            kept &= ~((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1))
        if kept.sum() < MIN_INLIERS:
            return None
        here = there[kept].astype(np.float64)
        turn, agree = self._fit(bearings[kept], here, guess)
        inliers, ratio = int(agree.sum()), float(agree.mean())
        if inliers < MIN_INLIERS or ratio < MIN_RATIO:
            return None
        shift = float(np.median(np.linalg.norm(here - key.points[kept], axis=1)[agree]))
        return key.rotation @ turn.T, inliers, ratio, shift

    def _predict(self) -> np.ndarray:
        """The rotation expected now: the last step again, if it was measured."""
        if len(self._rotations) < 2 or not (self._ratios[-1] and self._ratios[-2]):
            return self._rotations[-1]
        return self._rotations[-1] @ self._rotations[-2].T @ self._rotations[-1]

    def _bearings(self, points: np.ndarray) -> np.ndarray:
        rays = np.concatenate(
            [(points - self._center) / self._focal, np.ones((len(points), 1))], axis=1
        )
        return rays / np.linalg.norm(rays, axis=1, keepdims=True)

    def _project(self, rays: np.ndarray) -> np.ndarray:
        depth = np.maximum(rays[..., 2:], 1e-3)
        return rays[..., :2] / depth * self._focal + self._center

    def _fit(
        self, bearings: np.ndarray, here: np.ndarray, guess: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rotation [3, 3] that most features follow from the keyframe's ``bearings`` [F, 3]
        to ``here`` [F, 2] px, and which do, bool [F]."""
        target = self._bearings(here)
        count = len(here)
        first = self._random.integers(count, size=HYPOTHESES)
        second = (first + self._random.integers(1, count, size=HYPOTHESES)) % count
        source_frame = _frames(bearings[first], bearings[second])
        target_frame = _frames(target[first], target[second])
        candidates = np.concatenate(
            [guess[None], np.eye(3)[None], target_frame @ source_frame.transpose(0, 2, 1)]
        )
        best = candidates[np.argmax(self._agree(candidates, bearings, here).sum(axis=1))]
        for _ in range(3):
            agree = self._agree(best[None], bearings, here)[0]
            if agree.sum() < 3:
                break
            best = _kabsch(bearings[agree], target[agree])
        return best, self._agree(best[None], bearings, here)[0]

    def _agree(self, turns: np.ndarray, bearings: np.ndarray, here: np.ndarray) -> np.ndarray:
        """[K, 3, 3] -> bool [K, F]."""
        seen = self._project(bearings @ turns.transpose(0, 2, 1))
        return ((seen - here) ** 2).sum(axis=-1) < TOLERANCE**2


def _frames(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Right-handed frames [K, 3, 3] (axes in columns) spanned by two directions [K, 3] each."""
    x = first + second
    z = np.cross(first, second)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    return np.stack([x, np.cross(z, x), z], axis=-1)


def _kabsch(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation [3, 3] that best brings ``source`` [F, 3] onto ``target`` [F, 3]."""
    u, _, vt = np.linalg.svd(target.T @ source)
    return u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
