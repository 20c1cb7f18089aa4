"""Placement of Filtered ops in a chain of layers, at convolutions whose output is read by the next layer alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from torch import nn

from dyncomp.core.backbone import Backbone, ResidualBlock, chain
from dyncomp.errors import CannotAttach
from dyncomp.ops.channel_subsets import acts_by_channel, flattened, pads_with_zeros
from dyncomp.ops.filtered import Filtered, Switch

LEAST_SHARE = 0.25
"""least share of a backbone's blocks that take a switch; with fewer there is too little to save"""

Split = Callable[[Sequence[nn.Module]], tuple[Sequence[nn.Module], Sequence[nn.Module]]]
"""Splits the layers between a convolution and its reader into those before and those after the switch's weight."""


def all_before(between: Sequence[nn.Module]) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
    """All layers before the weight, which then multiplies the reader's input."""
    return between, ()


def with_switches(
    layers: Iterable[nn.Module], make: Callable[[nn.Conv2d], Switch], split: Split = all_before
) -> list[nn.Module]:
    """The chain of layers, Sequentials flattened, with a switch by `make` for each convolution that can have one.

    Such a convolution has one group, and all layers up to the next ungrouped convolution or linear layer act on each
    channel by itself.
    """
    flat = list(flattened(layers))
    built, index = list[nn.Module](), 0
    while index < len(flat):
        module, index = _from(flat, index, make, split)
        built.append(module)
    return built


def switch_backbone(
    backbone: Backbone, make: Callable[[nn.Conv2d], Switch], split: Split = all_before, method: str = "switches"
) -> nn.Sequential:
    """The backbone's chain of layers with switches by `make`, placed by `with_switches` from the first block on.

    In a residual block switches stay within the body, since the shortcut is added to its output. Adjacent blocks
    without shortcut, and the layers after the last block, form one chain; the stem has no switch. Raises CannotAttach,
    in the name of `method`, if fewer than a quarter of the blocks take a switch.
    """
    if backbone.multi_scale:
        raise CannotAttach(
            f"{method}: the blocks of {backbone.name} pass on maps of several scales, so no layer reads a filter "
            "alone; choose a backbone whose blocks pass on one map, such as cifar_resnet14, vgg11 or mobilenet_v2"
        )
    layers = backbone.layers()
    first = next(index for index, (name, _) in enumerate(layers) if name in backbone.blocks)
    switched = chain([*layers[:first], *_switched(layers[first:], make, split)])
    producers = {id(op.producer) for op in switched.modules() if isinstance(op, Filtered)}
    found = [
        name
        for name, block in layers
        if name in backbone.blocks and any(id(layer) in producers for layer in block.modules())
    ]
    if len(found) < LEAST_SHARE * len(backbone.blocks):
        raise CannotAttach(
            f"{method}: in {len(found)} of {len(backbone.blocks)} blocks of {backbone.name} a convolution's filters "
            "are read by the next layer alone: squeeze-and-excitation mixes channels, filter groups divide them, and "
            "shortcuts read them too; choose a backbone such as cifar_resnet14, vgg11 or mobilenet_v2"
        )
    return switched


def _switched(
    layers: Sequence[tuple[str, nn.Module]], make: Callable[[nn.Conv2d], Switch], split: Split
) -> Iterator[tuple[str, nn.Module]]:
    """The layers with switches: each residual body by itself, layers between residual blocks as one chain."""
    plain: list[tuple[str, nn.Module]] = []
    for name, layer in layers:
        if not isinstance(layer, ResidualBlock):
            plain.append((name, layer))
            continue
        yield from _joined(plain, make, split)
        plain = []
        layer.body = nn.Sequential(*with_switches([layer.body], make, split))
        yield name, layer
    yield from _joined(plain, make, split)


def _joined(
    plain: Sequence[tuple[str, nn.Module]], make: Callable[[nn.Conv2d], Switch], split: Split
) -> Iterator[tuple[str, nn.Module]]:
    """Adjacent plain layers as one chain, under the name of the first."""
    if plain:
        yield plain[0][0], nn.Sequential(*with_switches([layer for _, layer in plain], make, split))


def _from(
    flat: list[nn.Module], index: int, make: Callable[[nn.Conv2d], Switch], split: Split
) -> tuple[nn.Module, int]:
    """The layer at `index`, as a Filtered with its consumers if it can have a switch, and the index after them."""
    producer, reader = flat[index], _reader(flat, index)
    if reader is None or not isinstance(producer, nn.Conv2d):
        return producer, index + 1
    consumer, end = _from(flat, reader, make, split)
    before, after = split(flat[index + 1 : reader])
    return Filtered(producer, nn.Sequential(*before), nn.Sequential(*after), consumer, make(producer)), end


def _reader(flat: list[nn.Module], index: int) -> int | None:
    """The index of the only layer that reads the convolution at `index`, one input per filter; None if none does."""
    producer = flat[index]
    if not isinstance(producer, nn.Conv2d) or not _is_whole(producer):
        return None
    for later in range(index + 1, len(flat)):
        layer = flat[later]
        if _is_whole(layer):  # behind a flattened map, a channel is several features
            inputs = layer.in_channels if isinstance(layer, nn.Conv2d) else layer.in_features
            return later if inputs == producer.out_channels else None
        if not acts_by_channel(layer):
            return None
    return None


def _is_whole(layer: nn.Module) -> bool:
    """Whether each output reads all inputs, and kernels may be cut: a convolution pads with zeros, by numbers."""
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and pads_with_zeros(layer)
    return isinstance(layer, nn.Linear)
