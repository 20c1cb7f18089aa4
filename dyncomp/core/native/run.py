"""Runs a convolution's machine code on tensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dyncomp.core.native.convolution import convolution, scratch_numbers
from dyncomp.core.native.emit import Number
from dyncomp.core.native.machine import machine
from dyncomp.core.native.plan import Plan, Shape


@dataclass(frozen=True)
class Operands:
    """What a convolution reads and writes; feature maps (B, C, H, W) lie channels-last.

    `weights` as `Plan.packed` gives them; `bias` (O,), or (images, O), each image's own; `shares` (images, experts).
    `residual` is added before `relu`. `rows` (images,) of x, y and residual say where each image lies in them: without
    them one lies after the other. y may be the residual.
    """

    x: Tensor
    y: Tensor
    weights: Tensor
    bias: Tensor | None = None
    shares: Tensor | None = None
    residual: Tensor | None = None
    relu: bool = False
    rows_x: Tensor | None = None
    rows_y: Tensor | None = None
    rows_residual: Tensor | None = None


def run(plan: Plan, operands: Operands, scratch: Tensor) -> None:
    """Convolve; `scratch` has `scratch_numbers` of the type of x."""
    o = operands
    bias = _zeros(plan) if o.bias is None else o.bias
    rows = next((rows for rows in (o.rows_x, o.rows_y, o.rows_residual) if rows is not None), None)
    convolution(plan).run(
        o.x.data_ptr(),
        o.y.data_ptr(),
        o.weights.data_ptr(),
        _address(o.shares),
        bias.data_ptr(),
        bias.shape[1] if bias.dim() == 2 else 0,
        _address(o.residual),
        scratch.data_ptr(),
        len(o.x if rows is None else rows),
        _address(o.rows_x),
        _address(o.rows_y),
        _address(o.rows_residual),
        int(o.relu),
    )


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


@cache
def _zeros(plan: Plan) -> Tensor:
    with torch.inference_mode(False):
        return torch.zeros(plan.shape.outputs, dtype=plan.number.dtype)


@cache
def works() -> bool:
    """Whether machine code made here computes what it should: tried on small convolutions of each kind."""
    with torch.inference_mode(False), torch.no_grad():
        return all(_agrees(depthwise, experts) for depthwise in (False, True) for experts in (0, 2))


def _agrees(depthwise: bool, experts: int) -> bool:
    here, channels = machine(), 5
    assert here is not None  # asked before
    draw = torch.Generator().manual_seed(0)
    shape = Shape(channels, channels, (6, 7), (3, 3), (2, 1), (1, 1), (1, 1), depthwise)
    plan = Plan(shape, Number(torch.float32), here, experts)
    kernels = torch.randn(max(1, experts), channels, 1 if depthwise else channels, 3, 3, generator=draw)
    x = torch.randn(2, channels, 6, 7, generator=draw).contiguous(memory_format=torch.channels_last)
    shares = torch.rand(2, experts, generator=draw)
    y = torch.empty(2, channels, *shape.places, memory_format=torch.channels_last)
    run(plan, Operands(x, y, plan.packed(kernels), shares=shares), torch.empty(scratch_numbers(plan, _threads())))
    own = torch.einsum("bk,koihw->boihw", shares, kernels) if experts else kernels.expand(2, -1, -1, -1, -1)
    groups = channels if depthwise else 1
    plain = [F.conv2d(x[i : i + 1], own[i], None, shape.stride, shape.padding, 1, groups) for i in range(2)]
    return torch.allclose(y, torch.cat(plain), rtol=1e-4, atol=1e-4)


def _threads() -> int:
    return torch.get_num_threads()
