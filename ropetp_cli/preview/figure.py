"""A person ready to be drawn: meshes at any time, a colour, a label, the marks of the feet."""

from typing import NamedTuple

import cv2
import numpy as np

from ropetp_cli.body.model import BodyData, skin
from ropetp_cli.body.rotations import axis_angle_to_matrix
from ropetp_cli.body.skeleton import ANKLES, FEET
from ropetp_cli.motion import Motion

#: BGR, told apart on skin, grass and concrete; a person keeps the colour of the id.
PALETTE = (
    (214, 140, 40), (60, 120, 240), (90, 180, 60), (190, 80, 170),
    (60, 190, 230), (180, 170, 40), (130, 100, 235), (90, 130, 150),
)  # fmt: skip
CHUNK = 16  # frames skinned at a time
STEP_FRAMES = 2  # the shortest contact that leaves a mark
STEP_HEIGHT = 0.2  # m above the floor: a higher foot in contact stands on something else
TOE_HEIGHT = 0.03  # m of the toe's joint above what it stands on


def person_color(person: int) -> tuple[int, int, int]:
    """The BGR colour of a person's id."""
    return PALETTE[(person - 1) % len(PALETTE)]


class Figure:
    """One motion's meshes, skinned a few frames at a time as they are asked for in order.

    ``in_camera`` takes the body before the camera instead of the body in the world.
    """

    def __init__(self, motion: Motion, body: BodyData, in_camera: bool = False):
        self.motion, self.body = motion, body
        self.color = person_color(motion.person)
        poses = motion.camera_poses if in_camera else motion.poses
        self._trans = motion.camera_trans if in_camera else motion.trans
        self._poses = poses.reshape(-1, 24, 3)
        self._first, self._meshes = 0, np.empty((0, 0, 3))

    def at(self, time: float, step: float) -> int | None:
        """The index of the frame nearest to ``time`` s; None where the person is not there.

        ``step`` s between the pictures drawn; a person is there up to half a step before the first
        frame and, where the motion has fewer than the pictures, until the one that would be next.
        """
        times = self.motion.timestamps
        index = int(np.searchsorted(times, time))
        if index == len(times) or (index and time - times[index - 1] < times[index] - time):
            index -= 1
        before, after = 0.51 * step, max(0.51 * step, 1 / self.motion.fps - 0.49 * step)
        return index if times[0] - before <= time <= times[-1] + after else None

    def vertices(self, index: int) -> np.ndarray:
        """The mesh at frame ``index``, [V, 3] m."""
        if not self._first <= index < self._first + len(self._meshes):
            part = slice(index, index + CHUNK)
            local = axis_angle_to_matrix(self._poses[part])
            self._meshes = skin(self.body, local, self.motion.betas, self._trans[part])
            self._first = index
        return self._meshes[index - self._first]


class Footprint(NamedTuple):
    """Where a foot stood: foot 0 left, 1 right; frames first to last; place [3] m, under its
    middle; heading rad about y, 0 where the toes point to +z."""

    foot: int
    first: int
    last: int
    place: np.ndarray
    heading: float


def footprints(motion: Motion) -> list[Footprint]:
    """The contacts of ``motion``, in the order they begin."""
    found = []
    for foot, (toe, ankle) in enumerate(zip(FEET, ANKLES, strict=True)):
        standing = motion.contacts[:, foot] > 0.5
        edges = np.flatnonzero(np.diff(np.pad(standing.astype(np.int8), 1))).reshape(-1, 2)
        for first, stop in edges[edges[:, 1] - edges[:, 0] >= STEP_FRAMES].tolist():
            toes, heel = (motion.joints[first:stop, joint].mean(0) for joint in (toe, ankle))
            heading = float(np.arctan2(*(toes - heel)[::2]))
            place = (toes + heel) / 2
            place[1] = 0.0 if toes[1] < STEP_HEIGHT else toes[1] - TOE_HEIGHT
            found.append(Footprint(foot, first, stop - 1, place, heading))
    return sorted(found, key=lambda step: step.first)


def put_label(
    image: np.ndarray,
    text: str,
    at: tuple[float, float],
    color: tuple[int, int, int],
    shrink: float = 1.0,
) -> None:
    """White ``text`` on a plate of ``color``, centred above the point ``at`` px, kept inside;
    large enough to be read when the image is shown ``shrink`` times as small."""
    height, width = image.shape[:2]
    scale = max(0.45 * shrink, height / 1200)
    thick = max(1, round(1.6 * scale))
    (wide, tall), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    pad = round(0.4 * tall)
    x = int(np.clip(at[0] - wide / 2, pad, max(pad, width - wide - pad)))
    y = int(np.clip(at[1] - 2 * pad, tall + pad, max(tall + pad, height - below - pad)))
    corner, opposite = (x - pad, y - tall - pad), (x + wide + pad, y + pad)
    cv2.rectangle(image, corner, opposite, color, -1, cv2.LINE_AA)
    cv2.putText(
        image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), thick, cv2.LINE_AA
    )
