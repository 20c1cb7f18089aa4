"""Convolutions with one kernel per image: equal forms, of which the fastest depends on the shape.

Each form maps x (B, C, H, W), kernels (B, O, C / groups, k, k) and bias (B, O) or None to (B, O, H', W'). All execute
the same multiply-adds; they differ in memory traffic and in the number of calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dyncomp.ops.rows import is_channels_last


@dataclass(frozen=True)
class Geometry:
    """Stride, padding, dilation and groups of a convolution."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """A plain convolution: x (B, C, H, W), one kernel (O, C / groups, k, k) and bias (O,) for all images."""
    g = geometry
    return F.conv2d(x, kernel, bias, g.stride, g.padding, g.dilation, g.groups)


def grouped(x: Tensor, kernels: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """One grouped convolution for the batch: images become groups."""
    images, channels, height, width = x.shape
    outputs = kernels.shape[1]
    # flattened first: a reshape of 1x1 maps may keep channels-last strides, with which the backward pass of a float64
    # convolution fails (torch 2.14)
    stacked = x.flatten().view(1, images * channels, height, width)  # (1, B*C, H, W)
    y = F.conv2d(
        stacked,
        kernels.flatten(0, 1),  # (B*O, C/groups, k, k)
        None if bias is None else bias.flatten(),
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        geometry.groups * images,
    )
    return _layout_of(x, y.view(images, outputs, *y.shape[2:]))  # (B, O, H', W')


def looped(x: Tensor, kernels: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """One plain convolution for each image."""
    parts = [convolve(x[i : i + 1], kernels[i], None if bias is None else bias[i], geometry) for i in range(len(x))]
    return torch.cat(parts)


def alone(x: Tensor, kernels: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """A plain convolution of a single image."""
    return convolve(x, kernels[0], None if bias is None else bias[0], geometry)


def multiplied(x: Tensor, kernels: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """Batched matrix products; for ungrouped 1x1 kernels without padding."""
    pixels, size = to_pixels(x, geometry)  # (B, P, C)
    matrices = kernels.flatten(2)  # (B, O, C)
    if bias is None:
        y = torch.bmm(pixels, matrices.transpose(1, 2))  # (B, P, O)
    else:
        y = torch.baddbmm(bias[:, None, :].to(pixels.dtype), pixels, matrices.transpose(1, 2))
    return from_pixels(y, size, x)


def to_pixels(x: Tensor, geometry: Geometry) -> tuple[Tensor, tuple[int, int]]:
    """The pixels of x (B, C, H, W) that a 1x1 kernel reads, (B, P, C), and the height and width of the output map."""
    seen = x[:, :, :: geometry.stride[0], :: geometry.stride[1]]
    images, channels, height, width = seen.shape
    return seen.permute(0, 2, 3, 1).reshape(images, height * width, channels), (height, width)


def unfolded(x: Tensor, shape: Sequence[int], geometry: Geometry) -> tuple[Tensor, tuple[int, int]]:
    """The im2col matrix (B, P, C * k * k) of x for an ungrouped kernel, and the height and width of the output map.

    It turns a convolution into a matrix product, but is k * k times as large as x: useful for small maps.
    """
    g = geometry
    columns = F.unfold(x, tuple(shape[2:]), g.dilation, g.padding, g.stride)  # (B, C * k * k, P)
    return columns.transpose(1, 2), output_size(x, shape, geometry)


def unfolded_numbers(x: Tensor, shape: Sequence[int], geometry: Geometry) -> int:
    """The number of elements of the matrix that `unfolded` returns."""
    height, width = output_size(x, shape, geometry)
    return len(x) * height * width * shape[1] * shape[2] * shape[3]


def output_size(x: Tensor, shape: Sequence[int], geometry: Geometry) -> tuple[int, int]:
    """Height and width of the output of a convolution of x by kernels of a shape (O, C / groups, k, k)."""
    g = geometry
    sides = zip(x.shape[2:], shape[2:], g.stride, g.padding, g.dilation, strict=True)
    height, width = ((n + 2 * pad - far * (k - 1) - 1) // step + 1 for n, k, step, pad, far in sides)
    return height, width


def from_pixels(y: Tensor, size: tuple[int, int], x: Tensor) -> Tensor:
    """Pixels (B, P, O) as maps (B, O, H', W') in the memory layout of x."""
    return _layout_of(x, y.view(len(y), *size, y.shape[2]).permute(0, 3, 1, 2))


def is_pointwise(shape: Sequence[int], geometry: Geometry) -> bool:
    """Whether a kernel of this shape (O, C / groups, k, k) is 1x1, ungrouped and without padding."""
    return tuple(shape[2:]) == (1, 1) and geometry.groups == 1 and geometry.padding == (0, 0)


PerImageConv = Callable[[Tensor, Tensor, Tensor | None, Geometry], Tensor]


def forms(kernels: Tensor, geometry: Geometry) -> dict[str, PerImageConv]:
    """The forms that can run kernels (B, O, C / groups, k, k), by name."""
    if len(kernels) == 1:
        return {"alone": alone}
    able: dict[str, PerImageConv] = {"grouped": grouped, "looped": looped}
    if is_pointwise(kernels.shape[1:], geometry):
        able["multiplied"] = multiplied
    return able


def _layout_of(x: Tensor, y: Tensor) -> Tensor:
    return y.contiguous(memory_format=torch.channels_last) if is_channels_last(x) else y.contiguous()
