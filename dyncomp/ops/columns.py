"""Convolution with one kernel per image as one batched matrix product, for graphs of any batch size.

A grouped convolution would fix the batch size: its number of groups is a constant of the graph.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dyncomp.ops.kernels import Geometry, output_size
from dyncomp.ops.mixture import Mixing


def in_graph(x: Tensor, mixing: Mixing, geometry: Geometry | None) -> Tensor:
    """A layer with a mixed kernel per image, on maps (B, C, H, W) or, without `geometry`, on vectors (B, C)."""
    if geometry is not None:
        return by_columns(x, mixing.whole(), mixing.bias, geometry)
    y = torch.matmul(mixing.whole(), x[:, :, None]).squeeze(2)  # (B, O)
    return y if mixing.bias is None else y + mixing.bias


def by_columns(x: Tensor, kernels: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """x (B, C, H, W), kernels (B, O, C / groups, k, k), bias (B, O) or None -> (B, O, H', W')."""
    g, (outputs, inputs, height, width) = geometry, kernels.shape[1:]
    rows, columns = output_size(x, kernels.shape[1:], g)
    padded = F.pad(x, (g.padding[1], g.padding[1], g.padding[0], g.padding[0])) if any(g.padding) else x
    seen = [
        _strided(_strided(padded, 2, i * g.dilation[0], rows, g.stride[0]), 3, j * g.dilation[1], columns, g.stride[1])
        for i in range(height)
        for j in range(width)
    ]
    pixels = torch.stack(seen, dim=2).reshape(-1, g.groups, inputs * height * width, rows * columns)
    matrices = kernels.reshape(-1, g.groups, outputs // g.groups, inputs * height * width)
    y = torch.matmul(matrices, pixels).reshape(-1, outputs, rows, columns)
    return y if bias is None else y + bias[:, :, None, None]


def _strided(x: Tensor, side: int, first: int, count: int, step: int) -> Tensor:
    """`count` elements of dimension `side`, from `first` on in steps of `step`."""
    whole = slice(None)
    return x[(*[whole] * side, slice(first, first + step * (count - 1) + 1, step))]
