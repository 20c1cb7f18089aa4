"""Layers' convolutions as generated code, and the weights in the operand layout of that code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dyncomp.fast import codegen
from dyncomp.fast.codegen import Argument
from dyncomp.fast.layers.compaction import Compaction
from dyncomp.fast.memory import for_code
from dyncomp.fast.mixing.generated import WHOLE, Picks, can_read, new_output, plan_for, zeros
from dyncomp.fast.parameters.copies import copied
from dyncomp.fast.parameters.tracked import numbers_of, state_of
from dyncomp.fast.scratch import OWN_KERNELS, scratch
from dyncomp.ops.kernels import Geometry

SIZES = 8
"""image sizes that a layer holds code for at most: code takes memory, and a tenth of a second to generate"""


@dataclass(frozen=True)
class RowList:
    """Row indices of images in a batch, (images,) int64, all below `end`."""

    rows: Tensor
    end: int

    @staticmethod
    def of(rows: Tensor) -> RowList:
        """From at least one row index. Raises ValueError for invalid ones: generated code does not check them."""
        if rows.dtype != torch.int64 or rows.dim() != 1 or not len(rows):
            raise ValueError(f"rows {tuple(rows.shape)} of {rows.dtype}; give an index of each image, int64")
        low, high = (int(bound) for bound in torch.aminmax(rows))
        if low < 0:
            raise ValueError(f"rows from {low} on; give indices from 0 on")
        return RowList(for_code(rows.contiguous()), high + 1)


Rows = tuple[RowList | None, RowList | None, RowList | None]
"""The rows of the images in x, y and residual; None: consecutive rows from 0 on."""
ALL: Rows = (None, None, None)
_ROWS = (Argument.ROWS_X, Argument.ROWS_Y, Argument.ROWS_RESIDUAL)


@dataclass(frozen=True, eq=False)
class CompiledConvolution:
    """A convolution as generated code and its packed weights: one kernel for all images, or experts to mix."""

    plan: codegen.Plan
    code: codegen.Code
    weights: Tensor
    bias: Tensor
    state: tuple[int, ...]
    parameters: tuple[Tensor, ...]
    """the parameters that the weights are copies of, kept alive so that no other tensor can get their address"""
    output: torch.Size
    """shape of an image's output, (O, H', W')"""

    def is_of(self, weight: Tensor | None, bias: Tensor | None) -> bool:
        """Whether the weights are copies of these parameters in their present state."""
        return self.state == state_of(weight, bias)

    def new(self, x: Tensor) -> Tensor:
        """Uninitialised memory for the outputs of all images of x."""
        return new_output(x, len(x), self.plan.shape)

    def intermediate(self, like: Tensor, images: int, turn: int) -> Tensor:
        """A flat scratch buffer for the outputs of `images` images; calls with the same `turn` share a buffer."""
        return scratch(f"between {turn}", like, images * self.output.numel())

    def pick(self, x: Tensor, there: Compaction | None, wanted: Compaction | None, relu: bool = False) -> Tensor:
        """Convolve images x (B, C, H, W) that each have some of the channels, or need some of the outputs.

        `there` and `wanted` are the compactions of the inputs and of the outputs; None for all channels, as the code
        was generated for. Outputs that are not wanted are 0. Raises ValueError where sizes or dtypes differ from those
        of the code.
        """
        x, y, count = x.contiguous(memory_format=torch.channels_last), self.new(x), torch.get_num_threads()
        shape = self.plan.shape
        if x.shape[1:] != (shape.x_channels, *shape.size) or x.dtype != self.weights.dtype:
            raise ValueError(
                f"code for images {(shape.x_channels, *shape.size)} was given {tuple(x.shape)} of {x.dtype}"
            )
        for some, channels in ((there, x.shape[1]), (wanted, y.shape[1])):
            if some is not None:
                some.check(len(x), channels)
        bias = self.bias if wanted is None else for_code(wanted.sorted(self.bias))  # (B, O)
        own = scratch(OWN_KERNELS, x, count * self.plan.scratch)
        given = {
            Argument.X: x.data_ptr(),
            Argument.Y: y.data_ptr(),
            Argument.WEIGHTS: self.weights.data_ptr(),
            Argument.BIAS: bias.data_ptr(),
            Argument.BIAS_STEP: 0 if wanted is None else len(self.bias),
            Argument.SCRATCH: own.data_ptr(),
            Argument.IMAGES: len(x),
            Argument.RELU: int(relu),
        }
        if there is not None:
            given |= {Argument.INPUTS: there.order.data_ptr(), Argument.INPUT_COUNTS: there.counts.data_ptr()}
        if wanted is not None:
            given |= {Argument.OUTPUTS: wanted.order.data_ptr(), Argument.OUTPUT_COUNTS: wanted.counts.data_ptr()}
        if len(x):
            self.code.run(count, given)
        return y

    def run(
        self, x: Tensor, y: Tensor, images: int, relu: bool, residual: Tensor | None = None, rows: Rows = ALL
    ) -> None:
        """Convolve `images` images of x, at least one, into y; the `residual` is added before ReLU.

        x, y and residual are channels-last maps, or flat memory of as many numbers; `rows` says which rows images are
        read from and written to. Raises ValueError where rows are not one per image, where memory holds fewer numbers
        than the code reads and writes, or where it has another dtype.
        """
        read, written, dtype = self._room
        last_x = last_y = last_residual = images
        given = {Argument.IMAGES: images, Argument.RELU: int(relu)}
        if rows is not ALL:
            if any(some is not None and len(some.rows) != images for some in rows):
                raise ValueError(f"rows of other than the {images} images; give one for each")
            last_x, last_y, last_residual = (images if some is None else some.end for some in rows)
            given |= {which: some.rows.data_ptr() for which, some in zip(_ROWS, rows, strict=True) if some is not None}
        short = x.numel() < read * last_x or y.numel() < written * last_y or x.dtype != dtype or y.dtype != dtype
        at_residual = 0
        if residual is not None:
            short = short or residual.numel() < written * last_residual or residual.dtype != dtype
            at_residual = residual.data_ptr()
        if short:
            raise ValueError(f"maps of {x.numel()} and {y.numel()} numbers for {images} images of {read} to {written}")
        given |= {
            Argument.X: x.data_ptr(),
            Argument.Y: y.data_ptr(),
            Argument.WEIGHTS: self.weights.data_ptr(),
            Argument.BIAS: self.bias.data_ptr(),
            Argument.RESIDUAL: at_residual,
        }
        shape, threads = self.plan.shape, torch.get_num_threads()
        for _ in range(shape.groups):
            self.code.run(threads, given)
            if shape.groups > 1:  # advance to the next group
                size = self.weights.element_size()
                outputs = shape.outputs * size
                given[Argument.X] += shape.channels * size
                given[Argument.WEIGHTS] += outputs * self.plan.inputs
                for which in (Argument.Y, Argument.BIAS, *([Argument.RESIDUAL] if at_residual else [])):
                    given[which] += outputs

    @cached_property
    def _room(self) -> tuple[int, int, torch.dtype]:
        """Numbers read and written per image, and their dtype."""
        shape = self.plan.shape
        return shape.x_channels * shape.size[0] * shape.size[1], self.output.numel(), self.weights.dtype


class CodeCache:
    """A layer's code for images of up to `SIZES` sizes."""

    def __init__(self) -> None:
        self._held: dict[tuple[torch.Size, Picks], CompiledConvolution | None] = {}

    def code(
        self,
        image: torch.Size,
        picks: Picks,
        weight: Tensor,
        bias: Tensor | None,
        geometry: Callable[[], Geometry | None],
    ) -> CompiledConvolution | None:
        """Code for images (C, H, W) with the current weights; see `load`. None where there is none.

        `geometry` is called when code is generated; it returns None for a layer that no code can be generated for.
        """
        compiled = self._held.get((image, picks))
        if compiled is None:
            if (image, picks) in self._held or len(self._held) == SIZES:
                return None
            moves = geometry()
            compiled = None if moves is None else load(weight, bias, image, moves, picks)
            self._held[image, picks] = compiled
        elif not compiled.is_of(weight, bias):
            self._held.clear()
            return self.code(image, picks, weight, bias, geometry)
        return compiled


def load(
    weight: Tensor, bias: Tensor | None, image: torch.Size, geometry: Geometry, picks: Picks = WHOLE
) -> CompiledConvolution | None:
    """Code for a convolution of images (C, H, W) by a kernel (O, C / groups, k, k); None where there can be none."""
    if not can_read(weight) or not can_read(bias) or (bias is not None and bias.dtype != weight.dtype):
        return None
    plan = plan_for(image, weight.shape, geometry, weight.dtype, 0, picks)
    if plan is None:
        return None
    with torch.inference_mode(False), torch.no_grad():
        parameters = tuple(numbers_of(parameter) for parameter in (weight, bias) if parameter is not None)
        shift = zeros(len(weight), weight.dtype) if bias is None else for_code(bias.detach().clone())
        groups = plan.shape.groups
        weights = copied(
            weight, plan.layout_key, lambda all_: for_code(torch.cat([plan.packed(one) for one in all_.chunk(groups)]))
        )
    output = torch.Size((len(weight), *plan.shape.output_size))
    return CompiledConvolution(
        plan, codegen.compiled(codegen.Convolution(plan)), weights, shift, state_of(weight, bias), parameters, output
    )
