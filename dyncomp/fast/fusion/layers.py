"""Static layers as parts of a run: convolutions, pooling, a classifier."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dyncomp.fast import codegen
from dyncomp.fast.codegen import Argument, GateArgument
from dyncomp.fast.fusion.gate_code import GateCode
from dyncomp.fast.fusion.part import Need, Part, Position, constant_arguments, fits, mixing, step
from dyncomp.fast.fusion.step_table import TableBuilder
from dyncomp.fast.layers.compiled import CompiledConvolution
from dyncomp.fast.layers.convolution import TunedConv2d
from dyncomp.ops.gates import GateDescription

_FEW = 4_000_000
"""multiply-adds below which a convolution takes less time, in any form, than the calling overhead that a trial
includes"""

_MOST_CLASSES = 256
_MOST_WEIGHTS = 65_536
"""limits of a classifier, which runs image by image: larger ones are better left to other forms"""


@dataclass(frozen=True, eq=False)
class Convolution(Part):
    """A convolution, followed by ReLU if `relu`."""

    compiled: CompiledConvolution
    relu: bool

    @staticmethod
    def of(layer: TunedConv2d, relu: bool, x: Tensor) -> Convolution | None:
        """For features like x; None where another form is faster, or there is no code."""
        compiled = layer.compiled_for(x.shape[1:])
        if compiled is None or not fits(compiled, x):
            return None
        few = len(x) * compiled.plan.inputs * compiled.output.numel() <= _FEW
        return Convolution(compiled, relu) if few or layer.directly(x, relu) is not None else None

    @property
    def output(self) -> torch.Size:  # type: ignore[override]
        """See `Part.output`."""
        return self.compiled.output

    def makes_nonnegative(self, nonnegative: bool) -> bool:
        """See `Part.makes_nonnegative`."""
        return self.relu

    def needs(self) -> Iterable[Need]:
        """See `Part.needs`."""
        return (mixing(self.compiled),)

    def add(self, builder: TableBuilder, at: Position) -> None:
        """See `Part.add`."""
        given = constant_arguments(self.compiled) | {Argument.X: at.source, Argument.Y: at.target}
        step(builder, self.compiled.code, given | {Argument.RELU: int(self.relu)})


@dataclass(frozen=True, eq=False)
class Pool(Part):
    """Max pooling, or global average pooling."""

    code: codegen.Code
    output: torch.Size

    @staticmethod
    def of(layer: nn.Module, image: torch.Size, dtype: torch.dtype) -> Pool | None:
        """For images (C, H, W); None where there is no code."""
        here = codegen.this_machine()
        if here is None or not is_pool(layer) or dtype not in (torch.float32, torch.float64):
            return None
        channels, height, width = image
        common = channels, channels, (height, width)
        if isinstance(layer, nn.AdaptiveAvgPool2d):
            side = max(height, width)
            plan = codegen.Pooling(*common, side, side, codegen.Number(dtype), here)
        else:
            assert isinstance(layer, nn.MaxPool2d)  # checked by `is_pool`
            window, stride, padding = (_side(each) for each in (layer.kernel_size, layer.stride, layer.padding))
            plan = codegen.Pooling(
                *common, window, stride, codegen.Number(dtype), here, padding, greatest=True, whole=True
            )
        if min(plan.output_size) < 1:
            return None
        return Pool(codegen.compiled(plan), torch.Size((channels, *plan.output_size)))

    def makes_nonnegative(self, nonnegative: bool) -> bool:
        """See `Part.makes_nonnegative`."""
        return nonnegative

    def add(self, builder: TableBuilder, at: Position) -> None:
        """See `Part.add`."""
        step(builder, self.code, {Argument.X: at.source, Argument.Y: at.target})


@dataclass(frozen=True, eq=False)
class Classifier(Part):
    """Global average pooling and a linear layer."""

    gate: GateCode

    @staticmethod
    def of(layer: nn.Linear, x: Tensor) -> Classifier | None:
        """For features like x; None where there is no code."""
        gate = GateCode.of(GateDescription((layer,), (False,)), x, shares=True)
        return None if gate is None else Classifier(gate)

    @property
    def output(self) -> torch.Size:  # type: ignore[override]
        """See `Part.output`."""
        return torch.Size((self.gate.plan.layers[-1].outputs,))

    def needs(self) -> Iterable[Need]:
        """See `Part.needs`."""
        return (need for need in self.gate.needs() if need.slot != "shares")  # the shares are the output

    def add(self, builder: TableBuilder, at: Position) -> None:
        """See `Part.add`."""
        builder.step(self.gate.code, {**self.gate.given(at.source), GateArgument.SHARES: at.target})


def is_pool(layer: nn.Module) -> bool:
    """Whether there is code for a pooling layer: max pooling in square windows, or global average pooling."""
    if type(layer) is nn.AdaptiveAvgPool2d:
        return layer.output_size in (1, (1, 1))
    if type(layer) is not nn.MaxPool2d or layer.ceil_mode or layer.return_indices:
        return False
    square = all(_side(each) >= 0 for each in (layer.kernel_size, layer.stride, layer.padding))
    return square and layer.dilation in (1, (1, 1))


def is_classifier(layer: nn.Module) -> bool:
    """Whether a layer is linear and small enough to run image by image."""
    if type(layer) is not nn.Linear:
        return False
    return layer.out_features <= _MOST_CLASSES and layer.in_features * layer.out_features <= _MOST_WEIGHTS


def _side(size: int | tuple[int, ...]) -> int:
    """A size given as a number or as equal numbers; -1 for unequal ones."""
    if isinstance(size, int):
        return size
    return size[0] if len(set(size)) == 1 else -1
