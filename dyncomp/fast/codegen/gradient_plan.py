"""How the gradients of kernels that are mixed for each image are cut into pieces, and what their code is given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

from dyncomp.fast.codegen.plan import Panel, Plan, Segment

_CLOSE = 600_000
"""bytes of images' own gradients that stay in the second cache until they are taken up"""
_CLOSEST = 28_000
"""bytes that stay in the first cache"""
TOGETHER = 12
"""images whose own gradients wait to be taken up: then the experts and their gradients come from afar"""
_TASKS = 3
"""for each thread at least, where there are as many, so that shares are equal"""


class GradientArgument(IntEnum):
    """What the code is given, in order: addresses, and a count."""

    X = 0
    GRADIENT = 1
    """that of the convolution's output"""
    SHARES = 2
    """(images, experts)"""
    EXPERTS = 3
    """packed: see `Plan.packed`"""
    OF_EXPERTS = 4
    """where to write their gradient, packed alike"""
    OF_SHARES = 5
    """(threads, images, experts, lanes of a vector), where to add the gradient of the shares, lane by lane"""
    SCRATCH = 6
    IMAGES = 7


@dataclass(frozen=True)
class Block:
    """Weights whose gradients are computed at one go: a panel's outputs, some taps of a row, some channels of each.

    `first` is the first channel among those that lie together, `before` counts the inputs packed before the segment.
    """

    panel: Panel
    segment: Segment
    before: int
    first: int
    channels: int


@dataclass(frozen=True)
class GradientPlan:
    """The pieces of the gradient of a convolution's kernels, in the order in which its plan packs them."""

    plan: Plan
    threads: int = 1

    @property
    def segments(self) -> list[Segment]:
        """The plan's; of a depthwise convolution a row of the kernel."""
        if self.plan.shape.depthwise:
            return [Segment(tuple(range(self.plan.shape.kernel[1])), 1)]
        return self.plan.segments

    @property
    def steps(self) -> int:
        """How often a segment's channels go into all."""
        return 1 if self.plan.shape.depthwise else self.plan.shape.channels // self.plan.channels

    @cached_property
    def blocks(self) -> list[tuple[Block, int]]:
        """All that differ but in place, and how many panels there are that have one."""
        return [(block, count) for panel, count in self.plan.alike for block in self._of_panel(panel)]

    def _of_panel(self, panel: Panel) -> Iterator[Block]:
        before = 0
        for segment in self.segments:
            wide = self._channels(panel, segment)
            for first in range(0, segment.channels, wide):
                yield Block(panel, segment, before, first, min(wide, segment.channels - first))
            before += self.plan.shape.kernel[0] * self.steps * len(segment.taps) * segment.channels

    def _channels(self, panel: Panel, segment: Segment) -> int:
        """Of a block: as many tiles as stay close, and few enough that there are tasks for all threads."""
        numbers, tile = TOGETHER * len(segment.taps) * panel.outputs, self.tile(panel)
        tiles = -(-segment.channels // tile)
        close = max(1, _CLOSE // (numbers * self.plan.number.dtype.itemsize * tile))
        others = len(self.plan.panels) * self.plan.shape.kernel[0] * self.steps * len(self.segments)
        blocks = min(tiles, max(-(-tiles // close), -(-_TASKS * self.threads // others)))
        return tile * -(-tiles // blocks)

    def tile(self, panel: Panel) -> int:
        """Channels whose sums have a register each, for every vector of the panel."""
        return 1 if self.plan.shape.depthwise else panel.pixels

    def channels_close(self, panel: Panel) -> int:
        """Channels whose experts and gradients stay in the first cache while the images that wait are taken up."""
        return max(1, _CLOSEST // (2 * self.plan.experts * panel.outputs * self.plan.number.dtype.itemsize))

    def rows(self, panel: Panel) -> int:
        """Rows of the output whose gradients, a panel's, are laid side by side."""
        row = self.plan.shape.rows[1][1] * panel.outputs * self.plan.number.dtype.itemsize
        return min(self.plan.shape.rows[1][0], max(1, _CLOSEST // row))

    @cached_property
    def copied(self) -> int:
        """Numbers of memory for gradients that are laid side by side."""
        columns = self.plan.shape.rows[1][1]
        return max(self.rows(panel) * columns * panel.outputs for panel in self.plan.panels)

    @cached_property
    def scratch(self) -> int:
        """Numbers of memory that each thread needs: for such gradients, and for those of images' own kernels."""
        return self.copied + max(self.of_image(block) for block, _ in self.blocks) * TOGETHER

    @staticmethod
    def of_image(block: Block) -> int:
        """Weights of a block: so many numbers an image has of its own."""
        return len(block.segment.taps) * block.channels * block.panel.outputs
