"""The backbones under Rope: HRNet-W32 and W48 through timm, BlazePose for a laptop's CPU.

A backbone has two steps. ``trunk`` computes a list of feature maps from pictures; it is the slow,
pretrained part, and where it is frozen its maps can be cached. ``fuse`` turns them into one map
for the tokenizer and one vector of context for the whole body.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ropetp_cli.errors import RopeTPError
from ropetp_cli.rope.blazepose import NUM_LANDMARKS, BlazePose

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
    """The Apache-2.0 BlazePose landmark network (heavy) as a pretrained trunk.

    Its maps are brought to a ``grid`` x ``grid`` map and fused there. Its last features, its own
    image landmarks and its positions in metres are the context vector.
    """

    CONTEXT_WIDTH = 256

    def __init__(self, spec: dict[str, Any], grid: int = 16, channels: int = 128):
        super().__init__()
        self.net = BlazePose.from_spec(spec)
        self.grid = grid
        self.channels = channels
        self.context_width = self.CONTEXT_WIDTH
        *self.map_names, self.vector_name = self.net.trunk_names
        self.reduce = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(self.net.tap_shape(name)[0], channels, 1, bias=False),
                nn.BatchNorm2d(channels),
            )
            for name in self.map_names
        )
        vector_width = math.prod(self.net.tap_shape(self.vector_name)) + NUM_LANDMARKS * 8
        self.context = nn.Sequential(
            nn.BatchNorm1d(vector_width),
            nn.Linear(vector_width, self.CONTEXT_WIDTH),
            nn.GELU(),
            nn.Linear(self.CONTEXT_WIDTH, self.CONTEXT_WIDTH),
        )

    @classmethod
    def taps(cls, net: BlazePose) -> tuple[str, ...]:
        """What :meth:`trunk` asks of the network; the rest of its graph may be left out."""
        return (*net.trunk_names, "landmarks", "world")

    def trunk(self, images: Tensor) -> list[Tensor]:
        found = self.net.features(images, self.taps(self.net))
        maps = [F.adaptive_avg_pool2d(found[name], min(found[name].shape[-1], self.grid))
                for name in self.map_names]  # fmt: skip
        landmarks = torch.cat(
            [found["landmarks"][..., :3] / (IMAGE_SIZE / 2) - 1, found["landmarks"][..., 3:]], -1
        )
        vector = [found[self.vector_name], landmarks, found["world"]]
        return [*maps, torch.cat([part.flatten(1).float() for part in vector], dim=1)]

    def fuse(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        *grids, vector = maps
        size = (self.grid, self.grid)
        total = sum(
            F.interpolate(reduce(grid), size=size, mode="bilinear", align_corners=False)
            for reduce, grid in zip(self.reduce, grids, strict=True)
        )
        return F.relu(total), self.context(vector)


def make_backbone(name: str, spec: dict[str, Any] | None = None, grid: int = 16) -> Backbone:
    """``hrnet_w32``, ``hrnet_w48`` or ``blazepose``, which needs its graph, ``spec``, and how many
    places across the map it gives has."""
    if name in ("hrnet_w32", "hrnet_w48"):
        return HRNetBackbone(name)
    if name == "blazepose":
        if spec is None:
            raise RopeTPError("the blazepose backbone needs the graph stored beside its weights")
        return BlazePoseBackbone(spec, grid)
    raise RopeTPError(f"unknown backbone {name!r}; known: hrnet_w32, hrnet_w48, blazepose")
