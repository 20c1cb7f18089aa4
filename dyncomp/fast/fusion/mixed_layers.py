"""Residual blocks as parts of a run whose convolutions each mix their kernels by a router of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dyncomp.core.backbone import ResidualBlock
from dyncomp.fast.codegen import Argument
from dyncomp.fast.fusion.gate_code import GateCode
from dyncomp.fast.fusion.mixed_body import ROUTERS, load_experts
from dyncomp.fast.fusion.part import DoubleBuffer, Need, Part, Position, constant_arguments, double_buffer, mixing, step
from dyncomp.fast.fusion.step_table import Given, TableBuilder
from dyncomp.fast.layers.compiled import CompiledConvolution
from dyncomp.fast.layers.residual_body import layers_in_order, relus_of
from dyncomp.ops.experts import ExpertConv2d
from dyncomp.ops.mixed import Mixed


@dataclass(frozen=True, eq=False)
class MixedLayer:
    """A convolution with mixed kernels and its router."""

    gate: GateCode
    compiled: CompiledConvolution

    @staticmethod
    def of(op: Mixed, x: Tensor) -> MixedLayer | None:
        """For features like x; None where there is no code that pays off."""
        if not isinstance(op.block, ExpertConv2d) or not isinstance(op.router, ROUTERS):
            return None
        gate, compiled = GateCode.of(op.router.description(), x), load_experts(op.block, x)
        return None if gate is None or compiled is None else MixedLayer(gate, compiled)

    def needs(self) -> Iterator[Need]:
        """Scratch memory of the steps."""
        yield mixing(self.compiled)
        yield from self.gate.needs()

    def add(self, builder: TableBuilder, source: str, given: Given) -> None:
        """Add the steps, which read slot `source`; `given` holds further arguments of the convolution's code."""
        builder.step(self.gate.code, self.gate.given(source))
        step(builder, self.compiled.code, {**constant_arguments(self.compiled), Argument.X: source, **given})


@dataclass(frozen=True, eq=False)
class MixedLayers(Part):
    """A residual block of such layers; `shortcut` is None for the identity."""

    body: tuple[MixedLayer, ...]
    relus: Sequence[bool]
    shortcut: MixedLayer | None

    @staticmethod
    def of(block: ResidualBlock, x: Tensor) -> MixedLayers | None:
        """For features like x; None where there is no code that pays off."""
        body, like = list[MixedLayer](), x
        for op in mixed_layers_of(block.body):
            layer = MixedLayer.of(op, like)
            if layer is None:
                return None
            body.append(layer)
            like = layer.compiled.new(x).fill_(1)  # ordinary numbers, since arithmetic on arbitrary memory may be slow
        shortcut = next((MixedLayer.of(op, x) for op in mixed_layers_of(block.shortcut)), None)
        relus = relus_of(block.body, block.activation, Mixed)
        passed = x.shape[1:] if shortcut is None else shortcut.compiled.output
        if relus is None or passed != like.shape[1:] or (shortcut is None and mixed_layers_of(block.shortcut)):
            return None
        return MixedLayers(tuple(body), relus, shortcut)

    @property
    def output(self) -> torch.Size:  # type: ignore[override]
        """See `Part.output`."""
        return self.body[-1].compiled.output

    def makes_map(self, first: bool) -> bool:
        """See `Part.makes_map`: in place, unless the shape changes or the block is first in the run."""
        return self.shortcut is not None or first

    def makes_nonnegative(self, nonnegative: bool) -> bool:
        """See `Part.makes_nonnegative`."""
        return True

    def needs(self) -> Iterable[Need]:
        """See `Part.needs`."""
        yield from double_buffer(*(layer.compiled.output.numel() for layer in self.body[:-1]))
        for layer in (*self.body, self.shortcut):
            yield from () if layer is None else layer.needs()

    def add(self, builder: TableBuilder, at: Position) -> None:
        """See `Part.add`."""
        if self.shortcut is not None:
            self.shortcut.add(builder, at.source, {Argument.Y: at.target})
        turns = DoubleBuffer(at.source)
        for layer, relu in zip(self.body[:-1], self.relus, strict=False):
            source = turns.here
            layer.add(builder, source, {Argument.Y: turns.next(), Argument.RELU: int(relu)})
        residual = at.source if self.shortcut is None else at.target
        last: Given = {Argument.Y: at.target, Argument.RESIDUAL: residual, Argument.RELU: int(self.relus[-1])}
        self.body[-1].add(builder, turns.here, last)


def mixed_layers_of(part: nn.Module) -> list[Mixed]:
    """The Mixed ops among a module's layers, in order."""
    return [layer for layer in layers_in_order(part) if type(layer) is Mixed]


def has_mixed_layers(block: ResidualBlock) -> bool:
    """Whether each convolution of a residual block mixes its kernels by its own router, with no biases to mix."""
    ops = [*mixed_layers_of(block.body), *mixed_layers_of(block.shortcut)]
    able = all(type(op.block) is ExpertConv2d and op.block.bias is None and type(op.router) in ROUTERS for op in ops)
    known = type(block.shortcut) is nn.Identity or [type(layer) for layer in layers_in_order(block.shortcut)] == [Mixed]
    return able and known and relus_of(block.body, block.activation, Mixed) is not None
