"""Which layers can be parts of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from torch import nn

from dyncomp.core.backbone import ResidualBlock
from dyncomp.fast.behaviour import runs_as
from dyncomp.fast.fusion.layers import is_classifier, is_pool
from dyncomp.fast.fusion.mixed_body import is_mixed_block
from dyncomp.fast.fusion.mixed_layers import has_mixed_layers, mixed_layers_of
from dyncomp.fast.layers.convolution import TunedConv2d
from dyncomp.fast.layers.residual_body import layers_in_order
from dyncomp.fast.layers.switched_filters import SwitchedFilters
from dyncomp.ops.filtered import Filtered
from dyncomp.ops.gated import Gated
from dyncomp.ops.gates import Gate
from dyncomp.ops.mixed import Mixed
from dyncomp.ops.planned import Follower
from dyncomp.ops.shrink import Shrink


@dataclass(frozen=True)
class LayerGroup:
    """Layers that form one part of a run: a convolution and its ReLU; global average pooling and a classifier."""

    layers: tuple[nn.Module, ...]


Deciding = Gated | Follower | Mixed | Filtered
Place = Deciding | ResidualBlock | nn.MaxPool2d | LayerGroup


def places_of_run(layers: Sequence[nn.Module]) -> list[Place] | None:
    """The places of a run made of these layers, Sequentials opened; None where the layers cannot form a run."""
    leaves = [leaf for layer in layers for leaf in layers_in_order(layer)]
    places, index = list[Place](), 0
    while index < len(leaves):
        place, index = _from(leaves, index)
        if place is None:
            return None
        places.append(place)
    alike = len({(type(op), getattr(op, "form", None)) for op in deciding(places)}) < 2
    return places if places and alike else None


def _from(layers: Sequence[nn.Module], index: int) -> tuple[Place | None, int]:
    """The place that begins at `index`, None where there is none, and the index of the layer after it."""
    layer, kinds = layers[index], [type(layer) for layer in layers[index : index + 3]]
    if is_block(layer):
        return layer, index + 1
    if kinds[0] is TunedConv2d:
        some = 2 if kinds[1:2] == [nn.ReLU] else 1
        return LayerGroup(tuple(layers[index : index + some])), index + some
    if kinds == [nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear]:
        pool, _, linear = some_layers = tuple(layers[index : index + 3])
        return (LayerGroup(some_layers) if is_pool(pool) and is_classifier(linear) else None), index + 3
    if isinstance(layer, nn.MaxPool2d) and is_pool(layer):
        return layer, index + 1
    return None, index + 1


def is_block(module: nn.Module) -> TypeGuard[Deciding | ResidualBlock]:
    """Whether a module is a deployed block or Filtered op that can be part of a run."""
    if isinstance(module, Filtered):
        return _is_fused(module)
    if not isinstance(module, (Gated, Follower, Mixed, ResidualBlock)):
        return False
    known = type(module) in (Follower, ResidualBlock) or runs_as(module, Gated) or runs_as(module, Mixed)
    if not known or type(block_of(module)) is not ResidualBlock:
        return False
    if isinstance(module, Mixed):
        return is_mixed_block(module)
    if isinstance(module, Gated) and not isinstance(module.gate, Gate):
        return False
    block = block_of(module)
    known = projection_of(block) is not None or type(block.shortcut) in (nn.Identity, Shrink)
    filtered = isinstance(module, ResidualBlock) and filters_of(module) is not None
    mixed = isinstance(module, ResidualBlock) and has_mixed_layers(module)
    ready = known and (block.fused is not None or filtered)
    return (ready or mixed) and type(block.activation) is nn.ReLU


def _is_fused(op: Filtered) -> bool:
    return runs_as(op, Filtered) and isinstance(op.fused, SwitchedFilters)


def block_of(place: Gated | Follower | Mixed | ResidualBlock) -> ResidualBlock:
    """The residual block of a place."""
    block = place if isinstance(place, ResidualBlock) else place.block
    return block  # type: ignore[return-value]  # checked by `is_block`


def filters_of(block: ResidualBlock) -> Filtered | None:
    """The deployed Filtered op that is the block's whole body; None for any other body."""
    layers = layers_in_order(block.body)
    only = layers[0] if len(layers) == 1 else None
    return only if isinstance(only, Filtered) and _is_fused(only) else None


def projection_of(block: ResidualBlock) -> TunedConv2d | None:
    """The convolution with one kernel for all images that is the block's shortcut; None for any other shortcut."""
    layers = layers_in_order(block.shortcut)
    return layers[0] if len(layers) == 1 and type(layers[0]) is TunedConv2d else None


def deciding(places: Sequence[Place]) -> Iterator[Deciding]:
    """The ops that decide per image, among these places or inside them."""
    for place in places:
        if isinstance(place, Deciding):
            yield place
        elif isinstance(place, ResidualBlock):
            filters = filters_of(place)
            if filters is not None:
                yield filters
            yield from mixed_layers_of(place.body)
