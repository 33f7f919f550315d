"""Who is in a video: one smoothed track a person, made while the video streams by once.

The detector's tracker gives fragments. They are mended in this order: a person lost from one
frame to the next, or suddenly in doubt, is looked for close up and turned, fragments are split at
scene cuts, identities that were exchanged where two people crossed are exchanged back by their
looks, fragments are split wherever the tracker may have gone over to somebody else, those of one
person are joined, doubtful and short ones are dropped, gaps are filled and boxes smoothed.
"""

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations, pairwise

import cv2
import numpy as np
from scipy.ndimage import median_filter
from scipy.signal import savgol_filter

from ropetp_cli.errors import NobodyFound
from ropetp_cli.motion import Track, VideoInfo
from ropetp_cli.people.detector import (
    DOUBTFUL,
    KEYPOINTS,
    SAME_PERSON,
    SURE,
    TURN_MARGIN,
    Detections,
    Detector,
    box_iou,
)
from ropetp_cli.video.reader import VideoReader, true_fps

#: Someone lost or in doubt is searched for this long, s, if seen this well and this long before.
SEARCH_SECONDS = 0.5
#: Who is covered by others to this share is hidden and not searched for; whoever is not found in
#: so many frames is searched for in the 16th, 32nd, ... alone.
COVERED, TRIES = 0.6, 8
#: A gap this short, s, is closed where place and looks agree; a longer one, up to
#: JOIN_SECONDS, only where the looks are the same beyond doubt.
GAP_SECONDS, JOIN_SECONDS = 1.0, 3.0
#: Agreement of looks (Bhattacharyya coefficient, 0..1) for a short and for a long gap.
SIMILAR, SAME_LOOKS = 0.75, 0.85
#: Where nobody else is near it is enough if they agree by ALONE, for gaps of ALONE_SECONDS: who
#: turns a somersault or bends down shows other colours, but nobody else can have taken the place.
ALONE, ALONE_SECONDS = 0.6, 1.5
#: Whoever grows or shrinks by more, from one fragment to the next, is somebody else.
GROWN = 2.0
#: Where a box overlaps another by NEAR, looks that agree less than LIKE_BEFORE with those just
#: before are somebody else's, and whoever is gone for MISSED s may come back as somebody else;
#: alone, only who is gone for ABSENT s.
NEAR, LIKE_BEFORE, MISSED, ABSENT = 0.1, 0.82, 0.1, 0.5
#: How much better an exchange of identities must fit the looks than no exchange.
EXCHANGE_MARGIN = 0.3
#: Boxes that overlap by more hide each other's looks.
CONTACT = 0.2
#: Tracks whose median score is lower are doubtful.
MIN_TRACK_SCORE = 0.35
#: Keypoints from this confidence on widen the box and place the torso.
KEYPOINT_SURE = 0.5
#: Time windows of the box smoothing, s, for the centre and the size.
CENTER_SECONDS, SIZE_SECONDS = 0.25, 0.4
#: So often, s, a frame is tried turned, unless someone has this score in it.
PROBE_SECONDS, CERTAIN = 2.0, 0.88
#: A hard cut changes the picture by this much in grey levels and in colours at once.
CUT_LEVELS, CUT_COLOURS = 25.0, 0.45

_LOOK = 64
_ROW = 4 + 1 + KEYPOINTS * 3 + _LOOK
_SHOULDERS, _HIPS, _ANKLES = (5, 6), (11, 12), (15, 16)


@dataclass
class TrackingResult:
    """Everybody in a video.

    tracks, the largest person (area x time) first, ids from 1; timestamps [N] s and
    frame_indices [N] of the frames read; info of the video; warnings, one line each; cuts, the
    first frame of every new scene; turn, the quarters counter-clockwise by which the frames had
    to be turned to find people; brief, how many tracks were too short to be kept.
    """

    tracks: list[Track]
    timestamps: np.ndarray
    frame_indices: np.ndarray
    info: VideoInfo
    warnings: list[str] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    turn: int = 0
    brief: int = 0

    @property
    def fps(self) -> float:
        """The true average rate of the frames read."""
        return true_fps(self.timestamps, self.info.fps)

    @property
    def frames_seen(self) -> int:
        """In how many frames people were seen, counted for each person."""
        return sum(int(track.seen.sum()) for track in self.tracks)

    def times_of(self, track: Track) -> np.ndarray:
        """Timestamps [len(track)] of a track's frames, s."""
        return np.interp(track.frames, self.frame_indices, self.timestamps)


def follow_people(
    reader: VideoReader,
    detector: Detector,
    progress: Callable[[int], None] | None = None,
    min_seconds: float = 0.5,
) -> TrackingResult:
    """Detect and follow everybody in the video of ``reader``, streaming it once.

    ``progress`` is told the number of frames done since its last call. A video that turns out to
    lie on its side is streamed again with its frames turned. Raises NobodyFound when nobody is
    seen for ``min_seconds``.
    """
    stream = _stream(reader, detector, 0, progress)
    found = _finish(stream, reader, min_seconds)
    if stream.sideways:
        turned = _finish(_stream(reader, detector, stream.sideways, progress), reader, min_seconds)
        if turned.frames_seen > found.frames_seen:
            found = turned
            found.warnings.append(
                f"{reader.path.name} lies on its side; people were found in turned frames"
            )
    if not found.tracks:
        if found.brief:
            raise NobodyFound(
                f"nobody is in view for {min_seconds:g} s in {reader.path}, but {found.brief} for "
                "less; `ropetp pose` takes single pictures"
            )
        dropped = "".join(f"; {line}" for line in found.warnings)
        raise NobodyFound(
            f"no people found in {reader.path}; try --detector FILE with a larger model{dropped}"
        )
    return found


class _Fragment:
    """Observations of one person in increasing frames; rows are packed to stay small."""

    def __init__(self) -> None:
        self.frames = array("q")
        self.in_doubt = 0  # frames since the model was sure of it
        self._rows = array("f")

    def add(self, index: int, frame: np.ndarray, found: Detections) -> None:
        """Append the one detection in ``found``, with its look."""
        self.frames.append(index)
        self._rows.extend(found.boxes[0])
        self._rows.append(found.score[0])
        self._rows.extend(found.keypoints[0].ravel())
        self._rows.extend(appearance(frame, found.boxes[0], found.keypoints[0]))

    def last(self, count: int) -> np.ndarray:
        """The last rows, at most ``count``."""
        return np.array(self._rows[-count * _ROW :], dtype=np.float64).reshape(-1, _ROW)

    def piece(self) -> "_Piece":
        return _Piece(np.array(self.frames), np.array(self._rows).reshape(-1, _ROW))


@dataclass
class _Piece:
    """A fragment at rest: frames [n], rows [n, _ROW] (box, score, keypoints, look)."""

    frames: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def boxes(self) -> np.ndarray:
        return self.rows[:, :4]

    @property
    def score(self) -> np.ndarray:
        return self.rows[:, 4]

    @property
    def looks(self) -> np.ndarray:
        return self.rows[:, -_LOOK:]

    def where(self, mask: np.ndarray) -> "_Piece":
        return _Piece(self.frames[mask], self.rows[mask])

    def joined(self, other: "_Piece") -> "_Piece":
        """This one and then what of ``other`` is later."""
        other = other.where(other.frames > self.frames[-1]) if len(self) else other
        return _Piece(
            np.concatenate([self.frames, other.frames]), np.concatenate([self.rows, other.rows])
        )


@dataclass
class _Stream:
    """What one pass over the video leaves behind."""

    pieces: list[_Piece]
    timestamps: np.ndarray
    frame_indices: np.ndarray
    cuts: list[int]
    turn: int
    sideways: int


def _stream(
    reader: VideoReader,
    detector: Detector,
    turn: int,
    progress: Callable[[int], None] | None,
) -> _Stream:
    clock: list[tuple[int, float]] = []
    collector, cuts, sideways = _Collector(detector, reader.info.fps), _CutFinder(), _Sideways()

    def frames() -> Iterator[np.ndarray]:
        for index, time, frame in reader:
            clock.append((index, time))
            yield frame

    for frame, found in detector.track(frames(), turn):
        index, time = clock[-1]
        if cuts.see(index, frame):
            collector.forget()
        collector.see(index, frame, found)
        sideways.see(time, frame, found, detector)
        if progress is not None:
            progress(1)
    indices, times = zip(*clock, strict=True)
    return _Stream(
        [fragment.piece() for fragment in collector.fragments.values()],
        np.array(times),
        np.array(indices),
        cuts.found,
        turn,
        0 if turn else sideways.turn,
    )


class _Collector:
    """Gathers detections into fragments, frame by frame."""

    def __init__(self, detector: Detector, fps: float):
        self.detector = detector
        self.patience = max(1, round(SEARCH_SECONDS * fps))
        self.fragments: dict[int, _Fragment] = {}
        self.watched: list[_Fragment] = []  # seen lately, followed or lost
        self._loose = Detections.empty()  # detections of the last frame that are nobody's

    def forget(self) -> None:
        """The scene has changed: nobody of the last frame can be in this one."""
        self.watched, self._loose = [], Detections.empty()

    def see(self, index: int, frame: np.ndarray, found: Detections) -> None:
        """Take in what was found in a frame, and look for those who are missing."""
        taken, loose = found.take(found.ids >= 0), found.take(found.ids < 0)
        for row in range(len(taken)):
            others = np.delete(taken.boxes, row, axis=0)
            self._observe(index, frame, taken.take([row]), others)
        for fragment in self.watched:
            if fragment.frames[-1] < index:
                if (hit := self._recover(fragment, index, frame, loose, taken)) is not None:
                    fragment.add(index, frame, hit)
                    taken = taken.stacked(hit)
        self.watched = [f for f in self.watched if index - f.frames[-1] < self.patience]
        self._loose, self._last_frame = _untaken(loose, taken), frame

    def _observe(
        self, index: int, frame: np.ndarray, found: Detections, others: np.ndarray
    ) -> None:
        key = int(found.ids[0])
        fragment = self.fragments.get(key)
        if fragment is None:
            fragment = self.fragments[key] = _Fragment()
            # The tracker shows a person from the second detection on; take the first one too.
            if (first := _match(found.boxes[0], self._loose, 0.5)) is not None:
                fragment.add(index - 1, self._last_frame, first)
        fragment.add(index, frame, self._surer(fragment, frame, found.boxes[0], found, others))
        if fragment not in self.watched:
            self.watched.append(fragment)

    def _recover(
        self,
        fragment: _Fragment,
        index: int,
        frame: np.ndarray,
        loose: Detections,
        taken: Detections,
    ) -> Detections | None:
        """A lost person among the loose detections, or else close up."""
        box = _predicted_box(fragment, index)
        hit = _match(box, _untaken(loose, taken), 0.3)
        return self._surer(fragment, frame, box, hit, taken.boxes)

    def _surer(
        self,
        fragment: _Fragment,
        frame: np.ndarray,
        box: np.ndarray,
        found: Detections | None,
        others: np.ndarray,
    ) -> Detections | None:
        """A person who should be in ``box`` [4], looked for close up and turned where ``found``
        is nobody or in doubt: to one who is head down the model gives a pose on his feet.

        ``others`` [P, 4] are the boxes of everybody else.
        """
        fragment.in_doubt += 1
        if found is not None and found.score[0] >= SURE:
            fragment.in_doubt = 0
            return found
        center, edge = (box[:2] + box[2:]) / 2, 0.25 * (box[2:] - box[:2])
        inside = (center > edge).all() and (center < frame.shape[1::-1] - edge).all()
        scores = fragment.last(self.patience)[:, 4]
        due = fragment.in_doubt <= TRIES or not fragment.in_doubt & (fragment.in_doubt - 1)
        due = due and _covered(box, others) <= COVERED
        if not (inside and due and len(scores) == self.patience and np.median(scores) >= SURE):
            return found
        near = self.detector.search(frame, box)
        least = SURE if found is None else max(DOUBTFUL, found.score[0] + TURN_MARGIN)
        near = near.take(near.score >= least)
        near = near.take(box_iou(near.boxes, others).max(axis=1, initial=0.0) <= SAME_PERSON)
        if (hit := _match(box, near, 0.3)) is None:
            return found
        fragment.in_doubt = 0
        return hit


def _predicted_box(fragment: _Fragment, index: int) -> np.ndarray:
    """The last box, moved on at the speed of the last frames."""
    boxes = fragment.last(5)[:, :4]
    frames = np.array(fragment.frames[-len(boxes) :], dtype=np.float64)
    if len(boxes) < 3:
        return boxes[-1]
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    speed = np.polyfit(frames - frames[-1], centers, 1)[0]
    return boxes[-1] + np.tile(speed, 2) * (index - frames[-1])


def _covered(box: np.ndarray, others: np.ndarray) -> float:
    """The largest share of ``box`` [4] that one of ``others`` [P, 4] covers."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    return float(shared.max(initial=0.0) / max((box[2:] - box[:2]).prod(), 1e-9))


def _match(box: np.ndarray, found: Detections, least: float) -> Detections | None:
    """The detection that overlaps ``box`` most, by more than ``least``."""
    if not len(found):
        return None
    overlap = box_iou(box[None], found.boxes)[0]
    best = int(np.argmax(overlap))
    return found.take([best]) if overlap[best] > least else None


def _untaken(found: Detections, taken: Detections) -> Detections:
    """Those of ``found`` who are none of ``taken``."""
    overlap = box_iou(found.boxes, taken.boxes).max(axis=1, initial=0.0)
    return found.take(overlap <= SAME_PERSON)


class _CutFinder:
    """Hard cuts: grey levels and colours of the whole picture change at once, and stay so."""

    def __init__(self) -> None:
        self.found: list[int] = []
        self._past: list[tuple[np.ndarray, np.ndarray]] = []

    def see(self, index: int, frame: np.ndarray) -> bool:
        """True where ``frame`` shows another scene than the one before."""
        small = cv2.resize(frame, (64, 36), interpolation=cv2.INTER_AREA)
        colours = cv2.calcHist(
            [cv2.cvtColor(small, cv2.COLOR_BGR2HSV)],
            [0, 1, 2], None, [8, 4, 4], [0, 180, 0, 256, 0, 256],
        )  # fmt: skip
        now = small.astype(np.float32), colours.ravel() / colours.sum()
        cut = bool(self._past) and self._differ(self._past[-1], now)
        if cut and self.found[-1:] == [index - 1] and not self._differ(self._past[0], now):
            self.found.pop()  # a flash: the old scene is back after one frame
        elif cut:
            self.found.append(index)
        self._past = [*self._past[-1:], now]
        return cut

    @staticmethod
    def _differ(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> bool:
        levels = np.abs(a[0] - b[0]).mean()
        colours = np.sqrt(max(0.0, 1 - np.sqrt(a[1] * b[1]).sum()))
        return levels > CUT_LEVELS and colours > CUT_COLOURS


class _Sideways:
    """Whether people would stand upright if the video were turned by a quarter.

    Every other second, where nobody is beyond doubt, the frame is tried turned.
    """

    def __init__(self) -> None:
        self.votes = {0: 0, 1: 0, 3: 0}
        self._next = -np.inf

    def see(self, time: float, frame: np.ndarray, found: Detections, detector: Detector) -> None:
        if time >= self._next:
            self._next = time + PROBE_SECONDS
            certain = (found.score >= CERTAIN).any()
            self.votes[0 if certain else detector.best_turn(frame, found)] += 1

    @property
    def turn(self) -> int:
        """The turn most frames ask for, quarters counter-clockwise."""
        return max(self.votes, key=self.votes.get)


def appearance(frame: np.ndarray, box: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """What a person wears: colours of the torso and of the legs, float32 [64], sum 1.

    Each half is a histogram: 12 hues x 2 saturations for colours, 8 levels for greys. The
    regions come from the keypoints [17, 3] where they are sure, else from the box [4].
    """
    corner, extent = np.tile(box[:2], 2), np.tile(box[2:] - box[:2], 2)
    torso = _region(keypoints, _SHOULDERS + _HIPS)
    legs = _region(keypoints, _HIPS + _ANKLES)
    if torso is None:
        torso = corner + extent * [0.25, 0.15, 0.75, 0.5]
    if legs is None:
        legs = corner + extent * [0.25, 0.55, 0.75, 0.9]
    return np.concatenate([_colours(frame, torso), _colours(frame, legs)]) / 2


def _region(keypoints: np.ndarray, members: tuple[int, ...]) -> np.ndarray | None:
    points = keypoints[list(members)]
    if (points[:, 2] < KEYPOINT_SURE).any():
        return None
    low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    thin = max(0.0, 0.35 * (high[1] - low[1]) - (high[0] - low[0])) / 2  # seen from the side
    return np.array([low[0] - thin, low[1], high[0] + thin, high[1]])


def _colours(frame: np.ndarray, region: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    x0, y0 = np.clip(np.floor(region[:2]), 0, [width - 1, height - 1]).astype(int)
    x1, y1 = np.clip(np.ceil(region[2:]), [x0 + 1, y0 + 1], [width, height]).astype(int)
    patch = cv2.resize(frame[y0:y1, x0:x1], (16, 16), interpolation=cv2.INTER_AREA)
    hue, saturation, value = cv2.cvtColor(patch, cv2.COLOR_BGR2HSV).reshape(-1, 3).T.astype(int)
    colourful = (saturation > 50) & (value > 40)
    bins = np.where(colourful, hue // 15 * 2 + (saturation > 130), 24 + value // 32)
    return np.bincount(bins, minlength=_LOOK // 2).astype(np.float32) / len(bins)


def alike(a: np.ndarray, b: np.ndarray) -> float:
    """Agreement of two looks [64], 0..1."""
    return float(np.sqrt(a * b).sum())


def _finish(stream: _Stream, reader: VideoReader, min_seconds: float) -> TrackingResult:
    """From the fragments of a stream to numbered tracks."""
    result = TrackingResult(
        [], stream.timestamps, stream.frame_indices, reader.info, list(reader.warnings),
        stream.cuts, stream.turn,
    )  # fmt: skip
    fps, name = result.fps, reader.path.name
    pieces = [part for piece in stream.pieces for part in _split(piece, stream.cuts)]
    _exchange_back(pieces, fps)
    pieces = _one_person_each(pieces, fps)
    pieces = _without_doubles(_join(pieces, fps, stream.cuts))
    kept, doubtful, short = [], [], []
    for piece in pieces:
        if len(piece) / fps < min_seconds:
            short.append(piece)
        elif np.median(piece.score) < MIN_TRACK_SCORE:
            doubtful.append(piece)
        else:
            kept.append(piece)
    if stream.cuts:
        result.warnings.append(
            f"{name} has scene cuts at frame {_listed(stream.cuts)}; people are not followed "
            "across them"
        )
    result.brief = len(short)
    if short:
        result.warnings.append(
            f"dropped {len(short)} track(s) seen for less than {min_seconds:g} s "
            f"(frames {_listed(f'{p.frames[0]}-{p.frames[-1]}' for p in short)})"
        )
    if doubtful:
        scores = _listed(f"{np.median(piece.score):.2f}" for piece in doubtful)
        result.warnings.append(
            f"dropped {len(doubtful)} doubtful track(s) (score {scores}); a larger model with "
            "--detector FILE may be surer"
        )
    tracks = [_to_track(piece, fps) for piece in kept]
    step = np.gradient(stream.timestamps) if len(stream.timestamps) > 1 else np.ones(1)

    def weight(track: Track) -> float:
        times = np.interp(track.frames, stream.frame_indices, step)
        return float(((track.boxes[:, 2:] - track.boxes[:, :2]).prod(axis=1) * times).sum())

    result.tracks = sorted(tracks, key=weight, reverse=True)
    for number, track in enumerate(result.tracks, start=1):
        track.id = number
    return result


def _listed(items, most: int = 6) -> str:
    words = [str(item) for item in items]
    return ", ".join(words[:most]) + (", ..." if len(words) > most else "")


def _split(piece: _Piece, cuts: list[int]) -> Iterator[_Piece]:
    scene = np.searchsorted(cuts, piece.frames, side="right")
    for number in np.unique(scene):
        yield piece.where(scene == number)


def _one_person_each(pieces: list[_Piece], fps: float) -> list[_Piece]:
    """Cut pieces where the tracker may have gone over from one person to another."""
    span = max(3, round(fps / 4))
    out = []
    for piece, near in zip(pieces, _near_others(pieces), strict=True):
        count, gap = len(piece), np.diff(piece.frames) / fps
        at = np.arange(1, count)  # a cut before row 1, 2, ...
        sums = np.concatenate([np.zeros((1, _LOOK)), piece.looks.cumsum(axis=0, dtype=float)])
        low, high = np.maximum(at - span, 0), np.minimum(at + span, count)
        before = (sums[at] - sums[low]) / (at - low)[:, None]
        after = (sums[high] - sums[at]) / (high - at)[:, None]
        like = np.sqrt(np.maximum(before * after, 0)).sum(axis=1)
        together = np.concatenate([[0], near.cumsum()])
        beside = together[high] > together[low]
        cuts = set(at[(gap > ABSENT) | (beside & (gap > MISSED))].tolist())
        changed = beside & (like < LIKE_BEFORE) & (at >= 3) & (count - at >= 3)
        for row in at[changed][np.argsort(like[changed], kind="stable")].tolist():
            if all(abs(row - cut) >= span for cut in cuts):
                cuts.add(row)
        edges = [0, *sorted(cuts), count]
        out += [_Piece(piece.frames[a:b], piece.rows[a:b]) for a, b in pairwise(edges)]
    return out


def _near_others(pieces: list[_Piece]) -> list[np.ndarray]:
    """For every row of every piece, whether its box overlaps another's, bool [n]."""
    lengths = [len(piece) for piece in pieces]
    if not lengths:
        return []
    frames = np.concatenate([piece.frames for piece in pieces])
    boxes = np.concatenate([piece.boxes for piece in pieces])
    near, order = np.zeros(len(frames), dtype=bool), np.argsort(frames, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(frames[order])) + 1):
        overlap = box_iou(boxes[rows], boxes[rows])
        np.fill_diagonal(overlap, 0)
        near[rows] = overlap.max(axis=1) > NEAR
    return np.split(near, np.cumsum(lengths)[:-1])


def _exchange_back(pieces: list[_Piece], fps: float) -> None:
    """Undo exchanges of identity: two people touch, and afterwards each looks like the other."""
    for a, b in combinations(range(len(pieces)), 2):
        first, second = pieces[a], pieces[b]
        shared, in_first, in_second = _shared(first, second)
        if len(shared) < 3:
            continue
        overlap = _paired_iou(first.boxes[in_first], second.boxes[in_second])
        touching = np.flatnonzero(overlap > CONTACT)
        meetings = np.split(touching, np.flatnonzero(np.diff(touching) > fps / 2) + 1)
        for meeting in meetings:
            if not len(meeting):
                continue
            start, end = shared[meeting[0]], shared[meeting[-1]]
            looks = [
                _look_between(piece, low, high)
                for piece in (pieces[a], pieces[b])
                for low, high in ((start - 2 * fps, start), (end + 1, end + 1 + 2 * fps))
            ]
            if any(look is None for look in looks):
                continue
            a_before, a_after, b_before, b_after = looks
            kept = alike(a_before, a_after) + alike(b_before, b_after)
            exchanged = alike(a_before, b_after) + alike(b_before, a_after)
            if exchanged > kept + EXCHANGE_MARGIN:
                # Where in the meeting they changed is where their boxes overlap most.
                turn = shared[meeting[np.argmax(overlap[meeting])]]
                one, other = pieces[a], pieces[b]
                pieces[a] = one.where(one.frames < turn).joined(other.where(other.frames >= turn))
                pieces[b] = other.where(other.frames < turn).joined(one.where(one.frames >= turn))


def _shared(a: _Piece, b: _Piece) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The frames two pieces have in common, and where they are in each."""
    if a.frames[0] > b.frames[-1] or b.frames[0] > a.frames[-1]:
        nothing = np.zeros(0, dtype=int)
        return nothing, nothing, nothing
    return np.intersect1d(a.frames, b.frames, assume_unique=True, return_indices=True)


def _look_between(piece: _Piece, low: float, high: float) -> np.ndarray | None:
    inside = (piece.frames >= low) & (piece.frames < high)
    return piece.looks[inside].mean(axis=0) if inside.sum() >= 3 else None


def _paired_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [N, 4] with the N others in the same rows, [N]."""
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    areas = sum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b))
    return shared / np.maximum(areas - shared, 1e-9)


def _join(pieces: list[_Piece], fps: float, cuts: list[int]) -> list[_Piece]:
    """Join fragments of one person, the surest pairs first, those with a doubtful one last."""
    pieces = sorted(pieces, key=lambda piece: piece.frames[0])
    doubtful = [np.median(piece.score) < MIN_TRACK_SCORE for piece in pieces]
    starts = np.array([piece.frames[0] for piece in pieces])
    span = max(3, round(fps / 4))
    costs: list[tuple[bool, float, int, int]] = []
    for a, piece in enumerate(pieces):
        # Cut where looks change, pieces of one person may overlap by some frames.
        low = max(piece.frames[-1] - span, piece.frames[0])
        high = piece.frames[-1] + JOIN_SECONDS * fps
        for b in range(*np.searchsorted(starts, (low, high), side="right")):
            if pieces[b].frames[-1] <= piece.frames[-1]:
                continue
            if (cost := _join_cost(piece, pieces[b], pieces, fps, cuts)) is not None:
                costs.append((doubtful[a] or doubtful[b], cost, a, b))
    after: dict[int, int] = {}
    for _, _, a, b in sorted(costs):
        if a not in after and b not in after.values():
            after[a] = b
    chains = []
    for a in range(len(pieces)):
        if a in after.values():
            continue
        chain, piece = a, pieces[a]
        while (chain := after.get(chain)) is not None:
            piece = piece.joined(pieces[chain])
        chains.append(piece)
    return chains


def _join_cost(
    first: _Piece, second: _Piece, pieces: list[_Piece], fps: float, cuts: list[int]
) -> float | None:
    """How badly ``second`` continues ``first``, both of ``pieces``; None where it can't."""
    gap = max(0.0, (second.frames[0] - first.frames[-1]) / fps)
    if any(first.frames[-1] < cut <= second.frames[0] for cut in cuts):
        return None
    span = max(3, round(fps / 4))
    looks = alike(first.looks[-2 * span :].mean(axis=0), second.looks[: 2 * span].mean(axis=0))
    middle = (first.frames[-1] + second.frames[0]) / 2
    one, one_size = _place_at(first.frames[-span:], first.boxes[-span:], middle)
    other, other_size = _place_at(second.frames[:span], second.boxes[:span], middle)
    size = (one_size + other_size) / 2
    away = float(np.linalg.norm(one - other)) / size
    grown = abs(np.log(one_size / other_size))
    reach = 0.5 + min(gap, GAP_SECONDS)
    needed = SIMILAR if gap <= GAP_SECONDS else SAME_LOOKS
    if away > reach or grown > np.log(GROWN) or looks < ALONE:
        return None
    if looks < needed:
        others = [piece for piece in pieces if piece is not first and piece is not second]
        window = first.frames[-1] - span, second.frames[0] + span
        spot = (one + other) / 2, reach * size, size / 2
        if gap > ALONE_SECONDS or _anybody(others, *spot, *window, fps):
            return None
    return 0.5 * away / reach + 4 * (1 - looks) + 0.3 * gap / JOIN_SECONDS


def _anybody(
    pieces: list[_Piece],
    spot: np.ndarray,
    reach: float,
    touch: float,
    low: float,
    high: float,
    fps: float,
) -> bool:
    """Whether one of ``pieces`` may have to do with who was lost at ``spot`` [2] px.

    That is one which is sure and, in frames low..high, begins or ends within ``reach`` px or
    passes within ``touch`` px.
    """
    for piece in pieces:
        if piece.frames[0] > high or piece.frames[-1] < low or len(piece) < fps / 4:
            continue
        passes = piece.frames[0] < low and piece.frames[-1] > high
        boxes = piece.boxes[(piece.frames >= low) & (piece.frames <= high)]
        away = np.linalg.norm((boxes[:, :2] + boxes[:, 2:]) / 2 - spot, axis=1)
        near = (away < (touch if passes else reach)).any()
        if near and np.median(piece.score) >= MIN_TRACK_SCORE:
            return True
    return False


def _place_at(frames: np.ndarray, boxes: np.ndarray, when: float) -> tuple[np.ndarray, float]:
    """Centre [2] px by the speed at the end of a fragment, and the longer side there, px."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    nearest = np.argsort(np.abs(frames - when))[:3]
    size = float(np.median((boxes[nearest, 2:] - boxes[nearest, :2]).max(axis=1)))
    if len(frames) < 3:
        return centers.mean(axis=0), size
    slope, value = np.polyfit(frames - when, centers, 1)
    return value, size


def _without_doubles(pieces: list[_Piece]) -> list[_Piece]:
    """Drop tracks that show, most of their time, a person who has a longer track already."""
    kept: list[_Piece] = []
    for piece in sorted(pieces, key=len, reverse=True):
        double = False
        for other in kept:
            _, here, there = _shared(piece, other)
            if len(here) >= 0.8 * len(piece):
                double |= np.median(_paired_iou(piece.boxes[here], other.boxes[there])) > 0.6
        if not double:
            kept.append(piece)
    return kept


def _to_track(piece: _Piece, fps: float) -> Track:
    """Fill the gaps and smooth the boxes."""
    frames = np.arange(piece.frames[0], piece.frames[-1] + 1)
    at = piece.frames - frames[0]
    seen = np.zeros(len(frames), dtype=bool)
    seen[at] = True
    keypoints = np.zeros((len(frames), KEYPOINTS, 3))
    keypoints[at] = piece.rows[:, 5:-_LOOK].reshape(-1, KEYPOINTS, 3)
    score = np.zeros(len(frames))
    score[at] = piece.score
    whole = _with_keypoints(piece.boxes.astype(np.float64), keypoints[at])
    boxes = np.stack([np.interp(frames, piece.frames, side) for side in whole.T], axis=1)
    return Track(0, frames, smooth_boxes(boxes, fps), score, keypoints, seen)


def _with_keypoints(boxes: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Boxes [N, 4] widened to hold the sure keypoints [N, 17, 3]: arms belong inside."""
    sure = keypoints[..., 2:] >= KEYPOINT_SURE
    low = np.where(sure, keypoints[..., :2], np.inf).min(axis=1)
    high = np.where(sure, keypoints[..., :2], -np.inf).max(axis=1)
    return np.concatenate([np.minimum(boxes[:, :2], low), np.maximum(boxes[:, 2:], high)], axis=1)


def smooth_boxes(boxes: np.ndarray, fps: float) -> np.ndarray:
    """Boxes [N, 4] xyxy px of consecutive frames without their frame-to-frame noise.

    Centre and size each pass a median of three, against single outliers, and a Savitzky-Golay
    filter of second order: no phase, so fast people are not lagged behind.
    """
    centers = _smooth((boxes[:, :2] + boxes[:, 2:]) / 2, CENTER_SECONDS * fps)
    sizes = _smooth(np.log(np.maximum(boxes[:, 2:] - boxes[:, :2], 1)), SIZE_SECONDS * fps)
    halves = np.exp(sizes) / 2
    return np.concatenate([centers - halves, centers + halves], axis=1)


def _smooth(values: np.ndarray, window: float) -> np.ndarray:
    length = min(max(5, 2 * round(window / 2) + 1), (len(values) - 1) // 2 * 2 + 1)
    if length < 5:
        return values
    inner = values.copy()
    inner[1:-1] = median_filter(values, size=(3, 1))[1:-1]
    return savgol_filter(inner, length, polyorder=2, axis=0, mode="interp")
