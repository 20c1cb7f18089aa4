"""Layers of a network made ready for use: convolutions in whichever form is fastest here, chains of them in one go.

They take the place of the layers they were made of, by class, so that whoever holds those holds these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dyncomp.core import direct
from dyncomp.core.direct import Loaded
from dyncomp.core.kernels import Geometry
from dyncomp.core.tuner import chosen, power_of_two


class ReadyConv2d(nn.Conv2d):
    """A convolution that nobody trains any more; (B, C, H, W) -> (B, O, H', W')."""

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv2d` does."""
        return self.then(x, relu=False)

    def then(self, x: Tensor, relu: bool) -> Tensor:
        """The convolution, and ReLU where asked."""
        if not direct.serves(x, self.weight) or self.loaded(x.shape[1:]) is None:
            return self._by_torch(x, relu)
        key = ("conv", *self.kind, relu, power_of_two(len(x)), x.shape[1:], x.dtype, torch.get_num_threads())
        return chosen(key, partial(_ways, relu), lambda way: way(self, x))(self, x)

    def _by_torch(self, x: Tensor, relu: bool) -> Tensor:
        y = super().forward(x)
        return y.relu_() if relu and torch.is_inference_mode_enabled() else y.relu() if relu else y

    def _directly(self, x: Tensor, relu: bool) -> Tensor:
        loaded = self.loaded(x.shape[1:])
        assert loaded is not None  # asked before
        y = loaded.new(x)
        if len(x):
            loaded.run(x.data_ptr(), y.data_ptr(), len(x), relu=relu)
        return y

    @property
    def kind(self) -> tuple[Any, ...]:
        """What convolutions that are alike have in common."""
        if "_kind" not in vars(self):
            geometry = Geometry(self.stride, self.padding, self.dilation, self.groups)  # type: ignore[arg-type]
            self._kind = self.weight.shape, geometry
        return self._kind

    def loaded(self, image: torch.Size) -> Loaded | None:
        """Code of our own for images (C, H, W), with the weights as they are now; None where there is none."""
        held: dict[torch.Size, Loaded | None] = vars(self).setdefault("_loaded", {})
        if image not in held:
            fits = self.padding_mode == "zeros" and not isinstance(self.padding, str) and image[0] == self.in_channels
            held[image] = direct.load(self.weight, self.bias, image, self.kind[1]) if fits else None
        loaded = held[image]
        if loaded is not None and not loaded.is_of(self.weight, self.bias):
            held.clear()
            return self.loaded(image)
        return loaded

    def __getstate__(self) -> dict[str, Any]:
        """Without the code, which is made anew where the copy is used."""
        return {name: value for name, value in vars(self).items() if name != "_loaded"}


def _ways(relu: bool) -> dict[str, Callable[[ReadyConv2d, Tensor], Tensor]]:
    return {"torch": partial(ReadyConv2d._by_torch, relu=relu), "direct": partial(ReadyConv2d._directly, relu=relu)}


class ReadySequential(nn.Sequential):
    """Layers one after another, a ReLU together with the convolution before it."""

    def forward(self, x: Any) -> Any:
        """As `nn.Sequential` does."""
        layers = list(self)
        index = 0
        while index < len(layers):
            layer, behind = layers[index], layers[index + 1] if index + 1 < len(layers) else None
            if type(layer) is ReadyConv2d and type(behind) is nn.ReLU and _nobody_listens(layer, behind):
                x, index = layer.then(x, relu=True), index + 2
            else:
                x, index = layer(x), index + 1
        return x


def _nobody_listens(*layers: nn.Module) -> bool:
    return not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)


@dataclass(frozen=True, eq=False)
class ReadyBody:
    """A residual block's body, convolutions with or without ReLU behind them, and what follows the sum."""

    convolutions: tuple[ReadyConv2d, ...]
    relus: tuple[bool, ...]
    """behind each of them; behind the last one, and the sum with the shortcut"""

    @staticmethod
    def of(body: nn.Module, activation: nn.Module) -> ReadyBody | None:
        """Of the body as it is run; None where it has other layers, or a single one."""
        layers = _opened(body)
        convolutions = tuple(layer for layer in layers if isinstance(layer, ReadyConv2d))
        simple = all(type(layer) in (ReadyConv2d, nn.ReLU) for layer in layers) and layers[:1] == [*convolutions[:1]]
        pairs = zip(layers, layers[1:], strict=False)
        if not simple or len(convolutions) < 2 or any(type(a) is type(b) is nn.ReLU for a, b in pairs):
            return None
        if layers[-1] is not convolutions[-1] or type(activation) not in (nn.ReLU, nn.Identity):
            return None
        behind = [type(layer) is nn.ReLU for layer in (*layers[1:], activation)]
        relus = tuple(relu for relu, layer in zip(behind, layers, strict=True) if isinstance(layer, ReadyConv2d))
        return ReadyBody(convolutions, relus)

    def serves(self, x: Tensor, shortcut: Tensor, images: int, layers: Callable[[Tensor], Tensor]) -> bool:
        """Whether `run` works on x and pays for so many images of it; `layers` runs the body layer by layer."""
        same = x.dtype == shortcut.dtype and shortcut.is_contiguous(memory_format=torch.channels_last)
        if not images or not same or not direct.serves(x, self.convolutions[0].weight) or not _nobody_listens(*self.convolutions):
            return False
        chain = self._loaded(x.shape[1:])
        if chain is None or chain[-1].output != shortcut.shape[1:]:
            return False
        kinds = tuple(conv.kind for conv in self.convolutions)
        key = ("body", kinds, power_of_two(images), x.shape[1:], x.dtype, torch.get_num_threads())
        return chosen(key, lambda: {"layers": False, "direct": True}, lambda way: self._try(way, x, images, layers))

    def run(self, x: Tensor, shortcut: Tensor, y: Tensor, rows: Tensor | None = None) -> Tensor:
        """y: at `rows` (all without) what the body makes of x there, plus the shortcut, activated; y may be either."""
        chain = self._loaded(x.shape[1:])
        assert chain is not None  # asked before
        images = len(x) if rows is None else len(rows)
        rows = None if rows is None else rows.contiguous()
        places = 0 if rows is None else rows.data_ptr()
        source, first = x.data_ptr(), places
        for index, (loaded, relu) in enumerate(zip(chain[:-1], self.relus, strict=False)):
            between = loaded.between(x, images, index % 2)
            loaded.run(source, between.data_ptr(), images, relu=relu, rows_x=first)
            source, first = between.data_ptr(), 0
        into = {"residual": shortcut.data_ptr(), "rows_y": places, "rows_residual": places}
        chain[-1].run(source, y.data_ptr(), images, relu=self.relus[-1], **into)
        return y

    def new(self, x: Tensor) -> Tensor:
        """Memory for the output of all images of x."""
        chain = self._loaded(x.shape[1:])
        assert chain is not None  # asked before
        return chain[-1].new(x)

    def _loaded(self, image: torch.Size) -> Sequence[Loaded] | None:
        chain = []
        for convolution in self.convolutions:
            loaded = convolution.loaded(image)
            if loaded is None:
                return None
            chain.append(loaded)
            image = loaded.output
        return chain

    def _try(self, directly: bool, x: Tensor, images: int, layers: Callable[[Tensor], Tensor]) -> None:
        batch = torch.ones(images, *x.shape[1:], dtype=x.dtype).contiguous(memory_format=torch.channels_last)
        if directly:
            y = self.new(batch)
            self.run(batch, y, y)
        else:
            y = layers(batch)
            (y + y).relu()


def _opened(body: nn.Module) -> list[nn.Module]:
    if type(body) in (nn.Sequential, ReadySequential) and _nobody_listens(body):
        return [layer for part in body for layer in _opened(part)]  # type: ignore[attr-defined]
    return [body]


def made_ready(model: nn.Module) -> None:
    """Put the layers of this file in the place of those they are made of, wherever nothing hangs on them."""
    for module in model.modules():
        if type(module) is nn.Conv2d and "forward" not in vars(module):
            module.__class__ = ReadyConv2d
    for module in model.modules():
        if type(module) is nn.Sequential and "forward" not in vars(module):
            layers = list(module)
            pairs = zip(layers, layers[1:], strict=False)
            if any(type(one) is ReadyConv2d and type(other) is nn.ReLU for one, other in pairs):
                module.__class__ = ReadySequential
