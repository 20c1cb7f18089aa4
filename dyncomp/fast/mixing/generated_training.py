"""Convolutions by generated code whose kernels are mixed for each image, with gradients.

Neither mixed kernels nor their gradients are ever written to memory as a whole, forward or backward: the gradients of a
few images' few weights are added to those of the experts while they are in cache. Strides above 1 are left to other
forms: with them the gradient of x is no convolution of the gradient of y.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dyncomp.fast import codegen
from dyncomp.fast.codegen import GradientArgument, OrderArgument, addresses
from dyncomp.fast.memory import empty, for_code
from dyncomp.fast.mixing.generated import GeneratedForm, keeps_layout, plan_for, serves_training
from dyncomp.fast.scratch import scratch
from dyncomp.fast.tuning import takes_turns
from dyncomp.ops.kernels import Geometry, output_size
from dyncomp.ops.mixture import Mixing

_WORTH = 20_000_000
"""multiply-adds of a batch; code for fewer takes longer to generate than it saves in an epoch"""


@dataclass(frozen=True, eq=False)
class Packing:
    """Packs experts (K, O, N) into the operand layout of a plan's code, and unpacks gradients from it."""

    there: codegen.Code
    back: codegen.Code
    inputs: Tensor
    numbers: int
    """of all experts together"""

    def pack(self, experts: Tensor, purpose: str) -> Tensor:
        """The packed experts, in a scratch buffer that the next call with this purpose overwrites."""
        packed = scratch(purpose, experts, experts.numel())
        self._run(self.there, experts.contiguous(), packed)
        return packed

    def unpack(self, packed: Tensor, like: Tensor) -> Tensor:
        """The unpacked numbers, in the shape and order of the experts `like`."""
        kernels = empty(like.shape, like)
        self._run(self.back, kernels, packed)
        return kernels

    def _run(self, code: codegen.Code, kernels: Tensor, packed: Tensor) -> None:
        if kernels.numel() != self.numbers or packed.numel() != self.numbers:
            raise ValueError(f"{kernels.numel()} numbers of experts where the code was made for {self.numbers}")
        memory = {OrderArgument.KERNELS: kernels, OrderArgument.PACKED: packed, OrderArgument.INPUTS: self.inputs}
        code.run(torch.get_num_threads(), addresses(memory))


@dataclass(frozen=True, eq=False)
class GeneratedTrainingForm:
    """A form: each image of x (B, C, H, W), channels-last, convolved with its own mixed kernel; differentiable once."""

    forward: GeneratedForm
    packing: Packing
    backward: GeneratedForm
    """from the gradient of y to that of x: a convolution by the flipped kernels"""
    turned: Packing
    gradient_plan: codegen.GradientPlan
    gradient: codegen.Code

    def __call__(self, x: Tensor, mixing: Mixing) -> Tensor:
        """The output, (B, O, H', W')."""
        y: Tensor = _Recorded.apply(x, mixing.weight.to(x.dtype), mixing.experts, self)
        return y if mixing.bias is None else y + mixing.bias[:, :, None, None].to(y.dtype)

    def of_kernels(self, x: Tensor, grad: Tensor, weight: Tensor, experts: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of weight (B, K) and experts (K, O, N) from `grad`, the gradient of y; x and it are channels-last.

        Raises ValueError where sizes differ from those of the code.
        """
        plan, threads, shape = self.gradient_plan, torch.get_num_threads(), self.forward.plan.shape
        sizes = x.shape[1:], grad.shape, weight.shape
        if sizes != (
            (shape.x_channels, *shape.size),
            (len(x), shape.y_channels, *shape.output_size),
            (len(x), len(experts)),
        ):
            raise ValueError(f"gradients {tuple(grad.shape)} of images {tuple(x.shape)}, weights {tuple(weight.shape)}")
        packed = self.packing.pack(experts, "packed experts")
        of_packed = scratch("gradient of packed experts", experts, experts.numel())
        of_weight = empty((threads, *weight.shape, self.forward.plan.lanes), weight).zero_()  # (threads, B, K, lanes)
        own = scratch("gradients", x, threads * plan.scratch)
        shares = for_code(weight.contiguous())
        memory = {
            GradientArgument.X: x,
            GradientArgument.GRADIENT: grad,
            GradientArgument.SHARES: shares,
            GradientArgument.EXPERTS: packed,
            GradientArgument.OF_EXPERTS: of_packed,
            GradientArgument.OF_SHARES: of_weight,
            GradientArgument.SCRATCH: own,
        }
        given = addresses(memory)
        self.gradient.run(threads, given | {GradientArgument.IMAGES: len(x)})
        return of_weight.sum((0, 3)), self.packing.unpack(of_packed, experts)


class _Recorded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, experts: Tensor, form: GeneratedTrainingForm) -> Tensor:
        x = for_code(x.contiguous(memory_format=torch.channels_last))
        ctx.save_for_backward(x, weight, experts)
        ctx.form = form
        return form.forward.by(x, weight, form.packing.pack(experts, "packed experts"))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, experts = ctx.saved_tensors
        # saved-tensor hooks may return x in another layout
        x, grad = (for_code(t.resolve_neg().contiguous(memory_format=torch.channels_last)) for t in (x, grad))
        form = ctx.form
        of_x = of_weight = of_experts = None
        if ctx.needs_input_grad[0]:
            of_x = form.backward.by(grad, weight, form.turned.pack(experts, "packed experts"))
        if any(ctx.needs_input_grad[1:3]):
            of_weight, of_experts = form.of_kernels(x, grad, weight, experts)
        return of_x, of_weight, of_experts, None


def of_training(x: Tensor, mixing: Mixing, geometry: Geometry) -> GeneratedTrainingForm | None:
    """The form for features x; None where there is none at present, or too little work for it to pay."""
    if not keeps_layout(x) or not serves_training(x, mixing.experts) or not torch.is_grad_enabled():
        return None
    if not takes_turns():
        height, width = output_size(x, mixing.shape, geometry)
        if len(x) * height * width * mixing.experts.shape[1:].numel() < _WORTH:
            return None
    return _form(x.shape[1:], mixing.shape, geometry, x.dtype, len(mixing.experts), torch.get_num_threads())


@cache
def _form(
    image: torch.Size, kernel: torch.Size, geometry: Geometry, dtype: torch.dtype, experts: int, threads: int
) -> GeneratedTrainingForm | None:
    plan, g = plan_for(image, kernel, geometry, dtype, experts), geometry
    padding = [far * (side - 1) - pad for far, side, pad in zip(g.dilation, kernel[2:], g.padding, strict=True)]
    if plan is None or g.stride != (1, 1) or min(padding) < 0:
        return None
    # the convolution that maps the gradient of y to that of x, by flipped kernels
    turned = torch.Size((image[0], kernel[0] // g.groups, *kernel[2:]))
    around = Geometry((1, 1), (padding[0], padding[1]), g.dilation, g.groups)
    back = plan_for(torch.Size((kernel[0], *plan.shape.output_size)), turned, around, dtype, experts)
    if back is None:
        return None
    taps, which, gradient = kernel[2] * kernel[3], back.inputs_in_order, codegen.GradientPlan(plan, threads)
    inputs = which // taps * image[0] * taps + (taps - 1 - which % taps)  # positions in the kernel that is not flipped
    return GeneratedTrainingForm(
        GeneratedForm(plan, codegen.compiled(codegen.Convolution(plan))),
        _packing(plan, plan.inputs, plan.inputs_in_order),
        GeneratedForm(back, codegen.compiled(codegen.Convolution(back))),
        _packing(back, taps, inputs),
        gradient,
        codegen.compiled(codegen.Gradient(gradient)),
    )


def _packing(plan: codegen.Plan, apart: int, inputs: Tensor) -> Packing:
    there, back = (codegen.compiled(codegen.Order(plan, apart, back)) for back in (False, True))
    return Packing(there, back, for_code(inputs), plan.experts * plan.shape.outputs * plan.inputs)
