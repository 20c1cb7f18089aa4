"""What a method starts from: a static network that names its blocks and lets them be replaced."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from dyncomp.core.hooks import Listeners
from dyncomp.core.inplace import in_place, in_use, makes_new
from dyncomp.core.modes import evaluating
from dyncomp.spec import Configurable


class BodyForm(Protocol):
    """A fused body for features of one size."""

    def new(self, x: Tensor) -> Tensor:
        """Memory for the block's output of all images of x (B, C, H, W)."""

    def run(self, x: Tensor, shortcut: Tensor, y: Tensor, rows: Tensor | None = None) -> Tensor:
        """Write activation(body(x) + shortcut) into y for the images at `rows` (None: all); y may be x or shortcut."""


class FusedBody(Protocol):
    """A fused form of a block's body, which `dyncomp.fast` puts into the slot `ResidualBlock.fused`."""

    def form(self, x: Tensor, shortcut: Tensor, images: int, layers: nn.Module) -> BodyForm | None:
        """What runs features like x and their shortcut faster than `layers` does, for that many images; or None."""


class ResidualBlock(nn.Module):
    """y = activation(body(x) + shortcut(x)) (He et al. 2016, arXiv:1512.03385, eq. 1 and 2).

    `body` maps (B, C, H, W) to (B, C', H', W') without the last activation; `shortcut` is the identity or a projection
    to the same shape. The three parts are public so that an op can run one without the others.

    In inference mode the block overwrites features where a deployed network was shown to allow it: `makes_residual`
    says that the body's output is new, `reads_alone` that nothing reads the block's input once the block is done (None:
    nobody looked, and nothing is overwritten). A hook among the network's `listeners`, which may keep features, forbids
    both.
    """

    def __init__(self, body: nn.Module, shortcut: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut
        self.activation = activation
        self.fused: FusedBody | None = None
        self.reads_alone: bool | None = None
        self.makes_residual = False
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
        form = self.form(x, shortcut, x.shape[0])
        if form is None:
            return self.join(self.body(x), shortcut)
        return form.run(x, shortcut, form.new(x))

    def form(self, x: Tensor, shortcut: Tensor, images: int) -> BodyForm | None:
        """The fused body, where it is faster for that many images of x; None where the layers are to be called."""
        return None if self.fused is None else self.fused.form(x, shortcut, images, self.body)

    def join(self, residual: Tensor, shortcut: Tensor) -> Tensor:
        """The block's output from its two summands, both (B, C', H', W')."""
        if self.makes_residual and residual.dtype == shortcut.dtype and self.may_overwrite:
            return in_place(self.activation, residual.add_(shortcut))
        output: Tensor = self.activation(residual + shortcut)
        return output

    def loses(self, shortcut: Tensor, x: Tensor) -> bool:
        """Whether nothing reads the shortcut of x any more when the block is done, so that it may be overwritten."""
        if not self.may_overwrite:
            return False
        return self.reads_alone is True if shortcut is x else makes_new(self.shortcut)


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
