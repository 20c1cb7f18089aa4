"""Convolutions by machine code of our own: kernels mixed for each image in the innermost loops, images where they lie.

Neither mixed kernels nor images taken out of a batch are ever written to memory as a whole. Without gradients; the
same multiply-adds as any other form, which no counter sees: whoever counts gets another form.
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class Direct:
    """A form: each image of x (B, C, H, W), channels-last, by the kernel mixed for it; see `can_run`."""

    plan: native.Plan

    def __call__(self, x: Tensor, mixing: Mixing) -> Tensor:
        """(B, O, H', W')."""
        plan = self.plan
        bias = None if mixing.bias is None else mixing.bias.contiguous()
        experts = copied(mixing.experts, plan, lambda whole: plan.packed(whole.view(len(whole), *mixing.shape)))
        y = _new(x, plan.shape, len(x))
        native.run(plan, native.Operands(x, y, experts, bias, mixing.weight.contiguous()), _scratch(plan, x))
        return y


def can_run(x: Tensor, parameter: Tensor, kernel: torch.Size, geometry: Geometry) -> bool:
    """Whether a convolution of features x by kernels of that shape, of which `parameter` tells, is one of ours here."""
    plain = x.device.type == parameter.device.type == "cpu" and x.dtype == parameter.dtype and x.dtype in NUMBERS
    return (
        plain
        and not torch.is_grad_enabled()
        and not is_watched()
        and not parameter.is_inference()  # it could not tell when it has changed
        and not torch.is_autocast_enabled("cpu")
        and (is_channels_last(x) or x.shape[2:].numel() == 1)
        and _plan(x.shape[1:], kernel, geometry, x.dtype, 0) is not None
    )


def plan_of(x: Tensor, kernel: torch.Size, geometry: Geometry, experts: int) -> native.Plan:
    """How the convolution is computed; `experts` kernels are mixed for each image, or, with 0, there is one for all."""
    plan = _plan(x.shape[1:], kernel, geometry, x.dtype, experts)
    assert plan is not None  # asked before
    native.convolution(plan)  # now: a trial of forms would take the making for slowness
    return plan


@cache
def _plan(
    image: torch.Size, kernel: torch.Size, geometry: Geometry, dtype: torch.dtype, experts: int
) -> native.Plan | None:
    depthwise = geometry.groups == image[0] == kernel[0] and kernel[1] == 1 and geometry.groups > 1
    if geometry.groups > 1 and not depthwise:
        return None
    size, sides = (image[1], image[2]), (kernel[2], kernel[3])
    g = geometry
    shape = native.Shape(image[0], kernel[0], size, sides, g.stride, g.padding, g.dilation, depthwise)
    here = native.machine()
    able = here is not None and shape.can_be_cut and native.works()
    return native.Plan(shape, native.Number(dtype), here, experts) if able and here is not None else None


def _new(x: Tensor, shape: native.Shape, images: int) -> Tensor:
    size = (images, shape.outputs, *shape.places)
    return torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)


def _scratch(plan: native.Plan, like: Tensor) -> Tensor:
    return scratch("direct", like, native.scratch_numbers(plan, torch.get_num_threads()))
