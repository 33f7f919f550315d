"""Rope (paper Figure 3): backbone -> tokenizer -> regressor -> SMPL joints in the crop."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ropetp_cli.body.model import BodyData
from ropetp_cli.body.rot6d import forward_kinematics, rot6d_to_matrix
from ropetp_cli.body.skeleton import JOINT_INDEX, JOINTS
from ropetp_cli.errors import RopeTPError
from ropetp_cli.rope.backbone import make_backbone
from ropetp_cli.rope.regressor import PART_LEVELS, ContextualRegressor, KeypointEncoder
from ropetp_cli.rope.tokenizer import HierarchicalTokenizer


@dataclass(frozen=True)
class RopeConfig:
    """How a Rope is built; stored with its weights. ``body`` is the body its betas mean, ``grid``
    the places across a BlazePose backbone's map."""

    backbone: str = "blazepose"
    token_width: int = 128
    width: int = 128
    levels: tuple[str, ...] = PART_LEVELS
    attention: bool = True
    whole_body: bool = True
    cross: bool = True
    body: str = ""
    grid: int = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))


@dataclass
class RopeOutput:
    """A batch of answers, in crop camera axes.

    rotations [B, 24, 3, 3]; betas [B, 10]; cam [B, 3] (s, tx, ty); joints [B, 24, 3] m, pelvis
    at 0; joints2d [B, 24, 2] the joints' image in the crop, -1..1, as from afar; points [B, 24, 2]
    where the picture itself shows them, and log_spread [B, 24], the logarithm of how far off those
    may be; confidence_logit [B, 24]; attention {level: [B, J_x + 1, H, W]} logits; and if somebody
    else sees it, joints' depth [B, 24, 2]: how much farther away than the pelvis, m, and the
    logarithm of how far off that may be.
    """

    rotations: Tensor
    betas: Tensor
    cam: Tensor
    joints: Tensor
    joints2d: Tensor
    points: Tensor
    log_spread: Tensor
    confidence_logit: Tensor
    attention: dict[str, Tensor]
    depth: Tensor | None = None


def weak_perspective(joints: Tensor, cam: Tensor) -> Tensor:
    """[B, J, 3] m and (s, tx, ty) [B, 3] -> [B, J, 2] in the crop: s (X + t), -1..1."""
    return cam[:, None, :1] * (joints[..., :2] + cam[:, None, 1:])


def farther(joints: Tensor, nearness: Tensor) -> Tensor:
    """How many times as far away as the pelvis joints [B, J, 3] m about it are, [B, J, 1], at least
    .2, for a camera 1 / ``nearness`` [B] m away: a weak-perspective image has them so many times
    too large."""
    return (1 + nearness[:, None, None] * joints[..., 2:]).clamp(min=0.2)


def perspective(joints: Tensor, cam: Tensor, span: Tensor) -> Tensor:
    """The image [B, J, 2] of joints [B, J, 3] m as a camera sees it that is not far away. ``span``
    [B] m: half the width of what the crop shows one metre from it, so that the pelvis is
    1 / (s span) m away; zeros for a camera from afar."""
    return weak_perspective(joints, cam) / farther(joints, cam[:, 0] * span)


def posed(rotations: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """Joints about the pelvis, m, [B, 24, 3], and rotations accumulated from there down [B, 24, 3,
    3], of bodies with ``rest`` joints [B, 24, 3]."""
    placed, turned = forward_kinematics(rotations, rest)
    return placed - placed[:, :1], turned


def unmeasured_stiffness() -> Tensor:
    """How stiffly turns of joints resist bending to the image, [72, 72] 1 / rad^2, where nobody has
    measured how a network errs (``training.stiffness``)."""
    limbs = ("hip", "knee", "shoulder", "elbow", "wrist", "ankle")
    each = torch.tensor([6.4 if name.split("_")[-1] in limbs else 40.0 for name in JOINTS])
    each[JOINT_INDEX["pelvis"]] = 24.0
    return torch.diag(each.repeat_interleave(3))


class Rope(nn.Module):
    """SMPL of the person in a crop, right under occlusion (paper section 3.2)."""

    def __init__(self, config: RopeConfig, body: BodyData, spec: dict[str, Any] | None = None):
        super().__init__()
        self.config = config
        self.spec = spec
        self.backbone = make_backbone(config.backbone, spec, config.grid)
        self.keypoints = KeypointEncoder()
        self.tokenizer = HierarchicalTokenizer(
            self.backbone.channels, config.token_width, (*config.levels, "whobo")
        )
        self.regressor = ContextualRegressor(
            config.token_width + 2,
            self.backbone.context_width + self.keypoints.width,
            config.width,
            levels=config.levels,
            attention=config.attention,
            whole_body=config.whole_body,
            cross=config.cross,
        )
        mean = torch.as_tensor(body.rest_joints(torch.zeros(10).numpy()), dtype=torch.float32)
        per_beta = body.rest_joints(torch.eye(10).numpy())
        self.register_buffer("rest_mean", mean, persistent=False)
        self.register_buffer(
            "rest_dirs", torch.as_tensor(per_beta, dtype=torch.float32) - mean, persistent=False
        )
        self.register_buffer("stiffness", unmeasured_stiffness())

    def forward(self, images: Tensor, keypoints: Tensor | None = None) -> RopeOutput:
        """``images`` [B, 3, 256, 256] RGB, 0..1; ``keypoints`` [B, 17, 3], if
        there are any: x, y in -1..1 of the crop, confidence. Under autocast the trunk alone, nearly
        all of the work, is in half precision: people waver in depth by its last digits."""
        maps = [m.float() for m in self.backbone.trunk(images)]
        with torch.autocast(images.device.type, enabled=False):
            return self.from_features(maps, keypoints)

    def from_features(self, maps: list[Tensor], keypoints: Tensor | None = None) -> RopeOutput:
        """The rest of the network on the trunk's maps, fresh or cached."""
        features, context = self.backbone.fuse(maps)
        if keypoints is None:
            keypoints = features.new_zeros(len(features), 17, 3)
        tokens, attention = self.tokenizer(features)
        answer = self.regressor(tokens, torch.cat([context, self.keypoints(keypoints)], dim=-1))
        rotations = rot6d_to_matrix(answer["rot6d"].float())
        betas, cam = answer["betas"].float(), answer["cam"].float()
        with torch.autocast(rotations.device.type, enabled=False):  # half a pixel is too much
            joints = self.joints(rotations, betas)
        joints2d = weak_perspective(joints, cam)
        return RopeOutput(
            rotations, betas, cam, joints, joints2d,
            joints2d.detach() + answer["offset"].float(), answer["log_spread"].float(),
            answer["confidence_logit"].float(), attention,
        )  # fmt: skip

    def joints(self, rotations: Tensor, betas: Tensor) -> Tensor:
        """Joints of posed bodies, m, pelvis at 0, [B, 24, 3]."""
        return posed(rotations, self.rest_joints(betas))[0]

    def rest_joints(self, betas: Tensor) -> Tensor:
        """Joints of bodies at rest, m, [B, 24, 3]."""
        return self.rest_mean + torch.einsum("bk,kjc->bjc", betas, self.rest_dirs)


def save_rope(rope: Rope, path: str | Path) -> None:
    """Write weights (fp16) and everything needed to build the network again."""
    metadata = {"format": "ropetp-rope-2", "config": json.dumps(asdict(rope.config))}
    if rope.spec is not None:
        metadata["spec"] = json.dumps(rope.spec, separators=(",", ":"))
    tensors = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in rope.state_dict().items()
    }
    save_file(tensors, str(path), metadata)


def load_rope(path: str | Path, body: BodyData) -> Rope:
    """A Rope in evaluation mode from a ``.safetensors`` file, on the CPU in fp32.

    Raises RopeTPError when the file is missing, damaged, or made for another body.
    """
    path = Path(path)
    if not path.is_file():
        raise RopeTPError(f"{path}: no such weights; run `ropetp doctor`")
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}
        config = RopeConfig(**json.loads(metadata["config"]))
        spec = json.loads(metadata["spec"]) if "spec" in metadata else None
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise RopeTPError(f"{path}: not a Rope weight file ({error})") from error
    if config.body and config.body != body.label:
        raise RopeTPError(
            f"{path}: trained for the body {config.body}, not {body.label}; its shapes mean "
            "nothing on another body"
        )
    rope = Rope(config, body, spec)
    state.setdefault("stiffness", rope.stiffness)
    floats = {name: v.float() if v.is_floating_point() else v for name, v in state.items()}
    try:
        rope.load_state_dict(floats)
    except RuntimeError as error:
        raise RopeTPError(
            f"{path}: weights of another version of Rope; run `ropetp setup weights`"
        ) from error
    return rope.eval()
