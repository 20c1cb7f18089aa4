"""Backbones: static networks with named, replaceable blocks, which methods start from."""

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
    """A fused form of a body, for features of one size."""

    def new(self, x: Tensor) -> Tensor:
        """Uninitialised memory for the block's output for all images of x (B, C, H, W)."""

    def run(self, x: Tensor, shortcut: Tensor, y: Tensor, rows: Tensor | None = None) -> Tensor:
        """Write activation(body(x) + shortcut) into y for the images at `rows` (None: all); y may be x or shortcut."""


class FusedBody(Protocol):
    """Fused forms of a block's body, which `dyncomp.fast` puts into the slot `ResidualBlock.fused`."""

    def form(self, x: Tensor, shortcut: Tensor, images: int, layers: nn.Module) -> BodyForm | None:
        """The form for `images` images of features like x and shortcuts like `shortcut`; None if layers are faster."""


class ResidualBlock(nn.Module):
    """y = activation(body(x) + shortcut(x)) (He et al. 2016, arXiv:1512.03385, eq. 1 and 2).

    `body` maps (B, C, H, W) to (B, C', H', W') without the last activation; `shortcut` is the identity or a projection
    to the same shape. Body, shortcut and activation are public so that an op can run one without the others.

    In inference mode the block of a deployed network may overwrite features. `makes_residual`: the body's output is a
    new tensor. `reads_alone`: no later layer reads the block's input (None: not analysed, nothing is overwritten). A
    forward hook in `listeners` forbids both, since it may have stored the features.
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
        """Whether this pass may overwrite features: in inference mode, without hooks."""
        return in_use() and not self.listeners

    @property
    def in_channels(self) -> int:
        """Channels C of the block's input. Raises AttributeError if the body holds no `nn.Conv2d` any more."""
        for layer in self.body.modules():
            if isinstance(layer, nn.Conv2d):
                return layer.in_channels
        raise AttributeError("in_channels")  # tracers call hasattr on every property

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return self.on(x, self.shortcut(x))

    def on(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """The block's output for a given shortcut (B, C', H', W')."""
        form = self.form(x, shortcut, x.shape[0])
        if form is None:
            return self.join(self.body(x), shortcut)
        return form.run(x, shortcut, form.new(x))

    def form(self, x: Tensor, shortcut: Tensor, images: int) -> BodyForm | None:
        """The fused form of the body for `images` images of x; None if the layers are to run."""
        return None if self.fused is None else self.fused.form(x, shortcut, images, self.body)

    def join(self, residual: Tensor, shortcut: Tensor) -> Tensor:
        """The block's output from its two summands, both (B, C', H', W')."""
        if self.makes_residual and residual.dtype == shortcut.dtype and self.may_overwrite:
            return in_place(self.activation, residual.add_(shortcut))
        output: Tensor = self.activation(residual + shortcut)
        return output

    def loses(self, shortcut: Tensor, x: Tensor) -> bool:
        """Whether the block may overwrite the shortcut of x: this pass may overwrite, and no later layer reads it."""
        if not self.may_overwrite:
            return False
        return self.reads_alone is True if shortcut is x else makes_new(self.shortcut)


class Backbone(nn.Module):
    """A static network with named, replaceable parts.

    `model` maps images (B, C, H, W) to logits (B, Y) and is a chain: nested Sequentials down to its blocks. `blocks`
    are the dotted names of the blocks in order of execution, without the stem; `classifier` is the dotted name of the
    last linear layer. `multi_scale`: blocks map a tuple of maps, one for each scale, to another. `heads`: the
    backbone's own classifiers for exits behind some blocks, by block. `image_shape` (C, H, W) of the images and
    `family` are set by `BackboneFamily.make`.
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
            self.part(part)  # raises AttributeError for an unknown name

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> logits (B, Y)."""
        logits: Tensor = self.model(images)
        return logits

    def part(self, name: str) -> nn.Module:
        """The module with a dotted name."""
        return self.model.get_submodule(name)

    def layers(self) -> list[tuple[str, nn.Module]]:
        """The model as a chain of named modules, which are the model when run in order; every block is one of them."""
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
        """The shape (C, H, W) of each block's input, found by running one image; for a backbone without ops."""
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
        """Replace the module with a dotted name by `module`."""
        self.model.set_submodule(name, module)


def chain(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Named layers, such as a slice of `Backbone.layers()`, as one module; dots in names become underscores."""
    return nn.Sequential(OrderedDict((name.replace(".", "_"), layer) for name, layer in layers))


class BackboneFamily(Configurable, ABC):
    """A registered family of backbones; its fields are the hyperparameters."""

    def make(self, classes: int, in_channels: int, image_size: int) -> Backbone:
        """A fresh backbone with `image_shape` and `family` set."""
        backbone = self.build(classes, in_channels, image_size)
        backbone.image_shape, backbone.family = (in_channels, image_size, image_size), self
        return backbone

    def scaled(self, by: Literal["width", "depth"]) -> Sequence[BackboneFamily]:
        """The family's networks in order of cost, the cheapest first; empty for a family without such a scale."""
        return ()

    @abstractmethod
    def build(self, classes: int, in_channels: int, image_size: int) -> Backbone:
        """A fresh backbone for square images; `image_size` is their side in pixels."""
