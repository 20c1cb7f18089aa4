"""Which methods are tried on which backbones: the registry's, with the examples that their classes name."""

from __future__ import annotations

from itertools import islice

from dyncomp._build import build
from dyncomp.core import Backbone
from dyncomp.core.outline import outlined
from dyncomp.errors import CannotAttach
from dyncomp.registry import BACKBONES, METHODS

SIDE = 16
"""Pixels of the square images that examples are tried on."""

CLASSES = 5
LAYER = 20_000
"""multiply-adds that take about as long as one layer's call"""
SMALLEST = 2
"""On how many backbones a method's further examples are tried."""


def method_examples() -> list[str]:
    """For every registered method its default spec, and the further ones that its class names in `examples`."""
    return [spec for entry in METHODS.entries() for spec in (entry.name, *_named(entry.load()))]


def backbone_examples() -> list[str]:
    """For every registered backbone the small ones that its class names in `examples`, the least work first."""
    specs = [spec for entry in BACKBONES.entries() for spec in _named(entry.load()) or (entry.name,)]
    return sorted(specs, key=_work)


def examples() -> list[tuple[str, str]]:
    """(method, backbone): default specs on all backbones, further ones on the two smallest that they attach to."""
    backbones = backbone_examples()
    pairs = [(entry.name, backbone) for entry in METHODS.entries() for backbone in backbones]
    for entry in METHODS.entries():
        for spec in _named(entry.load()):
            fitting = (backbone for backbone in backbones if _attaches(spec, backbone))
            pairs += [(spec, backbone) for backbone in islice(fitting, SMALLEST)]
    return pairs


def _named(plugin: type) -> tuple[str, ...]:
    return tuple(getattr(plugin, "examples", ()))


def _work(backbone: str) -> int:
    """Multiply-adds of one image, parameters and layers: the arithmetic, memory and calls that a test needs."""
    with outlined():
        net = build("static", backbone, classes=CLASSES, image_size=SIDE)
    if net.costs is None:
        raise RuntimeError(f"{backbone} was built without costs")
    layers = sum(1 for _ in net.modules())
    return net.costs.full + sum(p.numel() for p in net.parameters()) + LAYER * layers


def _attaches(method: str, backbone: str) -> bool:
    def new() -> Backbone:
        net: Backbone = BACKBONES.create(backbone).make(CLASSES, 3, SIDE)
        return net

    try:
        with outlined():
            METHODS.create(method).build(new)
    except CannotAttach:
        return False
    return True
