"""Layers with experts: against a plain convolution per image, against a peer's layer, and by their gradients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyncomp.errors import CannotAttach
from dyncomp.ops import Mixed, Router, kernels
from dyncomp.ops.experts import ExpertConv2d, ExpertLayer, ExpertLinear
from dyncomp.ops.mixture import Mix, Mixture
from tests.small import C, images, network

EXPERTS = 4
LAYOUTS = [torch.contiguous_format, torch.channels_last]
# name, channels in and out, and the convolution's own arguments
GEOMETRIES = {
    "1x1": (8, 12, {"kernel_size": 1}),
    "1x1 without bias": (8, 12, {"kernel_size": 1, "bias": False}),
    "1x1 strided": (8, 12, {"kernel_size": 1, "stride": 2, "bias": False}),
    "1x1 grouped": (8, 12, {"kernel_size": 1, "groups": 4}),
    "1x1 padded": (8, 12, {"kernel_size": 1, "padding": 1}),
    "3x3": (8, 12, {"kernel_size": 3, "padding": 1}),
    "3x3 without bias": (8, 12, {"kernel_size": 3, "padding": 1, "bias": False}),
    "3x3 strided": (8, 12, {"kernel_size": 3, "padding": 1, "stride": 2, "bias": False}),
    "depthwise": (8, 8, {"kernel_size": 3, "padding": 1, "groups": 8, "bias": False}),
    "depthwise strided": (8, 8, {"kernel_size": 5, "padding": 2, "groups": 8, "stride": 2}),
    "grouped": (8, 12, {"kernel_size": 3, "padding": 1, "groups": 4}),
    "dilated": (8, 12, {"kernel_size": 3, "padding": 2, "dilation": 2}),
    "oblong": (8, 12, {"kernel_size": (1, 3), "padding": (0, 1), "stride": (2, 1)}),
    "grey": (1, 12, {"kernel_size": 3, "padding": 1}),
}
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES)


def expert_conv(geometry: str, mode: str = "kernels") -> ExpertConv2d:
    torch.manual_seed(0)
    inputs, outputs, options = GEOMETRIES[geometry]
    return ExpertConv2d(nn.Conv2d(inputs, outputs, **options), Mixture(EXPERTS, mode)).double()


def features(geometry: str, batch: int, side: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, GEOMETRIES[geometry][0], side, side, generator=generator, dtype=torch.float64)


def weights(batch: int) -> Tensor:
    return torch.rand(batch, EXPERTS, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def by_hand(layer: ExpertConv2d, geometry: str, x: Tensor, weight: Tensor) -> Tensor:
    """Image by image: sum the kernels, then one plain convolution."""
    options = {k: v for k, v in GEOMETRIES[geometry][2].items() if k not in ("kernel_size", "bias")}
    outputs = []
    for image, share in zip(x, weight, strict=True):
        kernel = sum(share[k] * layer.kernel(k) for k in range(EXPERTS))
        bias = None if layer.bias is None else sum(share[k] * layer.bias[k] for k in range(EXPERTS))
        outputs.append(F.conv2d(image[None], kernel, bias, **options))
    return torch.cat(outputs)


def forms_of(layer: ExpertConv2d, batch: int) -> list[str]:
    return list(kernels.forms(layer.kernel(0).expand(batch, *layer.kernel_shape), layer.geometry))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 5])
@every_geometry
@torch.no_grad()
def test_every_form_is_a_plain_convolution_per_image(geometry: str, batch: int, layout: torch.memory_format) -> None:
    layer, weight = expert_conv(geometry), weights(batch)
    x = features(geometry, batch).contiguous(memory_format=layout)
    wanted = by_hand(layer, geometry, x, weight)
    kernel = torch.einsum("bk,k...->b...", weight, layer.weight).view(batch, *layer.kernel_shape)
    bias = None if layer.bias is None else weight @ layer.bias
    for name, form in kernels.forms(kernel, layer.geometry).items():
        y = form(x, kernel, bias, layer.geometry)
        torch.testing.assert_close(y, wanted, rtol=0, atol=1e-10, msg=name)
        assert y.is_contiguous(memory_format=layout) or x.shape[1] == 1, name


@pytest.mark.parametrize("mode", ["kernels", "outputs"])
@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("batch", [1, 5])
@every_geometry
def test_the_layer_is_a_plain_convolution_per_image(geometry: str, batch: int, dense: bool, mode: str) -> None:
    layer, x, weight = expert_conv(geometry, mode), features(geometry, batch), weights(batch)
    layer.mixture.use(Mix(weight, dense))
    torch.testing.assert_close(layer(x), by_hand(layer, geometry, x, weight), rtol=0, atol=1e-10)


def gradients(y: Tensor, *inputs: Tensor | None) -> list[Tensor]:
    return list(torch.autograd.grad(y.square().sum(), [t for t in inputs if t is not None]))


@every_geometry
def test_both_training_modes_have_the_same_gradients(geometry: str) -> None:
    layer, x, weight = expert_conv(geometry), features(geometry, 5).requires_grad_(), weights(5).requires_grad_()
    layer.mixture.use(Mix(weight))
    wanted = gradients(by_hand(layer, geometry, x, weight), x, weight, layer.weight, layer.bias)
    for mode in ("kernels", "outputs"):
        layer.mixture.mode = mode
        for ours, theirs in zip(gradients(layer(x), x, weight, layer.weight, layer.bias), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-9, msg=f"{mode}: %s")


@pytest.mark.parametrize("shift", [False, True])
@every_geometry
def test_every_way_to_mix_gives_the_same_with_the_same_gradients(geometry: str, shift: bool) -> None:
    layer, x, weight = (
        expert_conv(geometry, "auto"),
        features(geometry, 5).requires_grad_(),
        weights(5).requires_grad_(),
    )
    added = torch.zeros(layer.kernel_shape[0], dtype=torch.float64)
    if shift:
        layer.fold(torch.ones_like(added), added := torch.randn_like(added))
    layer.mixture.use(Mix(weight))
    y = by_hand(layer, geometry, x, weight) + added.view(-1, 1, 1)
    wanted = gradients(y, x, weight, layer.weight, layer.bias)
    ways = layer._ways()
    assert ("outputs together" in ways) == (layer.geometry.groups == 1)
    for name, way in ways.items():
        torch.testing.assert_close(way(layer, x, layer.mixture.mix), y, rtol=0, atol=1e-10, msg=f"{name}: %s")
        for ours, theirs in zip(
            gradients(way(layer, x, layer.mixture.mix), x, weight, layer.weight, layer.bias), wanted, strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-9, msg=f"{name}: %s")


@pytest.mark.parametrize("mode", ["kernels", "outputs", "auto"])
@pytest.mark.parametrize("dense", [True, False])
@every_geometry
def test_an_empty_batch_has_the_right_shape(geometry: str, dense: bool, mode: str) -> None:
    layer, x = expert_conv(geometry, mode), features(geometry, 5)
    layer.mixture.use(Mix(weights(5), dense))
    wanted = layer(x).shape[1:]
    layer.mixture.use(Mix(weights(5)[:0]))
    assert layer(x[:0]).shape == (0, *wanted)


@pytest.mark.parametrize("geometry", ["1x1 strided", "depthwise", "dilated"])
@pytest.mark.parametrize("form", ["grouped", "looped", "multiplied"])
def test_forms_pass_gradcheck(geometry: str, form: str) -> None:
    layer = expert_conv(geometry)
    if form not in forms_of(layer, 2):
        assert form == "multiplied"
        assert layer.kernel_shape[-1] > 1
        return
    x = features(geometry, 2, side=3)[:, :2].contiguous()
    groups = 2 if layer.geometry.groups > 1 else 1
    kernel = torch.stack([layer.kernel(k)[:2, : 2 // groups] for k in range(2)]).detach().requires_grad_()
    g = layer.geometry
    small = kernels.Geometry(g.stride, g.padding, g.dilation, groups)
    run = {"grouped": kernels.grouped, "looped": kernels.looped, "multiplied": kernels.multiplied}[form]
    assert torch.autograd.gradcheck(lambda a, b: run(a, b, None, small), (x.requires_grad_(), kernel))


def one_pixel_maps() -> Iterator[Tensor]:
    """The same maps with the strides that slicing, pooling and permuting leave behind."""
    plain = torch.randn(5, 8, 1, 1, dtype=torch.float64)
    yield plain
    for strides in ((8, 1, 8, 8), (8, 1, 1, 1), (8, 1, 40, 40)):
        yield torch.empty_strided((5, 8, 1, 1), strides, dtype=torch.float64).copy_(plain)


@pytest.mark.parametrize("geometry", ["3x3", "3x3 strided", "1x1", "depthwise", "grouped"])
def test_maps_of_one_pixel_have_gradients_whatever_their_strides(geometry: str) -> None:
    layer = expert_conv(geometry)
    flat = torch.einsum("bk,k...->b...", weights(5), layer.weight.detach())
    mixed = flat.view(5, *layer.kernel_shape).requires_grad_()
    for x in one_pixel_maps():
        for form in kernels.forms(mixed, layer.geometry).values():
            (gradient,) = torch.autograd.grad(form(x, mixed, None, layer.geometry).sum(), mixed)
            assert bool(gradient.any())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mode", ["kernels", "outputs"])
@pytest.mark.parametrize("batch", [1, 5])
def test_a_linear_layer_with_experts(bias: bool, mode: str, batch: int) -> None:
    layer = ExpertLinear(nn.Linear(6, 3, bias=bias), Mixture(EXPERTS, mode)).double()
    layer.mixture.use(Mix(weights(batch)))
    x = torch.randn(batch, 6, dtype=torch.float64)
    wanted = torch.einsum("bk,koi,bi->bo", weights(batch), layer.weight, x)
    if layer.bias is not None:
        wanted = wanted + weights(batch) @ layer.bias
    torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("geometry", ["1x1", "1x1 strided", "3x3", "depthwise", "grouped", "dilated"])
@torch.no_grad()
def test_timms_layer_gives_the_same(geometry: str) -> None:
    from timm.layers import CondConv2d

    inputs, outputs, options = GEOMETRIES[geometry]
    layer = expert_conv(geometry)
    peer = CondConv2d(inputs, outputs, **{"bias": True, **options}, num_experts=EXPERTS).double()
    layer.weight.copy_(peer.weight.view_as(layer.weight))
    if layer.bias is not None:
        layer.bias.copy_(peer.bias)
    layer.mixture.use(Mix(weights(5)))
    x = features(geometry, 5)
    torch.testing.assert_close(layer(x), peer(x, weights(5)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("pooled", [True, False])
def test_the_router_is_a_sigmoid_of_the_pooled_input(pooled: bool) -> None:
    router = Router(C, 5, softmax=False, temperature=1.0).double()
    nn.init.normal_(router.linear.bias)
    x = images()
    mean = x.sum(dim=(2, 3)) / (x.shape[2] * x.shape[3])
    wanted = 1 / (1 + torch.exp(-(mean @ router.linear.weight.T + router.linear.bias)))
    torch.testing.assert_close(router(mean if pooled else x), wanted, rtol=0, atol=1e-14)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 30.0])
def test_softmax_routing_divides_by_the_temperature(temperature: float) -> None:
    router = Router(C, 5, softmax=True, temperature=temperature).double()
    powers = torch.exp((images().mean(dim=(2, 3)) @ router.linear.weight.T) / temperature)
    torch.testing.assert_close(router(images()), powers / powers.sum(1, keepdim=True), rtol=0, atol=1e-14)


def test_a_router_starts_as_the_papers_dense_layer() -> None:
    torch.manual_seed(0)
    router = Router(300, 50, softmax=False, temperature=1.0)
    bound = (6 / (300 + 50)) ** 0.5  # Glorot uniform
    assert not router.linear.bias.any()
    assert 0.99 * bound < float(router.linear.weight.detach().abs().max()) <= bound


def test_one_router_feeds_all_layers_of_its_block_from_the_blocks_input() -> None:
    block = nn.Sequential(nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C), nn.ReLU(), nn.Conv2d(C, C, 1))
    net = network(lambda: [Mixed(block, Router(C, 3, False, 1.0), 3, "kernels")])
    (op,) = net.sites.values()
    assert isinstance(op, Mixed)
    assert sum(isinstance(m, Router) for m in net.modules()) == 1
    layers = [m for m in net.modules() if isinstance(m, ExpertLayer)]
    assert len(layers) == 2
    assert all(layer.mixture is op.mixture for layer in layers)
    torch.testing.assert_close(net(images()).trace["0"].weight, op.router(images()))


@pytest.mark.parametrize("layer", [nn.Conv2d(32, 64, 3), nn.Conv2d(64, 64, 3, groups=64), nn.Linear(128, 100)])
def test_each_expert_starts_with_the_spread_of_the_layer_that_it_replaces(layer: nn.Conv2d | nn.Linear) -> None:
    torch.manual_seed(0)
    nn.init.constant_(layer.bias, 0.25)
    expert = (ExpertConv2d if isinstance(layer, nn.Conv2d) else ExpertLinear)(layer, Mixture(8, "kernels"))
    for k in range(8):
        assert float(expert.weight[k].detach().std()) == pytest.approx(float(layer.weight.detach().std()), rel=0.1)
        assert torch.equal(expert.bias[k], layer.bias)  # a constant stays one
    correlation = torch.corrcoef(expert.weight.detach().flatten(1)) - torch.eye(8)
    assert float(correlation.abs().max()) < 0.2


def test_a_network_with_experts_goes_to_channels_last_as_a_whole() -> None:
    net = network(lambda: [Mixed(nn.Conv2d(C, C, 3, padding=1), Router(C, 3, False, 1.0), 3, "kernels")])
    with torch.no_grad():
        wanted = net(images()).logits
        lasting = net.to(memory_format=torch.channels_last)(images().contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(lasting.logits, wanted, rtol=0, atol=1e-12)


def test_what_is_to_be_left_keeps_its_own_layers() -> None:
    block = nn.Sequential(nn.Conv2d(C, C, 1), nn.Sequential(nn.Conv2d(C, C, 1)))
    op = Mixed(block, Router(C, 2, False, 1.0), 2, "kernels", leave=lambda m: m is block[1])
    assert [type(m) for m in op.block.modules()][1:] == [ExpertConv2d, nn.Sequential, nn.Conv2d]


@pytest.mark.parametrize("options", [{"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}])
def test_paddings_that_a_mixed_kernel_cannot_have_are_refused(options: dict) -> None:
    with pytest.raises(CannotAttach, match=r"^experts need convolutions .* choose other layers$"):
        ExpertConv2d(nn.Conv2d(3, 3, 3, **options), Mixture(2, "kernels"))


def test_no_image_gives_no_output() -> None:
    layer = expert_conv("3x3 strided")
    layer.mixture.use(Mix(weights(0)))
    assert layer(features("3x3 strided", 0)).shape == (0, 12, 4, 4)
