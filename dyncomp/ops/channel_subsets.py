"""Layers on subsets of their channels: kernels cut to the given inputs and the wanted outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dyncomp.ops.columns import by_columns
from dyncomp.ops.kernels import Geometry

Channels = Tensor | None
"""Indices of channels, (channels,); None for all."""

Move = Callable[..., Any]
"""Runs a function that only cuts parameters, on its arguments: `Op.moving`."""


class Shift(nn.Module):
    """Adds a parameter to each channel; one that a layer had before stays the same parameter."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = bias if isinstance(bias, nn.Parameter) else nn.Parameter(bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x + self.bias.view(-1, 1, 1).to(x.dtype)


def narrowed(module: nn.Module, x: Tensor, inputs: Channels, outputs: Channels, move: Move) -> Tensor:
    """`module` on x, which has only the channels `inputs`, giving only the channels `outputs`; in evaluation.

    For convolutions with one group or depthwise, linear layers, batch norms, shifts; whatever else acts on each channel
    by itself runs as it is.
    """
    if isinstance(module, nn.Conv2d):
        return _convolution(module, x, inputs, outputs, move)
    if isinstance(module, nn.Linear):
        weight = _cut(_cut(module.weight, inputs, 1, move), outputs, 0, move)
        return F.linear(x, weight, _cut_or_none(module.bias, outputs, move))
    if isinstance(module, nn.BatchNorm2d):
        return _batch_norm(module, x, outputs, move)
    if isinstance(module, Shift):
        return x + _cut(module.bias, outputs, 0, move)[:, None, None]
    if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)) and type(x.shape[1]) is not int:
        return x.mean(dim=(2, 3), keepdim=True)  # the same; a graph that leaves the channels open cannot hold the other
    output: Tensor = module(x)
    return output


def spread(value: Tensor, like: Tensor) -> Tensor:
    """(B, F) in the type of `like` (B, F, ...), to be multiplied with it."""
    return value.to(like.dtype).view(*value.shape, *[1] * (like.dim() - 2))


def flattened(layers: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The layers in order, Sequentials replaced by what is in them."""
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            yield from flattened(layer)
        else:
            yield layer


def acts_by_channel(module: nn.Module) -> bool:
    """Whether a layer treats each channel by itself, so that channels can be left out."""
    if isinstance(module, nn.Conv2d):
        return is_depthwise(module)
    return isinstance(module, BY_CHANNEL)


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether each output channel reads the input channel of its own number only."""
    return conv.groups == conv.in_channels == conv.out_channels and conv.groups > 1


BY_CHANNEL = (
    Shift,
    nn.BatchNorm2d,
    nn.ReLU,
    nn.ReLU6,
    nn.SiLU,
    nn.Hardswish,
    nn.Identity,
    nn.Dropout,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Flatten,
)


def _convolution(conv: nn.Conv2d, x: Tensor, inputs: Channels, outputs: Channels, move: Move) -> Tensor:
    bias, groups = _cut_or_none(conv.bias, outputs, move), 1
    if is_depthwise(conv):
        weight = _cut(conv.weight, outputs, 0, move)
        groups = weight.shape[0]
    else:
        weight = _cut_both(conv.weight, outputs, inputs, move)
    assert not isinstance(conv.padding, str)  # no backbone's
    if type(groups) is not int:  # a graph leaves it open, which a convolution's number of groups cannot be
        geometry = Geometry(conv.stride, conv.padding, conv.dilation, groups)  # type: ignore[arg-type]
        return by_columns(x, weight[None], None if bias is None else bias[None], geometry)
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, groups)


def _batch_norm(norm: nn.BatchNorm2d, x: Tensor, channels: Channels, move: Move) -> Tensor:
    assert norm.running_mean is not None  # no backbone's is without
    assert norm.running_var is not None
    mean, variance = _cut(norm.running_mean, channels, 0, move), _cut(norm.running_var, channels, 0, move)
    weight, bias = _cut_or_none(norm.weight, channels, move), _cut_or_none(norm.bias, channels, move)
    return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=norm.eps)


def _cut(parameter: Tensor, channels: Channels, dim: int, move: Move) -> Tensor:
    if channels is None or _are_all(channels, parameter.shape[dim]):
        return parameter
    cut: Tensor = move(parameter.index_select, dim, channels)
    return cut


def _are_all(channels: Tensor, count: int) -> bool:
    """Whether `channels` are all of `count`; false where a graph leaves their number open."""
    return type(channels.shape[0]) is int and channels.shape[0] == count


def _cut_both(weight: Tensor, outputs: Channels, inputs: Channels, move: Move) -> Tensor:
    """A kernel (O, I, K, K) cut in both dimensions; one gather of (output, input) pairs where it is contiguous."""
    if inputs is None or outputs is None or weight.shape[2:].numel() == 1 or not weight.is_contiguous():
        return _cut(_cut(weight, outputs, 0, move), inputs, 1, move)
    cut: Tensor = move(_pairs, weight, outputs, inputs)
    return cut


def _pairs(weight: Tensor, outputs: Tensor, inputs: Tensor) -> Tensor:
    pairs = (outputs[:, None] * weight.shape[1] + inputs).view(-1)  # (outputs * inputs,)
    return (
        weight.view(-1, *weight.shape[2:])
        .index_select(0, pairs)
        .view(outputs.shape[0], inputs.shape[0], *weight.shape[2:])
    )


def _cut_or_none(parameter: Tensor | None, channels: Channels, move: Move) -> Tensor | None:
    return None if parameter is None else _cut(parameter, channels, 0, move)
