"""Shortcuts of blocks in a run that are not the identity: projections, with or without mixed kernels, and `Shrink`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dyncomp.core.backbone import ResidualBlock
from dyncomp.fast import codegen
from dyncomp.fast.codegen import Argument
from dyncomp.fast.fusion.candidates import block_of, projection_of
from dyncomp.fast.fusion.mixed_body import convolutions_of, load_experts
from dyncomp.fast.fusion.part import Position, constant_arguments, fits, step
from dyncomp.fast.fusion.step_table import TableBuilder
from dyncomp.fast.layers.compiled import CompiledConvolution
from dyncomp.ops.gated import Gated
from dyncomp.ops.mixed import Mixed
from dyncomp.ops.planned import Follower
from dyncomp.ops.shrink import Shrink


@dataclass(frozen=True, eq=False)
class Shortcut:
    """A shortcut's code, and the shape of an image's output, (C', H', W')."""

    code: codegen.Code
    output: torch.Size
    compiled: CompiledConvolution | None = None
    """the convolution with its packed weights; None for `Shrink`"""

    @staticmethod
    def of(place: Gated | Follower | Mixed | ResidualBlock, x: Tensor) -> Shortcut | None:
        """For features like x; None where there is no code."""
        block = block_of(place)
        shortcut, projection, here = block.shortcut, projection_of(block), codegen.this_machine()
        compiled = None if projection is None else projection.compiled_for(x.shape[1:])
        if isinstance(place, Mixed):
            compiled = next((load_experts(layer, x) for layer in convolutions_of(shortcut)), None)
        if compiled is not None:
            return Shortcut(compiled.code, compiled.output, compiled) if fits(compiled, x) else None
        if type(shortcut) is not Shrink or here is None:
            return None
        channels, height, width = x.shape[1:]
        window = shortcut.stride if shortcut.mean else 1
        sizes = channels, channels + shortcut.extra, (height, width), window, shortcut.stride
        plan = codegen.Pooling(*sizes, codegen.Number(x.dtype), here)
        return Shortcut(codegen.compiled(plan), torch.Size((plan.outputs, *plan.output_size)))

    def add(self, builder: TableBuilder, at: Position) -> None:
        """Add the step, for all images."""
        given = {} if self.compiled is None else constant_arguments(self.compiled)
        step(builder, self.code, {**given, Argument.X: at.source, Argument.Y: at.target})
