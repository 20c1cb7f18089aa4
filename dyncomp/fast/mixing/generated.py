"""Convolutions by generated code: kernels are mixed for each image in the innermost loops, images are read in place.

Neither mixed kernels nor gathered images are ever written to memory as a whole. There are no gradients. The code
executes the same multiply-adds as any other form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from dyncomp.fast import codegen
from dyncomp.fast.availability import is_enabled
from dyncomp.fast.codegen import Argument
from dyncomp.fast.memory import empty, for_code
from dyncomp.fast.parameters.copies import copied
from dyncomp.fast.parameters.tracked import versioned
from dyncomp.fast.scratch import OWN_KERNELS, scratch
from dyncomp.fast.tuning import is_watched
from dyncomp.ops.kernels import Geometry
from dyncomp.ops.mixture import Mixing, plainly
from dyncomp.ops.rows import is_channels_last

NUMBERS = (torch.float32, torch.float64)

Picks = tuple[bool, bool]
"""whether images have some of the input channels only, and need some of the outputs only"""
WHOLE: Picks = (False, False)


def able_to_make_code() -> bool:
    """Whether code can be generated on this machine at all; loads the code generator."""
    return codegen.this_machine() is not None and codegen.works()


def serves(x: Tensor, parameter: Tensor) -> bool:
    """Whether generated code can run on features x (B, C, H, W) at present; `parameter` is a parameter of the layer."""
    return serves_training(x, parameter) and not torch.is_grad_enabled()


def serves_training(x: Tensor, parameter: Tensor) -> bool:
    """As `serves`, for code that computes gradients itself."""
    if is_watched() or x.dim() != 4:  # first, so that a compiler does not trace the rest
        return False
    parameter = versioned(parameter)
    return x.dtype == parameter.dtype and can_read(parameter) and can_read_features(x)


def can_read_features(x: Tensor) -> bool:
    """Whether generated code may read features x (B, C, H, W) at present, provided it supports their dtype."""
    return (
        is_enabled()
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_neg()  # memory holds the negated numbers
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
    )


def can_read(parameter: Tensor | None) -> bool:
    """Whether generated code can read a parameter and changes of it are detected; True for None."""
    if parameter is None:
        return True
    parameter = versioned(parameter)
    return (
        parameter.dtype in NUMBERS
        and parameter.device.type == "cpu"
        and not parameter.is_inference()
        and not parameter.is_neg()
    )


@dataclass(frozen=True)
class GeneratedForm:
    """A form: each image of x (B, C, H, W), channels-last, convolved with its own mixed kernel."""

    plan: codegen.Plan
    code: codegen.Code

    def __call__(self, x: Tensor, mixing: Mixing) -> Tensor:
        """The output, (B, O, H', W')."""
        x = x.contiguous(memory_format=torch.channels_last)  # copies only if another batch of the same key chose it
        experts = packed_experts(self.plan, mixing.experts, mixing.shape)
        return self.by(x, mixing.weight, experts, mixing.bias, mixing.overhead)

    def by(
        self,
        x: Tensor,
        weight: Tensor,
        experts: Tensor,
        bias: Tensor | None = None,
        overhead: Callable[..., Any] = plainly,
    ) -> Tensor:
        """The output for channels-last x, mixing weights (B, K) and packed experts; bias (B, O).

        Raises ValueError where sizes or dtypes differ from those of the code.
        """
        plan, weight, count = self.plan, for_code(weight.contiguous()), torch.get_num_threads()
        self._check(x, weight, experts, bias)
        step = 0 if bias is None else plan.shape.outputs
        bias = zeros(plan.shape.outputs, x.dtype) if bias is None else for_code(bias.contiguous())
        y = new_output(x, len(x), plan.shape)
        own = scratch(OWN_KERNELS, x, count * plan.scratch)
        given = {
            Argument.X: x.data_ptr(),
            Argument.Y: y.data_ptr(),
            Argument.WEIGHTS: experts.data_ptr(),
            Argument.SHARES: weight.data_ptr(),
            Argument.BIAS: bias.data_ptr(),
            Argument.BIAS_STEP: step,
            Argument.SCRATCH: own.data_ptr(),
            Argument.IMAGES: len(x),
        }
        self.code.run(count, given, overhead)
        return y

    def _check(self, x: Tensor, weight: Tensor, experts: Tensor, bias: Tensor | None) -> None:
        """Raise ValueError unless all have the sizes and the dtype that the code was generated for."""
        plan, shape, dtype = self.plan, self.plan.shape, self.plan.number.dtype
        fits = x.shape[1:] == (shape.x_channels, *shape.size) and weight.shape == (len(x), plan.experts)
        fits = fits and (bias is None or bias.shape == (len(x), shape.outputs))
        fits = fits and experts.numel() == plan.experts * shape.outputs * plan.inputs
        alike = x.dtype == weight.dtype == experts.dtype == dtype and (bias is None or bias.dtype == dtype)
        if not fits or not alike:
            raise ValueError(
                f"code for images {(shape.x_channels, *shape.size)} and {plan.experts} experts in {dtype} was given "
                f"{tuple(x.shape)}, {tuple(weight.shape)} and {experts.numel()} numbers of experts in {x.dtype}"
            )


def keeps_layout(x: Tensor) -> bool:
    """Whether the channels-last output of generated code has the layout of features x."""
    return is_channels_last(x) or x.shape[2:].numel() == 1


def of_mixing(x: Tensor, mixing: Mixing, geometry: Geometry) -> GeneratedForm | None:
    """The form for features x; None where there is none at present."""
    if not keeps_layout(x) or not serves(x, mixing.experts):
        return None
    plan = plan_for(x.shape[1:], mixing.shape, geometry, x.dtype, len(mixing.experts))
    # generated now, since a trial would count code generation as run time
    return None if plan is None else GeneratedForm(plan, codegen.compiled(codegen.Convolution(plan)))


@cache
def plan_for(
    image: torch.Size, kernel: torch.Size, geometry: Geometry, dtype: torch.dtype, experts: int, picks: Picks = WHOLE
) -> codegen.Plan | None:
    """The plan of a convolution of images (C, H, W) by a kernel (O, C / groups, k, k); None where there can be no code.

    `experts`: number of kernels that are mixed for each image; 0 for one kernel for all images.
    """
    depthwise = geometry.groups == image[0] == kernel[0] and kernel[1] == 1 and geometry.groups > 1
    here = codegen.this_machine() if able_to_make_code() else None
    size, sides, g = (image[1], image[2]), (kernel[2], kernel[3]), geometry
    groups = 1 if depthwise else g.groups
    fits = depthwise or (kernel[1] * groups == image[0] and kernel[0] % groups == 0)
    if here is None or not fits or (experts and groups > 1) or (any(picks) and geometry.groups > 1):
        return None
    channels, outputs = image[0] // groups, kernel[0] // groups
    shape = codegen.Shape(channels, outputs, size, sides, g.stride, g.padding, g.dilation, depthwise, groups)
    return codegen.Plan(shape, codegen.Number(dtype), here, experts, *picks) if shape.can_be_cut else None


def packed_experts(plan: codegen.Plan, experts: Tensor, shape: torch.Size) -> Tensor:
    """Experts (K, O, N), each a kernel of that shape, in the operand layout of a plan's code."""
    return copied(experts, plan.layout_key, lambda all_: for_code(plan.packed(all_.view(len(all_), *shape))))


def new_output(x: Tensor, images: int, shape: codegen.Shape) -> Tensor:
    """Uninitialised channels-last memory for the outputs of `images` images, on the device and in the dtype of x."""
    return empty((images, shape.y_channels, *shape.output_size), x, memory_format=torch.channels_last)


@cache
def zeros(count: int, dtype: torch.dtype) -> Tensor:
    """Zeros (count,), one tensor shared by all calls."""
    with torch.inference_mode(False):
        return for_code(torch.zeros(count, dtype=dtype, device="cpu"))
