"""Multiply-adds of the backbones against published counts, a formula and a peer's counter."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from dyncomp.core.outline import outlined
from dyncomp.registry import BACKBONES

# spec, image size, classes, published multiply-adds in millions (convolutions and linear layers)
PUBLISHED = [
    ("cifar_resnet32", 32, 10, 69.12),
    ("cifar_resnet32(shortcut='pad')", 32, 10, 68.86),
    ("cifar_resnet38", 32, 10, 83.28),
    ("cifar_resnet38(shortcut='pad')", 32, 10, 83.02),
    ("cifar_resnet110", 32, 10, 253.15),
    ("cifar_resnet110(shortcut='pad')", 32, 10, 252.9),
    ("mobilenet_v1(width=0.5)", 224, 1000, 149.5),
    ("mobilenet_v1", 224, 1000, 568.7),
    ("mobilenet_v2", 224, 1000, 300.8),
    ("efficientnet_b0", 224, 1000, 385.8),
    ("resnet50", 224, 1000, 4089.0),
    ("resnet101", 224, 1000, 7801.0),
]


def counted_by_fvcore(net: nn.Module, size: int) -> int:
    """One multiply-add as one, convolutions and linear layers only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the peer stands on torch.jit
        warnings.simplefilter("ignore", DeprecationWarning)
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(net.eval(), torch.zeros(1, 3, size, size))
        operators = analysis.unsupported_ops_warnings(False).by_operator()
    return int(operators["conv"] + operators["linear"])


@pytest.mark.parametrize(("spec", "size", "classes", "published"), PUBLISHED)
def test_multiply_adds_are_the_published_ones(spec: str, size: int, classes: int, published: float) -> None:
    net = BACKBONES.create(spec).build(classes, 3, size)
    assert counted_by_fvcore(net, size) / 1e6 == pytest.approx(published, rel=1e-3)


def conv(kernel: int, inputs: int, outputs: int, side: int) -> int:
    return kernel * kernel * inputs * outputs * side * side


def cifar_resnet(depth: int, shortcut: str) -> int:
    n = (depth - 2) // 6
    total = conv(3, 3, 16, 32) + 64 * 10
    for stage, side in enumerate((32, 16, 8)):
        width = 16 * 2**stage
        entry = width if stage == 0 else width // 2
        total += conv(3, entry, width, side) + (2 * n - 1) * conv(3, width, width, side)
        if stage > 0 and shortcut == "conv":
            total += conv(1, entry, width, side)
    return total


def bottleneck_resnet(blocks: tuple[int, int, int, int]) -> int:
    total = conv(7, 3, 64, 112) + 2048 * 1000
    entry = 64
    for stage, count in enumerate(blocks):
        width, side = 64 * 2**stage, 56 // 2**stage
        entry_side = side if stage == 0 else 2 * side  # v1.5: the stride is in the 3x3
        total += conv(1, entry, 4 * width, side)  # the shortcut's projection
        total += conv(1, entry, width, entry_side) + (count - 1) * conv(1, 4 * width, width, side)
        total += count * (conv(3, width, width, side) + conv(1, width, 4 * width, side))
        entry = 4 * width
    return total


def mobilenet_v1(width: float) -> int:
    outputs = [64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
    sides = [112, 56, 56, 28, 28, 14, 14, 14, 14, 14, 14, 7, 7]
    channels = [int(c * width) for c in (32, *outputs)]
    total = conv(3, 3, channels[0], 112) + channels[-1] * 1000
    for inputs, out, side in zip(channels, channels[1:], sides, strict=False):
        total += 9 * inputs * side * side + conv(1, inputs, out, side)
    return total


FORMULAS = [
    ("cifar_resnet8", 32, 10, cifar_resnet(8, "conv")),
    ("cifar_resnet38", 32, 10, cifar_resnet(38, "conv")),
    ("cifar_resnet38(shortcut='pad')", 32, 10, cifar_resnet(38, "pad")),
    ("mobilenet_v1", 224, 1000, mobilenet_v1(1.0)),
    ("mobilenet_v1(width=0.25)", 224, 1000, mobilenet_v1(0.25)),
    ("resnet50", 224, 1000, bottleneck_resnet((3, 4, 6, 3))),
    ("resnet101", 224, 1000, bottleneck_resnet((3, 4, 23, 3))),
]


@pytest.mark.parametrize(("spec", "size", "classes", "formula"), FORMULAS)
def test_multiply_adds_follow_the_formula_exactly(spec: str, size: int, classes: int, formula: int) -> None:
    with outlined():
        net = BACKBONES.create(spec).build(classes, 3, size).eval()
        assert counted_by_hooks(net, size) == formula


def counted_by_hooks(net: nn.Module, size: int) -> int:
    """Every output value of a convolution or linear layer costs one pass over its own weights."""
    macs = []

    def add(layer: nn.Module, inputs: object, output: torch.Tensor) -> None:
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        macs.append(output.numel() * layer.weight[0].numel())

    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(add)
    net(torch.zeros(1, 3, size, size))
    return sum(macs)


@pytest.mark.parametrize(("width", "millions"), [(0.5, 1.33), (1.0, 4.23)])
def test_mobilenet_v1_has_the_published_parameters(width: float, millions: float) -> None:
    with outlined():
        net = BACKBONES.create(f"mobilenet_v1(width={width})").build(1000, 3, 224)
    parameters = sum(p.numel() for p in net.parameters())
    assert parameters / 1e6 == pytest.approx(millions, abs=0.005)
