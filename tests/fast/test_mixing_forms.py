"""The forms that mix kernels tile by tile: against a plain convolution per image, by gradients, and in their memory."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from dyncomp.core.counter import MacCounter
from dyncomp.fast import codegen, disabled, scratch
from dyncomp.fast.mixing import chooser
from dyncomp.fast.mixing import onednn_packed as packed
from dyncomp.fast.mixing.forms import LARGE, Form
from dyncomp.fast.mixing.onednn_packed import Packed
from dyncomp.fast.mixing.tiled_products import Images, Pixels, Product, Tiled
from dyncomp.fast.mixing.tiles import mix, scalar_products, tiles
from dyncomp.fast.parameters import copies
from dyncomp.ops import kernels
from dyncomp.ops.experts import ExpertConv2d, ExpertLayer, ExpertLinear
from dyncomp.ops.mixture import Mix, Mixing, Mixture
from tests.ops.test_experts import (
    EXPERTS,
    GEOMETRIES,
    LAYOUTS,
    by_hand,
    every_geometry,
    expert_conv,
    features,
    weights,
)

TINY, HUGE = 1, 1 << 30  # bytes of a tile: one row of one image at a time, and everything at once
LIMITS = [TINY, 300, HUGE]


def forms_of(layer: ExpertLayer, x: Tensor, weight: Tensor) -> dict[str, tuple[Form, Mixing]]:
    layer.mixture.use(Mix(weight))
    mixing = layer.mixing(layer.mixture.mix)
    return {name: (form, mixing) for name, form in chooser.forms_of(layer, x, mixing).items()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 5])
@every_geometry
@torch.no_grad()
def test_every_form_that_can_run_is_a_plain_convolution_per_image(
    geometry: str, batch: int, layout: torch.memory_format
) -> None:
    layer, weight = expert_conv(geometry), weights(batch)
    x = features(geometry, batch).contiguous(memory_format=layout)
    wanted = by_hand(layer, geometry, x, weight)
    for name, (form, mixing) in forms_of(layer, x, weight).items():
        y = form(x, mixing)
        torch.testing.assert_close(y, wanted, rtol=0, atol=1e-10, msg=name)
        assert y.is_contiguous(memory_format=layout) or x.shape[1] == 1, name


@pytest.mark.skipif(codegen.this_machine() is None, reason="no machine code for this machine")
@every_geometry
def test_code_of_our_own_is_a_form_where_it_can_run(geometry: str) -> None:
    layer, x = expert_conv(geometry), features(geometry, 5).contiguous(memory_format=torch.channels_last)
    assert "generated" not in forms_of(layer, x, weights(5))  # it has no gradient
    with torch.no_grad():
        depthwise = layer.geometry.groups == x.shape[1] == layer.kernel_shape[0]
        padded = tuple(layer.kernel_shape[2:]) == (1, 1) and layer.geometry.padding != (0, 0)
        able = (layer.geometry.groups == 1 or depthwise) and not padded  # with rows that see nothing
        able = able and x.shape[1] > 1  # of a single channel nobody can tell how it lies
        assert ("generated" in forms_of(layer, x, weights(5))) == able
        with disabled():
            assert "generated" not in forms_of(layer, x, weights(5))
        with torch.inference_mode():
            assert "generated" not in forms_of(layer, x.float(), weights(5))  # of another type


@pytest.mark.skipif(codegen.this_machine() is None, reason="no machine code for this machine")
@torch.no_grad()
def test_a_form_that_was_chosen_runs_on_a_batch_that_lies_otherwise() -> None:
    layer, x = expert_conv("3x3"), features("3x3", 5)
    chosen = forms_of(layer, x.contiguous(memory_format=torch.channels_last), weights(5))["generated"]
    gaps = torch.cat([x, x], dim=1)[:, : x.shape[1]]
    torch.testing.assert_close(chosen[0](gaps, chosen[1]), by_hand(layer, "3x3", x, weights(5)), rtol=0, atol=1e-10)


@every_geometry
@torch.no_grad()
def test_small_maps_may_be_unfolded_and_large_ones_are_not(geometry: str) -> None:
    layer, x = expert_conv(geometry), features(geometry, 1)
    shape = layer.kernel_shape
    layer.mixture.use(Mix(weights(1)))
    numbers = layer(x).shape[2:].numel() * shape[1:].numel()
    assert kernels.unfolded_numbers(x, shape, layer.geometry) == numbers
    able = layer.geometry.groups == 1 and not kernels.is_pointwise(shape, layer.geometry)
    most = LARGE // (numbers * x.element_size())
    for images, small in ((1, True), (2 * most, False)):
        forms = forms_of(layer, x.expand(images, *x.shape[1:]), weights(1).expand(images, -1))
        assert ("unfolded" in forms) == (able and small)


def products(layer: ExpertConv2d, x: Tensor) -> Iterator[tuple[Product, Tensor]]:
    """Products of the layer, and what they take in place of x (B, C, H, W)."""
    yield Images(layer.geometry), x
    if tuple(layer.kernel_shape[2:]) == (1, 1) and layer.geometry.groups == 1:
        yield Pixels(), x.flatten(2).transpose(1, 2)  # (B, P, C)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("geometry", ["1x1 without bias", "3x3 without bias", "depthwise"])
def test_the_size_of_tiles_changes_neither_values_nor_gradients(geometry: str, limit: int) -> None:
    layer, plain, weight = expert_conv(geometry), features(geometry, 5), weights(5).requires_grad_()
    layer.bias = None
    kernel = torch.einsum("bk,kon->bon", weight, layer.weight)
    for product, x in products(layer, plain):
        x = x.detach().requires_grad_()
        wanted = x @ kernel.mT if isinstance(product, Pixels) else by_hand(layer, geometry, x, weight)
        ours = Tiled(product, limit)(x, Mixing(weight, layer.weight, layer.kernel_shape))
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-10)
        seen = torch.randn_like(wanted)
        given = (x, weight, layer.weight)
        for a, b in zip(*(torch.autograd.grad(y, given, seen) for y in (ours, wanted.clone())), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
        kernel = torch.einsum("bk,kon->bon", weight, layer.weight)  # its graph is gone


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("geometry", ["1x1 without bias", "3x3 strided", "depthwise strided"])
def test_tiled_forms_pass_gradcheck(geometry: str, limit: int) -> None:
    layer, x = expert_conv(geometry), features(geometry, 3, side=3)
    for product, given in products(layer, x):

        def run(x: Tensor, weight: Tensor, experts: Tensor, product: Product = product) -> Tensor:
            return Tiled(product, limit)(x, Mixing(weight, experts, layer.kernel_shape))

        inputs = (given.detach().requires_grad_(), weights(3).requires_grad_(), layer.weight)
        assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("held", ["x", "weight", "experts"])
@pytest.mark.parametrize("geometry", ["1x1 without bias", "3x3 without bias"])
def test_what_is_held_gets_no_gradient_and_the_rest_the_same(geometry: str, held: str) -> None:
    layer, plain = expert_conv(geometry), features(geometry, 5)
    for product, x in products(layer, plain):
        given = {"x": x.detach(), "weight": weights(5), "experts": layer.weight.detach()}
        mixing = Mixing(given["weight"], given["experts"], layer.kernel_shape)
        every = [t.requires_grad_() for t in given.values()]
        full = dict(zip(given, torch.autograd.grad(Tiled(product, HUGE)(given["x"], mixing).sum(), every), strict=True))
        given[held].requires_grad_(False)
        y = Tiled(product, TINY)(given["x"], mixing)
        rest = [name for name in given if name != held]
        for name, gradient in zip(rest, torch.autograd.grad(y.sum(), [given[n] for n in rest]), strict=True):
            torch.testing.assert_close(gradient, full[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("geometry", ["1x1", "3x3", "depthwise"])
def test_autocast_computes_in_its_type_and_learns_in_the_parameters(geometry: str) -> None:
    layer, x, weight = expert_conv(geometry).float(), features(geometry, 5).float(), weights(5).float()
    wanted = by_hand(layer, geometry, x, weight)
    (exact,) = torch.autograd.grad(wanted.square().sum(), layer.weight)
    for name, (form, mixing) in forms_of(layer, x, weight).items():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = form(x, mixing)
        (gradient,) = torch.autograd.grad(y.float().square().sum(), layer.weight)
        assert y.dtype == torch.bfloat16, name
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(y.float(), wanted, rtol=0.05, atol=0.05 * float(wanted.detach().std()))
        assert float((gradient - exact).norm() / exact.norm()) < 0.02, name


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [1, 5])
def test_linear_forms_agree_in_values_and_gradients(bias: bool, batch: int) -> None:
    layer = ExpertLinear(nn.Linear(6, 3, bias=bias), Mixture(EXPERTS, "kernels")).double()
    x, weight = torch.randn(batch, 6, dtype=torch.float64), weights(batch).requires_grad_()
    mixed = None if layer.bias is None else weight @ layer.bias
    wanted = torch.einsum("bk,koi,bi->bo", weight, layer.weight, x) + (0 if mixed is None else mixed)
    exact = torch.autograd.grad(wanted.square().sum(), (weight, layer.weight), retain_graph=True)
    for name, (form, mixing) in forms_of(layer, x, weight).items():
        y = form(x, mixing)
        torch.testing.assert_close(y, wanted, rtol=0, atol=1e-10, msg=name)
        found = torch.autograd.grad(y.square().sum(), (weight, layer.weight), retain_graph=True)
        for ours, theirs in zip(found, exact, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9, msg=name)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("images", "numbers"), [(1, 1 << 17), (1, (1 << 17) + 1), (1, 40), (3, 1 << 17)])
@torch.no_grad()
def test_mixing_is_a_matrix_product_however_it_is_cut(images: int, numbers: int) -> None:
    weight, experts = torch.rand(images, 4).double(), torch.randn(4, numbers).double()
    out = torch.empty(images, numbers).double()
    with MacCounter() as counter:
        mix(weight, experts, out)
    torch.testing.assert_close(out, weight @ experts, rtol=0, atol=1e-12)
    assert counter.total == images * 4 * numbers


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("numbers", [1 << 17, (1 << 17) + 1, 40])
def test_comparing_is_a_matrix_product_however_it_is_cut(numbers: int) -> None:
    kernels, experts = torch.randn(3, numbers).double(), torch.randn(4, numbers).double()
    torch.testing.assert_close(scalar_products(kernels, experts), kernels @ experts.T, rtol=0, atol=1e-9)


@pytest.mark.parametrize("batch", [1, 2, 5, 16])
@pytest.mark.parametrize("limit", [TINY, 4000, HUGE])
@pytest.mark.parametrize("split", [True, False])
def test_tiles_cover_every_image_and_output_once(batch: int, limit: int, split: bool) -> None:
    seen = torch.zeros(batch, 12)
    mixing = Mixing(weights(batch), torch.empty(EXPERTS, 12, 7), torch.Size((12, 7, 1, 1)))
    for images, outputs in tiles(mixing, limit, split):
        seen[images, outputs] += 1
    assert bool((seen == 1).all())


@every_geometry
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_every_form_executes_the_same_multiply_adds(geometry: str, batch: int, dtype: torch.dtype) -> None:
    layer, x, weight = expert_conv(geometry).to(dtype), features(geometry, batch).to(dtype), weights(batch).to(dtype)
    layer.bias = None  # mixed before any form
    x = x.contiguous(memory_format=torch.channels_last)
    counts = set()
    forms = forms_of(layer, x, weight)
    for form, mixing in forms.values():
        with MacCounter() as counter:
            form(x, mixing)
        counts.add(counter.total)
        assert not counter.uncounted
    y = by_hand(layer, geometry, x, weight)
    numbers = layer.weight[0].numel()
    assert counts == {batch * numbers * (EXPERTS + y.shape[2] * y.shape[3])}


@torch.no_grad()
def test_memory_is_used_again_and_does_not_grow_with_the_batch() -> None:
    layer = expert_conv("3x3 without bias")
    for batch in (1, 7, 64, 64):
        Tiled(Images(layer.geometry), 20_000)(
            features("3x3", batch), Mixing(weights(batch), layer.weight, layer.kernel_shape)
        )
    held = scratch.scratch("kernels", layer.weight, 1)
    assert held.data_ptr() == scratch.scratch("kernels", layer.weight, 1).data_ptr()
    assert held.untyped_storage().nbytes() >= 20_000 // layer.weight[0].nbytes * layer.weight[0].nbytes
    with torch.inference_mode():
        assert not scratch.scratch("made in inference mode", layer.weight, 3).is_inference()


def packing(geometry: str, batch: int, layer: ExpertConv2d | None = None) -> tuple[ExpertConv2d, Tensor, Tensor]:
    layer = layer or expert_conv(geometry).float()
    layer.mixture.use(Mix(weights(batch).float()))
    x = features(geometry, batch).float().contiguous(memory_format=torch.channels_last)
    return layer, x, layer.mixture.mix.weight


def packed_output(layer: ExpertConv2d, x: Tensor) -> Tensor:
    return Tiled(Packed(layer.geometry), 4000)(x, layer.mixing(layer.mixture.mix))


needs_packing = pytest.mark.skipif(not packed._works(), reason="this torch does not let kernels be packed")


@needs_packing
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("geometry", [name for name in GEOMETRIES if name not in ("grey", "1x1 padded")])
@torch.inference_mode()
def test_packed_kernels_are_a_plain_convolution_per_image(geometry: str, batch: int) -> None:
    with torch.inference_mode(False):
        layer, x, weight = packing(geometry, batch)
    assert packed.can_pack(x, layer.weight)
    y, wanted = packed_output(layer, x), by_hand(layer, geometry, x, weight)
    torch.testing.assert_close(y, wanted, rtol=0, atol=2e-5)
    assert y.is_contiguous(memory_format=torch.channels_last)


@needs_packing
@torch.no_grad()
def test_packed_experts_follow_their_parameter() -> None:
    layer, x, _ = packing("3x3 without bias", 5)
    other = copy.deepcopy(layer)
    other.mixture.use(layer.mixture.mix)
    before = packed_output(layer, x)
    layer.weight.mul_(2)
    torch.testing.assert_close(packed_output(layer, x), 2 * before)
    other.load_state_dict({"weight": 3 * other.weight})
    torch.testing.assert_close(packed_output(other, x), 3 * before)
    with torch.inference_mode():
        layer.weight.mul_(2)
        torch.testing.assert_close(packed_output(layer, x), 4 * before)
    layer.weight = nn.Parameter(layer.weight / 4)
    torch.testing.assert_close(packed_output(layer, x), before)
    third = copy.deepcopy(layer)
    third.mixture.use(layer.mixture.mix)
    torch.testing.assert_close(packed_output(third, x), before)
    assert set(layer.state_dict()) == {"weight"}


@needs_packing
def test_copies_go_with_their_parameter() -> None:
    layer, x, _ = packing("3x3 without bias", 5)
    with torch.no_grad():
        packed_output(layer, x)
        held = weakref.ref(layer.weight.copies)  # type: ignore[attr-defined]  # it is tracked
        packed_output(layer, x)
    assert held() is layer.weight.copies  # type: ignore[attr-defined]
    del layer
    assert held() is None


def test_copies_of_a_tensor_that_is_not_tracked_go_with_it_too() -> None:
    held, numbers = len(copies._copies), torch.ones(3)
    assert copies.copied(numbers, "twice", lambda all_: 2 * all_) is copies.copied(numbers, "twice", lambda all_: all_)
    assert len(copies._copies) == held + 1
    del numbers
    assert len(copies._copies) == held


@needs_packing
def test_nothing_is_packed_where_gradients_or_types_stand_in_the_way() -> None:
    layer, x, _ = packing("3x3 without bias", 5)
    assert not packed.can_pack(x, layer.weight)
    with torch.no_grad():
        assert packed.can_pack(x, layer.weight)
        assert not packed.can_pack(x.double(), layer.weight)
        assert not packed.can_pack(x.contiguous(), layer.weight)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not packed.can_pack(x, layer.weight)
    with torch.inference_mode():
        assert not packed.can_pack(x, layer.weight.clone())


def test_a_compiled_layer_gives_the_same() -> None:
    layer, x = expert_conv("3x3"), features("3x3", 5)
    layer.mixture.use(Mix(weights(5)))
    with torch.no_grad():
        compiled = torch.compile(layer, backend="eager")(x)
        torch.testing.assert_close(compiled, by_hand(layer, "3x3", x, weights(5)), rtol=0, atol=1e-10)
