"""What the stages hand to one another: tracks, poses, cameras and motions.

Metres, seconds, radians and source pixels throughout. Camera axes are OpenCV's (x right, y down,
z forward); the world is right-handed with y up and the floor at y = 0. Every class checks its
shapes when it is made, so that a mistake shows where it happens.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.ndimage import uniform_filter1d

from ropetp_cli.body.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from ropetp_cli.errors import RopeTPError

#: Containers round times, Matroska to a millisecond: two of them are so much off, s, at most.
ROUNDING = 1.1e-3
#: Over so long, s, the sway of a step is no part of the way walked.
SWAY_SECONDS = 0.5


def frames_within(seconds: float, fps: float) -> int:
    """How many frames at ``fps`` a stretch of ``seconds`` has, its first and last included.

    A last frame that only rounded times put beyond the end counts.
    """
    return int(np.floor(seconds * fps + min(ROUNDING * fps + 1e-3, 0.5))) + 1


def _check(name: str, value: np.ndarray, shape: tuple[int | None, ...]) -> None:
    if value.ndim != len(shape) or any(
        want is not None and have != want for have, want in zip(value.shape, shape, strict=True)
    ):
        wanted = " x ".join("any" if size is None else str(size) for size in shape)
        raise RopeTPError(f"{name} has shape {list(value.shape)}, expected {wanted}")
    if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
        raise RopeTPError(f"{name} holds a number that is not finite")


@dataclass
class VideoInfo:
    """A video as it is shown: size after its rotation flag, true average rate."""

    path: str
    width: int
    height: int
    fps: float
    frame_count: int  # the container's claim; the decoder may end earlier
    rotation: int  # degrees clockwise that were applied, one of 0, 90, 180, 270

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


@dataclass
class Track:
    """One person through a video, one entry for every source frame from first to last.

    frames [N] consecutive source frame indices; boxes [N, 4] xyxy px, smoothed; score [N] 0..1;
    keypoints [N, 17, 3] COCO order: x, y px and confidence (zeros where not seen);
    seen [N] False where the box was filled across a gap.
    """

    id: int
    frames: np.ndarray
    boxes: np.ndarray
    score: np.ndarray
    keypoints: np.ndarray
    seen: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.frames)
        _check("Track.frames", self.frames, (count,))
        _check("Track.boxes", self.boxes, (count, 4))
        _check("Track.score", self.score, (count,))
        _check("Track.keypoints", self.keypoints, (count, 17, 3))
        _check("Track.seen", self.seen, (count,))
        if count == 0:
            raise RopeTPError(f"track {self.id} has no frames")
        if (np.diff(self.frames) != 1).any():
            raise RopeTPError(f"track {self.id} skips frames")

    def __len__(self) -> int:
        return len(self.frames)

    def part(self, rows: slice) -> "Track":
        """Some of the frames, one after another."""
        over = ("frames", "boxes", "score", "keypoints", "seen")
        return replace(self, **{name: getattr(self, name)[rows] for name in over})

    @property
    def sizes(self) -> np.ndarray:
        """The longer side of each box, px, [N]."""
        return (self.boxes[:, 2:] - self.boxes[:, :2]).max(axis=1)


@dataclass
class Camera:
    """A pinhole camera, one rotation per frame.

    focal px; center [2] px; rotation [N, 3, 3] world-from-camera.
    ``focal_error`` and ``up_error``: how far the logarithm of ``focal`` and, rad, up may be off.
    ``focal_source``, ``source`` and ``up_source`` say where the figures come from. A camera that
    ``travels`` is not all the time in one place.
    """

    focal: float
    center: np.ndarray
    rotation: np.ndarray
    focal_error: float = 0.25
    focal_source: str = "assumed"
    source: str = "static"
    up_source: str = "taken for level"
    up_error: float = 0.1
    travels: bool = False

    def __post_init__(self) -> None:
        self.center = np.asarray(self.center, dtype=np.float64)
        _check("Camera.center", self.center, (2,))
        _check("Camera.rotation", self.rotation, (None, 3, 3))
        if not self.focal > 0:
            raise RopeTPError(f"the focal length is {self.focal} px, expected more than 0")

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points in camera axes [..., 3] m -> [..., 2] px."""
        return points[..., :2] / points[..., 2:] * self.focal + self.center


@dataclass
class PoseSequence:
    """Rope's answer for one track: SMPL in camera axes, frame by frame.

    rotations [N, 24, 3, 3] parent-relative, joint 0 in camera axes; betas [N, 10];
    joints [N, 24, 3] m, camera axes, pelvis at 0; pelvis [N, 3] m, its place before the camera;
    joints2d [N, 24, 2] px of the source frame; confidence [N, 24] 0..1; up [N, 3], where up is in
    camera axes as this person's balance tells it, and up_error [N, 2] rad, how far off that
    may be, in roll and in pitch.
    """

    rotations: np.ndarray
    betas: np.ndarray
    joints: np.ndarray
    pelvis: np.ndarray
    joints2d: np.ndarray
    confidence: np.ndarray
    up: np.ndarray
    up_error: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.rotations)
        _check("PoseSequence.rotations", self.rotations, (count, 24, 3, 3))
        _check("PoseSequence.betas", self.betas, (count, 10))
        _check("PoseSequence.joints", self.joints, (count, 24, 3))
        _check("PoseSequence.pelvis", self.pelvis, (count, 3))
        _check("PoseSequence.joints2d", self.joints2d, (count, 24, 2))
        _check("PoseSequence.confidence", self.confidence, (count, 24))
        _check("PoseSequence.up", self.up, (count, 3))
        _check("PoseSequence.up_error", self.up_error, (count, 2))

    def __len__(self) -> int:
        return len(self.rotations)


@dataclass
class Motion:
    """One person's motion at a constant rate, in the y-up world.

    poses [N, 72] axis-angle; trans [N, 3] m, SMPL's (pelvis = trans + J0(betas)); betas [10];
    fps frames a second; joints [N, 24, 3] m in the world; timestamps [N] s in the source video;
    frame_index [N] nearest source frame; boxes [N, 4] xyxy px; confidence [N] 0..1, and of every
    joint joint_confidence [N, 24] (where none is given, the frame's); contacts [N, 2] 0..1 (left,
    right foot on the floor); joints2d [N, 24, 2] px; camera_poses [N, 72] and camera_trans [N, 3]:
    the same body in camera axes; camera_rotation [N, 3, 3] world-from-camera; camera_focal px;
    camera_center [2] px. ``body`` names the body model, with its sha256.

    A motion read from a file that has no video behind it (any AMASS npz) leaves the fields after
    ``joints`` to their neutral values.
    """

    poses: np.ndarray
    trans: np.ndarray
    betas: np.ndarray
    fps: float
    joints: np.ndarray
    timestamps: np.ndarray | None = None
    frame_index: np.ndarray | None = None
    boxes: np.ndarray | None = None
    confidence: np.ndarray | None = None
    joint_confidence: np.ndarray | None = None
    contacts: np.ndarray | None = None
    joints2d: np.ndarray | None = None
    camera_poses: np.ndarray | None = None
    camera_trans: np.ndarray | None = None
    camera_rotation: np.ndarray | None = None
    camera_focal: float = 0.0
    camera_center: np.ndarray = field(default_factory=lambda: np.zeros(2))
    gender: str = "neutral"
    body: str = ""
    person: int = 1

    def __post_init__(self) -> None:
        count = len(self.poses)
        fills = {
            "timestamps": lambda: np.arange(count) / self.fps,
            "frame_index": lambda: np.arange(count),
            "boxes": lambda: np.zeros((count, 4)),
            "confidence": lambda: np.ones(count),
            "joint_confidence": lambda: np.repeat(np.reshape(self.confidence, (-1, 1)), 24, axis=1),
            "contacts": lambda: np.zeros((count, 2)),
            "joints2d": lambda: np.zeros((count, 24, 2)),
            "camera_poses": lambda: self.poses.copy(),
            "camera_trans": lambda: self.trans.copy(),
            "camera_rotation": lambda: np.tile(np.eye(3), (count, 1, 1)),
        }
        if count == 0:
            raise RopeTPError("a motion needs at least one frame")
        if not (np.isfinite(self.fps) and self.fps > 0):
            raise RopeTPError(f"the frame rate is {self.fps}, expected more than 0")
        for name, fill in fills.items():
            if getattr(self, name) is None:
                setattr(self, name, fill())
        shapes = {
            "poses": (count, 72), "trans": (count, 3), "betas": (10,), "joints": (count, 24, 3),
            "timestamps": (count,), "frame_index": (count,), "boxes": (count, 4),
            "confidence": (count,), "joint_confidence": (count, 24), "contacts": (count, 2),
            "joints2d": (count, 24, 2),
            "camera_poses": (count, 72), "camera_trans": (count, 3),
            "camera_rotation": (count, 3, 3), "camera_center": (2,),
        }  # fmt: skip
        for name, shape in shapes.items():
            _check(f"Motion.{name}", np.asarray(getattr(self, name)), shape)

    def __len__(self) -> int:
        return len(self.poses)

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last."""
        return len(self) / self.fps

    @property
    def rotations(self) -> np.ndarray:
        """Parent-relative joint rotations, joint 0 in the world, [N, 24, 3, 3]."""
        return axis_angle_to_matrix(self.poses.reshape(-1, 24, 3))

    @property
    def way(self) -> np.ndarray:
        """The way walked, [N, 2] m (x, z): the pelvis's over the ground, without its sway."""
        window = max(1, round(SWAY_SECONDS * self.fps))
        return uniform_filter1d(self.joints[:, 0, ::2], window, axis=0, mode="nearest")

    def turned(self, rotation: np.ndarray) -> "Motion":
        """The same motion with the world turned by ``rotation`` [3, 3] about the origin."""
        local = self.rotations
        local[:, 0] = rotation @ local[:, 0]
        pelvis_rest = self.joints[:, 0] - self.trans
        return replace(
            self,
            poses=matrix_to_axis_angle(local).reshape(-1, 72),
            trans=self.joints[:, 0] @ rotation.T - pelvis_rest,
            joints=self.joints @ rotation.T,
            camera_rotation=rotation @ self.camera_rotation,
        )
