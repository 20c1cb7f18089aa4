"""Layers on subsets of their channels: kernels cut to given input and output channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dyncomp.ops.columns import by_columns
from dyncomp.ops.kernels import Geometry

Channels = Tensor | None
"""indices of channels, (channels,); None for all"""

Move = Callable[..., Any]
"""Calls a function that only cuts parameters; see `Op.moving`."""


class Shift(nn.Module):
    """Adds a bias to each channel; `bias` stays the same object if it is a parameter."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = bias if isinstance(bias, nn.Parameter) else nn.Parameter(bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x + self.bias.view(-1, 1, 1).to(x.dtype)


def on_channels(module: nn.Module, x: Tensor, inputs: Channels, outputs: Channels, move: Move) -> Tensor:
    """Run `module` on x, which has the channels `inputs` only, and compute the channels `outputs` only; in evaluation.

    For convolutions that have one group or are depthwise, linear layers, batch norms and shifts; any other module has
    to act on each channel by itself, and runs unchanged.
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
        return x.mean(dim=(2, 3), keepdim=True)  # equal; a graph cannot hold adaptive pooling of a dynamic size
    output: Tensor = module(x)
    return output


def spread(value: Tensor, like: Tensor) -> Tensor:
    """(B, F) in the dtype of `like` (B, F, ...), with dimensions of 1 added, to be multiplied with `like`."""
    return value.to(like.dtype).view(*value.shape, *[1] * (like.dim() - 2))


def flattened(layers: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The layers in order, with nested Sequentials flattened."""
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            yield from flattened(layer)
        else:
            yield layer


def acts_by_channel(module: nn.Module) -> bool:
    """Whether a layer acts on each channel by itself, so that channels can be left out."""
    if isinstance(module, nn.Conv2d):
        return is_depthwise(module) and pads_with_zeros(module)
    return isinstance(module, BY_CHANNEL)


def pads_with_zeros(conv: nn.Conv2d) -> bool:
    """Whether a convolution pads with zeros by numbers of pixels, as `on_channels` does."""
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether each output channel reads the input channel of the same index only."""
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
    bias, kernel, groups = _cut_or_none(conv.bias, outputs, move), conv.weight, 1
    if is_depthwise(conv):
        weight = _cut(kernel, outputs, 0, move)
        groups = weight.shape[0]
    elif inputs is None or outputs is None or kernel.shape[2:].numel() == 1 or not kernel.is_contiguous():
        weight = _cut(_cut(kernel, outputs, 0, move), inputs, 1, move)
    else:
        weight = move(_pairs, kernel, outputs, inputs)
    assert not isinstance(conv.padding, str)  # see `pads_with_zeros`
    if type(groups) is not int:  # in a graph; its convolutions need a static number of groups
        geometry = Geometry(conv.stride, conv.padding, conv.dilation, groups)  # type: ignore[arg-type]
        return by_columns(x, weight[None], None if bias is None else bias[None], geometry)
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, groups)


def _batch_norm(norm: nn.BatchNorm2d, x: Tensor, channels: Channels, move: Move) -> Tensor:
    assert norm.running_mean is not None  # every backbone tracks statistics
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
    """Whether `channels` are all `count` channels; false for a dynamic number of channels in a graph."""
    return type(channels.shape[0]) is int and channels.shape[0] == count


def _pairs(weight: Tensor, outputs: Tensor, inputs: Tensor) -> Tensor:
    """Cut a contiguous kernel (O, I, K, K) to outputs and inputs, by one gather of (output, input) pairs."""
    pairs = (outputs[:, None] * weight.shape[1] + inputs).view(-1)  # (outputs * inputs,)
    return (
        weight.view(-1, *weight.shape[2:])
        .index_select(0, pairs)
        .view(outputs.shape[0], inputs.shape[0], *weight.shape[2:])
    )


def _cut_or_none(parameter: Tensor | None, channels: Channels, move: Move) -> Tensor | None:
    return None if parameter is None else _cut(parameter, channels, 0, move)
