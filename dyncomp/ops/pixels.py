"""Convolutions at selected pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pixels = tuple[Tensor, ...]
"""Indices of image, row and column of each selected pixel, three tensors (pixels,)."""


def dilated(needed: Tensor, conv: nn.Conv2d, size: tuple[int, int]) -> Tensor:
    """The mask (B, 1, H, W) of input pixels that a convolution reads for the output pixels `needed` (B, 1, H', W')."""
    at_input = needed
    if conv.stride != (1, 1):
        at_input = needed.new_zeros(needed.shape[0], 1, *size)
        at_input[:, :, :: conv.stride[0], :: conv.stride[1]] = needed
    if conv.kernel_size == (1, 1):
        return at_input
    return F.max_pool2d(
        at_input, conv.kernel_size, stride=1, padding=(conv.kernel_size[0] // 2, conv.kernel_size[1] // 2)
    )


def applied(conv: nn.Conv2d, seen: Tensor) -> Tensor:
    """The convolution's output (pixels, O) for neighbourhoods (pixels, k*k, C), as one matrix product."""
    if conv.groups > 1:  # depthwise: one small product for each channel
        kernels = conv.weight.flatten(1)[:, :, None]  # (C, k*k, 1)
        y = torch.bmm(seen.permute(2, 0, 1), kernels).squeeze(2).t()  # (pixels, C)
        return y if conv.bias is None else y + conv.bias
    matrix = conv.weight.permute(2, 3, 1, 0).reshape(-1, conv.out_channels)  # (k*k*C, O)
    if conv.bias is None:
        return torch.mm(seen.flatten(1), matrix)
    return torch.addmm(conv.bias, seen.flatten(1), matrix)


def placed(pixels: Pixels, values: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Scatter `values` (pixels, O) to a map (B, O, H, W) that is 0 at other pixels; `size` is (B, H, W)."""
    y = values.new_zeros(*size, values.shape[1])  # (B, H, W, O)
    return y.index_put_(pixels, values).permute(0, 3, 1, 2)  # channels-last in memory


def neighbourhoods(conv: nn.Conv2d, x: Tensor, pixels: Pixels) -> Tensor:
    """Gather the convolution's inputs from x (B, C, H, W) for each output pixel, (pixels, k*k, C), zero-padded."""
    image, row, column = pixels
    (height, width), (stride_y, stride_x) = conv.kernel_size, conv.stride
    pad_y, pad_x = height // 2, width // 2
    padded = F.pad(x, (pad_x, pad_x, pad_y, pad_y)).permute(0, 2, 3, 1)  # (B, H+2p, W+2p, C)
    dy = torch.arange(height, device=x.device).repeat_interleave(width)  # (k*k,)
    dx = torch.arange(width, device=x.device).repeat(height)
    return padded[image[:, None], row[:, None] * stride_y + dy, column[:, None] * stride_x + dx]
