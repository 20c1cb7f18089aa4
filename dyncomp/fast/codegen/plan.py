"""Blocking of a convolution: panels and segments that fit the registers and caches of a processor."""

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
"""inputs of a kernel that are mixed and multiplied together: their weights for one panel stay in the L2 cache"""
_CLOSE = 600_000
"""bytes of weights that stay in the L2 cache beside the data of an image"""
_MANY = 100
"""pixels of an output map that take long enough to hide loading experts from beyond the L2 cache"""


@dataclass(frozen=True)
class Panel:
    """Adjacent outputs of a register block: a vector for each entry of `lanes`, for `pixels` pixels of a row.

    `first` is the index of the panel's first output.
    """

    lanes: tuple[int, ...]
    pixels: int
    first: int

    @property
    def outputs(self) -> int:
        """Number of outputs in the panel."""
        return sum(self.lanes)


@dataclass(frozen=True)
class Segment:
    """Inputs of a kernel that one microkernel call reduces: some taps of a kernel row, some channels of each."""

    taps: tuple[int, ...]
    channels: int


@dataclass(frozen=True)
class Plan:
    """The blocking of a convolution: panels of outputs, and within a panel segments of inputs."""

    shape: Shape
    number: Number
    machine: Machine
    experts: int
    """kernels that are mixed for each image; 0: one kernel for all images"""
    picks_inputs: bool = False
    """whether each image has only some of the input channels, compacted to the front; then there are no experts"""
    picks_outputs: bool = False
    """whether each image uses only some of the outputs, compacted to the front"""

    @property
    def picks(self) -> bool:
        """Whether kernels are cut to the inputs or outputs that each image uses."""
        return self.picks_inputs or self.picks_outputs

    @property
    def lanes(self) -> int:
        """Lanes of a vector register."""
        return self.machine.vector_bytes // self.number.dtype.itemsize

    @cached_property
    def panels(self) -> list[Panel]:
        """All panels, in the order of their outputs."""
        widths = pieces(self.shape.outputs, self.lanes)
        many = self.machine.registers >= 32 and self.shape.is_pointwise
        together = 4 if many and not self.shape.depthwise and not self.picks_outputs else 2
        panels, first = [], 0
        for index in range(0, len(widths), together):
            lanes = tuple(widths[index : index + together])
            panels.append(Panel(lanes, self._pixels(len(lanes)), first))
            first += sum(lanes)
        return panels

    @property
    def equal_panels(self) -> list[tuple[Panel, int]]:
        """(first panel, count) of each group of adjacent panels that differ only in position."""
        counts = Counter(panel.lanes for panel in self.panels)
        firsts = {panel.lanes: panel for panel in reversed(self.panels)}
        return [(firsts[lanes], count) for lanes, count in counts.items()]

    def _pixels(self, vectors: int) -> int:
        """Pixels of a register block: accumulators, an input's weights and a broadcast input have a register each.

        A depthwise convolution keeps inputs in registers, too: an input that several taps read is loaded once.
        """
        registers = self.machine.registers // 2 if self.shape.depthwise else self.machine.registers
        return max(1, min(24, (registers - vectors - 1) // vectors))

    def step(self, panel: Panel) -> int:
        """Elements from one input's weights to the next one's; each row of cut kernels ends with a spare vector."""
        return panel.outputs + self.lanes if self.picks_outputs else panel.outputs

    @property
    def vectors(self) -> list[Panel]:
        """Panels of one vector each, in which kernels to be cut are packed; zero outputs fill up the last one."""
        return [Panel((self.lanes,), 1, first) for first in range(0, self.shape.outputs, self.lanes)]

    @property
    def channels_per_call(self) -> int:
        """Most channels of a tap in a microkernel call: a segment's channels; where images pick, up to `_SEGMENT`."""
        return min(self.channels, _SEGMENT) if self.picks else self.channels

    @cached_property
    def channels(self) -> int:
        """Channels of a segment: all, or a divisor of their number, so that segments are equal."""
        whole = self.shape.channels
        if self.picks:
            return whole
        shares = (n for n in range(_SEGMENT, _SEGMENT // 4, -1) if whole % n == 0)
        return whole if whole <= _SEGMENT else next(shares, whole)

    @cached_property
    def segments(self) -> list[Segment]:
        """Segments of one kernel row and the first channels; all kernel rows and later channels have the same ones."""
        wide = self.shape.kernel[1]
        taps = max(1, min(wide, _SEGMENT // self.channels))
        parts = (tuple(range(first, min(first + taps, wide))) for first in range(0, wide, taps))
        return [Segment(part, self.channels) for part in parts]

    @property
    def inputs(self) -> int:
        """Weights of one output: channels times taps; taps alone if depthwise."""
        if self.shape.depthwise:
            return self.shape.kernel[0] * self.shape.kernel[1]
        return self.shape.channels * self.shape.kernel[0] * self.shape.kernel[1]

    @property
    def largest_segment(self) -> int:
        """Inputs of the largest segment."""
        if self.shape.depthwise:
            return self.inputs
        return max(len(segment.taps) for segment in self.segments) * self.channels_per_call

    @cached_property
    def scratch(self) -> int:
        """Elements of scratch memory that each thread needs for the weights that it mixes or cuts."""
        if self.experts or self.picks_outputs:
            return self.images_per_mix * self.largest_segment * max(self.step(panel) for panel in self.panels)
        return 0

    @property
    def images_per_mix(self) -> int:
        """Images whose weights are mixed together, so that experts are loaded once for all of them."""
        if self.machine.registers < 32 or self.shape.depthwise or not self.experts:
            return 1
        return 4 if self.shape.is_pointwise else 2

    @property
    def images_outside_panels(self) -> bool:
        """Whether images are the outer loop, panels the inner: if depthwise, or if all weights stay in the L2 cache."""
        return self.shape.depthwise or (not self.experts and self._fits_l2(self.shape.outputs))

    @property
    def images_outside_segments(self) -> bool:
        """Whether a panel has images as the outer loop, segments as the inner: its weights or experts stay in L2 cache.

        Experts may also come from beyond the L2 cache where the map has enough pixels to hide the loads.
        """
        height, width = self.shape.output_size
        far = self.experts > 0 and height * width >= _MANY
        return far or self._fits_l2(max(1, self.experts) * self.panels[0].outputs)

    def _fits_l2(self, outputs: int) -> bool:
        return self.inputs * outputs * self.number.dtype.itemsize <= _CLOSE

    @cached_property
    def layout_key(self) -> str:
        """Key of the packed operand layout: plans for maps of other sizes with the same key may share weights."""
        of_panels = self.picks_outputs or tuple(panel.lanes for panel in self.panels)
        return repr((of_panels, self.lanes, self.segments, self.shape.depthwise, self.experts))

    def packed(self, kernels: Tensor) -> Tensor:
        """Kernels (K, O, C, k, k) or (O, C, k, k), packed in the order in which the code reads them; a flat tensor."""
        five = kernels if kernels.dim() == 5 else kernels[None]
        panels = self.vectors if self.picks_outputs else self.panels
        if self.picks_outputs:
            five = F.pad(five, (0, 0) * 3 + (0, -self.shape.outputs % self.lanes))
        return torch.cat([part.reshape(-1) for panel in panels for part in self._of_panel(panel, five)])

    @cached_property
    def inputs_in_order(self) -> Tensor:
        """(inputs,) integers: for each packed input, its index in an output's flattened weights (C, k, k)."""
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
    """Reorder (inputs, K, outputs) to (inputs, K * outputs): for each input the vectors, each for all experts."""
    return torch.cat([vector.flatten(1) for vector in torch.split(part, list(lanes), dim=2)], dim=1)
