"""MoveNet Thunder: where the keypoints of one person in a crop are (Google, Apache-2.0).

The network is a MobileNetV2 1.75 times as wide, a feature pyramid of stride 4 and four heads on
it. Which keypoint belongs to whom is settled as in its published graph: whoever is nearest to the
middle of the crop says roughly where the keypoints are, and each is the best place of its heatmap
near there. ``python -m ropetp_cli.training.movenet`` reads the published weights once.
"""

from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ropetp_cli.errors import RopeTPError

Net = TypeVar("Net", bound=nn.Module)
#: Side of the crops, px, and of the maps that its heads give.
CROP_PX, MAP_PX = 256, 64
KEYPOINTS = 17
#: Another network's keypoints tell who is meant from this confidence, and this sum of them, on.
HINT_SURE, HINTS = 0.5, 3.0
#: A place so many steps of the map away from where it is looked for counts half.
_NEARBY = 1.8
#: MobileNetV2's stages: how often a block is as wide inside, its width, how many, their stride.
_STAGES = (
    (1, 32, 1, 1), (6, 40, 2, 2), (6, 56, 3, 2), (6, 112, 4, 2), (6, 168, 3, 1), (6, 280, 3, 2),
    (6, 560, 1, 1),
)  # fmt: skip
_STEM, _END = 56, 1280
#: The stages whose maps the pyramid joins, coarse to fine, and how wide it is there.
_JOINED = ((3, 64), (2, 32), (1, 24))
PYRAMID = (64, 32, 24, 24)
#: The side of the pyramid's coarsest map, px; the last stage with a map of that side, and how wide
#: that is.
COARSE_PX, DEEP = 16, 4
DEEP_WIDTH = _STAGES[DEEP][1]
_HEADS = {"heatmaps": KEYPOINTS, "center": 1, "regress": 2 * KEYPOINTS, "offset": 2 * KEYPOINTS}


class _Convolution(nn.Conv2d):
    """Padded as TensorFlow's "SAME" does: by one more at the lower right, where an even side is
    halved. A filter with a row and a column of zeros does that without a copy of the map."""

    def __init__(self, width_in: int, width: int, kernel: int = 1, stride: int = 1,
                 groups: int = 1, bias: bool = True):  # fmt: skip
        super().__init__(width_in, width, kernel, stride, kernel // 2, 1, groups, bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 1:
            return super().forward(x)
        return self._conv_forward(x, F.pad(self.weight, (1, 0, 1, 0)), self.bias)


class _Block(nn.Module):
    """MobileNetV2's inverted residual, normalisation folded into its filters."""

    def __init__(self, width_in: int, widening: int, width: int, stride: int):
        super().__init__()
        inner = widening * width_in
        layers = [_Convolution(width_in, inner), nn.ReLU6(inplace=True)] if widening > 1 else []
        layers += [_Convolution(inner, inner, 3, stride, inner), nn.ReLU6(inplace=True),
                   _Convolution(inner, width)]  # fmt: skip
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and width_in == width

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


def _separable(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        _Convolution(width_in, width_in, 3, 1, width_in, bias=False),
        _Convolution(width_in, width),
        nn.ReLU(inplace=True),
    )


class Pyramid(nn.Module):
    """MoveNet's trunk and the feature pyramid on it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_Convolution(3, _STEM, 3, 2), nn.ReLU6(inplace=True))
        width, stages = _STEM, []
        for widening, wide, count, stride in _STAGES:
            blocks = []
            for k in range(count):
                blocks.append(_Block(width, widening, wide, 1 if k else stride))
                width = wide
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.end = nn.Sequential(_Convolution(width, _END), nn.ReLU6(inplace=True))
        self.top = _Convolution(_END, PYRAMID[0])
        self.lateral = nn.ModuleList(
            _Convolution(_STAGES[stage][1], wide) for stage, wide in _JOINED
        )
        self.down = nn.ModuleList(
            _separable(a, b) for a, b in zip(PYRAMID[:-1], PYRAMID[1:], strict=True)
        )

    def coarse(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images [B, 3, 256, 256] RGB 0..1 -> the pyramid's coarsest map [B, 64, 16, 16] and what
        each stage of the trunk gave, of which DEEP's, [B, 168, 16, 16], has the same side."""
        x = self.stem(2 * images - 1)
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return self._joined(self.top(self.end(x)), found, 0), found

    def fine(self, x: Tensor, found: list[Tensor]) -> Tensor:
        """From there, the pyramid's finest map [B, 24, 64, 64]."""
        for level, down in enumerate(self.down):
            x = down(self._joined(x, found, level) if level else x)
        return x

    def _joined(self, x: Tensor, found: list[Tensor], level: int) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return x + self.lateral[level](found[_JOINED[level][0]])


def head(width: int) -> nn.Sequential:
    """What a pyramid's finest map says of ``width`` things."""
    return nn.Sequential(_separable(PYRAMID[-1], 96), _Convolution(96, width))


class MoveNet(Pyramid):
    """Crops [B, 3, 256, 256] RGB 0..1 -> keypoints [B, 17, 3] in COCO's order: x, y in -1..1 of
    the crop, and the score of its heatmap there, 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: head(width) for name, width in _HEADS.items()})

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """What the heads say at every place, [B, C, 64, 64]."""
        x = self.fine(*self.coarse(images))
        return {name: head(x) for name, head in self.heads.items()}

    def forward(self, images: Tensor, hints: Tensor | None = None) -> Tensor:
        """``hints`` [B, 17, 3]: keypoints another network saw of the person meant, in the same
        units. Whoever has its own nearest to them is meant, and each is looked for near there;
        where that saw nothing, zeros come back: somebody else may be in the crop."""
        maps = {name: value.float() for name, value in self.maps(images).items()}
        heat = maps["heatmaps"].sigmoid()
        side = torch.arange(MAP_PX, device=images.device, dtype=torch.float32)
        places = torch.stack(torch.meshgrid(side, side, indexing="ij"))  # y, x
        away = (places - MAP_PX // 2).norm(dim=0).expand(len(images), -1, -1)
        everybody = places + maps["regress"].unflatten(1, (-1, 2))  # [B, 17, 2, 64, 64]
        if hints is not None:
            weight = hints[..., 2] * (hints[..., 2] > HINT_SURE)
            total = weight.sum(dim=1)[:, None, None]
            hinted = ((hints[..., :2] + 1) * (MAP_PX / 2)).flip(-1)[..., None, None]
            off = ((everybody - hinted).norm(dim=2) * weight[..., None, None]).sum(dim=1)
            away = torch.where(total >= HINTS, off / total.clamp(min=1e-6), away)
        middle = (maps["center"][:, 0].sigmoid() / (away + _NEARBY)).flatten(1).argmax(dim=1)
        roughly = _at(everybody.flatten(1, 2), middle[:, None])[:, 0].unflatten(1, (-1, 2))
        if hints is not None:
            roughly = torch.where((weight > 0)[..., None], hinted[..., 0, 0], roughly)
        away = (places - roughly[..., None, None]).norm(dim=2) + _NEARBY
        best = (heat / away).flatten(2).argmax(dim=2)  # [B, 17]
        each = torch.arange(KEYPOINTS, device=images.device)
        offset = _at(maps["offset"], best).unflatten(2, (-1, 2))[:, each, each]
        place = torch.stack([best // MAP_PX, best % MAP_PX], dim=-1) + offset
        score = heat.flatten(2).gather(2, best[..., None])
        found = torch.cat([place.flip(-1) * (2 / MAP_PX) - 1, score], dim=-1)
        if hints is not None:
            found = found * (hints[..., 2] > 0).any(dim=1)[:, None, None]
        return found


def _at(maps: Tensor, places: Tensor) -> Tensor:
    """Maps [B, C, 64, 64] at places [B, K] of the flattened map -> [B, K, C]."""
    flat = maps.flatten(2)
    return flat.gather(2, places[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)


def load_movenet(path: str | Path) -> MoveNet:
    """The network in evaluation mode from a ``.safetensors`` file. RopeTPError when the file is
    missing or no such network."""
    return loaded(MoveNet(), path)


def loaded(net: Net, path: str | Path) -> Net:
    """``net`` with the weights of a ``.safetensors`` file, as floats, in evaluation mode."""
    try:
        net.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        name = type(net).__name__
        raise RopeTPError(
            f"{path}: no weights of {name} as this version has it; run `ropetp setup weights`"
        ) from error
    return net.eval()
