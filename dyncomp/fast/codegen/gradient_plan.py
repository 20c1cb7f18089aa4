"""Blocking of the gradients of kernels that are mixed for each image, and the arguments of their code."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

from dyncomp.fast.codegen.plan import Panel, Plan, Segment

_CLOSE = 600_000
"""bytes of images' kernel gradients that stay in the L2 cache until they are reduced into the experts"""
_CLOSEST = 28_000
"""bytes that stay in the L1 cache"""
TOGETHER = 12
"""images per reduction of kernel gradients, which loads experts and their gradients from beyond the L2 cache"""
_TASKS = 3
"""fewest tasks per thread, where there are as many, so that threads have nearly equal work"""


class GradientArgument(IntEnum):
    """Arguments of the code, in order: addresses, and a count."""

    X = 0
    GRADIENT = 1
    """gradient of the convolution's output"""
    SHARES = 2
    """(images, experts): mixing weights"""
    EXPERTS = 3
    """packed: see `Plan.packed`"""
    OF_EXPERTS = 4
    """where to write the gradient of the experts, packed likewise"""
    OF_SHARES = 5
    """(threads, images, experts, lanes of a vector): where to add the gradient of the shares, lane by lane"""
    SCRATCH = 6
    IMAGES = 7


@dataclass(frozen=True)
class Block:
    """Weights whose gradients are computed together: a panel's outputs, some taps of a kernel row, some channels.

    `first` is the block's first channel within the segment, `before` counts the inputs packed before the segment.
    """

    panel: Panel
    segment: Segment
    before: int
    first: int
    channels: int


@dataclass(frozen=True)
class GradientPlan:
    """The blocking of the gradient of a convolution's kernels, in the operand layout of its plan."""

    plan: Plan
    threads: int = 1

    @property
    def segments(self) -> list[Segment]:
        """The segments of the plan; for a depthwise convolution, one kernel row."""
        if self.plan.shape.depthwise:
            return [Segment(tuple(range(self.plan.shape.kernel[1])), 1)]
        return self.plan.segments

    @property
    def steps(self) -> int:
        """Number of steps, each over the channels of a segment, that cover all channels."""
        return 1 if self.plan.shape.depthwise else self.plan.shape.channels // self.plan.channels

    @cached_property
    def blocks(self) -> list[tuple[Block, int]]:
        """(block, number of panels that have it) for all blocks that differ in more than the panel's position."""
        found = list[tuple[Block, int]]()
        for panel, count in self.plan.equal_panels:
            before = 0
            for segment in self.segments:
                wide = self._channels(panel, segment)
                for first in range(0, segment.channels, wide):
                    found.append((Block(panel, segment, before, first, min(wide, segment.channels - first)), count))
                before += self.plan.shape.kernel[0] * self.steps * len(segment.taps) * segment.channels
        return found

    def _channels(self, panel: Panel, segment: Segment) -> int:
        """Channels of a block: as many tiles as stay in the L2 cache, and few enough that all threads have tasks."""
        numbers, tile = TOGETHER * len(segment.taps) * panel.outputs, self.tile(panel)
        tiles = -(-segment.channels // tile)
        close = max(1, _CLOSE // (numbers * self.plan.number.dtype.itemsize * tile))
        others = len(self.plan.panels) * self.plan.shape.kernel[0] * self.steps * len(self.segments)
        blocks = min(tiles, max(-(-tiles // close), -(-_TASKS * self.threads // others)))
        return tile * -(-tiles // blocks)

    def tile(self, panel: Panel) -> int:
        """Channels of a register tile: an accumulator register for each channel and vector of the panel."""
        return 1 if self.plan.shape.depthwise else panel.pixels

    def channels_close(self, panel: Panel) -> int:
        """Channels whose experts and gradients stay in the L1 cache while a group of images is reduced."""
        return max(1, _CLOSEST // (2 * self.plan.experts * panel.outputs * self.plan.number.dtype.itemsize))

    def rows(self, panel: Panel) -> int:
        """Rows of the output whose gradients, for one panel, are packed together to stay in the L1 cache."""
        row = self.plan.shape.rows[1][1] * panel.outputs * self.plan.number.dtype.itemsize
        return min(self.plan.shape.rows[1][0], max(1, _CLOSEST // row))

    @cached_property
    def copied(self) -> int:
        """Elements of scratch memory for the packed gradient of the output."""
        columns = self.plan.shape.rows[1][1]
        return max(self.rows(panel) * columns * panel.outputs for panel in self.plan.panels)

    @cached_property
    def scratch(self) -> int:
        """Elements of scratch memory per thread: the packed gradient of the output, and a group's kernel gradients."""
        return self.copied + max(self.of_image(block) for block, _ in self.blocks) * TOGETHER

    @staticmethod
    def of_image(block: Block) -> int:
        """Weights of a block: elements of an image's kernel gradient."""
        return len(block.segment.taps) * block.channels * block.panel.outputs
