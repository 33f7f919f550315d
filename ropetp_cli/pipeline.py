"""The whole line, in the order of the paper's Figure 2. The only file that knows every stage."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ropetp_cli import __version__, exchange
from ropetp_cli.assembly import (
    Scene,
    assemble_motion,
    make_timeline,
    out_of_floor,
    place_in_one_world,
    resample_poses,
    steady_in_view,
    trust,
)
from ropetp_cli.body.model import BodyData, load_body
from ropetp_cli.body.rotations import slerp
from ropetp_cli.body.skeleton import NUM_BETAS
from ropetp_cli.camera.background import BackgroundMotion, BackgroundTracker
from ropetp_cli.camera.floor import sizes_on_one_floor
from ropetp_cli.camera.focal import choose_focal
from ropetp_cli.camera.gravity import (
    LEVEL,
    UPRIGHT_ERROR,
    edges_agree,
    fuse_with_gravity,
    level_by_floor,
    lowest_foot,
)
from ropetp_cli.camera.lines import Perspective, read_perspective, straight_edges
from ropetp_cli.camera.placement import (
    fit_pelvis,
    look_along,
    pelvis_in_crops,
    widths_at_one_metre,
)
from ropetp_cli.errors import RopeTPError
from ropetp_cli.exchange.npz import AMASS_FPS, check_layout
from ropetp_cli.files import discard_drafts, writable_directory, write_json
from ropetp_cli.motion import Camera, Motion, PoseSequence, Track, VideoInfo
from ropetp_cli.people.crops import crop_batch, crop_to_frame, keypoints_to_crop, square_crop
from ropetp_cli.people.detector import Detector, crowded
from ropetp_cli.people.tracker import TrackingResult, follow_people
from ropetp_cli.physics import simulate
from ropetp_cli.report import joint_agreement, motion_figures
from ropetp_cli.rope.bridge import bridged, in_sight
from ropetp_cli.rope.predictor import CropPoses, RopePredictor, posed_joints
from ropetp_cli.rope.smoothing import smooth_points, smooth_rotations, steady_betas
from ropetp_cli.rope.temporal import TemporalRefiner, as_seen, load_temporal
from ropetp_cli.rope.upright import NEAR
from ropetp_cli.runs import (
    REPORT,
    earlier_files,
    fingerprint,
    ingredients,
    is_finished,
    last_report,
    run_key,
)
from ropetp_cli.stages import StageCache, Steps
from ropetp_cli.trajectory.denoiser import TrajDenoiser, load_denoiser
from ropetp_cli.trajectory.fusion import SURE, Sight, fuse_people
from ropetp_cli.trajectory.sampling import foot_contacts, regenerate_path
from ropetp_cli.video.reader import VideoReader
from ropetp_cli.weights import find_weights

if TYPE_CHECKING:
    from ropetp_cli.preview import OverlayBeside

Advance = Callable[[int], None]
#: ``progress(stage, total)`` is a context manager that yields ``advance(count)``.
Progress = Callable[[str, int | None], AbstractContextManager[Advance]]

#: The stages whose results are kept, in order, each with what matters only from it on. What is
#: named nowhere counts for all of them.
BEGINS = {
    "people": (),
    "edges": ("focal_px", "focal_mm"),
    "pose": ("person", "camera", "quick", "body", "rope weights"),
    "path": (
        "height",
        "fps",
        "npz_layout",
        "steps",
        "seed",
        "path",
        "temporal weights",
        "trajectory weights",
    ),
    "physics": ("physics",),
    "files": ("formats", "previews", "up", "skeleton", "with_mesh", "one_glb", "batch_size"),
}
#: What their results are made of.
KEPT = (TrackingResult, Track, VideoInfo, Perspective, CropPoses, BackgroundMotion, Scene)
#: How tall, m, people may be whose height nobody told; whose size differs by less than this is as
#: tall as thought.
HEIGHTS, LIKE_OTHERS = (1.25, 2.15), 0.01
#: Straight edges are read in one frame for so many s, in at most so many.
READ_SECONDS, MOST_READ = 2.0, 6


@dataclass
class CaptureOptions:
    """What ``ropetp capture`` may be told; the names are those of the command line. ``height``, m,
    of everybody or by id, becomes pairs of id (0: everybody else) and m."""

    person: str = "all"
    height: float | Mapping[int, float] | tuple[tuple[int, float], ...] = ()
    formats: tuple[str, ...] = ("npz", "bvh")
    camera: str = "auto"
    focal_px: float | None = None
    focal_mm: float | None = None
    start: float | None = None
    end: float | None = None
    fps: float | None = None
    steps: int = 100
    seed: int = 0
    quick: bool = False
    path: str = "auto"
    up: str = "z"
    npz_layout: str = "smpl"
    skeleton: str = "smpl"
    with_mesh: bool | None = None
    one_glb: bool = False
    physics: bool = True
    previews: tuple[str, ...] = ("overlay", "viewer")
    device: str = "auto"
    body: str | None = None
    weights: Path | None = None
    detector: str | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        told = self.height if isinstance(self.height, Mapping | tuple) else {0: self.height}
        self.height = tuple(sorted(dict(told).items()))


@dataclass
class Capture:
    """A finished capture: the directory ``out`` with the files the report names."""

    out: Path
    report: dict[str, Any]

    @property
    def files(self) -> list[Path]:
        return [self.out / name for name in [*self.report["files"], REPORT]]

    @property
    def motions(self) -> list[Motion]:
        """The motions written as npz, one a person."""
        return [exchange.read(path) for path in self.files if path.suffix == ".npz"]


class Models:
    """What captures with the same options share; the detector is loaded when first asked for."""

    def __init__(self, options: CaptureOptions):
        self.device = choose_device(options.device)
        self.body = load_body(options.body)
        self.rope = RopePredictor.from_weights(
            self.body, options.weights, self.device, quick=options.quick, reach=NEAR
        )
        self.refiner = TemporalRefiner(
            load_temporal(find_weights("temporal", options.weights)), self.device
        )
        self.denoiser = load_denoiser(find_weights("trajectory", options.weights))
        self._detector = options.detector

    @cached_property
    def detector(self) -> Detector:
        return Detector(self._detector, device=self.device)


def capture(
    video: str | Path,
    out: str | Path | None = None,
    options: CaptureOptions | None = None,
    progress: Progress | None = None,
    force: bool = False,
    models: Models | None = None,
) -> Capture:
    """One video in, every person's global motion out (paper Figure 2).

    ``out`` is the directory to write, by default ``VIDEO-stem_ropetp``; when it holds the
    finished capture of the same video, options, weights and version, nothing is done, and stages
    it holds the results of are not run again, unless ``force``. Files of an earlier capture that
    show other motions go, other formats of the same motions stay. ``models`` of an earlier capture
    with the same options save loading them. Raises RopeTPError (unreadable video, damaged
    weights, unwritable output) and NobodyFound.
    """
    options = options or CaptureOptions()
    VideoReader(video, options.start, options.end).close()  # a bad video stops here, early
    exchange.check_formats(options.formats)
    check_layout(options.npz_layout, options.up)
    out = writable_directory(Path(out) if out else Path(f"{Path(video).stem}_ropetp"))
    before = last_report(out)
    source = fingerprint(video, before.get("source"))
    made_of = ingredients(asdict(options)) | {"video": source["sha256"]}
    if not force and is_finished(before, run_key(made_of), lambda name: (out / name).is_file()):
        return Capture(out, before)
    clock = Clock(progress)
    models = models or Models(options)
    body = models.body
    for _, height in options.height:
        body.with_height(np.zeros(NUM_BETAS), height)  # one that is nobody's stops here, early
    stage = StageCache(out / "cache", made_of, BEGINS, KEPT, force)
    discard_drafts(out)

    people = stage("people", find_people, video, models, options, clock)
    tracks = pick_people(people.tracks, options.person)
    heights = pick_heights(people.tracks, options.height)
    edges = stage("edges", read_edges, video, people, options, clock)
    camera = choose_camera(people, options, edges)
    steps = stage.steps("pose", batch_size=options.batch_size)
    answers, background = stage(
        "pose", estimate_poses, video, people, tracks, camera, models.rope, options, clock, steps
    )
    tracks, answers = within_sight(tracks, answers, people)
    still = background is None or not background.moving
    told = answers, tracks, body, people, models.refiner, still
    upright = before_camera(camera, *told, heights)
    camera = find_gravity(camera, background, edges, upright, tracks, people, options)
    on_floor = heights_on_one_floor(camera, upright, tracks, people, body, heights)
    poses = before_camera(camera, *told, heights | on_floor, levelled=True)
    del answers, told, upright  # an hour of them is 300 MB a person
    agreements = [
        joint_agreement(pose.joints2d, track.keypoints, track.boxes)
        for pose, track in zip(poses, tracks, strict=True)
    ]

    fps = options.fps or (AMASS_FPS if options.npz_layout == "amass" else people.fps)
    scenes = [
        at_constant_rate(track, pose, people, camera, body, fps)
        for track, pose in zip(tracks, poses, strict=True)
    ]
    del poses
    kept, outdated = earlier_files(before, stage.key("physics"))
    for name in [*outdated, REPORT]:  # a report would speak of files that are being replaced
        (out / name).unlink(missing_ok=True)
    with begin_overlay(video, scenes, camera, body, out, options) as overlay:
        scenes = stage(
            "path", regenerate_paths, scenes, models.denoiser, camera, people.info.size, options,
            models.device, clock,
        )  # fmt: skip
        scenes, physics = stage("physics", imitate, scenes, body, people.info.size, options, clock)
        scenes = [out_of_floor(scene) for scene in scenes]
        motions = [assemble_motion(scene, camera, body.label) for scene in scenes]

        files = write_motions(motions, body, out, options, clock)
        files += write_previews(video, motions, body, out, options, clock, overlay)
    report = describe(
        people, camera, tracks, heights, on_floor, agreements, scenes, motions, physics, body,
        options,
    )  # fmt: skip
    report |= {
        "key": run_key(made_of),
        "source": source,
        "stages": clock.table(sum(len(track) for track in tracks)),
        "reused": stage.reused,
        "motion": stage.key("physics"),
        "files": list(
            dict.fromkeys(
                [path.name for path in files] + [name for name in kept if (out / name).is_file()]
            )
        ),
    }
    write_json(report, out / REPORT)
    return Capture(out, report)


def find_people(
    video: str | Path, models: Models, options: CaptureOptions, clock: "Clock"
) -> TrackingResult:
    """Detect and follow everybody, streaming the video once."""
    detector = models.detector
    with VideoReader(video, options.start, options.end) as reader:
        with clock("people", reader.info.frame_count) as advance:
            return follow_people(reader, detector, progress=advance)


def read_edges(
    video: str | Path, people: TrackingResult, options: CaptureOptions, clock: "Clock"
) -> list[Perspective]:
    """What straight edges say of the camera in some frames, spread over the video. Nothing of one
    whose people were found in turned frames: who lay, they or the camera, is not known."""
    if people.turn:
        return []
    given = options.focal_px is not None or options.focal_mm is not None
    focal = choose_focal(people.info.size, options.focal_px, options.focal_mm)[0]
    span = people.timestamps[-1] - people.timestamps[0]
    wanted = round(float(np.clip(span / READ_SECONDS, 1, MOST_READ)))
    rows = (np.arange(wanted) + 0.5) / wanted * len(people.timestamps)
    frames, found = set(people.frame_indices[rows.astype(int)].tolist()), []
    with (
        VideoReader(video, options.start, options.end) as reader,
        clock("edges", wanted) as advance,
    ):
        for index, _, frame in reader:
            if index in frames:
                seen = straight_edges(frame, boxes_at(people.tracks, index)[1])
                read = read_perspective(seen, people.info.size, focal if given else None)
                found += [replace(read, frame=index)] if read is not None else []
                advance(1)
            if index >= max(frames):
                break
    return found


def pick_people(tracks: list[Track], wanted: str) -> list[Track]:
    """``all``, ``largest`` or a comma-separated list of ids."""
    if wanted == "all":
        return tracks
    if wanted == "largest":
        return [max(tracks, key=lambda track: float(track.sizes.sum()))]
    known = {track.id: track for track in tracks}
    try:
        ids = [int(word) for word in wanted.split(",")]
        return [known[number] for number in dict.fromkeys(ids)]
    except (ValueError, KeyError) as error:
        have = ", ".join(str(number) for number in known)
        raise RopeTPError(
            f"--person {wanted}: expected all, largest or ids among {have} (see `ropetp tracks`)"
        ) from error


def pick_heights(tracks: list[Track], told: tuple[tuple[int, float], ...]) -> dict[int, float]:
    """How tall, m, those of ``tracks`` are of whom ``told`` (id or 0 for everybody else, m) says
    it."""
    given, known = dict(told), [track.id for track in tracks]
    if strangers := set(given) - {0, *known}:
        have = ", ".join(map(str, known))
        raise RopeTPError(
            f"--height {min(strangers)}=...: expected an id among {have} (see `ropetp tracks`)"
        )
    heights = {number: given.get(number, given.get(0)) for number in known}
    return {number: height for number, height in heights.items() if height is not None}


def estimate_poses(
    video: str | Path,
    people: TrackingResult,
    tracks: list[Track],
    camera: Camera,
    rope: RopePredictor,
    options: CaptureOptions,
    clock: "Clock",
    steps: Steps,
) -> tuple[list[CropPoses], BackgroundMotion | None]:
    """Rope on every crop of ``tracks``, in batches, each a step that is not run again if this is
    killed, and the camera's turn from what lies behind everybody; frames are streamed once. No
    background with ``--camera static``."""
    background = None
    if options.camera != "static":
        background = BackgroundTracker(camera.focal, camera.center)
    looked: list[CropPoses] = []
    owners: list[int] = []
    waiting: list[np.ndarray] = []
    keypoints: list[np.ndarray] = []
    widths: list[float] = []
    hidden: list[bool] = []

    def flush(advance: Advance) -> None:
        count = min(options.batch_size, len(waiting))
        given = (waiting, keypoints, widths, hidden)
        looked.append(steps(rope.predict, *(np.array(values[:count]) for values in given)))
        advance(count)
        for values in given:
            del values[:count]

    with (
        VideoReader(video, options.start, options.end) as reader,
        clock("pose", sum(map(len, tracks))) as advance,
    ):
        for index, _, frame in reader:
            everybody, around = boxes_at(people.tracks, index)
            if background is not None:
                background.add(frame, around)
            here, boxes = boxes_at(tracks, index)
            if here:
                crops, centers, sizes = crop_batch(frame, boxes)
                found = np.stack([tracks[k].keypoints[index - tracks[k].frames[0]] for k in here])
                waiting.extend(crops)
                keypoints.extend(keypoints_to_crop(found, centers, sizes))
                widths.extend(widths_at_one_metre(centers, sizes, camera.focal, camera.center))
                beside = {people.tracks[k].id for k in np.array(everybody)[crowded(around)]}
                hidden.extend(tracks[k].id in beside for k in here)
                owners.extend(here)
            # All of one size: a batch of a new size finds no room in the memory freed before.
            while len(waiting) >= options.batch_size:
                flush(advance)
        if waiting:
            flush(advance)
    turn = background.finish() if background is not None else None
    poses, owner = CropPoses.joined(looked), np.array(owners)
    return [poses.take(np.flatnonzero(owner == k)) for k in range(len(tracks))], turn


def within_sight(
    tracks: list[Track], answers: list[CropPoses], people: TrackingResult
) -> tuple[list[Track], list[CropPoses]]:
    """Everybody from when enough of them is in the picture until it no longer is."""
    parts = [
        in_sight(answer, track.boxes, people.info.width, people.fps)
        for track, answer in zip(tracks, answers, strict=True)
    ]
    return (
        [track.part(rows) for track, rows in zip(tracks, parts, strict=True)],
        [a.take(np.arange(len(a))[rows]) for a, rows in zip(answers, parts, strict=True)],
    )


def boxes_at(tracks: list[Track], index: int) -> tuple[list[int], np.ndarray]:
    """Which of ``tracks`` are there in frame ``index``, and their boxes [P, 4]."""
    here = [k for k, track in enumerate(tracks) if 0 <= index - track.frames[0] < len(track)]
    boxes = [tracks[k].boxes[index - tracks[k].frames[0]] for k in here]
    return here, np.array(boxes).reshape(-1, 4)


def before_camera(
    camera: Camera,
    answers: list[CropPoses],
    tracks: list[Track],
    body: BodyData,
    people: TrackingResult,
    refiner: TemporalRefiner,
    still: bool,
    heights: dict[int, float],
    levelled: bool = False,
) -> list[PoseSequence]:
    """Everybody's poses in the camera's axes. When the camera is ``levelled``, people stand up with
    it; before, only they can tell which way is up."""
    poses = []
    for answer, track in zip(answers, tracks, strict=True):
        up = camera.rotation[camera_rows(camera, track.frames, people), 1] if levelled else None
        height = heights.get(track.id)
        poses.append(to_camera(answer, track, body, camera, people.fps, refiner, still, height, up))
    return poses


def camera_rows(camera: Camera, frames: np.ndarray, people: TrackingResult) -> np.ndarray:
    """Which of the camera's rotations belong to ``frames`` [N], [N]."""
    if len(camera.rotation) == 1:
        return np.zeros(len(frames), int)
    return np.searchsorted(people.frame_indices, frames)


def to_camera(
    answer: CropPoses,
    track: Track,
    body: BodyData,
    camera: Camera,
    fps: float,
    refiner: TemporalRefiner,
    still: bool,
    height: float | None = None,
    up: np.ndarray | None = None,
) -> PoseSequence:
    """One person's crops brought to the camera's axes, blind moments bridged, put right by the
    frames around and bent to the picture once more, with one shape, without frame noise.
    ``still``: the camera does not move. ``height`` m, where it is known: no picture tells a tall
    person far away from a short one. ``up`` [N, 3] in the camera's axes, where it is known."""
    crops = [square_crop(box) for box in track.boxes]
    centers = np.array([crop.center for crop in crops])
    sizes = np.array([crop.size for crop in crops])
    betas = steady_betas(answer.betas, answer.confidence.mean(axis=1) * track.seen)
    if height is not None:
        answer = answer.of_size(height / body.height(betas))
        betas = body.with_height(betas, height)
    rest = body.rest_joints(betas)
    widths = widths_at_one_metre(centers, sizes, camera.focal, camera.center)
    answer, weights = bridged(answer, centers, sizes, widths, rest, fps)
    joints2d = smooth_points(crop_to_frame(answer.joints2d, centers, sizes), fps)
    turn = look_along(centers, camera.focal, camera.center)
    about = pelvis_in_crops(answer.cam, widths, turn)
    refined = refiner.refine(as_seen(answer, turn, about, rest, fps, still), fps)
    if up is not None:
        refined = refined.leaning(np.einsum("nji,nj->ni", turn, up), fps)
    refined = refiner.bent(refined, answer, rest, widths, fps)
    refined.rotations[:, 0] = turn @ refined.rotations[:, 0]
    rotations = smooth_rotations(refined.rotations, weights, fps)
    joints = posed_joints(rotations, rest)

    pelvis = fit_pelvis(
        joints, joints2d, answer.confidence, camera.focal, camera.center, fallback=about
    )
    pelvis = smooth_points(pelvis, fps)
    return PoseSequence(
        rotations=rotations,
        betas=np.tile(betas, (len(track), 1)),
        joints=joints,
        pelvis=pelvis,
        joints2d=camera.project(joints + pelvis[:, None]),
        confidence=answer.confidence,
        up=np.einsum("nij,nj->ni", turn, refined.up),
        up_error=refined.up_error,
    )


def choose_camera(
    people: TrackingResult, options: CaptureOptions, edges: Sequence[Perspective] = ()
) -> Camera:
    """A level camera that stands still, with the focal length given, read off ``edges`` or
    assumed."""
    read = [each.focal for each in edges if each.focal is not None]
    focal, error, source = choose_focal(people.info.size, options.focal_px, options.focal_mm, read)
    center = np.array(people.info.size) / 2.0
    return Camera(focal, center, LEVEL[None], error, source, source="static, as told")


def find_gravity(
    camera: Camera,
    background: BackgroundMotion | None,
    edges: list[Perspective],
    poses: list[PoseSequence],
    tracks: list[Track],
    people: TrackingResult,
    options: CaptureOptions,
) -> Camera:
    """The same camera turned in the world: its tilt from people's balance, straight ``edges`` and,
    if it stays in its place, the floor people walk on; its turn over time, if it moves, from the
    background."""
    moving = background is not None and background.moving
    rotation = background.rotation if moving else np.eye(3)[None]
    camera = replace(camera, rotation=rotation)
    frames = [camera_rows(camera, track.frames, people) for track in tracks]
    seen = camera_rows(camera, np.array([each.frame for each in edges], int), people)
    verticals = [(row, each.up, each.error) for row, each in zip(seen, edges, strict=True)]
    world = fuse_with_gravity(
        rotation, frames, [pose.up for pose in poses], [pose.up_error for pose in poses],
        people.fps, verticals,
    )  # fmt: skip
    off = edges_agree(world, verticals)
    error = UPRIGHT_ERROR if off is None else min(off, UPRIGHT_ERROR)
    travels = options.camera == "moving" or (moving and background.travels)
    if not travels:
        places = feet_places(world, frames, poses)
        sure = [trust(pose, people.info.size) for pose in poses]
        floor = level_by_floor(world[0], places, sure, people.fps, error)
        world = floor @ world[0].T @ world
    source = background.evidence if background is not None else camera.source
    told = "people's balance" + (" and straight edges" if off is not None else "")
    return replace(
        camera, rotation=world, source=source, up_source=told, up_error=error, travels=travels
    )


def feet_places(
    world: np.ndarray, rows: list[np.ndarray], poses: list[PoseSequence]
) -> list[np.ndarray]:
    """Everybody's lowest foot about the camera, [N, 3] m in the ``world`` [N, 3, 3] from camera,
    whose ``rows`` [N] are those of each person's frames."""
    turns = [world[each] for each in rows]
    return [
        np.einsum("nij,nj->ni", turn, pose.pelvis + lowest_foot(pose.joints, turn))
        for turn, pose in zip(turns, poses, strict=True)
    ]


def heights_on_one_floor(
    camera: Camera,
    poses: list[PoseSequence],
    tracks: list[Track],
    people: TrackingResult,
    body: BodyData,
    heights: dict[int, float],
) -> dict[int, float]:
    """How tall, m, those are by id whose ``heights`` nobody told, if their feet are on the floor
    that others stand on, too, before one camera that stays in its place."""
    if camera.travels or people.cuts:
        return {}
    rows = [camera_rows(camera, track.frames, people) for track in tracks]
    feet = [np.median(place, axis=0) for place in feet_places(camera.rotation, rows, poses)]
    feet = np.array(feet).reshape(-1, 3)
    guessed = [np.median(trust(pose, people.info.size)) < SURE for pose in poses]
    larger = sizes_on_one_floor(
        np.where(guessed, 0.0, -feet[:, 1]),
        np.linalg.norm(feet[:, [0, 2]], axis=1),
        np.array([track.id in heights for track in tracks], bool),
        camera.up_error,
    )
    return {
        track.id: float(np.clip(body.height(pose.betas[0]) * size, *HEIGHTS))
        for track, pose, size in zip(tracks, poses, larger, strict=True)
        if abs(size - 1) > LIKE_OTHERS and track.id not in heights
    }


def at_constant_rate(
    track: Track,
    poses: PoseSequence,
    people: TrackingResult,
    camera: Camera,
    body: BodyData,
    fps: float,
) -> Scene:
    """One person from the frames' own timestamps to ``fps``, turned into the world's axes."""
    times = people.times_of(track)
    timeline = make_timeline(times, fps)
    even = resample_poses(poses, times, timeline)
    turn = np.repeat(camera.rotation[:1], len(even), axis=0)
    if len(camera.rotation) > 1:
        turn = slerp(people.timestamps, camera.rotation, timeline.times)
    return Scene.from_camera(track, even, timeline, turn, body.rest_joints(even.betas[0]))


def begin_overlay(
    video: str | Path,
    scenes: list[Scene],
    camera: Camera,
    body: BodyData,
    out: Path,
    options: CaptureOptions,
) -> "AbstractContextManager[OverlayBeside | None]":
    """The overlay shows people before the camera: it is drawn while their paths are found."""
    if "overlay" not in options.previews:
        return nullcontext()
    from ropetp_cli.preview import OverlayBeside

    motions = [assemble_motion(scene, camera, body.label) for scene in scenes]
    return OverlayBeside(video, motions, body, out, options.start, options.end)


def regenerate_paths(
    scenes: list[Scene],
    denoiser: TrajDenoiser,
    camera: Camera,
    size: tuple[int, int],
    options: CaptureOptions,
    device: str,
    clock: "Clock",
) -> list[Scene]:
    """TrajDenoiser gives every root a new path (section 3.3), which a camera that stays in its
    place leads to where it saw the person; all share one world."""
    new = []
    with clock("path", sum(map(len, scenes))) as advance:
        for scene in scenes:
            new.append(
                regenerate_path(
                    denoiser, scene.joints(), scene.timeline.fps,
                    steps=options.steps, seed=options.seed, device=device,
                    rotations=scene.rotations,
                )
            )  # fmt: skip
            advance(len(scene))
    if options.path == "auto" and not camera.travels:
        sights = [
            Sight(scene.path, scene.turn[:, :, 2], trust(scene.poses, size)) for scene in scenes
        ]
        fused = fuse_people(
            [n.path for n in new], [scene.lowest_foot() for scene in scenes],
            [n.contacts for n in new], sights, scenes[0].timeline.fps,
            focal_error=camera.focal_error, turning=len(camera.rotation) > 1,
        )  # fmt: skip
        if fused is not None:
            origin = fused[0].path[0] * np.array([1.0, 0.0, 1.0])
            return [
                replace(
                    scene, path=f.path - origin, level=f.level,
                    contacts=foot_contacts(
                        f.path - f.level[:, None] * [0.0, 1.0, 0.0], scene.joints(),
                        scene.timeline.fps,
                    ),
                    path_source="poses and camera",
                )
                for scene, f in zip(scenes, fused, strict=True)
            ]  # fmt: skip
    placed = place_in_one_world([n.path for n in new], [scene.path for scene in scenes])
    return [
        replace(scene, path=path, contacts=n.contacts, path_source="poses alone")
        for scene, path, n in zip(scenes, placed, new, strict=True)
    ]


def imitate(
    scenes: list[Scene],
    body: BodyData,
    size: tuple[int, int],
    options: CaptureOptions,
    clock: "Clock",
) -> tuple[list[Scene], list[dict[str, Any]]]:
    """The physics stage on every person while in view, and what it says of each."""
    if not options.physics:
        return scenes, [{"applied": False, "message": "physics switched off"} for _ in scenes]
    imitated, notes = [], []
    with clock("physics", sum(map(len, scenes))) as advance:
        for scene in scenes:
            usable = steady_in_view(scene, size)
            ground = scene.level[:, None] * np.array([0.0, 1.0, 0.0])
            result = simulate(
                scene.rotations, scene.path - ground, scene.rest, scene.contacts,
                scene.timeline.fps, body, scene.poses.betas[0], progress=advance,
                usable=usable if usable.any() else None,
            )  # fmt: skip
            if result.applied:
                scene = replace(
                    scene, rotations=result.rotations, path=result.path + ground,
                    contacts=result.contacts,
                )  # fmt: skip
            imitated.append(scene)
            note = {"applied": result.applied, "message": result.message}
            for when, figures in (("before", result.before), ("after", result.after)):
                note[when] = {name: round(float(value), 4) for name, value in figures.items()}
            notes.append(note)
    start = imitated[0].path[0] * np.array([1.0, 0.0, 1.0])  # stays over the origin
    return [replace(scene, path=scene.path - start) for scene in imitated], notes


def write_motions(
    motions: list[Motion], body: BodyData, out: Path, options: CaptureOptions, clock: "Clock"
) -> list[Path]:
    """Every format asked for, one file a person unless told otherwise."""
    names = [f"person_{motion.person:02d}" for motion in motions]
    jobs = exchange.targets(motions, names, out, options.formats, options.one_glb)
    files = []
    with clock("write", len(jobs)) as advance:
        for what, path in jobs:
            told = exchange.options_for(
                path.suffix, up=options.up, layout=options.npz_layout, skeleton=options.skeleton,
                body=body, with_mesh=options.with_mesh,
            )  # fmt: skip
            files.append(exchange.write(what, path, **told))
            advance(1)
    return files


def write_previews(
    video: str | Path,
    motions: list[Motion],
    body: BodyData,
    out: Path,
    options: CaptureOptions,
    clock: "Clock",
    overlay: "OverlayBeside | None",
) -> list[Path]:
    """The pictures asked for; the renderer is imported only then. ``overlay`` has begun
    before, and the viewer refers to it."""
    wanted = [name for name in options.previews if name not in ("none", "overlay")]
    if not wanted and overlay is None:
        return []
    from ropetp_cli.preview import render_previews

    told = {"start": options.start, "end": options.end, "with_mesh": options.with_mesh}
    with clock("preview", None) as advance:
        pictures = [name for name in wanted if name != "viewer"]
        files = render_previews(video, motions, body, out, pictures, advance, **told)
        files += overlay.finish(advance) if overlay is not None else []
        viewer = {"viewer"} & set(wanted)
        return files + render_previews(video, motions, body, out, viewer, advance, **told)


def describe(
    people: TrackingResult,
    camera: Camera,
    tracks: list[Track],
    heights: dict[int, float],
    on_floor: dict[int, float],
    agreements: list[dict[str, Any]],
    scenes: list[Scene],
    motions: list[Motion],
    physics: list[dict[str, Any]],
    body: BodyData,
    options: CaptureOptions,
) -> dict[str, Any]:
    """The report: what was read, assumed and found, and how good it is by its own measure."""
    info = people.info
    tilt = np.degrees(np.arccos(np.clip((LEVEL.T @ camera.rotation[0])[1, 1], -1, 1)))
    return {
        "ropetp_version": __version__,
        "video": {
            "path": str(Path(info.path).resolve()),
            "width": info.width,
            "height": info.height,
            "rotation": info.rotation,
            "fps": round(people.fps, 4),
            "frames": len(people.timestamps),
            "start": options.start,
            "end": options.end,
        },
        "camera": {
            "source": camera.source,
            "focal_px": round(camera.focal, 2),
            "focal_source": camera.focal_source,
            "tilt_degrees": round(float(tilt), 2),
            "tilt_source": camera.up_source,
        },
        "body": body.label,
        "seed": options.seed,
        "ddim_steps": options.steps,
        "fps": round(motions[0].fps, 4),
        "warnings": people.warnings + _mesh_note(body, options),
        "people": [
            {
                "id": track.id,
                "frames": len(track),
                "frames_seen": int(track.seen.sum()),
                "first_frame": int(track.frames[0]),
                "last_frame": int(track.frames[-1]),
                "output_frames": len(motion),
                "height_m": round(body.height(motion.betas), 3),
                "height_source": "given"
                if track.id in heights
                else "seen against others on the floor, a guess"
                if track.id in on_floor
                else "seen, a guess",
                "joint_agreement": agreement,
                **motion_figures(motion),
                "path_source": scene.path_source,
                "highest_level_m": round(float(scene.level.max()), 2),
                "physics": simulated,
            }
            for track, agreement, scene, motion, simulated in zip(
                tracks, agreements, scenes, motions, physics, strict=True
            )
        ],
    }


def _mesh_note(body: BodyData, options: CaptureOptions) -> list[str]:
    if "glb" not in options.formats or options.with_mesh is not None:
        return []
    return [] if exchange.may_travel(body.label) else [f"GLB holds {exchange.LICENSED}"]


def choose_device(name: str) -> str:
    """``auto`` takes CUDA, then MPS, then the CPU."""
    import torch

    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        return next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    if not available[name]:
        raise RopeTPError(f"--device {name}: not available here; `ropetp doctor` says why")
    return name


class Clock:
    """Times the stages and passes their progress on."""

    def __init__(self, progress: Progress | None = None):
        self.progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str, total: int | None) -> Iterator[Advance]:
        began = time.perf_counter()
        try:
            if self.progress is None:
                yield lambda count=1: None
            else:
                with self.progress(stage, total) as advance:
                    yield advance
        finally:
            self.seconds[stage] = time.perf_counter() - began

    def table(self, person_frames: int) -> dict[str, dict[str, float]]:
        """Seconds and milliseconds a person-frame of every stage."""
        return {
            stage: {
                "seconds": round(spent, 3),
                "ms_per_person_frame": round(1000 * spent / max(person_frames, 1), 2),
            }
            for stage, spent in self.seconds.items()
        }
