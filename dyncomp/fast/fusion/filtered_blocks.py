"""Switched filters as parts of a run, site by site: switch, convolution, and the layers behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dyncomp.core.backbone import ResidualBlock
from dyncomp.fast.codegen import Argument, SwitchArgument
from dyncomp.fast.fusion.candidates import filters_of
from dyncomp.fast.fusion.filtered_site import Site
from dyncomp.fast.fusion.part import (
    DoubleBuffer,
    Forceable,
    Need,
    Part,
    Position,
    constant_arguments,
    double_buffer,
    fits,
    mixing,
    step,
)
from dyncomp.fast.fusion.shortcut import Shortcut
from dyncomp.fast.fusion.step_table import Given, TableBuilder
from dyncomp.fast.layers.compiled import CompiledConvolution
from dyncomp.fast.layers.switched_filters import SwitchedFilters
from dyncomp.ops.filtered import Filtered


@dataclass(frozen=True, eq=False)
class Chain:
    """Consecutive sites of switched filters, and the layer that reads the filters of the last one."""

    sites: tuple[Site, ...]
    consumer: CompiledConvolution
    output: torch.Size
    """shape of an image's output, (C, H, W), or (C,) of a linear layer"""

    @staticmethod
    def of(op: Filtered, x: Tensor) -> Chain | None:
        """For features like x; None where there is no code that pays off."""
        sites, image, layer = list[Site](), x.shape[1:], op
        while True:
            site = Site.of(layer, image, x, picks=bool(sites))
            if site is None or not isinstance(layer.fused, SwitchedFilters) or not layer.fused.is_of(layer):
                return None
            sites.append(site)
            image = site.output
            if not isinstance(layer.consumer, Filtered):
                break
            layer = layer.consumer
        reads = layer.fused.code_to_read(image)
        flat = isinstance(layer.consumer, nn.Linear)
        if reads is None or not fits(reads, x) or (flat and image[1:].numel() > 1):
            return None
        return Chain(tuple(sites), reads, reads.output[:1] if flat else reads.output)

    def needs(self) -> Iterator[Need]:
        """See `Part.needs`."""
        yield mixing(self.consumer)
        yield from double_buffer(*(site.most for site in self.sites))
        for site in self.sites:
            yield from site.needs()

    def add(self, builder: TableBuilder, at: Position, last: Given) -> None:
        """Add the steps; `last` holds further arguments of the consumer's code."""
        turns = DoubleBuffer(at.source)
        for turn, site in enumerate(self.sites):
            given = {**site.switch.given(turns.here, turn % 2), SwitchArgument.FORCED: f"forced {turn} {at.index}"}
            if site.weighted:
                given[SwitchArgument.FORCED_WEIGHTS] = f"forced weights {turn} {at.index}"
            builder.step(site.switch.code, given)
            site.add(builder, turns, turn)
        turn = (len(self.sites) - 1) % 2
        given = constant_arguments(self.consumer) | {Argument.X: turns.here}
        given |= {Argument.INPUTS: f"filters {turn}", Argument.INPUT_COUNTS: f"filter counts {turn}"}
        step(builder, self.consumer.code, {**given, **last})

    def forceable(self, index: int) -> Iterator[Forceable]:
        """See `Part.forceable`."""
        for turn, site in enumerate(self.sites):
            weights = f"forced weights {turn} {index}" if site.weighted else None
            yield Forceable(site.op, f"forced {turn} {index}", weights)


@dataclass(frozen=True, eq=False)
class FilteredLayers(Part):
    """A chain that is no body of a residual block."""

    chain: Chain

    @staticmethod
    def of(op: Filtered, x: Tensor) -> FilteredLayers | None:
        """For features like x; None where there is no code that pays off."""
        chain = Chain.of(op, x)
        return None if chain is None else FilteredLayers(chain)

    @property
    def output(self) -> torch.Size:  # type: ignore[override]
        """See `Part.output`."""
        return self.chain.output

    def needs(self) -> Iterable[Need]:
        """See `Part.needs`."""
        return self.chain.needs()

    def forceable(self, index: int) -> Iterable[Forceable]:
        """See `Part.forceable`."""
        return self.chain.forceable(index)

    def add(self, builder: TableBuilder, at: Position) -> None:
        """See `Part.add`."""
        self.chain.add(builder, at, {Argument.Y: at.target})


@dataclass(frozen=True, eq=False)
class FilteredBlock(Part):
    """A residual block whose body is a chain; `shortcut` is None for the identity."""

    chain: Chain
    shortcut: Shortcut | None

    @staticmethod
    def of(block: ResidualBlock, x: Tensor) -> FilteredBlock | None:
        """For features like x; None where there is no code that pays off."""
        op = filters_of(block)
        chain, shortcut = None if op is None else Chain.of(op, x), Shortcut.of(block, x)
        if chain is None or (shortcut is None and type(block.shortcut) is not nn.Identity):
            return None
        whole = chain.output == (x.shape[1:] if shortcut is None else shortcut.output)
        return FilteredBlock(chain, shortcut) if whole else None

    @property
    def output(self) -> torch.Size:  # type: ignore[override]
        """See `Part.output`."""
        return self.chain.output

    def makes_map(self, first: bool) -> bool:
        """See `Part.makes_map`: in place, unless the shape changes or the block is first in the run."""
        return self.shortcut is not None or first

    def makes_nonnegative(self, nonnegative: bool) -> bool:
        """See `Part.makes_nonnegative`."""
        return True

    def needs(self) -> Iterable[Need]:
        """See `Part.needs`."""
        yield from self.chain.needs()
        if self.shortcut is not None and self.shortcut.compiled is not None:
            yield mixing(self.shortcut.compiled)

    def forceable(self, index: int) -> Iterable[Forceable]:
        """See `Part.forceable`."""
        return self.chain.forceable(index)

    def add(self, builder: TableBuilder, at: Position) -> None:
        """See `Part.add`."""
        if self.shortcut is not None:
            self.shortcut.add(builder, at)
        residual = at.source if self.shortcut is None else at.target
        self.chain.add(builder, at, {Argument.Y: at.target, Argument.RESIDUAL: residual, Argument.RELU: 1})
