"""What holds for every registered backbone; a new one is tested without a line here."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dyncomp.core.backbone import Backbone, ResidualBlock
from dyncomp.registry import BACKBONES

CLASSES = 7
EXAMPLES = [spec for entry in BACKBONES.entries() for spec in getattr(entry.load(), "examples", (entry.name,))]
WITHOUT_STEM = ("vgg11",)  # all its convolutions are alike
every_backbone = pytest.mark.parametrize("spec", EXAMPLES)


def build(spec: str, channels: int = 3, size: int = 32, seed: int = 0) -> Backbone:
    torch.manual_seed(seed)
    net: Backbone = BACKBONES.create(spec).build(CLASSES, channels, size)
    return net


def settled(spec: str) -> Backbone:
    """A float64 network whose normalisations have seen features, so that no signal fades."""
    net = build(spec).double().train()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the mean of all batches so far, without the initial 0 and 1
    with torch.no_grad():
        net(images(4).double())
    return net.eval()


def images(count: int = 2, channels: int = 3, size: int = 32) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("entry", BACKBONES.names())
def test_every_registered_name_has_an_example_that_can_be_made(entry: str) -> None:
    assert any(BACKBONES.entry(spec.partition("(")[0]).name == entry for spec in EXAMPLES)


@pytest.mark.parametrize("size", [8, 28, 32])
@pytest.mark.parametrize("channels", [1, 3])
@every_backbone
@torch.no_grad()
def test_small_images_of_any_channels_give_logits(spec: str, channels: int, size: int) -> None:
    net = build(spec, channels, size)
    for mode in (True, False):
        logits = net.train(mode)(images(2, channels, size))
        assert logits.shape == (2, CLASSES)
        assert bool(logits.isfinite().all())


@every_backbone
def test_gradients_reach_every_parameter(spec: str) -> None:
    net = build(spec).eval()  # no dropout, no stochastic depth: whatever has no gradient is not used
    net(images(4)).logsumexp(1).sum().backward()
    unused = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert unused == []


@every_backbone
@torch.no_grad()
def test_each_block_runs_once_in_the_order_of_its_name(spec: str) -> None:
    net = build(spec).eval()
    ran: list[str] = []
    for name in net.blocks:
        net.part(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    net(images())
    assert len(net.blocks) > 0
    assert tuple(ran) == net.blocks


@every_backbone
@torch.no_grad()
def test_a_block_that_is_swapped_runs_in_its_place(spec: str) -> None:
    net = build(spec).eval()
    expected = net(images())
    ran: list[str] = []
    for name in net.blocks:
        wrapper = nn.Sequential(net.part(name))
        wrapper.register_forward_hook(lambda *_, name=name: ran.append(name))
        net.swap(name, wrapper)
        assert net.part(name) is wrapper
    assert torch.equal(net(images()), expected)
    assert tuple(ran) == net.blocks


@every_backbone
@torch.no_grad()
def test_the_layers_in_their_order_are_the_network(spec: str) -> None:
    net = build(spec).eval()
    layers = net.layers()
    names = [name for name, _ in layers]
    assert [name for name in names if name in net.blocks] == list(net.blocks)
    assert all(layer is net.part(name) for name, layer in layers)
    assert {id(p) for _, layer in layers for p in layer.parameters()} == {id(p) for p in net.parameters()}
    x = images()
    for _, layer in layers:
        x = layer(x)
    assert torch.equal(x, net(images()))


@every_backbone
@torch.no_grad()
def test_the_network_can_be_cut_between_any_two_layers(spec: str) -> None:
    net = build(spec).eval()
    layers = [layer for _, layer in net.layers()]
    for cut in range(1, len(layers)):
        before, after = nn.Sequential(*layers[:cut]), nn.Sequential(*layers[cut:])
        assert torch.equal(after(before(images())), net(images())), net.layers()[cut][0]


@every_backbone
@torch.no_grad()
def test_heads_of_its_own_give_logits_behind_their_blocks(spec: str) -> None:
    net = build(spec).eval()
    assert set(net.heads) <= set(net.blocks)
    x = images()
    for name, layer in net.layers():
        x = layer(x)
        if name in net.heads:
            first, again = net.heads[name](), net.heads[name]()
            logits = first.eval()(x)
            assert logits.shape == (2, CLASSES)
            assert not torch.equal(logits, again.eval()(x))  # a new one at every call


@every_backbone
@torch.no_grad()
def test_no_part_of_a_residual_block_writes_on_what_another_reads(spec: str) -> None:
    net = build(spec).eval()
    shapes: dict[str, torch.Size] = {}
    for name in net.blocks:
        if isinstance(net.part(name), ResidualBlock):
            net.part(name).register_forward_hook(lambda m, i, o, name=name: shapes.update({name: i[0].shape}))
    net(images())
    for name, shape in shapes.items():
        block = net.part(name)
        if isinstance(block, ResidualBlock):
            x = torch.randn(shape)
            before = x.clone()
            block.activation(block.shortcut(x))  # the block, its body skipped
            expected = block.activation(block.body(x) + block.shortcut(before))
            assert torch.equal(block(x), expected)
            assert torch.equal(x, before)


@every_backbone
@torch.no_grad()
def test_the_classifier_is_the_linear_layer_that_gives_the_logits(spec: str) -> None:
    net = build(spec).eval()
    classifier = net.part(net.classifier)
    outputs: list[Tensor] = []
    classifier.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    logits = net(images())
    assert isinstance(classifier, nn.Linear)
    assert classifier.out_features == CLASSES
    assert len(outputs) == 1 and torch.equal(outputs[0], logits)


@every_backbone
@torch.no_grad()
def test_blocks_pass_on_one_map_or_say_otherwise(spec: str) -> None:
    net = build(spec).eval()
    passed: list[object] = []
    for name in net.blocks:
        net.part(name).register_forward_hook(lambda m, i, o: passed.extend((i[0], o)))
    net(images())
    assert all(isinstance(x, tuple) == net.multi_scale for x in passed)


@every_backbone
def test_the_stem_is_none_of_the_blocks(spec: str) -> None:
    first, _ = build(spec).layers()[0]
    assert first.startswith("blocks.") == (spec.partition("(")[0] in WITHOUT_STEM)


@every_backbone
def test_a_seed_decides_the_weights(spec: str) -> None:
    first, again, other = build(spec).state_dict(), build(spec).state_dict(), build(spec, seed=1)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], value) for key, value in other.state_dict().items())


@every_backbone
@torch.no_grad()
def test_channels_last_images_have_the_same_logits(spec: str) -> None:
    net = settled(spec)
    expected = net(images().double())
    x = images().double().contiguous(memory_format=torch.channels_last)
    for moved in (net, net.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(moved(x), expected, rtol=1e-9, atol=1e-9)


@every_backbone
@torch.no_grad()
def test_an_image_has_its_own_logits_alone_and_in_a_batch(spec: str) -> None:
    net = settled(spec)
    x = images(2).double()
    alone = torch.cat([net(image[None]) for image in x])
    torch.testing.assert_close(net(x), alone, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(alone[0], alone[1], rtol=0.01)


@every_backbone
def test_the_name_is_the_registered_one(spec: str) -> None:
    assert build(spec).name == spec.partition("(")[0]


@every_backbone
@torch.no_grad()
def test_the_images_are_left_as_they_were(spec: str) -> None:
    x = images()
    build(spec).train()(x)
    assert torch.equal(x, images())
