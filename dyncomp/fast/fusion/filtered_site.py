"""A convolution with switched filters, and the layers that act on its filters before the next layer reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dyncomp.fast import codegen
from dyncomp.fast.codegen import Argument, EpilogueArgument
from dyncomp.fast.fusion.layers import Pool
from dyncomp.fast.fusion.part import DoubleBuffer, Need, Position, constant_arguments, fits, mixing, step
from dyncomp.fast.fusion.step_table import TableBuilder
from dyncomp.fast.fusion.switch_code import SwitchCode
from dyncomp.fast.layers.compiled import CompiledConvolution
from dyncomp.fast.layers.convolution import TunedConv2d
from dyncomp.fast.mixing.generated import zeros
from dyncomp.ops.channel_subsets import Shift
from dyncomp.ops.filtered import Filtered


@dataclass(frozen=True, eq=False)
class LayersBehind:
    """The per-channel layers behind a convolution: a shift, ReLU, then pooling."""

    shift: Shift | None
    relu: bool
    pools: tuple[Pool, ...]

    @staticmethod
    def of(layers: Sequence[nn.Module], image: torch.Size, dtype: torch.dtype) -> LayersBehind | None:
        """For these layers on images (C, H, W); None where they are others, or in another order."""
        rest = list(layers)
        shift = rest.pop(0) if rest and type(rest[0]) is Shift else None
        relu = bool(rest) and type(rest[0]) is nn.ReLU
        pools, left = list[Pool](), rest[int(relu) :]
        if left and type(left[-1]) is nn.Flatten:
            left.pop()
        for layer in left:
            pool = Pool.of(layer, image, dtype)
            if pool is None:
                return None
            pools.append(pool)
            image = pool.output
        return LayersBehind(shift if isinstance(shift, Shift) else None, relu, tuple(pools))


@dataclass(frozen=True, eq=False)
class Site:
    """A site of switched filters: its switch, its convolution, and the layers behind.

    Where filters are weighted, the convolution runs without its bias: the switch includes the bias in the shifts that
    are added after the weighting.
    """

    op: Filtered
    switch: SwitchCode
    convolution: CompiledConvolution
    """with kernels that are cut to the outputs that each image uses"""
    behind: LayersBehind

    @staticmethod
    def of(op: Filtered, image: torch.Size, x: Tensor, picks: bool) -> Site | None:
        """For images (C, H, W) in the dtype of x; None where there is no code.

        `picks`: whether each image has some of the input channels only.
        """
        description, producer = op.switch.description(), op.producer
        if description is None or type(producer) is not TunedConv2d:
            return None
        cut, weighted = producer.compiled_for(image, (picks, True)), description.weighted
        layers, others = (op.after, op.before) if weighted else (op.before, op.after)
        if len(others) or cut is None or not fits(cut, x):
            return None
        behind = LayersBehind.of(list(layers), cut.output, x.dtype)
        if behind is None or (behind.shift is not None and not weighted):
            return None
        shift = zeros(len(cut.bias), x.dtype) if behind.shift is None else behind.shift.bias.detach()
        switch = SwitchCode.of(description, image, picks, cut.bias, shift if weighted else cut.bias)
        return None if switch is None else Site(op, switch, cut, behind)

    @property
    def weighted(self) -> bool:
        """Whether filters are scaled and shifted for each image."""
        return self.switch.plan.weighted

    @property
    def output(self) -> torch.Size:
        """Shape of an image's output, (C, H, W)."""
        pools = self.behind.pools
        return pools[-1].output if pools else self.convolution.output

    @property
    def most(self) -> int:
        """Numbers per image of the largest map between steps."""
        return max(self.convolution.output.numel(), *(pool.output.numel() for pool in self.behind.pools), 0)

    def needs(self) -> Iterator[Need]:
        """Scratch memory of the steps."""
        yield mixing(self.convolution)
        yield from self.switch.needs()

    def add(self, builder: TableBuilder, turns: DoubleBuffer, turn: int) -> None:
        """Add the steps after the switch, which has written its lists to the slots of `turn`."""
        lists, before = turn % 2, (turn + 1) % 2
        given = constant_arguments(self.convolution) | {Argument.X: turns.here}
        given |= {Argument.OUTPUTS: f"filters {lists}", Argument.OUTPUT_COUNTS: f"filter counts {lists}"}
        if self.convolution.plan.picks_inputs:
            given |= {Argument.INPUTS: f"filters {before}", Argument.INPUT_COUNTS: f"filter counts {before}"}
        if self.weighted:
            given |= {Argument.BIAS: zeros(len(self.convolution.bias), self.convolution.bias.dtype).data_ptr()}
        else:
            given |= {Argument.BIAS: "shifts", Argument.BIAS_STEP: len(self.convolution.bias)}
        relu = self.behind.relu and not self.weighted
        step(builder, self.convolution.code, {**given, Argument.Y: turns.next(), Argument.RELU: int(relu)})
        if self.weighted:
            plan, (channels, height, width) = self.convolution.plan, self.convolution.output
            epilogue = codegen.Epilogue(channels, height * width, plan.number, plan.machine, self.behind.relu)
            given = {
                EpilogueArgument.Y: turns.here,
                EpilogueArgument.IMAGES: "images",
                EpilogueArgument.SCALES: "scales",
                EpilogueArgument.SHIFTS: "shifts",
            }
            builder.step(codegen.compiled(epilogue), given)
        for pool in self.behind.pools:
            source = turns.here
            pool.add(builder, Position(0, source, turns.next()))
