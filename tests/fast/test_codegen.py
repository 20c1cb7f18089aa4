"""Convolutions by machine code of our own, against torch's, spelled out image by image."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from math import ceil

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dyncomp.fast import codegen
from dyncomp.fast.codegen import Argument, Number, Plan, Shape
from dyncomp.fast.codegen.machine import Machine
from dyncomp.ops.rows import take

pytestmark = pytest.mark.skipif(codegen.this_machine() is None, reason="no machine code for this machine")

ONE, TWO = (1, 1), (2, 2)
SHAPES = {
    "3x3": Shape(5, 24, (9, 11), (3, 3), ONE, ONE, ONE),
    "3x3, both edges in a block": Shape(16, 32, (7, 7), (3, 3), ONE, ONE, ONE),
    "3x3 strided": Shape(6, 33, (7, 6), (3, 3), TWO, ONE, ONE),
    "3x3 without padding": Shape(6, 8, (7, 9), (3, 3), ONE, (0, 0), ONE),
    "3x5 with steps and gaps": Shape(5, 40, (13, 12), (3, 5), (2, 1), (2, 0), (1, 2)),
    "5x5, rows that see a part": Shape(3, 7, (3, 4), (5, 5), ONE, TWO, ONE),
    "1x1": Shape(16, 17, (14, 14), ONE, ONE, (0, 0), ONE),
    "1x1 of many channels": Shape(1100, 10, (2, 3), ONE, ONE, (0, 0), ONE),
    "1x1 of a prime number of channels": Shape(521, 3, (2, 2), ONE, ONE, (0, 0), ONE),
    "1x1 strided": Shape(6, 70, (5, 5), ONE, TWO, (0, 0), ONE),
    "taps in segments": Shape(520, 8, (4, 4), (3, 3), ONE, ONE, ONE),
    "2x2": Shape(6, 9, (6, 5), TWO, ONE, ONE, ONE),
    "4x4 strided, padded to one side's reach": Shape(3, 16, (9, 4), (4, 4), TWO, TWO, ONE),
    "narrower than the kernel": Shape(4, 8, (9, 2), (3, 5), ONE, (1, 2), ONE),
    "a single pixel": Shape(8, 1, ONE, (3, 3), ONE, ONE, ONE),
    "depthwise": Shape(40, 40, (14, 15), (3, 3), ONE, ONE, ONE, True),
    "depthwise 5x5 strided": Shape(17, 17, (9, 30), (5, 5), TWO, TWO, ONE, True),
    "depthwise with gaps": Shape(64, 64, (7, 7), (3, 3), (2, 1), TWO, TWO, True),
}
VECTORS = {"wide": (64, 32), "half": (32, 16), "quarter": (16, 32)}
"""bytes and number of vectors"""


def features(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=draw, dtype=torch.float64)
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def kernels(shape: Shape, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    channels = 1 if shape.depthwise else shape.channels
    drawn = torch.randn(count, shape.outputs, channels, *shape.kernel, generator=draw, dtype=torch.float64)
    return drawn.to(dtype)


def plain(shape: Shape, x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    groups = shape.channels if shape.depthwise else 1
    return F.conv2d(x, kernel, bias, shape.stride, shape.padding, shape.dilation, groups)


@cache
def machine(name: str) -> Machine:
    here = codegen.this_machine()
    assert here is not None
    size, count = VECTORS[name]
    return replace(here, vector_bytes=size, registers=count)  # LLVM cuts vectors that are too wide for here


def run(plan: Plan, x: Tensor, weights: Tensor, bias: Tensor, **rest: Tensor | bool) -> Tensor:
    """The output: in `y` where it is given, else new memory that was no number before."""
    rows = [rest.get(name) for name in ("rows_x", "rows_y", "rows_residual")]
    images = next((len(listed) for listed in rows if isinstance(listed, Tensor)), len(x))
    y = rest.get("y")
    if not isinstance(y, Tensor):
        y = features(images, plan.shape.outputs, *plan.shape.output_size, dtype=x.dtype).fill_(torch.nan)
    scratch = torch.empty(torch.get_num_threads() * plan.scratch, dtype=x.dtype)
    packed, step = plan.packed(weights), bias.shape[1] if bias.dim() == 2 else 0

    memory = {**rest, "x": x, "y": y, "weights": packed, "bias": bias, "scratch": scratch}
    given = {Argument[name.upper()]: value.data_ptr() for name, value in memory.items() if isinstance(value, Tensor)}
    given |= {Argument.BIAS_STEP: step, Argument.IMAGES: images, Argument.RELU: int(bool(rest.get("relu")))}
    codegen.compiled(codegen.Convolution(plan)).run(torch.get_num_threads(), given)
    return y


@pytest.mark.parametrize("vectors", VECTORS)
@pytest.mark.parametrize("name", SHAPES)
def test_one_kernel_for_all_is_a_plain_convolution(name: str, vectors: str) -> None:
    shape, dtype = SHAPES[name], torch.float64
    plan, (kernel,) = Plan(shape, Number(dtype), machine(vectors), experts=0), kernels(shape, 1)
    bias = torch.randn(shape.outputs, dtype=dtype)
    for images in (1, 5):
        x, residual = features(images, shape.channels, *shape.size), features(images, shape.outputs, *shape.output_size)
        wanted = plain(shape, x, kernel, bias)
        torch.testing.assert_close(run(plan, x, kernel, bias), wanted, rtol=0, atol=1e-11)
        ours = run(plan, x, kernel, bias, residual=residual, relu=True)
        torch.testing.assert_close(ours, (wanted + residual).relu(), rtol=0, atol=1e-11)


NARROW = ["3x3", "1x1", "taps in segments", "depthwise"]


@pytest.mark.parametrize(
    ("name", "experts", "vectors"),
    [*((name, 3, "wide") for name in SHAPES), *((name, experts, "half") for name in NARROW for experts in (1, 2))],
)
def test_mixed_kernels_are_a_plain_convolution_per_image(name: str, experts: int, vectors: str) -> None:
    shape = SHAPES[name]
    plan, mixed = Plan(shape, Number(torch.float64), machine(vectors), experts), kernels(shape, experts)
    for images in (1, 7):
        x, draw = features(images, shape.channels, *shape.size), torch.Generator().manual_seed(3)
        shares = torch.rand(images, experts, generator=draw, dtype=torch.float64)
        bias = torch.randn(images, shape.outputs, generator=draw, dtype=torch.float64)
        each = [torch.einsum("k,koihw->oihw", share, mixed) for share in shares]
        wanted = [plain(shape, x[i : i + 1], each[i], bias[i]) for i in range(images)]
        ours = run(plan, x, mixed, bias, shares=shares)
        torch.testing.assert_close(ours, torch.cat(wanted), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("experts", [0, 3])
def test_float32_is_as_exact_as_torchs(name: str, experts: int) -> None:
    shape = SHAPES[name]
    plan = Plan(shape, Number(torch.float32), machine("wide"), experts)
    x, weights = features(3, shape.channels, *shape.size, dtype=torch.float32), kernels(shape, max(1, experts))
    shares, bias = torch.rand(3, max(1, experts)), torch.zeros(shape.outputs)
    mixed = torch.einsum("bk,koihw->boihw", shares.double() if experts else torch.ones(3, 1).double(), weights)
    exact = torch.cat([plain(shape, x[i : i + 1].double(), mixed[i], bias.double()) for i in range(3)])
    ours = run(plan, x, weights.float(), bias, shares=shares)
    allowed = 4 * torch.finfo(torch.float32).eps * plan.inputs**0.5 * float(exact.abs().max())
    assert float((ours - exact).abs().max()) <= allowed


def drawn(images: int, channels: int, counts: list[int], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """So many channels used of each image, (images, channels) of 0 and 1, their order, used ones first, the counts."""
    draw, used = torch.Generator().manual_seed(seed), torch.zeros(images, channels)
    for row, count in zip(used, counts, strict=True):
        row[torch.randperm(channels, generator=draw)[:count]] = 1
    return used, used.argsort(dim=1, descending=True, stable=True), torch.tensor(counts)


@pytest.mark.parametrize(("picks_inputs", "picks_outputs"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize(
    ("name", "vectors"),
    [*((name, "wide") for name in SHAPES if not SHAPES[name].depthwise), *((name, "half") for name in NARROW[:3])],
)
def test_each_image_has_and_wants_channels_of_its_own(
    name: str, picks_inputs: bool, picks_outputs: bool, vectors: str
) -> None:
    shape, dtype = SHAPES[name], torch.float64
    plan = Plan(shape, Number(dtype), machine(vectors), 0, picks_inputs, picks_outputs)
    (kernel,), bias = kernels(shape, 1), torch.randn(shape.outputs, dtype=dtype)
    shares = [0.5, 1.0, 0.01, 0.7, 0.3]
    for images in (1, 5):
        x, residual = features(images, shape.channels, *shape.size), features(images, shape.outputs, *shape.output_size)
        given: dict[str, Tensor] = {"residual": residual}
        wanted = torch.ones(images, shape.outputs)
        if picks_inputs:
            used, order, counts = drawn(images, shape.channels, [ceil(n * shape.channels) for n in shares[:images]], 1)
            x = x * used[:, :, None, None]
            given |= {"inputs": order, "input_counts": counts}
        convolved = plain(shape, x, kernel, bias)
        if picks_inputs:
            x = x.take_along_dim(order[:, :, None, None], 1).contiguous(memory_format=torch.channels_last)
        if picks_outputs:
            wanted, order, counts = drawn(images, shape.outputs, [ceil(n * shape.outputs) for n in shares[:images]], 2)
            given |= {"outputs": order, "output_counts": counts}
            convolved = (convolved * wanted[:, :, None, None]).take_along_dim(order[:, :, None, None], 1)
            wanted = wanted.take_along_dim(order, 1)
            given["residual"] = residual * wanted[:, :, None, None]
        own = bias.expand(images, -1)
        own = (own.take_along_dim(order, 1) * wanted if picks_outputs else own).contiguous()
        ours = run(plan, x, kernel, own, **given, relu=True)
        torch.testing.assert_close(ours, (convolved + given["residual"]).relu(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["3x3", "1x1", "depthwise"])
def test_images_are_read_and_written_where_they_lie(name: str) -> None:
    shape = SHAPES[name]
    plan = Plan(shape, Number(torch.float64), machine("quarter"), experts=0)
    x, (kernel,) = features(6, shape.channels, *shape.size), kernels(shape, 1)
    before, bias = (
        features(6, shape.outputs, *shape.output_size, seed=2),
        torch.zeros(shape.outputs, dtype=torch.float64),
    )
    rows = torch.tensor([4, 1, 5])
    wanted = before.clone()
    wanted[rows] = (plain(shape, take(x, rows), kernel, bias) + before[rows]).relu()
    y = before.clone(memory_format=torch.channels_last)
    run(plan, x, kernel, bias, residual=y, relu=True, rows_x=rows, rows_y=rows, rows_residual=rows, y=y)
    torch.testing.assert_close(y, wanted, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("name", "experts"), [*product(["3x3", "1x1", "depthwise", "1x1 of many channels"], [0, 2])])
def test_neither_threads_nor_other_images_change_a_bit(name: str, experts: int) -> None:
    shape, before = SHAPES[name], torch.get_num_threads()
    plan = Plan(shape, Number(torch.float64), machine("quarter"), experts)
    x, weights = features(5, shape.channels, *shape.size), kernels(shape, max(1, experts))
    shares, bias = torch.rand(5, 2, dtype=torch.float64), torch.randn(shape.outputs, dtype=torch.float64)
    together = run(plan, x, weights, bias, shares=shares)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(run(plan, x, weights, bias, shares=shares), together)
            for i in range(5):
                alone = run(plan, x[i : i + 1], weights, bias, shares=shares[i : i + 1].contiguous())
                assert torch.equal(alone, together[i : i + 1])
    finally:
        torch.set_num_threads(before)


def test_no_images_are_no_work() -> None:
    shape = SHAPES["3x3"]
    plan = Plan(shape, Number(torch.float64), machine("quarter"), experts=0)
    codegen.compiled(codegen.Convolution(plan)).run(torch.get_num_threads(), {Argument.IMAGES: 0})


def test_what_is_no_number_stays_so() -> None:
    shape = SHAPES["3x3"]
    plan = Plan(shape, Number(torch.float64), machine("quarter"), experts=0)
    x, (kernel,) = features(1, shape.channels, *shape.size).fill_(torch.nan), kernels(shape, 1)
    assert bool(run(plan, x, kernel, torch.zeros(shape.outputs, dtype=torch.float64), relu=True).isnan().all())


def test_shapes_that_compute_nothing_are_left_to_torch() -> None:
    assert not Shape(4, 4, (3, 3), (5, 5), ONE, (0, 0), ONE).can_be_cut  # no place for the kernel
    assert not Shape(4, 4, (1, 1), (1, 1), ONE, (3, 3), ONE).can_be_cut  # rows of the output that see nothing
    assert Shape(4, 4, (3, 3), (3, 3), ONE, ONE, ONE).can_be_cut
    assert codegen.works()
