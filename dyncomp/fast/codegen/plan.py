"""How a convolution is cut into pieces that a processor's registers and caches hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from dyncomp.fast.codegen.emit import Number, pieces
from dyncomp.fast.codegen.machine import Machine
from dyncomp.fast.codegen.shape import Shape

_SEGMENT = 512
"""inputs of a kernel that are mixed and multiplied at once: with a panel's outputs they stay in the second cache"""
_CLOSE = 600_000
"""bytes of weights that stay in the second cache beside all that an image brings"""
_MANY = 100
"""pixels of a map for which it pays to bring experts from afar"""


@dataclass(frozen=True)
class Panel:
    """Neighbouring outputs that are computed together: vectors of so many lanes, for so many pixels of a row at once.

    `first` is where its outputs begin.
    """

    lanes: tuple[int, ...]
    pixels: int
    first: int

    @property
    def outputs(self) -> int:
        """How many."""
        return sum(self.lanes)


@dataclass(frozen=True)
class Segment:
    """Inputs of a kernel that are used at once: some taps of a row of the kernel, some channels of each."""

    taps: tuple[int, ...]
    channels: int


@dataclass(frozen=True)
class Plan:
    """The pieces of a convolution: panels of outputs; within a panel segments of inputs."""

    shape: Shape
    number: Number
    machine: Machine
    experts: int
    """kernels that are mixed for each image; 0: one kernel for all"""
    picks_inputs: bool = False
    """whether each image has some of the inputs only, side by side; then there are no experts"""
    picks_outputs: bool = False
    """whether each image wants some of the outputs only, side by side"""

    @property
    def picks(self) -> bool:
        """Whether kernels are cut to what each image uses."""
        return self.picks_inputs or self.picks_outputs

    @property
    def lanes(self) -> int:
        """Numbers in a vector."""
        return self.machine.vector_bytes // self.number.dtype.itemsize

    @cached_property
    def panels(self) -> list[Panel]:
        """All outputs, in order."""
        widths = pieces(self.shape.outputs, self.lanes)
        many = self.machine.registers >= 32 and self.shape.is_flat
        together = 4 if many and not self.shape.depthwise and not self.picks_outputs else 2
        panels, first = [], 0
        for index in range(0, len(widths), together):
            lanes = tuple(widths[index : index + together])
            panels.append(Panel(lanes, self._pixels(len(lanes)), first))
            first += sum(lanes)
        return panels

    @property
    def alike(self) -> list[tuple[Panel, int]]:
        """The first of panels that differ but in place, which lie next to one another, and how many these are."""
        counts = Counter(panel.lanes for panel in self.panels)
        firsts = {panel.lanes: panel for panel in reversed(self.panels)}
        return [(firsts[lanes], count) for lanes, count in counts.items()]

    def _pixels(self, vectors: int) -> int:
        """So many that their sums, the weights and one input have a register each.

        A depthwise convolution keeps inputs in registers too: what several taps see is read once.
        """
        registers = self.machine.registers // 2 if self.shape.depthwise else self.machine.registers
        return max(1, min(24, (registers - vectors - 1) // vectors))

    def step(self, panel: Panel) -> int:
        """Numbers from one input's weights to the next one's; a vector is left free behind those that are cut out."""
        return panel.outputs + self.lanes if self.picks_outputs else panel.outputs

    @property
    def vectors(self) -> list[Panel]:
        """What kernels are cut out of: all outputs and, that vectors be whole, a few that are 0."""
        return [Panel((self.lanes,), 1, first) for first in range(0, self.shape.outputs, self.lanes)]

    @property
    def at_once(self) -> int:
        """Channels that are multiplied at one go: a segment's, or as many of those that an image has."""
        return min(self.channels, _SEGMENT) if self.picks else self.channels

    @cached_property
    def channels(self) -> int:
        """Channels of a segment: all, or a share that divides them."""
        whole = self.shape.channels
        if self.picks:
            return whole
        shares = (n for n in range(_SEGMENT, _SEGMENT // 4, -1) if whole % n == 0)
        return whole if whole <= _SEGMENT else next(shares, whole)

    @cached_property
    def segments(self) -> list[Segment]:
        """Those of one row of the kernel and the first channels; all rows and channels have the same."""
        wide = self.shape.kernel[1]
        taps = max(1, min(wide, _SEGMENT // self.channels))
        parts = (tuple(range(first, min(first + taps, wide))) for first in range(0, wide, taps))
        return [Segment(part, self.channels) for part in parts]

    @property
    def inputs(self) -> int:
        """Weights of one output."""
        if self.shape.depthwise:
            return self.shape.kernel[0] * self.shape.kernel[1]
        return self.shape.channels * self.shape.kernel[0] * self.shape.kernel[1]

    @property
    def largest(self) -> int:
        """Inputs of the largest segment."""
        if self.shape.depthwise:
            return self.inputs
        return max(len(segment.taps) for segment in self.segments) * self.at_once

    @cached_property
    def scratch(self) -> int:
        """Numbers of memory that each thread needs for the weights that it mixes or cuts."""
        if self.experts or self.picks_outputs:
            return self.mixed_at_once * self.largest * max(self.step(panel) for panel in self.panels)
        return 0

    @property
    def mixed_at_once(self) -> int:
        """Images for which weights are mixed at one look at the experts."""
        if self.machine.registers < 32 or self.shape.depthwise or not self.experts:
            return 1
        return 4 if self.shape.is_flat else 2

    @property
    def images_first(self) -> bool:
        """Whether an image stays and all panels pass by: where the weights of all of them stay close."""
        return self.shape.depthwise or (not self.experts and self._stays_close(self.shape.outputs))

    @property
    def panels_stay(self) -> bool:
        """Whether images pass by a panel, each with all its segments: where its weights, or its experts, stay close.

        Experts may come from afar, too, where there are pixels enough to compute in the meantime.
        """
        height, width = self.shape.places
        far = self.experts > 0 and height * width >= _MANY
        return far or self._stays_close(max(1, self.experts) * self.panels[0].outputs)

    def _stays_close(self, outputs: int) -> bool:
        return self.inputs * outputs * self.number.dtype.itemsize <= _CLOSE

    @cached_property
    def order(self) -> str:
        """What decides how weights are packed, in words: plans for maps of other sizes may share them."""
        of_panels = self.picks_outputs or tuple(panel.lanes for panel in self.panels)
        return repr((of_panels, self.lanes, self.segments, self.shape.depthwise, self.experts))

    def packed(self, kernels: Tensor) -> Tensor:
        """Kernels (K, O, C, k, k), or (O, C, k, k), in the order in which they are read, flat."""
        five = kernels if kernels.dim() == 5 else kernels[None]
        panels = self.vectors if self.picks_outputs else self.panels
        if self.picks_outputs:
            five = F.pad(five, (0, 0) * 3 + (0, -self.shape.outputs % self.lanes))
        return torch.cat([part.reshape(-1) for panel in panels for part in self._of_panel(panel, five)])

    @cached_property
    def inputs_in_order(self) -> Tensor:
        """(inputs,) integers: which of an output's weights (C, k, k), counted as they lie, each packed one is."""
        channels = 1 if self.shape.depthwise else self.shape.channels
        with torch.inference_mode(False):
            numbers = torch.arange(self.inputs, device="cpu").view(1, 1, channels, *self.shape.kernel)
            return torch.cat([part.reshape(-1) for part in self._of_panel(Panel((1,), 1, 0), numbers)])

    def _of_panel(self, panel: Panel, kernels: Tensor) -> Iterator[Tensor]:
        of_panel = kernels[:, panel.first : panel.first + panel.outputs]  # (K, o, C, k, k)
        if self.shape.depthwise:
            yield _by_vectors(of_panel.flatten(2).permute(2, 0, 1), panel.lanes)
            return
        for segment in self.segments:
            for row in range(self.shape.kernel[0]):
                for first in range(0, self.shape.channels, segment.channels):
                    part = of_panel[:, :, first : first + segment.channels, row, list(segment.taps)]  # (K, o, c, t)
                    yield _by_vectors(part.permute(3, 2, 0, 1).flatten(0, 1), panel.lanes)


def _by_vectors(part: Tensor, lanes: tuple[int, ...]) -> Tensor:
    """(inputs, K, outputs) as, for each input, the vectors in turn, and of each vector all experts."""
    return torch.cat([vector.flatten(1) for vector in torch.split(part, list(lanes), dim=2)], dim=1)
