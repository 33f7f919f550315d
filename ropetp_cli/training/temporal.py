"""Training Rope over time on what Rope saw of filmed motion capture (``training.filming``)."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ropetp_cli.body.model import BodyData
from ropetp_cli.body.rot6d import rot6d_to_matrix
from ropetp_cli.body.rotations import axis_angle_to_matrix
from ropetp_cli.body.skeleton import JOINT_INDEX, MIRROR, NUM_JOINTS
from ropetp_cli.errors import RopeTPError
from ropetp_cli.evaluation.temporal import SWINGS, evaluate
from ropetp_cli.rope.mirror import COCO_MIRROR
from ropetp_cli.rope.temporal import (
    Answer,
    Frames,
    TemporalConfig,
    TemporalRope,
    between,
    load_temporal,
    save_temporal,
)
from ropetp_cli.training.imagined import Imagination
from ropetp_cli.training.mocap import load_turned_clips
from ropetp_cli.training.sightings import Sightings, Window, posed, windows_of

#: How much the likelihood of up counts beside the pose, and what is missing of a limb's swing; one
#: of less than so much, m, is none.
UPRIGHT, SWING, LEAST_SWING = 0.05, 0.2, 0.03


@dataclass(frozen=True)
class TemporalTraining:
    """One leg of training: ``minutes`` of wall clock or so many ``steps``, over which the rate
    falls along a cosine from ``rate``; ``batch`` windows of at most ``window`` frames a step;
    ``imagined``: the share of them that nobody filmed, where motion capture is given, in ``mixed``
    of which trunk and arms move as in another clip, for it has so few; in ``still`` of all windows
    the camera is known to keep its place, in ``blind`` there are no keypoints; ``roll``: how askew
    the camera is held, rad; in ``tumbling`` of them bodies turn right round."""

    minutes: float = 30.0
    steps: int | None = None
    batch: int = 8
    window: int = 120
    rate: float = 1e-3
    final_rate: float = 0.02
    warmup: int = 100
    weight_decay: float = 0.05
    clip: float = 1.0
    ema: float = 0.998
    imagined: float = 0.5
    mixed: float = 0.5
    still: float = 0.7
    blind: float = 0.1
    roll: float = 0.15
    tumbling: float = 0.3
    check_minutes: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.minutes > 0 or self.batch < 1 or not self.rate > 0:
            raise RopeTPError("training needs minutes, a batch and a rate of more than 0")

    def rate_at(self, step: int, done: float) -> float:
        """The learning rate of a leg's ``step`` when the share ``done`` of its time is over."""
        cosine = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        decayed = self.final_rate + (1 - self.final_rate) * cosine
        return self.rate * decayed * min(1.0, (step + 1) / self.warmup)


def mirrored(window: Window) -> Window:
    """The same in a mirror."""
    sides = torch.tensor([-1.0, 1.0, 1.0])
    turned = torch.tensor([1.0, -1.0, -1.0, -1.0, 1.0, 1.0])  # M R M, column by column
    pairs, frames = list(MIRROR), window.frames
    return Window(
        Frames(
            columns=frames.columns[:, :, pairs] * turned,
            rest=frames.rest[:, pairs] * sides,
            keypoints=frames.keypoints[:, :, COCO_MIRROR] * sides,
            confidence=frames.confidence[:, :, pairs],
            velocity=frames.velocity * sides,
            steady=frames.steady,
        ),
        window.true[:, :, pairs] * turned,
        window.true_rest[:, pairs] * sides,
        window.up * sides,
    )


def rolled(window: Window, angles: np.ndarray) -> Window:
    """The same before a camera turned by ``angles`` [N] rad about where it looks."""
    about = np.stack([0 * angles, 0 * angles, angles], axis=-1)
    turn = torch.as_tensor(axis_angle_to_matrix(about), dtype=window.true.dtype)

    def columns(value: Tensor) -> Tensor:
        return (value.unflatten(-1, (2, 3)) @ turn[:, None].mT).flatten(-2)

    frames = window.frames
    places = frames.keypoints[..., :2] @ turn[:, :2, :2].mT
    frames = replace(
        frames,
        columns=columns(frames.columns),
        keypoints=torch.cat([places, frames.keypoints[..., 2:]], dim=-1),
        velocity=(turn @ frames.velocity[..., None])[..., 0],
    )
    up = (turn @ window.up[..., None])[..., 0]
    return replace(window, frames=frames, true=columns(window.true), up=up)


def _roll(count: int, training: TemporalTraining, rng: np.random.Generator) -> np.ndarray:
    """Angles [N] rad: a camera a little askew, or a body that tumbles, which motion capture hardly
    shows: on and on at up to a turn a second or so, or once, a somersault or onto the hands."""
    askew = np.full(count, rng.normal(0, training.roll))
    if rng.random() >= training.tumbling:
        return askew
    if rng.random() < 0.5:
        return rng.uniform(-np.pi, np.pi) + rng.normal(0, 0.1) * np.arange(count)
    start, length = rng.uniform(-10, count), rng.uniform(12, 36)
    done = np.clip((np.arange(count) - start) / length, 0, 1)
    whole = 2 * np.pi if rng.random() < 0.7 else rng.uniform(0.5, 1) * np.pi
    return askew + rng.choice([-1, 1]) * whole * done**2 * (3 - 2 * done)


def augmented(window: Window, longest: int, training: TemporalTraining,
              rng: np.random.Generator) -> Window:  # fmt: skip
    """At most ``longest`` frames of a window, played up to a quarter faster or slower, backwards
    or in a mirror, before a camera of another lens that is held less level; some without keypoints,
    some before a camera that moves."""
    count = len(window)
    speed = math.exp(rng.uniform(-0.25, 0.25)) if rng.random() < 0.5 else 1.0
    long = min(int((count - 1) / speed) + 1, longest)
    first = rng.uniform(0, max(count - 1 - (long - 1) * speed, 0))
    times = np.clip(first + speed * np.arange(long), 0, count - 1)
    if rng.random() < 0.3:
        times, speed = times[::-1].copy(), -speed
    lens = torch.tensor([1.0, 1.0, math.exp(rng.normal(0, 0.2))])
    frames = window.frames.at(times)
    frames = replace(
        frames,
        velocity=frames.velocity * speed * lens,
        steady=torch.tensor([float(rng.random() < training.still)]),
        keypoints=frames.keypoints * float(rng.random() >= training.blind),
    )
    true, up = (between(values, times) for values in (window.true, window.up))
    angles = _roll(long, training, rng)
    if np.ptp(angles) > 0:  # it was the body that turned, and how its weight then lies is made up
        up = torch.zeros_like(up)
    new = rolled(Window(frames, true, window.true_rest, up), angles)
    return mirrored(new) if rng.random() < 0.5 else new


def stacked(windows: list[Window], longest: int) -> tuple[Window, Tensor]:
    """Windows as one batch, the short ones standing still at their end, and which frames [B, N]
    are real (1) or not (0)."""
    real = torch.zeros(len(windows), longest)
    for row, window in zip(real, windows, strict=True):
        row[: len(window)] = 1

    def together(values: list[Tensor]) -> Tensor:
        return torch.cat([v[:, torch.arange(longest).clamp(max=v.shape[1] - 1)] for v in values])

    over = ("columns", "keypoints", "confidence", "velocity")
    frames = {name: together([getattr(w.frames, name) for w in windows]) for name in over}
    frames |= {n: torch.cat([getattr(w.frames, n) for w in windows]) for n in ("rest", "steady")}
    true, up = together([w.true for w in windows]), together([w.up for w in windows])
    return Window(Frames(**frames), true, torch.cat([w.true_rest for w in windows]), up), real


def swing(joints: Tensor, real: Tensor) -> Tensor:
    """How far legs, and arms, of joints [B, N, 24, 3] m go from one another in the ``real`` [B, N]
    frames: the standard deviation of their distance, [B, 2] m.

    What is as near as can be to a limb nobody sees well moves less than it does.
    """
    ones, others = ([JOINT_INDEX[pair[k]] for pair in SWINGS.values()] for k in (0, 1))
    apart, frames = joints[:, :, ones] - joints[:, :, others], real[..., None, None]
    count = frames.sum(1, keepdim=True).clamp(min=1)
    off = (apart - (apart * frames).sum(1, keepdim=True) / count) * frames
    return (off.square().sum((1, 3)) / count[:, 0, :, 0] + 1e-8).sqrt()


def upright_loss(found: Answer, up: Tensor, real: Tensor) -> Tensor:
    """Minus the log likelihood of ``up`` [B, N, 3], where it is known, if what was ``found`` is off
    by a normal distribution in roll and in pitch, but for a constant."""
    known = real * up.square().sum(-1)
    off, ahead = found.up - up, up.new_tensor([0.0, 0.0, 1.0]).expand_as(up)
    sideways = F.normalize(torch.linalg.cross(up, ahead), dim=-1)
    roll = (off * sideways).sum(-1).square()
    tilted = torch.stack([roll, off.square().sum(-1) - roll], -1)
    unsure = (tilted / found.up_error.square() / 2 + found.up_error.log()).sum(-1)
    return (unsure * known).sum() / known.sum().clamp(min=1)


def temporal_loss(found: Answer, batch: Window, real: Tensor) -> Tensor:
    """Joints, their movement from frame to frame, rotations and swing of ``found``, whose bones are
    the true ones, as their lengths are not what is asked for; and up, as sure as it says it is."""
    ours, theirs = (posed(columns, batch.true_rest) for columns in (found.columns, batch.true))
    count = real.sum() * NUM_JOINTS
    off = ((ours - theirs).square().sum(-1) + 1e-6).sqrt()
    both = real[:, 1:] * real[:, :-1]
    moved = ((ours.diff(dim=1) - theirs.diff(dim=1)).square().sum(-1) + 1e-8).sqrt()
    turned = rot6d_to_matrix(found.columns) - rot6d_to_matrix(batch.true)
    pose = (
        5 * (off * real[..., None]).sum()
        + 15 * (moved * both[..., None]).sum()
        + 0.5 * (turned.square().sum((-1, -2)) * real[..., None]).sum()
    ) / count
    swung = [swing(joints, real).clamp(min=LEAST_SWING).log() for joints in (ours, theirs)]
    pose = pose + SWING * (swung[0] - swung[1]).abs().mean()
    return pose + UPRIGHT * upright_loss(found, batch.up, real)


def train(
    seen: list[Path],
    watch: Path,
    out: Path,
    body: BodyData,
    training: TemporalTraining,
    mocap: Path | None = None,
    config: TemporalConfig | None = None,
    start: Path | None = None,
    device: str = "auto",
    report: Callable[[str], None] = print,
) -> dict[str, float]:
    """Train on the sightings ``seen``, watched on ``watch``; the averaged weights go to ``out``
    (.safetensors). ``mocap``: motion capture (npz) to imagine more windows of
    (``training.imagined``); ``start``: weights to begin from. Returns the last figures
    (``evaluation.temporal``)."""
    out = Path(out)
    if out.suffix != ".safetensors":
        raise RopeTPError(f"{out}: weights are written as .safetensors; name such a file")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    sightings = Sightings.joined([Sightings.load(path) for path in seen])
    windows = windows_of(sightings, body)
    imagination = None
    if mocap is not None:
        clips = load_turned_clips(mocap)
        imagination = Imagination(clips, sightings, body, mixed=training.mixed)
    watched = Sightings.load(watch)
    report(f"{len(windows)} windows, {sum(map(len, windows))} frames")
    torch.manual_seed(training.seed)
    rng = np.random.default_rng(training.seed)
    given = load_temporal(start) if start is not None else None
    model = TemporalRope(given.config if given else config).to(device)
    if given is not None:
        model.load_state_dict(given.state_dict())
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(
        model.parameters(), training.rate, weight_decay=training.weight_decay
    )
    began, step, done, next_check = time.monotonic(), 0, 0.0, training.check_minutes
    lost: list[float] = []
    figures: dict[str, float] = {}
    while done < 1:
        for group in optimizer.param_groups:
            group["lr"] = training.rate_at(step, done)
        drawn = [
            imagination.draw(rng)
            if imagination is not None and rng.random() < training.imagined
            else windows[rng.integers(len(windows))]
            for _ in range(training.batch)
        ]
        batch, real = stacked(
            [augmented(window, training.window, training, rng) for window in drawn],
            training.window,
        )
        batch = Window(
            batch.frames.to(device),
            *(value.to(device) for value in (batch.true, batch.true_rest, batch.up)),
        )
        model.train()
        loss = temporal_loss(model(batch.frames), batch, real.to(device))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip)
        optimizer.step()
        step += 1
        lost.append(loss.item())
        decay = min(training.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        spent = (time.monotonic() - began) / 60
        done = step / training.steps if training.steps else spent / training.minutes
        if spent >= next_check or done >= 1:
            next_check += training.check_minutes
            save_temporal(average, out)
            figures = evaluate(average, watched, body, device)["over time"]
            shown = " ".join(f"{name} {value:.1f}" for name, value in figures.items())
            report(f"{spent:.1f} min, step {step}, loss {np.mean(lost):.3f}: {shown}")
            lost = []
    return figures
