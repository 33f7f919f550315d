"""Rope on batches of crops, as the tool uses it."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ropetp_cli.allocator import keep_freed_memory
from ropetp_cli.body.model import BodyData
from ropetp_cli.body.rotations import forward_kinematics
from ropetp_cli.body.skeleton import LIMB_KEYPOINTS, LIMBS
from ropetp_cli.rope.alignment import DOUBT, agreement, align
from ropetp_cli.rope.mirror import look_twice
from ropetp_cli.rope.movenet import MoveNet, load_movenet
from ropetp_cli.rope.network import Rope, RopeOutput, load_rope, perspective
from ropetp_cli.rope.pinpoint import Pinpoint, load_pinpoint, locate
from ropetp_cli.rope.upright import FAR, Views, upright_views
from ropetp_cli.weights import find_weights


@dataclass
class CropPoses:
    """Answers for N crops, in crop camera axes: rotations [N, 24, 3, 3], betas [N, 10], cam
    [N, 3] (s, tx, ty), joints2d [N, 24, 2] in -1..1 of the crop, as the camera sees them where its
    distance is known, else as from afar, confidence [N, 24] 0..1; keypoints [N, 17, 3], as Rope
    was told or as found since, x, y in -1..1 of the crop and confidence, zeros where none was
    seen; and evidence [N, 24, 3], where joints were seen, x, y alike, and by how much, in half
    crops, that may be off."""

    rotations: np.ndarray
    betas: np.ndarray
    cam: np.ndarray
    joints2d: np.ndarray
    confidence: np.ndarray
    keypoints: np.ndarray
    evidence: np.ndarray

    def __len__(self) -> int:
        return len(self.rotations)

    def take(self, index: np.ndarray) -> "CropPoses":
        """The answers at ``index``, in that order."""
        return CropPoses(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def of_size(self, share: float) -> "CropPoses":
        """The same pictures of people ``share`` times as large and as far away."""
        return replace(self, cam=self.cam * [1 / share, share, share])

    @classmethod
    def joined(cls, parts: list["CropPoses"]) -> "CropPoses":
        """Several batches as one."""
        return cls(
            *(
                np.concatenate([getattr(p, name) for p in parts])
                for name in cls.__dataclass_fields__
            )
        )


#: Whom Rope doubts it looks at again without keypoints; that answer must be surer by this.
SURER = 0.1
#: Keypoints farther apart than this, in half crops, may be two people's; the detector's counts from
#: this confidence on, as so much of it.
MIXED, SURE_OF_WHOM, LESS_SURE = 0.1, 0.5, 0.6
#: The widest map of MoveNet and of Pinpoint takes 13 MB a crop: so many at once.
AT_ONCE = 8
#: Crops looked at again go in batches of at most so many: larger ones of ever new sizes find no
#: room in freed memory, and the process grows.
AGAIN = 8


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16 itself; elsewhere it would be slower. With
    AVX512-BF16 and no AMX (Zen 4) a crop takes 51 ms on two cores instead of 64."""
    if device.type == "cpu":
        names = "_is_amx_tile_supported", "_is_avx512_bf16_supported"
        return any(getattr(torch.cpu, name, lambda: False)() for name in names)
    return device.type == "cuda"


class RopePredictor:
    """Runs a :class:`Rope` on uint8 crops. ``aligned`` False leaves out the final alignment,
    ``quick`` the mirror, which takes as long again. ``reach``: from how far away people are looked
    at (``rope.upright``); what Rope over time was trained behind is NEAR. ``marks``, if given, sees
    the detector's keypoints anew, and better; ``pins`` says where in the picture joints are, and
    how deep."""

    def __init__(
        self,
        rope: Rope,
        device: str = "cpu",
        aligned: bool = True,
        quick: bool = False,
        reach: float = FAR,
        marks: MoveNet | None = None,
        pins: Pinpoint | None = None,
    ):
        keep_freed_memory()
        self.device = torch.device(device)
        self.rope = rope.eval().to(self.device, memory_format=torch.channels_last)
        self.marks = marks
        if marks is not None:
            marks.eval().to(self.device, memory_format=torch.channels_last)
        self.pins = pins
        if pins is not None:
            pins.eval().to(self.device, memory_format=torch.channels_last)
        self.aligned = aligned
        self.reach = reach
        self.quick = quick
        self.look = self.rope if quick else partial(look_twice, self.rope)

    @classmethod
    def from_weights(
        cls, body: BodyData, weights: Path | None = None, device: str = "cpu", **how
    ) -> "RopePredictor":
        """With the networks of ``weights``: a directory with a manifest, by default the tool's, or
        a .safetensors file of Rope, beside the tool's MoveNet and Pinpoint. RopeTPError as they
        have it."""
        is_file = weights is not None and weights.suffix == ".safetensors"
        rope = load_rope(weights if is_file else find_weights("rope", weights), body)
        others = None if is_file else weights
        marks = load_movenet(find_weights("keypoints", others))
        pins = load_pinpoint(find_weights("pinpoint", others))
        return cls(rope, device, marks=marks, pins=pins, **how)

    @torch.inference_mode()
    def predict(
        self,
        crops: np.ndarray,
        keypoints: np.ndarray | None = None,
        widths: np.ndarray | None = None,
        crowded: np.ndarray | None = None,
    ) -> CropPoses:
        """``crops`` uint8 RGB [N, 256, 256, 3] -> N answers.

        ``keypoints`` [N, 17, 3]: the detector's, x, y in -1..1 of the crop and confidence, zeros
        where not seen. With them crops are turned upright first, and people hidden in part are
        found more surely. ``widths`` [N] m: what every crop shows one metre from the camera,
        which tells how near it is; without them it is taken for one from afar. ``crowded`` [N]:
        whether another person stands before or behind this one.
        """
        if widths is None:
            widths = np.zeros(len(crops))
        if keypoints is None:
            return self._look(crops, np.zeros((len(crops), 17, 3)), widths)
        marked = keypoints
        if self.marks is not None:
            marked = self.marked(crops, keypoints)
            if crowded is not None:
                marked = np.where(crowded[:, None, None], disentangled(marked, keypoints), marked)
        first = self._look(crops, marked, widths)
        return replace(self._second_look(crops, first, widths), keypoints=first.keypoints)

    @torch.inference_mode()
    def marked(self, crops: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
        """The detector's ``keypoints`` [N, 17, 3] as MoveNet sees them; none of whom the detector
        has not seen, who may be hidden by another."""
        seen = np.flatnonzero((keypoints[..., 2] > 0).any(axis=1))
        marked = np.zeros(keypoints.shape)
        for start in range(0, len(seen), AT_ONCE):
            rows = seen[start : start + AT_ONCE]
            hints = torch.from_numpy(keypoints[rows]).float().to(self.device)
            marked[rows] = self.marks(self._images(crops[rows]), hints).cpu().numpy()
        return marked

    def _images(self, crops: np.ndarray) -> torch.Tensor:
        images = torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2).float().div_(255.0)
        return images.contiguous(memory_format=torch.channels_last)

    def _look(self, crops: np.ndarray, keypoints: np.ndarray, widths: np.ndarray) -> CropPoses:
        views = upright_views(keypoints, self.reach)
        images = self._images(views.images(crops))
        seen = torch.from_numpy(views.keypoints(keypoints)).float().to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=has_bfloat16(self.device)):
            output = self.look(images, seen)
            likely = None
            if self.pins is not None:
                likely, output.depth = self._located(images, seen)
        return self.answers(output, views, widths, keypoints, likely)

    def _located(
        self, images: torch.Tensor, seen: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        count = max(len(images), 1)
        parts = [slice(start, start + AT_ONCE) for start in range(0, count, AT_ONCE)]
        found = [locate(self.pins, images[part], seen[part], not self.quick) for part in parts]
        return tuple(torch.cat(values) for values in zip(*found, strict=True))

    def _second_look(self, crops: np.ndarray, poses: CropPoses, widths: np.ndarray) -> CropPoses:
        """``poses`` with those in doubt asked for again, of the crops as they are: a detector's
        wrong keypoints can turn a body round."""
        sure = poses.confidence.mean(axis=1)
        rows = np.flatnonzero(sure < DOUBT)
        if not len(rows):
            return poses
        pieces = [rows[k : k + AGAIN] for k in range(0, len(rows), AGAIN)]
        again = CropPoses.joined(
            [self._look(crops[p], np.zeros((len(p), 17, 3)), widths[p]) for p in pieces]
        )
        better = again.confidence.mean(axis=1) > sure[rows] + SURER
        chosen = np.arange(len(poses))
        chosen[rows[better]] = len(poses) + np.flatnonzero(better)
        return CropPoses.joined([poses, again]).take(chosen)

    def answers(
        self,
        output: RopeOutput,
        views: Views,
        widths: np.ndarray,
        keypoints: np.ndarray,
        likely: torch.Tensor | None = None,
    ) -> CropPoses:
        """What ``output`` says of the crops, ``widths`` [N] at one metre, from what it says of
        their ``views``, how ``likely`` [N, 24, 64 * 64 + 1] Pinpoint finds joints at places there,
        and the crops' ``keypoints`` [N, 17, 3]."""
        rotations, cam = output.rotations, output.cam
        span = torch.from_numpy(widths / 2 / views.scale).to(cam)
        found = None
        if likely is not None:
            output, found = agreement(self.rope, output, likely, span)
        if self.aligned:
            rotations, cam = align(self.rope, output, span)
        image = perspective(self.rope.joints(rotations, output.betas), cam, span)
        confidence = output.confidence_logit.sigmoid()
        rotations, betas, cam, image, confidence, points, spread = (
            value.float().cpu().numpy().astype(np.float64)
            for value in (
                rotations, output.betas, cam, image, confidence, output.points,
                output.log_spread.exp(),
            )
        )  # fmt: skip
        back = views.turn.transpose(0, 2, 1)
        rotations[:, 0] = back @ rotations[:, 0]
        shift = (back[:, :2, :2] @ cam[:, 1:, None])[..., 0]
        cam = np.concatenate([cam[:, :1] / views.scale[:, None], shift], axis=1)
        if found is not None:
            pins = views.points_back(found.points.cpu().double().numpy())
            keypoints = refound(keypoints, pins, found.mass.cpu().double().numpy())
        spread = spread / views.scale[:, None]
        evidence = np.concatenate([views.points_back(points), spread[..., None]], axis=-1)
        image = views.points_back(image)
        return CropPoses(rotations, betas, cam, image, confidence, keypoints, evidence)


def refound(keypoints: np.ndarray, points: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """``keypoints`` [N, 17, 3] with limbs where Pinpoint found them, ``points`` [N, 24, 2] and
    ``mass`` [N, 24], but of those of whom nobody had seen any."""
    limbs = np.concatenate([points[:, LIMBS], mass[:, LIMBS, None]], axis=-1)
    new = keypoints.copy()
    new[:, list(LIMB_KEYPOINTS)] = limbs
    return np.where((keypoints[..., 2:] > 0).any(axis=1, keepdims=True), new, keypoints)


def disentangled(marked: np.ndarray, detected: np.ndarray) -> np.ndarray:
    """MoveNet's keypoints [N, 17, 3] of people who stand before one another, whose limbs it mixes
    up: where the detector has another place for one and is sure of it, that one, if less surely."""
    apart = np.linalg.norm(marked[..., :2] - detected[..., :2], axis=-1) > MIXED
    taken = apart & (detected[..., 2] > SURE_OF_WHOM)
    return np.where(taken[..., None], detected * [1, 1, LESS_SURE], marked)


def posed_joints(rotations: np.ndarray, rest_joints: np.ndarray) -> np.ndarray:
    """Joints about the pelvis, [N, 24, 3] m, for ``rotations`` [N, 24, 3, 3]."""
    joints = forward_kinematics(rotations, rest_joints)
    return joints - joints[:, :1]
