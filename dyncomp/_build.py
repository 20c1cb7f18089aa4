"""From specs to a network: the one way in which networks come to be."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dyncomp.core import Backbone, BackboneFamily, Method, Net, measure_costs
from dyncomp.registry import BACKBONES, METHODS


def create_method(spec: str | Method) -> Method:
    """The method of a spec such as `skipnet(target=0.4)`. Raises UnknownName, InvalidSpec, InvalidValue."""
    return spec if isinstance(spec, Method) else METHODS.create(spec)


def build(
    method: str | Method,
    backbone: str | BackboneFamily = "cifar_resnet14",
    *,
    classes: int = 10,
    in_channels: int = 3,
    image_size: int = 32,
    seed: int = 0,
) -> Net:
    """The network of a method on a backbone, for square images of `image_size` pixels, its costs measured.

    It is in evaluation mode. `seed` alone decides its weights; the caller's random state is left as it is. Raises
    CannotAttach where the method finds no place in the backbone, UnknownName, InvalidSpec and InvalidValue for specs
    that do not hold.
    """
    family = backbone if isinstance(backbone, BackboneFamily) else BACKBONES.create(backbone)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        net = Net(create_method(method).build(_maker(family, classes, in_channels, image_size)))
    net.costs = measure_costs(net, torch.zeros(1, in_channels, image_size, image_size))
    return net.eval()


def _maker(family: BackboneFamily, classes: int, in_channels: int, image_size: int) -> Callable[[], Backbone]:
    return lambda: family.build(classes, in_channels, image_size)
