"""Crops drawn while training goes on, and kept where the network is.

Processes draw crops without end (``training.synthetic``); a thread takes them to the device, asks
the detector what it sees in them, and puts them into a :class:`Pool` that batches are drawn from.
Every crop is then seen a few times, each time varied (``training.variation``), instead of a fixed
set over and over: a network whose trunk learns knows that set by heart before it is any good.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from ropetp_cli.body.model import load_body
from ropetp_cli.body.rotations import axis_angle_to_matrix
from ropetp_cli.people.crops import CROP_PX
from ropetp_cli.rope.losses import RopeTargets
from ropetp_cli.rope.upright import upright_views
from ropetp_cli.training.crops import CropSet, Sample, collate
from ropetp_cli.training.detections import TracedDetector, in_halves, person_boxes
from ropetp_cli.training.pose_prior import load_mocap_rotations
from ropetp_cli.training.synthetic import (
    Backdrops,
    Figure,
    Labels,
    PoseSource,
    Studio,
    free_strips,
)
from ropetp_cli.training.variation import Crops

#: Crops a process draws at a time.
CHUNK = 16
#: Training waits until so many are there.
ENOUGH = 2048
#: In how many of them knees are made straighter.
STRAIGHT = 0.4


def poses_of(crops: CropSet) -> np.ndarray:
    """Poses [n, 24, 3, 3] fitted to photographs, the root as the world has it (y up) if the
    camera was held level."""
    rotations = crops.labels["rotations"][crops.labels["has_pose"].astype(bool)].copy()
    rotations[:, 0] = axis_angle_to_matrix(np.array([np.pi, 0.0, 0.0])) @ rotations[:, 0]
    return rotations


class FreshCrops(torch.utils.data.IterableDataset):
    """Chunks of drawn crops without end: (pictures uint8 [CHUNK, 256, 256, 3], samples).

    ``mocap`` gives poses; photographs ``real``, where there are any, more poses and backgrounds.
    """

    def __init__(self, mocap: Path, data: Path, real: str | None, seed: int):
        self.mocap, self.data, self.real, self.seed = mocap, data, real, seed

    def studio(self) -> Studio:
        poses, strips = load_mocap_rotations(self.mocap), []
        if self.real:
            crops = CropSet.load(self.data, self.real)
            poses = np.concatenate([poses, poses_of(crops)])
            joints = crops.labels["lsp2d"].copy()
            joints[..., :2] = (joints[..., :2] + 1) * (CROP_PX / 2)
            strips = free_strips(crops.images, joints, 1500)
        return Studio(Figure(load_body()), PoseSource(poses, STRAIGHT), Backdrops(strips))

    def __iter__(self) -> Iterator[tuple[np.ndarray, Labels]]:
        worker = torch.utils.data.get_worker_info()
        if worker:  # the other cores are the other processes'
            cv2.setNumThreads(1)
            torch.set_num_threads(1)
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        studio = self.studio()
        while True:
            drawn = [studio.sample(rng) for _ in range(CHUNK)]
            names = [f.name for f in fields(Labels)]
            labels = Labels(**{n: np.concatenate([getattr(d[1], n) for d in drawn]) for n in names})
            yield np.stack([image for image, _ in drawn]), labels


@dataclass
class Pool:
    """Crops on a device, at most ``capacity``; new ones take the oldest's place."""

    capacity: int
    device: str
    rendered: bool
    drawn: int = 0

    def __post_init__(self) -> None:
        self.rows: dict[str, Tensor] = {}
        self.lock = threading.Lock()

    def __len__(self) -> int:
        return min(self.drawn, self.capacity)

    def add(self, samples: list[Sample]) -> None:
        """Samples as :meth:`CropSet.sample` gives them."""
        keypoints = np.stack([s.keypoints for s in samples]).astype(np.float32)
        views = upright_views(keypoints)
        targets = collate(samples)
        new = {
            "images": torch.from_numpy(np.stack([s.image for s in samples])),
            "keypoints": torch.from_numpy(keypoints),
            "angle": torch.from_numpy(views.angle).float(),
            "scale": torch.from_numpy(views.scale).float(),
            **{f.name: getattr(targets, f.name) for f in fields(RopeTargets)},
        }
        if not self.rows:
            self.rows = {
                name: torch.empty((self.capacity, *value.shape[1:]), dtype=value.dtype,
                                  device=self.device)
                for name, value in new.items()
            }  # fmt: skip
        places = (self.drawn + torch.arange(len(samples))) % self.capacity
        with self.lock:
            for name, value in new.items():
                self.rows[name][places.to(self.device)] = value.to(self.device)
            self.drawn += len(samples)

    def draw(self, count: int) -> Crops:
        """``count`` random crops."""
        index = torch.randint(len(self), (count,), device=self.device)
        with self.lock:
            take = {name: value[index] for name, value in self.rows.items()}
        images = take.pop("images").permute(0, 3, 1, 2).float() / 255
        rest = {name: take.pop(name) for name in ("keypoints", "angle", "scale")}
        rendered = torch.full((count,), self.rendered, device=self.device)
        return Crops(images, **rest, rendered=rendered, targets=RopeTargets(**take))


def pool_of(crops: CropSet, device: str) -> Pool:
    """A whole set on a device."""
    pool = Pool(len(crops), device, crops.rendered)
    for start in range(0, len(crops), 256):
        pool.add([crops.sample(k) for k in range(start, min(start + 256, len(crops)))])
    return pool


def samples_of(images: np.ndarray, labels: Labels, detector: TracedDetector) -> list[Sample]:
    """Drawn crops with what the detector sees of them."""
    boxes = torch.from_numpy(person_boxes(labels.joints2d)).float().to(detector.device)
    found = detector.keypoints_in_crops(torch.from_numpy(images).to(detector.device), boxes)
    arrays = {f.name: getattr(labels, f.name) for f in fields(Labels)}
    crops = CropSet("drawn", images, arrays, in_halves(found.cpu().numpy()))
    return [crops.sample(k) for k in range(len(crops))]


class Studios:
    """Processes that draw into a pool, until :meth:`close`."""

    def __init__(
        self, source: FreshCrops, detector: Path, capacity: int, workers: int, device: str
    ):
        self.pool = Pool(capacity, device, rendered=True)
        self._detector = TracedDetector(detector, device)
        self._loader = torch.utils.data.DataLoader(
            source, batch_size=None, num_workers=workers, prefetch_factor=2 if workers else None,
            multiprocessing_context="spawn" if workers else None, collate_fn=_as_they_are,
        )  # fmt: skip
        self._closed = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._fill, daemon=True)
        self._thread.start()

    def _fill(self) -> None:
        try:
            for images, labels in self._loader:
                if self._closed:
                    break
                self.pool.add(samples_of(images, labels, self._detector))
        except Exception as error:  # raised where the pool is used
            self._failure = error

    def wait(self, enough: int = ENOUGH) -> None:
        """Until enough crops are there, and as long as drawing goes well."""
        while len(self.pool) < min(enough, self.pool.capacity) and not self._failure:
            time.sleep(0.1)
        if self._failure:
            raise self._failure

    def close(self) -> None:
        self._closed = True
        self._thread.join(timeout=10)


def _as_they_are(chunk: tuple[np.ndarray, Labels]) -> tuple[np.ndarray, Labels]:
    return chunk
