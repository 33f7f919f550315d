"""The backbones under Rope: HRNet-W32 and W48 through timm, BlazePose for a laptop's CPU.

A backbone has two steps. ``trunk`` computes a list of feature maps from pictures; it is the slow,
pretrained part, and where it is frozen its maps can be cached. ``fuse`` turns them into one map
for the tokenizer and one vector of context for the whole body.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ropetp_cli.errors import RopeTPError
from ropetp_cli.rope.blazepose import BlazePose

IMAGE_SIZE = 256


class Backbone(nn.Module):
    """``forward(images)`` = ``fuse(trunk(images))``; images are RGB, 0..1, [B, 3, 256, 256].

    ``channels`` is the width of the fused map, ``context_width`` that of the context vector.
    """

    channels: int
    context_width: int

    def trunk(self, images: Tensor) -> list[Tensor]:
        raise NotImplementedError

    def fuse(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.fuse(self.trunk(images))


class HRNetBackbone(Backbone):
    """HRNet's four branches, brought to stride 4 and joined (as PARE does), 64 x 64."""

    def __init__(self, name: str, channels: int = 256):
        super().__init__()
        import timm

        self.net = timm.create_model(
            name, pretrained=False, features_only=True, feature_location="",
            out_indices=(1, 2, 3, 4),
        )  # fmt: skip
        widths = self.net.feature_info.channels()
        self.channels = channels
        self.context_width = widths[-1]
        self.join = nn.Sequential(
            nn.Conv2d(sum(widths), channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def trunk(self, images: Tensor) -> list[Tensor]:
        return self.net((images - self.mean) / self.std)

    def fuse(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        size = maps[0].shape[-2:]
        joined = torch.cat(
            [maps[0]]
            + [F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in maps[1:]],
            dim=1,
        )
        return self.join(joined), maps[-1].mean(dim=(2, 3))


class BlazePoseBackbone(Backbone):
    """The Apache-2.0 BlazePose landmark network as a pretrained trunk, 32 x 32.

    Its decoder maps are fused at stride 8; its own landmarks, positions in metres and last
    features are the context vector.
    """

    GRID = 32

    def __init__(self, spec: dict[str, Any], channels: int = 128):
        super().__init__()
        self.net = BlazePose.from_spec(spec)
        self.channels = channels
        widths, vector_width = self.net.trunk_channels, self.net.trunk_vector_width
        self.reduce = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels))
            for width in widths
        )
        self.context_width = 256
        self.context = nn.Sequential(nn.Linear(vector_width, self.context_width), nn.GELU())

    def trunk(self, images: Tensor) -> list[Tensor]:
        return self.net.trunk(images)

    def fuse(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        *grids, vector = maps
        total = 0
        for reduce, grid in zip(self.reduce, grids, strict=True):
            total = total + self._to_grid(reduce(grid))
        return F.relu(total), self.context(vector)

    def _to_grid(self, grid: Tensor) -> Tensor:
        size = grid.shape[-1]
        if size > self.GRID:
            return F.avg_pool2d(grid, size // self.GRID)
        if size < self.GRID:
            return F.interpolate(
                grid, size=(self.GRID, self.GRID), mode="bilinear", align_corners=False
            )
        return grid


def make_backbone(name: str, spec: dict[str, Any] | None = None) -> Backbone:
    """``hrnet_w32``, ``hrnet_w48`` or ``blazepose`` (which needs its graph, ``spec``)."""
    if name in ("hrnet_w32", "hrnet_w48"):
        return HRNetBackbone(name)
    if name == "blazepose":
        if spec is None:
            raise RopeTPError("the blazepose backbone needs the graph stored beside its weights")
        return BlazePoseBackbone(spec)
    raise RopeTPError(f"unknown backbone {name!r}; known: hrnet_w32, hrnet_w48, blazepose")
