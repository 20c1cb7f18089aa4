"""Self-test: whether generated code computes correct results on this machine."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

from dyncomp.core.counter import uncounted
from dyncomp.fast.codegen.build import addresses, compiled
from dyncomp.fast.codegen.convolution import Convolution
from dyncomp.fast.codegen.emit import Number
from dyncomp.fast.codegen.machine import this_machine
from dyncomp.fast.codegen.piece import Argument
from dyncomp.fast.codegen.plan import Plan
from dyncomp.fast.codegen.shape import Shape


@cache
def works() -> bool:
    """Whether mixed convolutions agree with torch's; False where LLVM cannot compile them, at no cost but speed."""
    try:
        with uncounted(), torch.inference_mode(False), torch.no_grad():
            return all(_agrees(depthwise) for depthwise in (False, True))
    except (RuntimeError, AttributeError, TypeError):  # a version of llvmlite with another interface
        return False


def _agrees(depthwise: bool) -> bool:
    here, channels, experts = this_machine(), 5, 2
    assert here is not None  # the caller has checked
    draw = torch.Generator().manual_seed(0)
    shape = Shape(channels, channels, (6, 7), (3, 3), (2, 1), (1, 1), (1, 1), depthwise)
    plan = Plan(shape, Number(torch.float32), here, experts)
    floats: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # whatever torch's defaults are
    kernels = torch.randn(experts, channels, 1 if depthwise else channels, 3, 3, generator=draw, **floats)
    x = torch.randn(2, channels, 6, 7, generator=draw, **floats).contiguous(memory_format=torch.channels_last)
    shares = torch.rand(2, experts, generator=draw, **floats)
    y = torch.empty(2, channels, *shape.output_size, **floats, memory_format=torch.channels_last)
    weights, bias = plan.packed(kernels), torch.zeros(channels, **floats)
    scratch = torch.empty(plan.scratch, **floats)
    memory = {
        Argument.X: x,
        Argument.Y: y,
        Argument.WEIGHTS: weights,
        Argument.SHARES: shares,
        Argument.BIAS: bias,
        Argument.SCRATCH: scratch,
    }
    given = addresses(memory)
    compiled(Convolution(plan)).run(1, given | {Argument.IMAGES: len(x)})
    own = torch.einsum("bk,koihw->boihw", shares, kernels)
    groups = channels if depthwise else 1
    plain = [F.conv2d(x[i : i + 1], own[i], None, shape.stride, shape.padding, 1, groups) for i in range(2)]
    return torch.allclose(y, torch.cat(plain), rtol=1e-4, atol=1e-4)
