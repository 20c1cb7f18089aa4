"""Convolutions by machine code of our own: kernels mixed for each image in the innermost loops, images where they lie.

Neither mixed kernels nor images taken out of a batch are ever written to memory as a whole. Without gradients; the
same multiply-adds as any other form, which no counter sees: whoever counts gets another form.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from dyncomp.core import native
from dyncomp.core.copies import copied
from dyncomp.core.kernels import Geometry
from dyncomp.core.rows import is_channels_last
from dyncomp.core.scratch import scratch
from dyncomp.core.tiles import Mixing
from dyncomp.core.tuner import is_watched

NUMBERS = (torch.float32, torch.float64)

Rows = tuple[int, int, int]
ALL: Rows = (0, 0, 0)

_wanted: ContextVar[bool] = ContextVar("wanted", default=True)


@contextmanager
def left_out() -> Iterator[None]:
    """Inside, nothing runs by code of our own: for comparisons with what torch alone can do."""
    token = _wanted.set(False)
    try:
        yield
    finally:
        _wanted.reset(token)


def able_to_make_code() -> bool:
    """Whether code of our own can be made on this machine at all; loads what makes it."""
    return native.this_machine() is not None and native.works()


def is_wanted() -> bool:
    """Whether code of our own may be used where it is faster."""
    return _wanted.get()


def serves(x: Tensor, parameter: Tensor) -> bool:
    """Whether code of our own can run on features x (B, C, H, W), here and now; `parameter` is a layer's."""
    return (
        not is_watched()  # first: a compiler need not look at the rest
        and _wanted.get()
        and x.dtype == parameter.dtype
        and x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and can_read(parameter)
        and x.device == parameter.device
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


def can_read(parameter: Tensor | None) -> bool:
    """Whether code of our own can be given the numbers of a parameter, where there is one, and told when it changes."""
    return parameter is None or (
        parameter.dtype in NUMBERS and parameter.device.type == "cpu" and not parameter.is_inference()
    )


@dataclass(frozen=True)
class Direct:
    """A form: each image of x (B, C, H, W), channels-last, by the kernel mixed for it."""

    plan: native.Plan
    code: native.Code

    def __call__(self, x: Tensor, mixing: Mixing) -> Tensor:
        """(B, O, H', W')."""
        plan, weight, count = self.plan, mixing.weight.contiguous(), torch.get_num_threads()
        x = x.contiguous(memory_format=torch.channels_last)  # it is, unless a batch of the same shape chose this form
        bias = _zeros(plan.shape.outputs, x.dtype) if mixing.bias is None else mixing.bias.contiguous()
        experts = copied(mixing.experts, plan.order, lambda all_: plan.packed(all_.view(len(all_), *mixing.shape)))
        y = _new(x, len(x), plan.shape)
        own = scratch("direct", x, native.scratch_numbers(plan, count))
        step = 0 if mixing.bias is None else plan.shape.outputs
        mixed = weight.data_ptr(), bias.data_ptr(), step, 0, own.data_ptr()
        self.code.run(count, x.data_ptr(), y.data_ptr(), experts.data_ptr(), *mixed, len(x), *ALL, 0)
        return y


def of_mixing(x: Tensor, mixing: Mixing, geometry: Geometry) -> Direct | None:
    """The form for features x; None where there is none here and now."""
    laid_out = is_channels_last(x) or x.shape[2:].numel() == 1  # so that the output lies as the input does
    if not laid_out or not serves(x, mixing.experts):
        return None
    plan = _plan(x.shape[1:], mixing.shape, geometry, x.dtype, len(mixing.experts))
    # made now: a trial of forms would take the making for slowness
    return None if plan is None else Direct(plan, native.code_for(plan))


@dataclass(frozen=True, eq=False)
class Loaded:
    """A convolution by one kernel for all images: its code, and its weights as the code reads them."""

    plan: native.Plan
    code: native.Code
    weights: Tensor
    bias: Tensor
    state: tuple[int, ...]
    parameters: tuple[Tensor, ...]
    """of which these are: kept, so that no others can come to lie where they do"""
    output: torch.Size
    """what becomes of an image, (O, H', W')"""

    def is_of(self, weight: Tensor | None, bias: Tensor | None) -> bool:
        """Whether these are the parameters as they are now."""
        return self.state == _state(weight, bias)

    def new(self, x: Tensor) -> Tensor:
        """Memory for the outputs of all images of x."""
        return _new(x, len(x), self.plan.shape)

    def between(self, like: Tensor, images: int, turn: int) -> Tensor:
        """Memory for the outputs of so many images, flat; that of the last turn but one is handed out again."""
        return scratch(f"between {turn}", like, images * self.output.numel())

    def run(self, x: int, y: int, images: int, relu: bool, residual: int = 0, rows: Rows = ALL) -> None:
        """Convolve so many images, at least one, from address x to address y, and add the `residual` before ReLU.

        `rows`: addresses of where each image lies in x, y and residual; 0: one after the other.
        """
        shape, size, threads = self.plan.shape, self.weights.element_size(), torch.get_num_threads()
        weights, bias = self.weights.data_ptr(), self.bias.data_ptr()
        for _ in range(shape.groups):
            self.code.run(threads, x, y, weights, 0, bias, 0, residual, 0, images, *rows, int(relu))
            if shape.groups > 1:  # the next group's
                outputs = shape.outputs * size
                x, y, residual = x + shape.channels * size, y + outputs, residual + outputs if residual else 0
                weights, bias = weights + outputs * self.plan.inputs, bias + outputs


def load(weight: Tensor, bias: Tensor | None, image: torch.Size, geometry: Geometry) -> Loaded | None:
    """Code for a convolution of images (C, H, W) by a kernel (O, C / groups, k, k); None where there is none."""
    if not can_read(weight) or not can_read(bias) or (bias is not None and bias.dtype != weight.dtype):
        return None
    plan = _plan(image, weight.shape, geometry, weight.dtype, 0)
    if plan is None:
        return None
    with torch.inference_mode(False), torch.no_grad():
        parameters = tuple(parameter.detach() for parameter in (weight, bias) if parameter is not None)
        shift = _zeros(len(weight), weight.dtype) if bias is None else bias.detach().clone()
        groups = plan.shape.groups
        weights = copied(weight, plan.order, lambda all_: torch.cat([plan.packed(one) for one in all_.chunk(groups)]))
    output = torch.Size((len(weight), *plan.shape.places))
    return Loaded(plan, native.code_for(plan), weights, shift, _state(weight, bias), parameters, output)


def _state(weight: Tensor | None, bias: Tensor | None) -> tuple[int, ...]:
    """Tells parameters, as they are now, from all others; nothing of what cannot be read."""
    if weight is None or weight.is_inference():
        return ()
    if bias is None:
        return weight.data_ptr(), weight._version
    if bias.is_inference():
        return ()
    return weight.data_ptr(), weight._version, bias.data_ptr(), bias._version


@cache
def _plan(
    image: torch.Size, kernel: torch.Size, geometry: Geometry, dtype: torch.dtype, experts: int
) -> native.Plan | None:
    depthwise = geometry.groups == image[0] == kernel[0] and kernel[1] == 1 and geometry.groups > 1
    here = native.this_machine() if able_to_make_code() else None
    size, sides, g = (image[1], image[2]), (kernel[2], kernel[3]), geometry
    groups = 1 if depthwise else g.groups
    fits = depthwise or (kernel[1] * groups == image[0] and kernel[0] % groups == 0)
    if here is None or not fits or (experts and groups > 1):
        return None
    channels, outputs = image[0] // groups, kernel[0] // groups
    shape = native.Shape(channels, outputs, size, sides, g.stride, g.padding, g.dilation, depthwise, groups)
    return native.Plan(shape, native.Number(dtype), here, experts) if shape.can_be_cut else None


def _new(x: Tensor, images: int, shape: native.Shape) -> Tensor:
    size = (images, shape.writes, *shape.places)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@cache
def _zeros(count: int, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.zeros(count, dtype=dtype, device="cpu")
