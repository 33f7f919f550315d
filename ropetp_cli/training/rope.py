"""Training Rope (paper section 3.4): all losses first, then without the part segmentation.

One run is one leg: it goes on from a checkpoint, stops after so many minutes and leaves the next
checkpoint and the best weights. Two ways to run it:

* trunk frozen (any CPU): augmented variants of every crop go through the pretrained trunk once,
  its maps are cached on disk, and the rest of the network trains on them;
* the trunk too, from some map on or all of it: crops are augmented by worker processes as they are
  needed. With ``fresh`` the processes draw new crops all the time, and the device that trains
  varies them: what a GPU can keep up with.
"""

import copy
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from ropetp_cli.allocator import keep_freed_memory
from ropetp_cli.body.model import BodyData, load_body
from ropetp_cli.errors import RopeTPError
from ropetp_cli.evaluation.pose import batches, real_figures, rendered_figures
from ropetp_cli.rope.backbone import BlazePoseBackbone
from ropetp_cli.rope.blazepose import import_tflite, keep_only
from ropetp_cli.rope.losses import LossWeights, RopeTargets, rope_loss
from ropetp_cli.rope.movenet import MoveNet, load_movenet
from ropetp_cli.rope.network import Rope, RopeConfig, load_rope, save_rope
from ropetp_cli.rope.predictor import CropPoses, RopePredictor, has_bfloat16
from ropetp_cli.rope.upright import upright_views
from ropetp_cli.training.crops import CropSet, Sample, augment, collate
from ropetp_cli.training.fresh import FreshCrops, Studios, pool_of
from ropetp_cli.training.variation import Crops, misplaced, varied
from ropetp_cli.weights import find_weights

#: The rows of the paper's Table 4, as changes to the network.
TABLE_4 = {
    "baseline": {
        "levels": ("indep",), "attention": False, "whole_body": False, "cross": False,
    },
    "transformer": {"levels": ("indep",), "whole_body": False, "cross": False},
    "hagt-mlp": {"attention": False, "cross": False},
    "no-whole-body": {"whole_body": False},
    "rope": {},
}  # fmt: skip
TARGET_FIELDS = tuple(RopeTargets.__dataclass_fields__)
TRUNK = "backbone.net."
#: Biases of a trunk may move by this share of their size where filters move by all of theirs: what
#: comes out then changes about as much.
BIAS_SHARE = 0.3
#: A leg's first steps, for which a device gets ready, do not count as training time.
UNTIMED = 20


@dataclass(frozen=True)
class TrainOptions:
    """One leg. ``variants``: augmented copies of each crop that go into the cache; ``share``:
    how often a batch row comes from each set; ``steps``: of the whole training, over all legs
    (None: this leg is all of it, and its minutes count); ``attention_until``: the share of the
    training after which the segmentation loss is dropped (the paper's first 100 epochs); ``row``:
    which of :data:`TABLE_4`; ``start``: weights to begin from, with a fresh optimizer;
    ``grid``: places across the map of a BlazePose backbone, if others than those weights have;
    ``train_after``: the trunk's map up to which it stays frozen in spite of ``train_trunk``;
    ``trunk_rate``: a pretrained trunk's highest learning rate, as a share of each filter's
    size; ``fresh``: motion capture to draw new crops of while training, beside the ``sets``, on
    which ``detector``, a traced one, looks; ``share`` then begins with how often a row is one of
    them, and ``capacity`` is how many are kept."""

    data: Path
    out: Path
    sets: tuple[str, ...] = ("syn_train", "real_train")
    share: tuple[float, ...] = (0.4, 0.6)
    variants: tuple[int, ...] = (1, 2)
    tests: tuple[str, ...] = ("syn_test", "real_val")
    row: str = "rope"
    backbone: str = "blazepose"
    trunk: Path | None = None
    train_trunk: bool = False
    train_after: str | None = None
    start: Path | None = None
    grid: int | None = None
    resume: Path | None = None
    cache: Path | None = None
    minutes: float = 10.0
    check_minutes: float = 3.0
    steps: int | None = None
    batch: int = 64
    rate: float = 1e-3
    trunk_rate: float = 3e-4
    attention_until: float = 0.4
    seed: int = 0
    device: str = "auto"
    workers: int = 0
    fresh: Path | None = None
    detector: Path | None = None
    capacity: int = 150_000


def build(options: TrainOptions, body: BodyData) -> Rope:
    """A Rope from ``options.start``, or a fresh one with the trunk of ``options.trunk``."""
    grid = {"grid": options.grid} if options.grid else {}
    if options.start is not None:
        start = load_rope(options.start, body)
        rope = Rope(replace(start.config, **grid), body, start.spec)
        rope.load_state_dict(start.state_dict())
        return rope
    row = TABLE_4[options.row]
    config = RopeConfig(backbone=options.backbone, body=body.label, **row, **grid)
    if options.backbone != "blazepose":
        return Rope(config, body)
    if options.trunk is None:
        raise RopeTPError("--trunk: give the BlazePose landmark .tflite to start from")
    source = import_tflite(options.trunk)
    net = keep_only(source, BlazePoseBackbone.taps(source))
    rope = Rope(config, body, net.spec)
    rope.backbone.net.load_state_dict(net.state_dict())
    return rope


@dataclass
class Batch:
    """Rows of training: the trunk's maps and MoveNet's keypoints [B, 17, 3] (or the pictures as the
    only map and the detector's), and the labels."""

    maps: list[Tensor]
    keypoints: Tensor
    targets: RopeTargets

    @classmethod
    def joined(cls, parts: list["Batch"]) -> "Batch":
        maps = [torch.cat(level) for level in zip(*(part.maps for part in parts), strict=True)]
        keypoints = torch.cat([part.keypoints for part in parts])
        targets = {k: torch.cat([getattr(p.targets, k) for p in parts]) for k in TARGET_FIELDS}
        return cls(maps, keypoints, RopeTargets(**targets))

    def pictured(self, marks: MoveNet) -> "Batch":
        """Of pictures: as what the trunk takes, with MoveNet's keypoints."""
        images = to_images(self.maps[0])
        return Batch([images], marks(images, self.keypoints), self.targets)

    def to(self, device: str) -> "Batch":
        targets = {k: getattr(self.targets, k).to(device, non_blocking=True) for k in TARGET_FIELDS}
        maps = [m.to(device, non_blocking=True) for m in self.maps]
        return Batch(maps, self.keypoints.to(device), RopeTargets(**targets))


def spoil(keypoints: Tensor) -> Tensor:
    """Keypoints [B, 17, 3] as they might have been found in another picture of the same: shaken,
    some doubted, for one person in ten none at all."""
    count, points = keypoints.shape[:2]

    def random(*shape: int) -> Tensor:
        return torch.rand(count, *shape, device=keypoints.device)

    place = keypoints[..., :2] + 0.012 * torch.randn_like(keypoints[..., :2])
    doubted = random(points) < 0.25 * random(1)
    confidence = torch.where(doubted, 0.4 * random(points), 1.0) * keypoints[..., 2]
    place = torch.where(doubted[..., None], misplaced(place, confidence), place)
    confidence = confidence * (random(1) > 0.1)
    return torch.cat([place, confidence[..., None]], dim=-1)


class FrozenMaps:
    """The trunk's maps of augmented crops, cached on disk as fp16, with their labels and MoveNet's
    keypoints."""

    def __init__(self, directory: Path, crops: CropSet):
        self.maps = [
            np.load(path, mmap_mode="r")
            for path in sorted(directory.glob(f"{crops.name}_maps*.npy"))
        ]
        with np.load(directory / f"{crops.name}_targets.npz") as file:
            arrays = {
                name: file[name] if file[name].dtype == np.uint8 else file[name].astype(np.float32)
                for name in (*TARGET_FIELDS, "keypoints")
            }
        self.keypoints = arrays.pop("keypoints")
        self.targets = arrays

    def __len__(self) -> int:
        return len(self.maps[0])

    def batch(self, index: np.ndarray) -> Batch:
        index = np.sort(index)
        maps = [torch.from_numpy(m[index]).float() for m in self.maps]
        targets = {k: torch.from_numpy(v[index]) for k, v in self.targets.items()}
        return Batch(maps, torch.from_numpy(self.keypoints[index]), RopeTargets(**targets))

    @classmethod
    @torch.inference_mode()
    def fill(
        cls, directory: Path, crops: CropSet, rope: Rope, marks: MoveNet, variants: int, seed: int,
        log,
    ) -> "FrozenMaps":  # fmt: skip
        """Make the cache if it is not there. ``variants`` 0: the crops only turned upright, in
        fp32."""
        done = directory / f"{crops.name}_done.json"
        wanted = {"crops": len(crops), "variants": variants, "seed": seed, "keypoints": "MoveNet"}
        if done.is_file() and json.loads(done.read_text()) == wanted:
            return cls(directory, crops)
        directory.mkdir(parents=True, exist_ok=True)
        done.unlink(missing_ok=True)  # it speaks of maps that are overwritten from here on
        rng = np.random.default_rng((seed, *crops.name.encode()))
        total = len(crops) * max(variants, 1)
        files: list[np.ndarray] = []
        targets: list[RopeTargets] = []
        keypoints: list[np.ndarray] = []
        # Half precision, where it is faster, is noise that training can bear; tests see the maps as
        # they are.
        half = variants > 0 and has_bfloat16(torch.device("cpu"))
        if isinstance(rope.backbone, BlazePoseBackbone):
            rope.backbone.net.train(half)
        began = time.perf_counter()
        for start in range(0, total, 32):
            rows = [k % len(crops) for k in range(start, min(start + 32, total))]
            samples = [crops.sample(k) for k in rows]
            if variants:
                samples = [
                    augment(
                        s, rng, np.array(crops.images[rng.integers(len(crops))]), crops.rendered
                    )
                    for s in samples
                ]
            else:
                samples = [upright(s) for s in samples]
            images = to_images(pictures_of(samples))
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                maps = rope.backbone.trunk(images)
            hints = torch.from_numpy(np.stack([s.keypoints for s in samples])).float()
            keypoints.append(marks(images, hints).numpy())
            if not files:
                files = [
                    np.lib.format.open_memmap(
                        directory / f"{crops.name}_maps{k}.npy", "w+", np.float16,
                        (total, *m.shape[1:]),
                    )
                    for k, m in enumerate(maps)
                ]  # fmt: skip
            for file, values in zip(files, maps, strict=True):
                file[start : start + len(rows)] = values.float().clamp(-6e4, 6e4).half().numpy()
            targets.append(collate(samples))
            if start % 1600 == 0:
                rate = (start + len(rows)) / (time.perf_counter() - began)
                log(f"{crops.name}: {start + len(rows)} of {total} crops, {rate:.0f}/s")
        rope.eval()
        for file in files:
            file.flush()
        joined = {
            name: torch.cat([getattr(t, name) for t in targets]).numpy() for name in TARGET_FIELDS
        }
        joined["keypoints"] = np.concatenate(keypoints)
        np.savez(directory / f"{crops.name}_targets.npz", **joined)
        done.write_text(json.dumps(wanted))
        return cls(directory, crops)


def upright(sample: Sample) -> Sample:
    """The sample as the tool's predictor would look at it."""
    view = upright_views(sample.keypoints[None])
    return sample.moved(view.angle[0], view.scale[0], np.zeros(2))


def pictures_of(samples: list[Sample]) -> Tensor:
    """The crops as they are, uint8 [B, 256, 256, 3]: a quarter of what floats would be on the way
    from the processes that make them to the device."""
    return torch.from_numpy(np.stack([s.image for s in samples]))


def to_images(pictures: Tensor) -> Tensor:
    """uint8 [B, 256, 256, 3] -> [B, 3, 256, 256] floats 0..1, channels last; floats are that."""
    if pictures.is_floating_point():
        return pictures.contiguous(memory_format=torch.channels_last)
    return pictures.permute(0, 3, 1, 2).float() / 255


class LiveCrops(torch.utils.data.IterableDataset):
    """Augmented crops without end, made when they are asked for."""

    def __init__(self, sets: list[CropSet], share: tuple[float, ...], seed: int):
        self.sets, self.seed = sets, seed
        self.share = np.array(share) / np.sum(share)

    def __iter__(self) -> Iterator[Sample]:
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        while True:
            crops = self.sets[rng.choice(len(self.sets), p=self.share)]
            other = np.array(crops.images[rng.integers(len(crops))])
            yield augment(crops.sample(int(rng.integers(len(crops)))), rng, other, crops.rendered)


def cached_batches(sets: list[FrozenMaps], options: TrainOptions, seed: int) -> Iterator[Batch]:
    """Batches from the caches, without end."""
    rng = np.random.default_rng(seed)
    share = np.array(options.share) / np.sum(options.share)
    while True:
        counts = rng.multinomial(options.batch, share)
        yield Batch.joined(
            [
                cache.batch(rng.integers(len(cache), size=count))
                for cache, count in zip(sets, counts, strict=True)
                if count
            ]
        )


def live_batches(sets: list[CropSet], options: TrainOptions, seed: int) -> Iterator[Batch]:
    """Batches of pictures."""
    data = LiveCrops(sets, options.share, seed)
    yield from torch.utils.data.DataLoader(
        data, options.batch, num_workers=options.workers, collate_fn=live_batch,
        prefetch_factor=4 if options.workers else None, worker_init_fn=_one_thread,
    )  # fmt: skip


def fresh_batches(
    studios: Studios, sets: list[CropSet], options: TrainOptions, device: str
) -> Iterator[Batch]:
    """Batches of drawn crops and of ``sets``, varied on the device."""
    pools = [studios.pool, *(pool_of(crops, device) for crops in sets)]
    share = np.array(options.share) / np.sum(options.share)
    rng = np.random.default_rng(options.seed)
    while True:
        studios.wait()
        counts = rng.multinomial(options.batch, share).tolist()
        parts = [pool.draw(count) for pool, count in zip(pools, counts, strict=True) if count]
        crops = varied(Crops.joined(parts))
        yield Batch([crops.images], crops.keypoints, crops.targets)


def picture_batches(
    sets: list[CropSet], options: TrainOptions, seed: int, device: str
) -> tuple[Iterator[Batch], Studios | None]:
    """Batches of pictures, and who draws those that are new, if anybody does."""
    if not options.fresh:
        return live_batches(sets, options, seed), None
    studios = Studios(
        FreshCrops(options.fresh, options.data, options.sets[0], seed),
        options.detector, options.capacity, options.workers, device,
    )  # fmt: skip
    return fresh_batches(studios, sets, options, device), studios


def _one_thread(worker: int) -> None:
    """The other cores are the network's."""
    cv2.setNumThreads(1)


def live_batch(samples: list[Sample]) -> Batch:
    """Samples as a batch whose only map is the pictures."""
    keypoints = torch.from_numpy(np.stack([s.keypoints for s in samples])).float()
    return Batch([pictures_of(samples)], keypoints, collate(samples))


class Average:
    """Exponential moving average of a network's weights."""

    def __init__(self, rope: Rope, frozen: str | None, decay: float = 0.999):
        self.rope = copy.deepcopy(rope).eval()
        self.frozen = frozen
        self.decay = decay

    @torch.no_grad()
    def update(self, rope: Rope, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        current = rope.state_dict()
        pairs = [
            (mean, current[name])
            for name, mean in self.rope.state_dict().items()
            if not (self.frozen and name.startswith(self.frozen))
        ]
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_(*map(list, zip(*floats, strict=True)), 1 - decay)
        for mean, new in pairs:
            if not mean.is_floating_point():
                mean.copy_(new)


@torch.inference_mode()
def predict(
    rope: Rope, marks: MoveNet, crops: CropSet, device: str, cached: FrozenMaps | None
) -> CropPoses:
    """Rope's answers on a whole set at one look, from cached maps where there are some."""
    predictor = RopePredictor(rope, device, quick=True, marks=marks)
    answers = []
    for rows in batches(len(crops), 64):
        if cached is None:
            answers.append(predictor.predict(np.array(crops.images[rows]), crops.keypoints[rows]))
            continue
        batch = cached.batch(np.arange(len(crops))[rows]).to(device)
        output = rope.from_features(batch.maps, batch.keypoints)
        views = upright_views(crops.keypoints[rows])
        told = batch.keypoints.cpu().numpy()
        answers.append(predictor.answers(output, views, np.zeros(len(told)), told))
    return CropPoses.joined(answers)


def figures(
    rope: Rope,
    marks: MoveNet,
    tests: dict[str, tuple[CropSet, FrozenMaps | None]],
    body: BodyData,
    device: str,
) -> dict[str, dict[str, float]]:
    """The figures of every test set."""
    result = {}
    for name, (crops, cached) in tests.items():
        # Trying out algorithms for shapes that come so seldom took longer than the answers.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False):
            poses = predict(rope, marks, crops, device, cached)
        if "lsp2d" in crops.labels:
            result[name] = real_figures(poses, crops)
        else:
            result[name] = rendered_figures(poses, crops, body)
    return result


def score(found: dict[str, dict[str, float]]) -> float:
    """One number to choose by, lower is better: millimetres and missed keypoints weigh alike."""
    total = 0.0
    for values in found.values():
        total += values.get("mpjpe_mm", 0.0) / 100
        total += 1 - values["pck@0.2"] if "pck@0.2" in values else 0.0
    return total


def size_of(weights: Tensor) -> Tensor:
    """How large a step may be that changes a pretrained trunk's ``weights`` by all of themselves:
    the root mean square of every filter, or a share of that of all biases of a layer."""
    whole = weights.detach().square().mean().sqrt()
    if weights.ndim < 2:
        return BIAS_SHARE * whole.clamp(min=1e-4)
    filters = weights.detach().square().mean(tuple(range(1, weights.ndim)), keepdim=True).sqrt()
    return filters.clamp(min=max(float(whole) / 100, 1e-6))


class RelativeSteps:
    """Makes an optimizer's steps of ``weights``, if any, relative to their size (:func:`size_of`).

    A trunk whose normalisation was folded into its filters has some a thousand times as large as
    others, in one layer too; one step for all of them tears the small ones apart.
    """

    def __init__(self, weights: list[torch.nn.Parameter]):
        self.weights = weights
        self.sizes = [size_of(each) for each in weights]

    @torch.no_grad()
    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimizer's step, that of the weights scaled."""
        before = [each.detach().clone() for each in self.weights]
        optimizer.step()
        for each, old, size in zip(self.weights, before, self.sizes, strict=True):
            each.copy_(old + (each - old) * size)


def rate_share(step: int, done: float, warm_up: int = 200) -> float:
    """The learning rate at ``step``, when the share ``done`` of the training is over, as a share of
    the highest: a warm-up of so many steps or a twentieth of the training, then a cosine."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(done, 1)))
    return min(max((step + 1) / warm_up, 20 * done), 1) * (0.02 + 0.98 * cosine)


def train(options: TrainOptions, log=print) -> dict[str, dict[str, float]]:
    """Run one leg; returns the figures of the weights written to ``options.out`` (where an
    earlier leg's are better and stay: of its own last).

    Beside them stands ``OUT.ckpt`` with everything the next leg needs.
    """
    torch.manual_seed(options.seed)
    keep_freed_memory()
    device = ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" \
        else options.device  # fmt: skip
    body = load_body()
    sets = [CropSet.load(options.data, name) for name in options.sets]
    tests = {name: (CropSet.load(options.data, name), None) for name in options.tests}
    rope = build(options, body)
    marks = load_movenet(find_weights("keypoints")).requires_grad_(False)
    step = 0
    state = None
    if options.resume:
        state = torch.load(options.resume, map_location="cpu", weights_only=True)
        for kept in (state["rope"], state["average"]):  # of before it was measured
            kept.setdefault("stiffness", rope.stiffness)
        rope.load_state_dict(state["rope"])
        step = state["step"]

    studios = None
    if not options.train_trunk:
        rope.eval()
        cache = options.cache or options.data / "cache"
        frozen = [
            FrozenMaps.fill(cache, crops, rope, marks, count, options.seed, log)
            for crops, count in zip(sets, options.variants, strict=True)
        ]
        tests = {
            name: (crops, FrozenMaps.fill(cache, crops, rope, marks, 0, 0, log))
            for name, (crops, _) in tests.items()
        }
        stream = cached_batches(frozen, options, options.seed + step)
    else:
        stream, studios = picture_batches(sets, options, options.seed + step, device)

    rope.to(device, memory_format=torch.channels_last)
    marks.to(device, memory_format=torch.channels_last)
    rope.backbone.net.requires_grad_(options.train_trunk)
    if options.train_trunk and isinstance(rope.backbone, BlazePoseBackbone):
        rope.backbone.net.train_after(options.train_after)
    average = Average(rope, None if options.train_trunk else TRUNK)
    trunk = [p for n, p in rope.named_parameters() if n.startswith(TRUNK)]
    rest = [p for n, p in rope.named_parameters() if not n.startswith(TRUNK)]
    groups: list[dict] = [{"params": rest, "lr": options.rate}]
    relative = RelativeSteps([])
    if options.train_trunk and isinstance(rope.backbone, BlazePoseBackbone):
        relative = RelativeSteps([p for p in trunk if p.requires_grad])
        groups.append({"params": relative.weights, "lr": options.trunk_rate,
                       "weight_decay": 0, "eps": 1e-12})  # fmt: skip
    elif options.train_trunk:
        groups.append({"params": trunk, "lr": options.rate})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.02, fused=device == "cuda")
    torch.backends.cudnn.benchmark = True  # every step has the same shapes
    highest = [group["lr"] for group in groups]
    if state:
        average.rope.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
    best, written = state["best"] if state else math.inf, None

    def drawn() -> str:
        return f"{studios.pool.drawn} crops drawn, " if studios else ""

    def checkpoint() -> dict[str, dict[str, float]]:
        nonlocal best, written
        torch.save(
            {
                "rope": rope.state_dict(),
                "average": average.rope.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                "best": best,
                "options": json.dumps(asdict(options), default=str),
            },
            options.out.with_suffix(".ckpt"),
        )
        found = figures(average.rope.eval(), marks, tests, body, device)
        kept = score(found) < best
        if kept:
            best, written = score(found), found
            save_rope(average.rope, options.out)
        log(f"step {step}: {json.dumps(found)}{' *' if kept else ''}")
        return written or found

    weights = LossWeights()
    began = timed = time.perf_counter()
    ends = began + 60 * options.minutes
    between = 60 * options.check_minutes
    next_check = began + min(between, 20 * options.minutes)
    sums: dict[str, Tensor] = {}
    counted = 0
    for leg_step, batch in enumerate(stream):
        now = time.perf_counter()
        if leg_step <= UNTIMED:
            timed = now
        done = step / options.steps if options.steps else (now - timed) / (ends - timed)
        if done >= 1 or now >= ends:
            break
        for group, rate in zip(optimizer.param_groups, highest, strict=True):
            group["lr"] = rate * rate_share(step, done)
        phase = replace(weights, attention=weights.attention * (done < options.attention_until))
        rope.train()
        if not options.train_trunk:
            rope.backbone.net.eval()
        batch = batch.to(device)
        if options.train_trunk:
            batch = batch.pictured(marks)
        batch = replace(batch, keypoints=spoil(batch.keypoints))
        with torch.autocast(device, torch.bfloat16, enabled=has_bfloat16(torch.device(device))):
            maps = batch.maps
            if options.train_trunk:
                maps = rope.backbone.trunk(maps[0])
            output = rope.from_features(maps, batch.keypoints)
            loss, terms = rope_loss(output, batch.targets, phase)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        if options.train_trunk and not relative.weights:
            torch.nn.utils.clip_grad_norm_(trunk, 1.0)
        relative.step(optimizer)
        step += 1
        average.update(rope, step)
        counted += 1
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + value.detach()
        if time.perf_counter() > next_check:
            means = {name: round(float(value) / counted, 4) for name, value in sums.items()}
            log(f"{drawn()}step {step}: loss terms {json.dumps(means)}")
            sums, counted = {}, 0
            checkpoint()
            next_check = time.perf_counter() + between
    if studios:
        studios.close()
    return checkpoint()
