"""Depthwise 5x5 filters whose gradients a CPU can afford.

In half precision torch reckons the gradient of a 5x5 depthwise filter ten times as slowly as that
of a 3x3 one, for which its CPU library has a kernel. A 5x5 filter is covered by four 3x3 ones, and
so is its gradient.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PAD = 2


class Depthwise5(nn.Conv2d):
    """A depthwise 5x5 convolution with stride 1 that keeps the map's size."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 5, padding=_PAD, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same."""
        half = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if not (half and torch.is_grad_enabled() and self.weight.requires_grad):
            return super().forward(x)
        return _Depthwise5.apply(x.bfloat16(), self.weight.bfloat16(), self.bias)


class _Depthwise5(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias.to(x.dtype), padding=_PAD, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = _backward(grad, x, weight, _PAD, (True, False, False))[0]
        return to_x, filter_gradient(grad, x), grad.float().sum((0, 2, 3))


def filter_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """[C, 1, 5, 5]: of the filters, from that of what came out and what went in, [B, C, H, W]."""
    channels, height, width = x.shape[1:]
    padded = F.pad(x, (_PAD,) * 4)
    found = x.new_empty(channels, 1, 5, 5)
    small = x.new_empty(channels, 1, 3, 3)
    for i in (0, 2):
        for j in (0, 2):
            under = padded[:, :, i : i + height + 2, j : j + width + 2]
            under = under.contiguous(memory_format=torch.channels_last)
            part = _backward(grad, under, small, 0, (False, True, False))[1]
            found[:, :, i : i + 3, j : j + 3] = part
    return found


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, pad: int, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, (1, 1), (pad, pad), (1, 1), False, (0, 0), len(weight), wanted
    )
