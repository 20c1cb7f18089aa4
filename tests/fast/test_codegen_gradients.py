"""Gradients of kernels by machine code of our own, and the order kernels are brought into, against torch's autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dyncomp.fast import codegen
from dyncomp.fast.codegen import GradientArgument, GradientPlan, Number, Order, OrderArgument, Plan, Shape
from dyncomp.fast.codegen.gradient_plan import TOGETHER
from tests.fast.test_codegen import SHAPES, VECTORS, features, kernels, machine, plain

pytestmark = pytest.mark.skipif(codegen.this_machine() is None, reason="no machine code for this machine")


def exact(shape: Shape, x: Tensor, mixed: Tensor, shares: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of the experts and the shares, each image convolved with the sum of its shares of them."""
    experts, weight = mixed.clone().requires_grad_(), shares.clone().requires_grad_()
    own = torch.einsum("bk,koihw->boihw", weight, experts)
    none = torch.zeros(shape.outputs, dtype=x.dtype)
    y = torch.cat([plain(shape, x[i : i + 1], own[i], none) for i in range(len(x))])
    of_experts, of_shares = torch.autograd.grad(y, (experts, weight), grad)
    return of_experts, of_shares


def found(plan: GradientPlan, x: Tensor, mixed: Tensor, shares: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The same by the code, of the experts in the order in which they are packed."""
    threads, whole = torch.get_num_threads(), plan.plan
    packed, of_shares = whole.packed(mixed), shares.new_zeros(threads, *shares.shape, whole.lanes)
    of_packed, own = torch.full_like(packed, torch.nan), packed.new_full((threads * plan.scratch,), torch.nan)
    memory = {
        GradientArgument.X: x,
        GradientArgument.GRADIENT: grad,
        GradientArgument.SHARES: shares,
        GradientArgument.EXPERTS: packed,
        GradientArgument.OF_EXPERTS: of_packed,
        GradientArgument.OF_SHARES: of_shares,
        GradientArgument.SCRATCH: own,
    }
    given = codegen.addresses(memory)
    codegen.compiled(codegen.Gradient(plan)).run(threads, given | {GradientArgument.IMAGES: len(x)})
    return of_packed, of_shares.sum((0, 3))


def drawn(shape: Shape, images: int, experts: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, experts, shares, and the gradient of what comes out."""
    draw = torch.Generator().manual_seed(3)
    shares = torch.rand(images, experts, generator=draw, dtype=torch.float64)
    x, grad = features(images, shape.channels, *shape.size), features(images, shape.outputs, *shape.output_size, seed=5)
    return x, kernels(shape, experts), shares, grad


NARROW = ["3x3", "1x1", "3x3 strided", "taps in segments", "depthwise"]
MORE = TOGETHER + 5
"""images: a group, four, and one"""


@pytest.mark.parametrize(
    ("name", "experts", "vectors"),
    [*((name, 3, "wide") for name in SHAPES), *((name, 5, vectors) for name in NARROW for vectors in VECTORS)],
)
def test_gradients_of_kernels_are_autograds(name: str, experts: int, vectors: str) -> None:
    shape = SHAPES[name]
    plan = Plan(shape, Number(torch.float64), machine(vectors), experts)
    for images in (1, MORE):
        given = drawn(shape, images, experts)
        of_experts, of_shares = exact(shape, *given)
        ours, of_ours = found(GradientPlan(plan, torch.get_num_threads()), *given)
        torch.testing.assert_close(ours, plan.packed(of_experts), rtol=0, atol=1e-10)
        torch.testing.assert_close(of_ours, of_shares, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("name", NARROW)
def test_float32_is_as_exact_as_torchs(name: str) -> None:
    shape, experts = SHAPES[name], 3
    plan = Plan(shape, Number(torch.float32), machine("wide"), experts)
    given = drawn(shape, MORE, experts)
    ours, of_ours = found(GradientPlan(plan), *(tensor.float() for tensor in given))
    for one, other in zip((ours, of_ours), exact(shape, *given), strict=True):
        wanted = plan.packed(other) if one is ours else other
        terms = MORE * shape.output_size[0] * shape.output_size[1] if one is ours else shape.outputs * plan.inputs
        allowed = 4 * torch.finfo(torch.float32).eps * terms**0.5 * float(wanted.abs().max())
        assert float((one - wanted).abs().max()) <= allowed


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("name", NARROW)
def test_blocks_hold_every_weight_once_for_any_number_of_threads(name: str, threads: int) -> None:
    plan = Plan(SHAPES[name], Number(torch.float64), machine("wide"), 3)
    blocks = GradientPlan(plan, threads).blocks
    places = plan.shape.kernel[0] * GradientPlan(plan).steps
    covered = sum(alike * places * GradientPlan.of_image(block) for block, alike in blocks)
    assert covered == plan.shape.outputs * plan.inputs
    given = drawn(plan.shape, 3, 3)
    for one, other in zip(found(GradientPlan(plan, threads), *given), found(GradientPlan(plan), *given), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("vectors", VECTORS)
@pytest.mark.parametrize("name", SHAPES)
def test_kernels_are_brought_into_order_and_back(name: str, vectors: str) -> None:
    plan = Plan(SHAPES[name], Number(torch.float64), machine(vectors), 3)
    lying = kernels(plan.shape, 3)
    wanted, inputs = plan.packed(lying), plan.inputs_in_order
    packed, back = torch.full_like(wanted, torch.nan), torch.full_like(lying, torch.nan)
    for result, order in ((packed, Order(plan, plan.inputs)), (back, Order(plan, plan.inputs, back=True))):
        kernel = lying if result is packed else back
        memory = {OrderArgument.KERNELS: kernel, OrderArgument.PACKED: packed, OrderArgument.INPUTS: inputs}
        given = codegen.addresses(memory)
        codegen.compiled(order).run(torch.get_num_threads(), given)
    assert torch.equal(packed, wanted)
    assert torch.equal(back, lying)
