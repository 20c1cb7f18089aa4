"""What a method starts from: a static network that names its blocks and lets them be replaced."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dyncomp.core.bodies import ReadyBody
from dyncomp.core.listeners import Listeners
from dyncomp.core.modes import evaluating
from dyncomp.core.rows import in_use
from dyncomp.spec import Configurable


class ResidualBlock(nn.Module):
    """y = activation(body(x) + shortcut(x)) (He et al. 2016, arXiv:1512.03385, eq. 1 and 2).

    `body` maps (B, C, H, W) to (B, C', H', W') without the last activation; `shortcut` is the identity or a projection
    to the same shape. The three parts are public so that an op can run one without the others.

    `ready` is the body in one go, where the network was made ready for use and the body allows it.

    In inference mode memory is used again where that was shown to be safe (`reuse.py`): `makes_residual` says that the
    body's output is new, `reads_alone` that nothing reads what enters once the block is done (None: nobody looked, and
    nobody overwrites). While there is a hook among the network's `listeners`, which may keep features, none is.
    """

    def __init__(self, body: nn.Module, shortcut: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut
        self.activation = activation
        self.reads_alone: bool | None = None
        self.makes_residual = False
        self.ready: ReadyBody | None = None
        self.listeners: Listeners | tuple[()] = ()

    @property
    def may_overwrite(self) -> bool:
        """Whether memory may be used again in this pass, where that is safe."""
        return in_use() and not self.listeners

    @property
    def in_channels(self) -> int:
        """Channels C of the features that enter the block. Raises AttributeError where its convolutions are gone."""
        for layer in self.body.modules():
            if isinstance(layer, nn.Conv2d):
                return layer.in_channels
        raise AttributeError("in_channels")  # tracers ask of every property whether it is there

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return self.on(x, self.shortcut(x))

    def on(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """The block's output, its shortcut (B, C', H', W') given."""
        code = None if self.ready is None else self.ready.code(x, shortcut, x.shape[0], self.body)
        if code is None:
            return self.join(self.body(x), shortcut)
        return code.run(x, shortcut, code.new(x))

    def join(self, residual: Tensor, shortcut: Tensor) -> Tensor:
        """The block's output from its two summands, both (B, C', H', W')."""
        if self.makes_residual and residual.dtype == shortcut.dtype and self.may_overwrite:
            return in_place(self.activation, residual.add_(shortcut))
        output: Tensor = self.activation(residual + shortcut)
        return output


def in_place(activation: nn.Module, x: Tensor) -> Tensor:
    """The activation of x, which may be lost."""
    if type(activation) is nn.ReLU:
        return x.relu_()
    output: Tensor = activation(x)
    return output


class Backbone(nn.Module):
    """A static network with named, replaceable parts.

    `model` maps images (B, C, H, W) to logits (B, Y) and is a chain: a Sequential, of Sequentials down to its blocks.
    `blocks` are the dotted names of its blocks in order of execution (the stem is none of them); `classifier` is the
    dotted name of the last linear layer. Where blocks pass on a tuple of maps, one for each scale, `multi_scale` is
    true. `heads` are classifiers of the backbone's own for exits behind some of the blocks. `image_shape` (C, H, W) is
    that of the images it was made for, and `family` the one that made it, where these are known.
    """

    def __init__(
        self,
        model: nn.Sequential,
        blocks: Sequence[str],
        classifier: str,
        name: str,
        multi_scale: bool = False,
        heads: Mapping[str, Callable[[], nn.Module]] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.model = model
        self.blocks = tuple(blocks)
        self.classifier = classifier
        self.name = name
        self.multi_scale = multi_scale
        self.heads = dict(heads)
        self.image_shape: tuple[int, int, int] | None = None
        self.family: BackboneFamily | None = None
        for part in (*self.blocks, classifier):
            self.part(part)  # a wrong name fails here, not in the middle of a run

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> logits (B, Y)."""
        logits: Tensor = self.model(images)
        return logits

    def part(self, name: str) -> nn.Module:
        """The module of that dotted name."""
        return self.model.get_submodule(name)

    def layers(self) -> list[tuple[str, nn.Module]]:
        """The model as one chain of named modules: run in order they are the model, and every block is one of them."""
        return list(self._opened("", self.model))

    def _opened(self, name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        inside = f"{name}." if name else ""
        if name in self.blocks or not any(block.startswith(inside) for block in self.blocks):
            yield name, module
        elif isinstance(module, nn.Sequential):
            for child, part in module.named_children():
                yield from self._opened(inside + child, part)
        else:
            raise TypeError(f"{self.name}: {name or 'the model'} holds blocks and is no Sequential")

    def inputs(self) -> dict[str, tuple[int, ...]]:
        """The shape (C, H, W) of what enters each block; asked of an untouched backbone, it runs one image."""
        if self.image_shape is None:
            raise RuntimeError(f"{self.name} does not know the shape of its images: make it by BackboneFamily.make")
        shapes: dict[str, tuple[int, ...]] = {}
        with evaluating(self):
            x: Any = torch.zeros(1, *self.image_shape)
            for name, layer in self.layers():
                if name in self.blocks and isinstance(x, Tensor):
                    shapes[name] = tuple(x.shape[1:])
                x = layer(x)
        return shapes

    def swap(self, name: str, module: nn.Module) -> None:
        """Put `module` in the place of the part of that dotted name."""
        self.model.set_submodule(name, module)


def chain(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Named layers, such as a stretch of `Backbone.layers()`, as one module; dots in names become underscores."""
    return nn.Sequential(OrderedDict((name.replace(".", "_"), layer) for name, layer in layers))


class BackboneFamily(Configurable, ABC):
    """A registered family of backbones: the fields are its hyperparameters."""

    def make(self, classes: int, in_channels: int, image_size: int) -> Backbone:
        """A fresh backbone that knows the shape of its images."""
        backbone = self.build(classes, in_channels, image_size)
        backbone.image_shape, backbone.family = (in_channels, image_size, image_size), self
        return backbone

    def scaled(self, by: Literal["width", "depth"]) -> Sequence[BackboneFamily]:
        """The family's networks along a ladder of cost, the cheapest first; none where it has no such scale."""
        return ()

    @abstractmethod
    def build(self, classes: int, in_channels: int, image_size: int) -> Backbone:
        """A fresh backbone; `image_size` is the side in pixels of the square images it will see."""
