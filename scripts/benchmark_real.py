"""The whole tool on real people, held against what four calibrated cameras say of them.

usage: python scripts/benchmark_real.py OUT [--weights DIR] [--path auto|diffusion] [--focal]
           [--height] [--teacher pose_landmark_heavy.tflite]

The eight videos (1.7 s each, a man who balances, alone and with a woman who is not real but drawn
into them) and their calibration are those of the BSD-3 package Pose2Sim, downloaded into OUT and
checked by sha256; means are given of either, too. The reference is where all four views meet: every
view says by detector and by Rope where in the picture limbs are, and the others see how deep. It is
made once (OUT/reference.npz) and itself off by two or three centimetres. Every video is then
captured on its own. With --focal captures are told the calibrated focal length, with --height how
tall the reference says people are; with --teacher BlazePose is asked of every frame instead.
Captures whose options and weights are the same are taken as they are.
"""

import argparse
import hashlib
import itertools
import sys
from pathlib import Path

import numpy as np
from demo_clip import download
from rich.console import Console
from rich.table import Table

from ropetp_cli.arrays import open_npz
from ropetp_cli.body.model import BodyData
from ropetp_cli.body.skeleton import LIMB_KEYPOINTS, LIMBS, NUM_BETAS
from ropetp_cli.evaluation import metrics
from ropetp_cli.evaluation.pose import BLAZEPOSE_LIMBS
from ropetp_cli.evaluation.views import (
    HIPS,
    Observation,
    View,
    lengths,
    meeting,
    read_cameras,
    reference,
)
from ropetp_cli.files import atomic_path
from ropetp_cli.motion import Motion, Track
from ropetp_cli.people.crops import (
    CROP_PX,
    crop_batch,
    crop_to_frame,
    keypoints_to_crop,
    square_crop,
)
from ropetp_cli.people.tracker import TrackingResult
from ropetp_cli.pipeline import (
    CaptureOptions,
    Clock,
    Models,
    capture,
    choose_camera,
    estimate_poses,
    find_people,
)
from ropetp_cli.rope.blazepose import BlazePose
from ropetp_cli.rope.upright import FAR
from ropetp_cli.training.teacher import LSP_JOINTS, load_teacher, teach
from ropetp_cli.video.reader import VideoReader

PACKAGE = "pose2sim==0.10.49"
SHA256 = "20440817648a68024a37d27b6520266575db43d2e911e2e87e808ad95491d066"
TRIALS, CAMERAS, FPS = ("SinglePerson", "MultiPerson"), (1, 2, 3, 4), 60.0
#: The woman drawn into the videos is shorter, m, the man taller.
DRAWN = 1.5
#: Tracks that fit together worse than this, px, are not of one person.
ONE_PERSON = 40.0
#: From the laboratory's axes, z up, to ours, y up.
Y_UP = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])


def fetch(out: Path) -> dict[str, list[View]]:
    """Videos OUT/TRIAL_camN.mp4 and every trial's cameras."""
    names = [
        f"{trial}/{name}"
        for trial in TRIALS
        for name in ("calibration/Calib.qca.txt", *(f"videos/cam{n:02}.mp4" for n in CAMERAS))
    ]
    files = [out / name for name in names]
    if not all(file.is_file() for file in files):
        with download(PACKAGE) as package:
            for name, file in zip(names, files, strict=True):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(package.read(f"Pose2Sim/Demo_{name}"))
    if hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest() != SHA256:
        sys.exit(f"{out}: not the files of {PACKAGE} (sha256 differs); remove it and try again")
    return {
        trial: read_cameras((out / f"{trial}/calibration/Calib.qca.txt").read_bytes())
        for trial in TRIALS
    }


Pair = tuple[Observation, Observation]


def throughout(people: TrackingResult) -> list[Track]:
    """Everybody who is there from the first frame to the last."""
    return [track for track in people.tracks if len(track) == len(people.timestamps)]


def look(video: Path, view: View, models: Models) -> list[Pair]:
    """Everybody who is in a video from its first frame to its last, as the detector and as Rope
    see them."""
    options, clock = CaptureOptions(camera="static"), Clock()
    people = find_people(video, models, options, clock)
    tracks = throughout(people)
    answers, _ = estimate_poses(
        video, people, tracks, choose_camera(people, options), models.rope, options, clock,
        lambda work, *told: work(*told),
    )  # fmt: skip
    found = []
    for track, answer in zip(tracks, answers, strict=True):
        crops = [square_crop(box) for box in track.boxes]
        centers = np.array([crop.center for crop in crops])
        places = crop_to_frame(answer.joints2d, centers, np.array([crop.size for crop in crops]))
        theirs = np.concatenate([places, answer.confidence[..., None]], axis=-1)[:, LIMBS]
        detected = track.keypoints[:, list(LIMB_KEYPOINTS)]
        found.append((Observation(view, track.id, detected), Observation(view, track.id, theirs)))
    return found


def same_people(views: list[list[Pair]]) -> list[list[Pair]]:
    """Everybody whom all ``views`` see, by what the views see of one."""
    fits = [
        (float(np.nanmedian(meeting([s for pair in together for s in pair])[1])), together)
        for together in itertools.product(*views)
    ]
    people: list[list[Pair]] = []
    for off, together in sorted(fits, key=lambda fit: fit[0]):
        taken = any(a is b for others in people for a, b in zip(others, together, strict=True))
        if off < ONE_PERSON and not taken:
            people.append(list(together))
    return people


def as_tall(limbs: np.ndarray, body: BodyData) -> float:
    """How tall, m, a ``body`` is whose limbs are as long in all as ``limbs`` [N, 12, 3] m."""
    mean = np.zeros(NUM_BETAS)
    own = lengths(body.rest_joints(mean)[None, LIMBS])
    return body.height(mean) * float(lengths(limbs).sum() / own.sum())


def compare(seen: np.ndarray, truth: np.ndarray, view: View) -> dict[str, float]:
    """How far limbs ``seen`` [N, 12, 3] m before the camera ``view`` are from the ``truth`` [N, 12,
    3] m in the laboratory, mm: as they are, and when all are made as large as they should be."""
    size = lengths(seen).sum() / lengths(truth).sum()
    seen, true = (
        limbs - limbs[:, HIPS].mean(1, keepdims=True) for limbs in (seen, truth @ view.rotation.T)
    )
    sized = 1000 * (seen / size - true)
    return {
        "MPJPE": 1000 * np.linalg.norm(seen - true, axis=-1).mean(),
        "sized": np.linalg.norm(sized, axis=-1).mean(),
        "depth, sized": np.abs(sized)[..., 2].mean(),
        "PA-MPJPE": metrics.pa_mpjpe(seen, true).mean(),
        "size %": 100 * size,
    }


def compare_motion(motion: Motion, truth: np.ndarray, view: View) -> dict[str, float]:
    """The same of a capture's ``motion``, and how right the world is that it is in: WA-MPJPE, mm,
    and up, degrees."""
    truth, ours = truth[motion.frame_index], motion.joints[:, LIMBS]
    up = motion.camera_rotation[:, 1] @ (view.rotation @ [0.0, 0.0, 1.0])
    return compare(ours @ motion.camera_rotation, truth, view) | {
        "WA-MPJPE": metrics.wa_mpjpe(ours, truth @ Y_UP.T, len(ours)).mean(),
        "up °": np.degrees(np.arccos(np.clip(up, -1, 1))).mean(),
    }


def taught(video: Path, tracks: list[Track], network: BlazePose) -> dict[int, np.ndarray]:
    """What BlazePose says of everybody's limbs, by the ids of ``tracks``, [N, 12, 3] m before the
    camera."""
    crops: dict[int, list[np.ndarray]] = {track.id: [] for track in tracks}
    with VideoReader(video) as reader:
        for row, (_, _, frame) in enumerate(reader):
            boxes = np.array([track.boxes[row] for track in tracks])
            for track, crop in zip(tracks, crop_batch(frame, boxes)[0], strict=True):
                crops[track.id].append(crop)
    found = {}
    for track in tracks:
        specs = [square_crop(box) for box in track.boxes]
        places = keypoints_to_crop(
            track.keypoints, np.array([s.center for s in specs]), np.array([s.size for s in specs])
        )[:, list(LIMB_KEYPOINTS)]
        labels = np.zeros((len(track), len(LSP_JOINTS), 3))
        columns = [LSP_JOINTS.index(name) for name in LIMB_KEYPOINTS.values()]
        labels[:, columns, :2] = (places[..., :2] + 1) * CROP_PX / 2
        labels[:, columns, 2] = places[..., 2] > 0
        lesson = teach(network, np.array(crops[track.id]), labels)
        landmarks = [BLAZEPOSE_LIMBS[column] for column in columns]
        found[track.id] = lesson.world[:, landmarks].astype(np.float64)
    return found


def references(
    out: Path, views: dict[str, list[View]]
) -> dict[str, list[tuple[list[int], np.ndarray]]]:
    """Of every trial everybody whom all cameras see: the ids that captures of the four videos give
    her, and her limbs [N, 12, 3] m in the laboratory."""
    kept = out / "reference.npz"
    if not kept.is_file():
        models, values = Models(CaptureOptions()), {}
        models.rope.reach = FAR  # as single pictures are read best
        for trial in TRIALS:
            seen = [
                look(out / f"{trial}/videos/cam{number:02}.mp4", view, models)
                for number, view in zip(CAMERAS, views[trial], strict=True)
            ]
            for number, person in enumerate(same_people(seen), start=1):
                limbs, off = reference([s for pair in person for s in pair], FPS)
                values[f"{trial} {number}"] = limbs
                values[f"{trial} {number} ids"] = np.array([pair[0].id for pair in person])
                print(f"{trial}, person {number}: detector {np.nanmedian(off[::2]):.1f} px, Rope "
                      f"{np.nanmedian(off[1::2]):.1f} px from the reference in the median; bones "
                      f"{np.round(lengths(limbs)[:4], 3)} m", flush=True)  # fmt: skip
        with atomic_path(kept) as draft, draft.open("wb") as file:
            np.savez(file, **values)
    with open_npz(kept) as file:
        return {
            trial: [
                (file[f"{name} ids"].tolist(), file[name])
                for name in sorted(file) if name.startswith(trial) and not name.endswith("ids")
            ]
            for trial in TRIALS
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--path", choices=["auto", "diffusion"], default="auto")
    parser.add_argument("--focal", action="store_true")
    parser.add_argument("--height", action="store_true")
    parser.add_argument("--teacher", type=Path)
    given = parser.parse_args()
    views = fetch(given.out)
    people = references(given.out, views)
    models = Models(CaptureOptions(weights=given.weights))
    teacher = load_teacher(given.teacher) if given.teacher else None
    figures: dict[tuple[str, int], dict[str, float]] = {}
    drawn: list[bool] = []
    for trial in TRIALS:
        for place, view in enumerate(views[trial]):
            video = given.out / f"{trial}/videos/cam{CAMERAS[place]:02}.mp4"
            heights = tuple(
                (ids[place], as_tall(truth, models.body)) for ids, truth in people[trial]
            )
            options = CaptureOptions(
                formats=("npz",), previews=(), path=given.path, weights=given.weights,
                focal_px=view.focal if given.focal else None,
                height=heights if given.height else (),
            )  # fmt: skip
            if teacher is not None:
                tracks = throughout(find_people(video, models, options, Clock()))
                lessons = taught(video, tracks, teacher)
            else:
                run = capture(video, given.out / f"{trial}_{video.stem}", options, models=models)
                motions = {motion.person: motion for motion in run.motions}
            for number, (ids, truth) in enumerate(people[trial], start=1):
                drawn.append(as_tall(truth, models.body) < DRAWN)
                figures[f"{trial} {video.stem}", number] = (
                    compare(lessons[ids[place]], truth, view)
                    if teacher is not None
                    else compare_motion(motions[ids[place]], truth, view)
                )
    table = Table("video", "person", *next(iter(figures.values())))
    for (video, number), row in figures.items():
        table.add_row(video, str(number), *(f"{value:.1f}" for value in row.values()))
    values, kind = np.array([list(row.values()) for row in figures.values()]), np.array(drawn)
    for name, rows in (("mean", kind | True), ("of the man", ~kind), ("of the drawn woman", kind)):
        table.add_row(name, "", *(f"{value:.1f}" for value in values[rows].mean(axis=0)))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
