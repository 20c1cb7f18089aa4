"""MSDNet: the released network's counts, scales over depth, layers against a formula, heads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dyncomp import build
from dyncomp.backbones._multi_scale import Reduction, Scales, Transition
from dyncomp.backbones.msdnet import MSDNet
from dyncomp.core.backbone import Backbone
from dyncomp.core.outline import outlined
from dyncomp.errors import CannotAttach, InvalidValue

IMAGENET = {"stem": "imagenet", "factors": (1, 2, 4, 4), "bottlenecks": (1, 2, 4, 4), "channels": 32, "growth": 16}
# Evaluation of the released checkpoint (step 7): operations up to each exit in millions, parameters in millions.
RELEASED = [(615.69, 8.76), (1436.39, 20.15), (2283.21, 31.73), (2967.42, 41.86), (3253.79, 62.31)]


def released_convention(module: nn.Module, x: object, output: object) -> int:
    """The released counter: multiply-adds, biases of linear layers, and each value that a ReLU or pooling reads."""
    if isinstance(module, nn.Conv2d):
        assert isinstance(output, Tensor)
        return output.numel() * module.weight[0].numel()
    if isinstance(module, nn.Linear):
        return module.weight.numel() + module.bias.numel()
    if isinstance(module, nn.MaxPool2d):
        assert isinstance(output, Tensor)
        return output.numel() * 9
    if isinstance(module, nn.ReLU | nn.AdaptiveAvgPool2d):
        assert isinstance(x, Tensor)
        return x.numel()
    return 0


def exits(net: Backbone, size: int) -> list[tuple[int, int]]:
    """Operations and parameters up to each exit, all classifiers before it included."""
    heads = {name: make().eval() for name, make in net.heads.items()}
    operations: list[int] = []
    for root in (net.eval(), *heads.values()):
        for module in root.modules():
            module.register_forward_hook(lambda m, i, o: operations.append(released_convention(m, i[0], o)))
    counts, parameters = [], 0
    x = torch.zeros(1, 3, size, size)
    for name, layer in net.layers():
        x = layer(x)
        parameters += sum(p.numel() for p in layer.parameters())
        if name in heads:
            heads[name](x)
            parameters += sum(p.numel() for p in heads[name].parameters())
            counts.append((sum(operations), parameters))
    return [*counts, (sum(operations), parameters)]


def scales_behind_blocks(net: Backbone, size: int) -> list[list[int]]:
    """The sides of the maps that come out of each block."""
    sides: list[list[int]] = []
    for name in net.blocks:
        net.part(name).register_forward_hook(lambda m, i, o: sides.append([x.shape[-1] for x in o]))
    net.eval()(torch.zeros(1, 3, size, size))
    return sides


def test_the_imagenet_network_has_the_released_counts_at_every_exit() -> None:
    with outlined():
        net = MSDNet(blocks=5, base=7, step=7, **IMAGENET).build(1000, 3, 224)  # type: ignore[arg-type]
        counts = exits(net, 224)
    assert [(round(o / 1e6, 2), round(p / 1e6, 2)) for o, p in counts] == RELEASED


@pytest.mark.parametrize(
    ("options", "depths"),
    [
        ({}, [4, 2, 2, 2, 2, 2, 2]),
        ({"blocks": 5, "base": 1, "step": 1, "steps": "linear"}, [1, 2, 3, 4, 5]),
        ({"blocks": 3, "base": 2, "step": 2, "steps": "linear"}, [2, 3, 5]),
        ({"blocks": 1}, [4]),
    ],
)
def test_blocks_have_the_papers_depths(options: dict[str, object], depths: list[int]) -> None:
    with outlined():
        net = MSDNet(**options).build(10, 3, 32)  # type: ignore[arg-type]
    layers = [sum(not isinstance(layer, Transition) for layer in net.part(name).children()) for name in net.blocks]
    assert layers == depths


@pytest.mark.parametrize(
    ("layers", "scales", "finest"),
    [
        (16, 3, [0] * 6 + [1] * 6 + [2] * 4),  # the CIFAR network
        (15, 3, [0] * 5 + [1] * 5 + [2] * 5),
        (35, 4, [0] * 9 + [1] * 9 + [2] * 9 + [3] * 8),
        (4, 3, [0, 0, 1, 2]),  # the rule alone keeps scale 1 in the last layer, where nothing reads it
        (2, 3, [1, 2]),
        (3, 1, [0, 0, 0]),
    ],
)
def test_the_finest_scales_are_dropped_part_by_part(layers: int, scales: int, finest: list[int]) -> None:
    plan = Reduction(layers, scales, prune=True)
    assert [plan.finest(layer) for layer in range(1, layers + 1)] == finest
    assert plan.finest(0) == 0


def test_without_pruning_all_scales_stay_as_long_as_they_are_read() -> None:
    net = MSDNet(blocks=3, base=4, step=2, prune=False).build(10, 3, 32)
    assert scales_behind_blocks(net, 32) == [[32, 16, 8], [32, 16, 8], [8]]
    assert not any(isinstance(module, Transition) for module in net.modules())


@pytest.mark.parametrize("reduction", [0.25, 0.5, 1.0])
def test_channels_are_reduced_where_a_scale_is_dropped(reduction: float) -> None:
    net = MSDNet(blocks=1, base=16, channels=16, growth=6, reduction=reduction).build(10, 3, 32)
    width, wanted = 16, []
    for layer in range(1, 17):
        width += 6
        if layer in (7, 13):  # the first layers of the second and third part
            width = int(width * reduction)
            wanted.append(width)
    transitions = [module for module in net.modules() if isinstance(module, Transition)]
    outputs = [module.scales[-1].conv.out_channels for module in transitions]  # type: ignore[union-attr]
    assert outputs == [4 * w for w in wanted]
    assert net.part("conv1.conv").in_channels == 4 * width


def test_rungs_by_width_scale_what_has_a_width() -> None:
    half = MSDNet().scaled("width")[8]
    assert half == MSDNet(channels=8, growth=3, head=64)
    assert MSDNet().scaled("width")[0] == MSDNet(channels=2, growth=2, head=13)  # a growth has two halves
    imagenet = MSDNet(blocks=5, base=7, step=7, **IMAGENET)  # type: ignore[arg-type]
    assert replace(imagenet, channels=16, growth=8) in imagenet.scaled(
        "width"
    )  # the classifiers as wide as what comes in


@pytest.mark.parametrize(
    ("size", "stem", "sides"),
    [
        (32, "cifar", [32, 16, 8, 4]),
        (8, "cifar", [8, 4, 2]),
        (28, "cifar", [28, 14, 7, 4]),
        (4, "cifar", [4, 2]),
        (2, "cifar", [2]),
        (1, "cifar", [1]),
        (224, "imagenet", [56, 28, 14, 7]),
        (32, "imagenet", [8, 4, 2]),
    ],
)
def test_small_images_have_fewer_scales(size: int, stem: str, sides: list[int]) -> None:
    options = {"factors": (1, 2, 4, 4), "bottlenecks": (1, 2, 4, 4), "channels": 2, "growth": 2, "head": 4}
    net = MSDNet(blocks=2, base=8, step=8, prune=False, stem=stem, **options).build(10, 3, size)  # type: ignore[arg-type]
    assert scales_behind_blocks(net, size)[0] == sides


@torch.no_grad()
def test_a_layer_joins_the_map_what_the_finer_one_gives_and_what_it_gives_itself() -> None:
    torch.manual_seed(0)
    layer = Scales((1, 2, 4), (1, 2, 4), growth=6).layer(width=5, came=0, goes=1).eval()
    maps = tuple(torch.randn(2, 5 * factor, side, side) for factor, side in ((1, 8), (2, 4), (4, 2)))
    made = layer(maps)
    assert [tuple(x.shape) for x in made] == [(2, 10 + 12, 4, 4), (2, 20 + 24, 2, 2)]
    for scale, x in enumerate(made, start=1):
        old, half = maps[scale].shape[1], 3 * 2**scale
        assert torch.equal(x[:, :old], maps[scale])
        assert torch.equal(x[:, old : old + half], layer.finer[scale - 1](maps[scale - 1]))
        assert torch.equal(x[:, old + half :], layer.same[scale - 1](maps[scale]))


def test_a_bottleneck_is_no_wider_than_what_comes_in() -> None:
    layer = Scales((1, 2), (4, 4), growth=6).layer(width=3, came=0, goes=0)
    inner = [part.reduce.conv.out_channels for part in layer.same]  # type: ignore[union-attr]
    assert inner == [min(3, 4 * 6), min(6, 4 * 6)]


def test_every_block_but_the_last_has_a_head_like_the_end_of_the_chain() -> None:
    net = MSDNet(blocks=3, base=2, step=1).build(10, 3, 32)
    assert tuple(net.heads) == net.blocks[:-1]
    ends = [name for name, _ in net.layers()][-6:]
    assert [name for name, _ in net.heads[net.blocks[0]]().named_children()] == ends
    assert net.classifier == ends[-1]


def test_factors_and_bottlenecks_are_one_for_each_scale() -> None:
    with pytest.raises(InvalidValue, match=r"^msdnet: 3 factors and 2 bottlenecks; give one for each scale$"):
        MSDNet(bottlenecks=(1, 2))


@pytest.mark.parametrize("method", ["condconv", "skipnet"])
def test_methods_for_single_maps_refuse_it(method: str) -> None:
    with pytest.raises(CannotAttach, match=f"^{method}: .*msdnet") as error:
        build(method, "msdnet", image_size=16)
    assert "\n" not in str(error.value)
