"""Where the stages' answers meet: one rate, one world, one Motion a person.

Only geometry: no network is run here.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import binary_closing, gaussian_filter1d, maximum_filter1d

from ropetp_cli.body.rotations import forward_kinematics, matrix_to_axis_angle, slerp
from ropetp_cli.body.skeleton import ANKLES, FEET
from ropetp_cli.motion import Camera, Motion, PoseSequence, Track, frames_within
from ropetp_cli.trajectory.fusion import FOOT_HEIGHT

BRIDGE = 0.25  # s out of view that do no harm
LEVEL_SPEED = 0.1  # m/s of the level stood on: faster, the person falls or climbs
LIFTING = 0.1  # s before and after sinking feet over which a body is lifted


@dataclass
class Timeline:
    """One person at the output rate: ``times`` [M] s in the video, ``source`` [M] the entry of
    the track nearest in time."""

    times: np.ndarray
    source: np.ndarray
    fps: float


def make_timeline(timestamps: np.ndarray, fps: float) -> Timeline:
    """The constant-rate frames that cover ``timestamps`` [N] s (strictly rising)."""
    count = frames_within(timestamps[-1] - timestamps[0], fps)
    times = timestamps[0] + np.arange(count) / fps
    right = np.clip(np.searchsorted(timestamps, times), 1, max(len(timestamps) - 1, 1))
    right = np.minimum(right, len(timestamps) - 1)
    left = np.maximum(right - 1, 0)
    nearer_left = np.abs(times - timestamps[left]) <= np.abs(times - timestamps[right])
    return Timeline(times, np.where(nearer_left, left, right), fps)


def at_times(timestamps: np.ndarray, values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Linear interpolation over the first axis: [N, ...] -> [M, ...]."""
    flat = values.reshape(len(values), -1)
    out = np.stack([np.interp(times, timestamps, column) for column in flat.T], axis=1)
    return out.reshape(len(times), *values.shape[1:])


def resample_poses(poses: PoseSequence, timestamps: np.ndarray, timeline: Timeline) -> PoseSequence:
    """Rotations by slerp, everything else linearly."""
    times = timeline.times
    return PoseSequence(
        rotations=slerp(timestamps, poses.rotations, times),
        **{
            name: at_times(timestamps, getattr(poses, name), times)
            for name in vars(poses)
            if name != "rotations"
        },
    )


@dataclass
class Scene:
    """One person at the output rate, on the way from the camera to the world.

    ``poses`` at the frames of ``timeline``, camera axes; ``turn`` [M, 3, 3] world-from-camera;
    ``rest`` [24, 3] m the rest joints of the person's shape. rotations [M, 24, 3, 3] have joint 0
    in the world. The path stage sets path [M, 3] m (the pelvis), contacts [M, 2] and level [M] m
    (of what the person stands on, above the floor), and path_source says what it went by; physics
    may change the first three.
    """

    track: Track
    poses: PoseSequence
    timeline: Timeline
    turn: np.ndarray
    rest: np.ndarray
    rotations: np.ndarray
    path: np.ndarray
    contacts: np.ndarray
    level: np.ndarray
    path_source: str = "camera alone"

    @classmethod
    def from_camera(
        cls,
        track: Track,
        poses: PoseSequence,
        timeline: Timeline,
        turn: np.ndarray,
        rest: np.ndarray,
    ) -> "Scene":
        """A person whose root is still where the camera saw it, relative to the camera."""
        rotations = poses.rotations.copy()
        rotations[:, 0] = turn @ rotations[:, 0]
        path = np.einsum("nij,nj->ni", turn, poses.pelvis)
        count = len(poses)
        contacts, level = np.zeros((count, 2)), np.zeros(count)
        return cls(track, poses, timeline, turn, rest, rotations, path, contacts, level)

    def __len__(self) -> int:
        return len(self.poses)

    def joints(self) -> np.ndarray:
        """Joints about the pelvis in world orientation, [M, 24, 3] m."""
        joints = forward_kinematics(self.rotations, self.rest)
        return joints - joints[:, :1]

    def lowest_foot(self) -> np.ndarray:
        """How high the lowest of toes and ankles is above the pelvis, [M] m, less than 0."""
        return self.joints()[:, list(FEET + ANKLES), 1].min(axis=1)


def trust(poses: PoseSequence, size: tuple[int, int]) -> np.ndarray:
    """How far each frame's place can be trusted, [N] 0..1: poses of people who are cut by the edge
    of the image ``size`` (width, height) px, or that Rope doubts, are guesses."""
    inside = ((poses.joints2d >= 0) & (poses.joints2d < np.array(size))).all(axis=-1).mean(axis=1)
    return (inside * poses.confidence.mean(axis=1)) ** 2


def place_in_one_world(paths: list[np.ndarray], camera_paths: list[np.ndarray]) -> list[np.ndarray]:
    """Moves each path [M, 3] on the floor so that all people share one world.

    The regenerated paths know no common origin. The first person begins over it; every other
    path is moved by the median difference between it and the way the camera saw that person go,
    ``camera_paths`` [M, 3] m in world axes about the camera, relative to the first.
    """

    def offset(path: np.ndarray, seen: np.ndarray) -> np.ndarray:
        return np.median((seen - path)[:, [0, 2]], axis=0)

    first = paths[0] - paths[0][:1] * np.array([1.0, 0.0, 1.0])
    origin = offset(first, camera_paths[0])
    placed = [first]
    for path, seen in zip(paths[1:], camera_paths[1:], strict=True):
        moved = path.copy()
        moved[:, [0, 2]] += offset(path, seen) - origin
        placed.append(moved)
    return placed


def steady_in_view(scene: Scene, size: tuple[int, int]) -> np.ndarray:
    """Frames [M] bool with all joints inside the image ``size`` (width, height) px, where poses are
    no guesses, and with the person on one level; short exceptions are bridged."""
    joints = scene.poses.joints2d
    inside = ((joints >= 0) & (joints < np.array(size))).all(axis=(1, 2))
    reach = max(1, round(BRIDGE * scene.timeline.fps))
    inside = binary_closing(np.pad(inside, reach, mode="edge"), np.ones(reach, bool))[reach:-reach]
    moved = np.abs(np.diff(scene.level, prepend=scene.level[:1])) * scene.timeline.fps
    return inside & (moved < LEVEL_SPEED)


def out_of_floor(scene: Scene) -> Scene:
    """The same, lifted where both camera and physics are silent and feet sink into what they stand
    on by more than the joints of standing feet may."""
    sunk = np.maximum(scene.level - scene.path[:, 1] - scene.lowest_foot() - FOOT_HEIGHT, 0)
    reach = max(1, round(LIFTING * scene.timeline.fps))
    highest = maximum_filter1d(sunk, 2 * reach + 1, mode="nearest")
    lift = gaussian_filter1d(highest, reach / 2, mode="nearest", radius=reach)  # nowhere too little
    return replace(scene, path=scene.path + lift[:, None] * [0.0, 1.0, 0.0])


def assemble_motion(scene: Scene, camera: Camera, body: str) -> Motion:
    """The Motion of one person from everything the stages said: trans = pelvis - rest[0]."""
    track, poses, source = scene.track, scene.poses, scene.timeline.source
    trans = scene.path - scene.rest[0]
    return Motion(
        poses=matrix_to_axis_angle(scene.rotations).reshape(-1, 72),
        trans=trans,
        betas=poses.betas[0],
        fps=scene.timeline.fps,
        joints=forward_kinematics(scene.rotations, scene.rest, trans),
        timestamps=scene.timeline.times,
        frame_index=track.frames[source],
        boxes=track.boxes[source],
        confidence=poses.confidence.mean(axis=1) * track.seen[source],
        joint_confidence=poses.confidence * track.seen[source, None],
        contacts=scene.contacts,
        joints2d=poses.joints2d,
        camera_poses=matrix_to_axis_angle(poses.rotations).reshape(-1, 72),
        camera_trans=poses.pelvis - scene.rest[0],
        camera_rotation=scene.turn,
        camera_focal=camera.focal,
        camera_center=camera.center,
        body=body,
        person=track.id,
    )
