"""Training TrajDenoiser (paper section 3.4, "Trajectory denoiser").

The paper trains on an A100 with batches of 256 and a learning rate of 3e-5 for as long as it
takes. Here a leg has a time budget: AdamW, a short warm-up, then a cosine over the budget, from a
rate that suits few steps. A leg ends in a checkpoint that the next one can go on from.
"""

import copy
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ropetp_cli.errors import RopeTPError
from ropetp_cli.evaluation.trajectory import View, evaluate, summarize, views
from ropetp_cli.training.mocap import Clip, load_clips, load_turned_clips
from ropetp_cli.training.observed import observed
from ropetp_cli.training.windows import WindowSampler
from ropetp_cli.trajectory.denoiser import TrajConfig, TrajDenoiser, load_denoiser, save_denoiser
from ropetp_cli.trajectory.diffusion import Diffusion, q_sample
from ropetp_cli.trajectory.losses import TrajLossWeights, trajectory_loss
from ropetp_cli.trajectory.sampling import regenerate_path


@dataclass(frozen=True)
class TrajTraining:
    """One leg of training.

    ``minutes`` of wall clock, or ``steps`` if given, after which the rate has come down to
    ``final_rate`` times ``rate``; ``batch`` windows a step; ``clean`` the share of exact
    conditions; validation and a checkpoint every ``check_minutes``, on at most ``check_frames``
    frames.
    """

    minutes: float = 60.0
    steps: int | None = None
    batch: int = 24
    rate: float = 1e-3
    final_rate: float = 0.01
    warmup: int = 200
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    clean: float = 0.5
    check_minutes: float = 10.0
    check_frames: int = 4000
    check_ddim: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.minutes > 0 or self.batch < 1 or not self.rate > 0:
            raise RopeTPError("training needs minutes, a batch and a rate of more than 0")

    def done(self, steps: int, minutes: float) -> float:
        """The share of the leg that so many steps, or minutes, are."""
        return minutes / self.minutes if self.steps is None else steps / self.steps

    def rate_at(self, step: int, done: float) -> float:
        """The learning rate of a leg's ``step`` when the share ``done`` of its time is over."""
        cosine = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        decayed = self.final_rate + (1 - self.final_rate) * cosine
        return self.rate * decayed * min(1.0, (step + 1) / self.warmup)


class Average:
    """The running average of a model's weights, quick to move at first."""

    def __init__(self, model: TrajDenoiser, decay: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: TrajDenoiser, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)


def validation_clips(clips: list[Clip], frames: int) -> list[Clip]:
    """The first clips of every subject in turn, up to about ``frames`` frames."""
    queues: dict[str, list[Clip]] = {}
    for clip in clips:
        queues.setdefault(clip.subject, []).append(clip)
    chosen: list[Clip] = []
    while any(queues.values()) and sum(map(len, chosen)) < frames:
        chosen += [queue.pop(0) for queue in queues.values() if queue]
    return chosen


def validate(
    model: TrajDenoiser, sets: dict[str, list[View]], ddim: int, device: torch.device
) -> dict[str, float]:
    """W-MPJPE and WA-MPJPE, mm, on every named set of views."""

    def path(clip: Clip) -> np.ndarray:
        return regenerate_path(
            model, clip.joints, clip.fps, ddim, device=device, rotations=clip.rotations
        ).path

    figures = {}
    for name, pairs in sets.items():
        found = summarize(evaluate(pairs, path))
        figures |= {f"{name}_{figure}": found[figure] for figure in ("w_mpjpe", "wa_mpjpe")}
    return figures


def _save_checkpoint(
    path: Path, model: TrajDenoiser, average: Average, optimizer: torch.optim.Optimizer,
    step: int, minutes: float,
) -> None:  # fmt: skip
    partial = path.with_suffix(".partial")
    torch.save(
        {
            "config": asdict(model.config),
            "model": model.state_dict(),
            "average": average.model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "minutes": minutes,
        },
        partial,
    )
    os.replace(partial, path)


def _loss(
    model: TrajDenoiser, sampler: WindowSampler, alphas: Tensor, training: TrajTraining,
    weights: TrajLossWeights,
) -> tuple[Tensor, dict[str, float]]:  # fmt: skip
    batch = sampler(training.batch, training.clean)
    device = batch.path.device
    step = torch.randint(len(alphas), (training.batch,), generator=sampler.generator, device=device)
    noise = torch.randn(batch.path.shape, generator=sampler.generator, device=device)
    noisy = q_sample(model.normalized(batch.path), noise, alphas[step])
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        movement = model.movement(noisy, step, model.condition(batch.seen, batch.rot6d))
    path = model.integrate(movement)
    return trajectory_loss(path, batch.path, batch.joints, model.config.fps, weights)


def train(
    data: Path,
    out: Path,
    training: TrajTraining,
    config: TrajConfig | None = None,
    resume: Path | None = None,
    start: Path | None = None,
    device: str = "auto",
    errors: tuple[Path, Path] | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, float]:
    """Train on ``data/mocap_train.npz``, watch ``data/mocap_val.npz``, write the averaged weights
    to ``out`` (.safetensors) and a checkpoint beside it (.ckpt).

    ``resume`` goes on from a checkpoint (weights and optimizer; the rate starts its own cosine),
    ``start`` from weights alone. ``errors``: what Rope saw of the two files
    (``training.filming``), to train and to watch with.
    A network that is guided by rotations learns from the clips that have them. Returns the last
    validation's figures. Raises RopeTPError for files it cannot use.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise RopeTPError(f"{out}: weights are written as .safetensors; name such a file")
    out.parent.mkdir(parents=True, exist_ok=True)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.device(device)
    torch.manual_seed(training.seed)
    saved = None
    if resume is not None:
        if not Path(resume).is_file():
            raise RopeTPError(f"{resume}: no such checkpoint")
        saved = torch.load(resume, map_location=where, weights_only=True)
        config = TrajConfig(**saved["config"])
    given = load_denoiser(start) if start is not None else None
    model = TrajDenoiser(given.config if given else config).to(where)
    if given is not None:
        model.load_state_dict(given.state_dict())
    load = load_turned_clips if model.config.condition == "rot6d" else load_clips
    held_out, clips = (load(Path(data) / f"mocap_{part}.npz") for part in ("val", "train"))
    some = validation_clips(held_out, training.check_frames)
    sets = {name: views(some, name) for name in ("clean", "rope")}
    filmed = []
    if errors is not None:
        taught, watched = (observed(path) for path in errors)
        filmed = taught.parts(clips)
        sets["observed"] = [(part.clip, part.seen()) for part in watched.parts(held_out)]
    average = Average(model, training.ema)
    optimizer = torch.optim.AdamW(
        model.parameters(), training.rate, betas=(0.9, 0.99), weight_decay=training.weight_decay
    )
    first, before = 0, 0.0
    if saved is not None:
        model.load_state_dict(saved["model"])
        average.model.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        first, before = saved["step"], saved["minutes"]
    config = model.config
    sampler = WindowSampler(clips, config.window, config.fps, where, training.seed + first, filmed)
    diffusion = Diffusion(config.diffusion_steps, config.schedule)
    alphas = diffusion.alphas.float().to(where)
    weights = TrajLossWeights()

    start = time.monotonic()
    step, spent, done, next_check = first, 0.0, 0.0, training.check_minutes
    sums: dict[str, float] = {}
    counted = 0
    figures: dict[str, float] = {}
    while done < 1:
        rate = training.rate_at(step - first, done)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, terms = _loss(model, sampler, alphas, training, weights)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip)
        optimizer.step()
        average.update(model, step)
        step += 1
        counted += 1
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + value
        spent = (time.monotonic() - start) / 60
        done = training.done(step - first, spent)
        if counted == 100 or done >= 1:
            shown = " ".join(f"{name} {value / counted:.4f}" for name, value in sums.items())
            report(f"{spent:.1f} min, step {step}, rate {rate:.1e}: {shown}")
            sums, counted = {}, 0
        if spent >= next_check or done >= 1:
            next_check += training.check_minutes
            save_denoiser(average.model, out)
            _save_checkpoint(
                out.with_suffix(".ckpt"), model, average, optimizer, step, before + spent
            )
            figures = validate(average.model, sets, training.check_ddim, where)
            report("validation: " + " ".join(f"{k} {v:.1f}" for k, v in figures.items()))
            spent = (time.monotonic() - start) / 60
    return figures
