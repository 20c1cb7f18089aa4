"""Products by oneDNN: against torch's own, in every form that uses them, and left alone where they cannot be used."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from dyncomp.fast.mixing import onednn, tiles
from dyncomp.fast.mixing import tiled_products as products
from dyncomp.fast.mixing.chooser import forms_of
from dyncomp.fast.mixing.onednn_products import Matrices, can_multiply
from dyncomp.fast.mixing.tiled_products import Gradients, Tiled
from dyncomp.ops.experts import ExpertConv2d
from dyncomp.ops.mixture import Mix, Mixing
from tests.ops.test_experts import by_hand, expert_conv, features, weights

pytestmark = pytest.mark.skipif(not onednn._works(), reason="this torch does not multiply by oneDNN so")


def single(geometry: str, batch: int) -> tuple[ExpertConv2d, Tensor, Tensor]:
    """A layer in float32, features and mixing weights."""
    layer = expert_conv(geometry).float()
    layer.mixture.use(Mix(weights(batch).float()))
    return layer, features(geometry, batch).float(), layer.mixture.mix.weight


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_product_is_that_of_torch(bias: bool) -> None:
    x, matrix, shift = torch.randn(7, 5), torch.randn(3, 5), torch.randn(3) if bias else None
    wanted = torch.nn.functional.linear(x, matrix, shift)
    for same in (matrix, matrix.t().contiguous().t()):
        torch.testing.assert_close(onednn.linear(x, same, shift), wanted)


@pytest.mark.parametrize("images", [1, 2, 5])
@torch.no_grad()
def test_all_ways_to_mix_give_the_same(images: int) -> None:
    weight, experts = torch.rand(images, 3), torch.randn(3, 40)
    for mixed in (tiles.mixed, tiles._mixed_in_place, tiles._mixed_by_onednn):
        torch.testing.assert_close(mixed(weight, experts), weight @ experts)
    torch.testing.assert_close(tiles.mixed(weight, experts[:, :20]), weight @ experts[:, :20])  # with gaps


@pytest.mark.parametrize("turned", ["neither", "left", "right"])
@pytest.mark.parametrize("gaps", [False, True])
@torch.no_grad()
def test_all_ways_to_multiply_a_batch_give_the_same(turned: str, gaps: bool) -> None:
    left = torch.randn(2, 6, 4).mT if turned == "left" else torch.randn(2, 4, 6)
    right = torch.randn(2, 3, 6).mT if turned == "right" else torch.randn(2, 6, 3)
    for multiply in (products._multiply, products._multiply_together, products._multiply_by_onednn):
        out = torch.zeros(2, 4, 5)[:, :, 1:4] if gaps else torch.zeros(2, 4, 3)
        multiply(left, right, out)
        torch.testing.assert_close(out, left @ right)


@pytest.mark.parametrize("limit", [1, 3000, 1 << 20])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("geometry", ["1x1", "1x1 without bias"])
@torch.inference_mode()
def test_the_form_is_a_plain_convolution_per_image(geometry: str, batch: int, limit: int) -> None:
    with torch.inference_mode(False):
        layer, x, weight = single(geometry, batch)
    wanted = by_hand(layer, geometry, x, weight).flatten(2).mT  # (B, P, O)
    ours = Tiled(Matrices(), limit)(x.flatten(2).mT, layer.mixing(layer.mixture.mix))
    torch.testing.assert_close(ours, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("geometry", ["1x1", "3x3 without bias"])
@torch.no_grad()
def test_layers_have_the_form_and_it_is_right(geometry: str) -> None:
    layer, x, weight = single(geometry, 5)
    mixing = layer.mixing(layer.mixture.mix)
    forms = {name: form for name, form in forms_of(layer, x, mixing).items() if "matrices" in name}
    assert len(forms) == 1
    for form in forms.values():
        torch.testing.assert_close(form(x, mixing), by_hand(layer, geometry, x, weight), rtol=0, atol=2e-5)


@torch.no_grad()
def test_its_copies_of_the_experts_follow_their_parameter() -> None:
    layer, plain, _ = single("1x1 without bias", 5)
    form, x = Tiled(Matrices(), 1000), plain.flatten(2).mT
    before = form(x, layer.mixing(layer.mixture.mix))
    other = copy.deepcopy(layer)
    layer.weight.mul_(2)
    torch.testing.assert_close(form(x, layer.mixing(layer.mixture.mix)), 2 * before)
    torch.testing.assert_close(form(x, other.mixing(layer.mixture.mix)), before)


def test_nothing_is_multiplied_so_where_gradients_or_types_stand_in_the_way() -> None:
    layer, x, _ = single("1x1", 5)
    assert not can_multiply(x, layer.weight)
    with torch.no_grad():
        assert can_multiply(x, layer.weight)
        assert not can_multiply(x.double(), layer.weight)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not can_multiply(x, layer.weight)
    with torch.inference_mode():
        assert not can_multiply(x, layer.weight.clone())


def test_it_is_not_for_training() -> None:
    layer, x, weight = single("1x1", 2)
    mixing = Mixing(weight, layer.weight, layer.kernel_shape)
    with pytest.raises(RuntimeError, match="another form"):
        Matrices().backward(x, x, Gradients(x, mixing, (True, True, True)), 1)
