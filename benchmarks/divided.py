"""Networks that nobody trained, whose images take different routes all the same.

A fresh gate sends nearly all random images down one route, on which a frozen graph would look right. Here each
layer of a gate is scaled so that its outputs spread over the images, and shifted so that they divide them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import dyncomp
from dyncomp.core import Net, Op
from dyncomp.core.modes import evaluating
from dyncomp.ops import Exit

IMAGES = 64
"""by how many images gates are set"""
PASSES = 2
"""gates that share a layer settle together"""


def images_for(net: Net, count: int, seed: int) -> Tensor:
    """Random images (B, C, H, W) of different contrast, brightness and orientation."""
    assert net.costs is not None  # a network that was built has them
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, *net.costs.image_shape, generator=draw)
    ramps = torch.linspace(-1, 1, net.costs.image_shape[-1])
    contrast, bright, across, down = torch.randn(4, count, 1, 1, 1, generator=draw).unbind()
    images = noise * (0.3 + contrast.abs()) + bright + across * ramps + down * ramps[:, None]
    return images.to(next(net.parameters()))


def divided(method: str, backbone: str, classes: int = 10, in_channels: int = 1, image_size: int = 28) -> Net:
    """The method's network on the backbone, its gates set so that random images divide at each."""
    net = dyncomp.build(method, backbone, classes=classes, in_channels=in_channels, image_size=image_size)
    images = images_for(net, IMAGES, seed=0)
    with evaluating(net):
        for _ in range(PASSES):
            for site, op in net.sites.items():
                if isinstance(op, Exit):
                    op.threshold.fill_(net(images, sparse=False).said[f"{site}.score"].median())
                for layer in _gate_layers(op):
                    _spread(net, layer, images)
    return net


def _gate_layers(op: Op) -> list[nn.Linear | nn.Conv2d]:
    """What the gate's logits are made by, in order; nothing where a threshold decides."""
    gates = (getattr(op, name, None) for name in ("gate", "policy", "switch", "masker", "router"))
    inside = [module for gate in gates if isinstance(gate, nn.Module) for module in gate.modules()]
    return [layer for layer in inside if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None]


def _spread(net: Net, layer: nn.Linear | nn.Conv2d, images: Tensor) -> None:
    """Scale the layer's outputs to a spread of 1 over the images, and shift them to a median of 0."""
    assert layer.bias is not None
    seen = _outputs(net, layer, images)
    layer.weight /= seen.std(dim=0).mean().clamp_min(1e-6)
    seen = _outputs(net, layer, images)
    if seen.shape[1] == 2:  # two logits: what counts is their difference
        layer.bias[1] -= (seen[:, 1] - seen[:, 0]).median()
    else:
        layer.bias -= seen.median(dim=0).values


def _outputs(net: Net, layer: nn.Linear | nn.Conv2d, images: Tensor) -> Tensor:
    """What the layer gives in a pass, (B or more, O): its inputs' means where its caller only reads its weights."""
    seen: list[Tensor] = []
    weight, bias = layer.weight, layer.bias
    assert bias is not None

    class Snapshot(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            y = function(*args, **(kwargs or {}))
            if any(isinstance(a, Tensor) and a.data_ptr() == bias.data_ptr() for a in args):
                seen.append(y.flatten(2).mean(2) if y.dim() == 4 else y)
            return y

    with Snapshot():
        net(images, sparse=False, record=False)
    return torch.cat(seen) if seen else weight.new_zeros(1, len(bias))
