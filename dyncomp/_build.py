"""From specs to a network: the one way in which networks come to be."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dyncomp.core import Backbone, BackboneFamily, Card, Method, Net, measure_costs
from dyncomp.core.card import class_names
from dyncomp.core.outline import outlined
from dyncomp.fast import available as _fast_path  # noqa: F401 - layers with experts choose their forms by it
from dyncomp.registry import BACKBONES, METHODS
from dyncomp.spec import spec_of


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

    It is in evaluation mode, and its card says what is known: its classes have numbers, and how its images are
    normalised is left open. `seed` alone decides its weights; the caller's random state is left as it is. Raises
    CannotAttach where the method finds no place in the backbone, UnknownName, InvalidSpec and InvalidValue for specs
    that do not hold.
    """
    family = backbone if isinstance(backbone, BackboneFamily) else BACKBONES.create(backbone)
    made, names = create_method(method), _Names()
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        net = Net(made.build(_maker(family, (classes, in_channels, image_size), names)))
    state = net.state_dict(keep_vars=True)
    net.origins = {name: names[id(tensor)][1] for name, tensor in state.items() if id(tensor) in names}
    net.costs = measure_costs(net, torch.zeros(1, in_channels, image_size, image_size))
    net.card = Card(spec_of(made), spec_of(family), class_names(classes, ()), in_channels, image_size, seed)
    return net.eval()


def numbers_of(method: Method, family: BackboneFamily, shape: tuple[int, int, int]) -> int | None:
    """How many numbers the network of (classes, channels, image size) has, for which no memory is taken.

    None where its code cannot do without numbers.
    """
    tensors = {id(tensor): tensor for tensor in _outline(method, family, shape).values()}
    return sum(tensor.numel() for tensor in tensors.values()) if tensors else None


def sizes_of(method: Method, family: BackboneFamily, shape: tuple[int, int, int]) -> dict[str, torch.Size]:
    """The shapes of its tensors by name, as `numbers_of` finds them; empty where they cannot be known so."""
    return {name: tensor.shape for name, tensor in _outline(method, family, shape).items()}


def _outline(method: Method, family: BackboneFamily, shape: tuple[int, int, int]) -> dict[str, Tensor]:
    """The tensors of a network, with shapes and without numbers."""
    try:
        with outlined():
            net = Net(method.build(_maker(family, shape, _Names())))
        found: dict[str, Tensor] = net.state_dict(keep_vars=True)
    except Exception:  # whatever a plugin's code asks of tensors that hold nothing
        return {}
    return found


_Names = dict[int, tuple[Tensor, str]]
"""A tensor's id, the tensor (so that the id stays its own), and what it was called in the plain backbone."""


def _maker(family: BackboneFamily, shape: tuple[int, int, int], names: _Names) -> Callable[[], Backbone]:
    """What gives a method its backbones; the tensors of each are noted in `names`."""

    def new() -> Backbone:
        backbone = family.make(*shape)
        state = backbone.model.state_dict(keep_vars=True)
        names.update({id(tensor): (tensor, name) for name, tensor in state.items()})
        return backbone

    return new
