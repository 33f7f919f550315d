"""Training Pinpoint on labelled crops, from MoveNet's weights or its own."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ropetp_cli.allocator import keep_freed_memory
from ropetp_cli.errors import RopeTPError
from ropetp_cli.evaluation.pose import LIMB_JOINTS, batches, pck
from ropetp_cli.rope.losses import is_rendered
from ropetp_cli.rope.movenet import load_movenet
from ropetp_cli.rope.pinpoint import (
    Pinpoint,
    depth_loss,
    load_pinpoint,
    locate,
    pinpoint_loss,
    pinpointed,
    save_pinpoint,
)
from ropetp_cli.rope.predictor import has_bfloat16
from ropetp_cli.rope.upright import upright_views
from ropetp_cli.training.crops import CropSet
from ropetp_cli.training.rope import (
    RelativeSteps,
    TrainOptions,
    picture_batches,
    rate_share,
    spoil,
    to_images,
)
from ropetp_cli.weights import find_weights

#: How much the map that attention alone makes counts beside the one asked for, and how wide the
#: truth is drawn there, in steps.
COARSE, COARSE_SIGMA = 0.3, 0.5
#: How much depth counts, and that of photographs, to which a body was fitted, beside that of what
#: was rendered.
DEPTH, FITTED = 0.5, 0.3


@dataclass(frozen=True)
class PinpointTraining:
    """One leg. ``share``: how often a crop comes from each of ``sets``; ``start``: weights to begin
    from, MoveNet's if none; ``frozen``: the stem and so many stages of the trunk stay as they
    are, with 0 none; ``rate``:
    of the new layers; ``trunk_rate``: of the others, as a share of each filter's size; ``sigma``:
    how wide the truth is drawn, in steps of the map; ``fresh``, ``detector``, ``capacity``: as of
    :class:`~ropetp_cli.training.rope.TrainOptions`."""

    data: Path
    out: Path
    sets: tuple[str, ...] = ("syn_train", "real_train")
    share: tuple[float, ...] = (0.7, 0.3)
    tests: tuple[str, ...] = ("syn_test", "real_val")
    start: Path | None = None
    frozen: int = 3
    minutes: float = 30.0
    check_minutes: float = 10.0
    batch: int = 32
    rate: float = 2e-3
    trunk_rate: float = 1e-3
    sigma: float = 0.8
    ema: float = 0.998
    seed: int = 0
    device: str = "auto"
    workers: int = 1
    fresh: Path | None = None
    detector: Path | None = None
    capacity: int = 150_000


@torch.inference_mode()
def figures(net: Pinpoint, crops: CropSet, device: str) -> dict[str, float]:
    """Of a set's limbs that are seen, told by the detector: PCK at 0.1 and 0.2, and the median and
    mean of how far off they are, in half crops; and how far off the depth of all limbs is in the
    mean, mm, where poses are known."""
    found, depths = [], []
    for rows in batches(len(crops)):
        keypoints = crops.keypoints[rows]
        views = upright_views(keypoints)
        images = to_images(torch.from_numpy(views.images(np.array(crops.images[rows]))).to(device))
        told = torch.from_numpy(views.keypoints(keypoints)).float().to(device)
        with torch.autocast(device, torch.bfloat16, enabled=has_bfloat16(torch.device(device))):
            likely, depth = locate(net, images, told, twice=False)
        found.append(views.points_back(pinpointed(likely).points.cpu().double().numpy()))
        depths.append(depth[:, LIMB_JOINTS, 0].cpu().numpy())
    points = np.concatenate(found)[:, LIMB_JOINTS]
    if "lsp2d" in crops.labels:
        labels = crops.labels["lsp2d"][:, :12]
        true, seen = labels[..., :2], labels[..., 2]
    else:
        true = crops.labels["joints2d"][:, LIMB_JOINTS]
        seen = crops.labels["visible"][:, LIMB_JOINTS]
    off = np.linalg.norm(points - true, axis=-1)[seen > 0]
    known = crops.labels["has_pose"] > 0
    wrong = np.concatenate(depths) - crops.labels["joints3d"][:, LIMB_JOINTS, 2]
    return {
        "pck@0.1": pck(points, true, seen, 0.1),
        "pck@0.2": pck(points, true, seen, 0.2),
        "median": float(np.median(off)),
        "mean": float(off.mean()),
        "depth mm": 1000 * float(np.abs(wrong[known]).mean()) if known.any() else float("nan"),
    }


def train(
    options: PinpointTraining, report: Callable[[str], None] = print
) -> dict[str, dict[str, float]]:
    """Run one leg; the averaged weights go to ``options.out``. Returns the last figures, by
    set."""
    if options.out.suffix != ".safetensors":
        raise RopeTPError(f"{options.out}: weights are written as .safetensors; name such a file")
    torch.manual_seed(options.seed)
    keep_freed_memory()
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    sets = [CropSet.load(options.data, name) for name in options.sets]
    tests = [CropSet.load(options.data, name) for name in options.tests]
    if options.start is not None:
        net = load_pinpoint(options.start)
    else:
        net = Pinpoint.from_movenet(load_movenet(find_weights("keypoints")))
    net.to(device, memory_format=torch.channels_last)
    for part in [net.stem, *net.stages][: options.frozen and options.frozen + 1]:
        part.requires_grad_(False)
    new = [net.believed, *(p for part in (net.told, net.reasoning, net.head)
                           for p in part.parameters())]  # fmt: skip
    trunk = [p for p in net.parameters() if p.requires_grad and all(p is not n for n in new)]
    relative = RelativeSteps(trunk)
    optimizer = torch.optim.AdamW(
        [
            {"params": new, "lr": options.rate},
            {"params": trunk, "lr": options.trunk_rate, "weight_decay": 0, "eps": 1e-12},
        ],
        weight_decay=0.01,
    )
    highest = [group["lr"] for group in optimizer.param_groups]
    average = copy.deepcopy(net).eval().requires_grad_(False)
    names = ("data", "out", "sets", "share", "batch", "seed", "workers", "fresh", "detector",
             "capacity")  # fmt: skip
    source = TrainOptions(**{name: getattr(options, name) for name in names})
    stream, studios = picture_batches(sets, source, options.seed, device)
    began, next_check, lost, found = time.monotonic(), options.check_minutes, [], {}
    for step, batch in enumerate(stream):
        if step == 0:  # the first crops are there
            began = time.monotonic()
        spent = (time.monotonic() - began) / 60
        done = spent / options.minutes
        if spent >= next_check or done >= 1:
            next_check += options.check_minutes
            save_pinpoint(average, options.out)
            found = {crops.name: figures(average, crops, device) for crops in tests}
            shown = "; ".join(
                f"{name} " + " ".join(f"{key} {value:.4f}" for key, value in each.items())
                for name, each in found.items()
            )
            drawn = f"{studios.pool.drawn} crops drawn, " if studios else ""
            loss = np.mean(lost[-200:])
            report(f"{spent:.1f} min, {drawn}step {step}, loss {loss:.3f}: {shown}")
        if done >= 1:
            break
        for group, rate in zip(optimizer.param_groups, highest, strict=True):
            group["lr"] = rate * rate_share(step, done)
        batch = batch.to(device)
        images, told = to_images(batch.maps[0]), spoil(batch.keypoints)
        with torch.autocast(device, torch.bfloat16, enabled=has_bfloat16(torch.device(device))):
            fine, coarse, depth = net(images, told)
        truth = batch.targets.joints2d, batch.targets.weight2d
        loss = pinpoint_loss(fine, *truth, options.sigma)
        loss = loss + COARSE * pinpoint_loss(coarse, *truth, COARSE_SIGMA)
        sure = batch.targets.has_pose * (FITTED + (1 - FITTED) * is_rendered(batch.targets))
        loss = loss + DEPTH * depth_loss(depth, batch.targets.joints[..., 2], sure)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(new, 1.0)
        relative.step(optimizer)
        lost.append(loss.item())
        with torch.no_grad():
            decay = min(options.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1 - decay)
    if studios:
        studios.close()
    return found
