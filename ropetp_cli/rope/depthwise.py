"""Depthwise filters whose gradients a CPU can afford.

In half precision torch reckons the gradients of 5x5 depthwise filters, and of what goes into those
with a stride, ten times as slowly as those of others; in single precision all of them fast.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: In single precision at once: what a cache can hold.
_VALUES = 1 << 23


class Depthwise(nn.Conv2d):
    """A depthwise convolution whose gradients are reckoned in single precision on a CPU."""

    def __init__(self, channels: int, size: int, stride: int, padding: int):
        super().__init__(channels, channels, size, stride, padding, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H', W']."""
        half = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if not (half and torch.is_grad_enabled() and self.weight.requires_grad):
            return super().forward(x)
        return _Depthwise.apply(x.bfloat16(), self.weight, self.bias, self.stride, self.padding)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: tuple, padding: tuple
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = (stride, padding)
        return F.conv2d(
            x, weight.to(x.dtype), bias.to(x.dtype), stride, padding, groups=len(weight)
        )

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.how
        grad = grad.contiguous(memory_format=torch.channels_last)
        wanted = (ctx.needs_input_grad[0], True, True)
        to_x, to_weight, to_bias = torch.empty_like(x) if wanted[0] else None, 0.0, 0.0
        rows = max(1, _VALUES // x[0].numel())
        for first in range(0, len(x), rows):
            some, under = grad[first : first + rows], x[first : first + rows]
            found = torch.ops.aten.convolution_backward(
                some.float(), under.float(), weight, [len(weight)], stride, padding, (1, 1),
                False, (0, 0), len(weight), wanted,
            )  # fmt: skip
            if to_x is not None:
                to_x[first : first + rows] = found[0]
            to_weight, to_bias = to_weight + found[1], to_bias + found[2]
        return to_x, to_weight, to_bias, None, None
