"""Layers of a network made ready for use: convolutions in whichever form is fastest here, chains of them in one go.

They take the place of the layers they were made of, by class, so that whoever holds those holds these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as everywhere

from dyncomp.core import direct
from dyncomp.core.direct import Loaded
from dyncomp.core.kernels import Geometry
from dyncomp.core.tuner import chosen, power_of_two

SIZES = 8
"""sizes of images that a convolution has code for: it takes memory, and a tenth of a second to make"""


class ReadyConv2d(nn.Conv2d):
    """A convolution that nobody trains any more; (B, C, H, W) -> (B, O, H', W').

    Its code has a copy of the parameters, made anew when they change; what is written through their `.data` it does not
    see.
    """

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv2d` does."""
        return self.then(x, relu=False)

    def then(self, x: Tensor, relu: bool) -> Tensor:
        """The convolution, and ReLU where asked."""
        if not direct.serves(x, self.weight) or self.loaded(x.shape[1:]) is None:
            return self._by_torch(x, relu)
        key = ("conv", self.kind, relu, power_of_two(len(x)), x.shape[1:], x.dtype, torch.get_num_threads())
        return chosen(key, partial(_ways, relu), lambda way: way(self, x))(self, x)

    def _by_torch(self, x: Tensor, relu: bool) -> Tensor:
        y = super().forward(x)
        return y.relu_() if relu else y  # what a convolution gives is new, and it does not need it back

    def _directly(self, x: Tensor, relu: bool) -> Tensor:
        loaded = self.loaded(x.shape[1:])
        assert loaded is not None  # asked before
        y = loaded.new(x)
        if len(x):
            loaded.run(x.data_ptr(), y.data_ptr(), len(x), relu)
        return y

    @property
    def kind(self) -> int:
        """A number that convolutions share which are alike but for their parameters."""
        if "_kind" not in vars(self):
            self._kind = _number((self.weight.shape, self.geometry))
        return self._kind

    @property
    def geometry(self) -> Geometry:
        """How it moves over its input."""
        return Geometry(self.stride, self.padding, self.dilation, self.groups)  # type: ignore[arg-type]

    def loaded(self, image: torch.Size) -> Loaded | None:
        """Code of our own for images (C, H, W), with the weights as they are now; None where there is none."""
        if self._parameters.get("weight") is None:
            return None  # made anew at every pass, by whoever parametrised it
        held: dict[torch.Size, Loaded | None] = vars(self).setdefault("_loaded", {})
        loaded = held.get(image)
        if loaded is None:
            if image in held or len(held) == SIZES:
                return None
            fits = self.padding_mode == "zeros" and not isinstance(self.padding, str)
            held[image] = direct.load(self.weight, self.bias, image, self.geometry) if fits else None
            return held[image]
        if not loaded.is_of(self._parameters.get("weight"), self._parameters.get("bias")):
            held.clear()
            return self.loaded(image)
        return loaded

    def __getstate__(self) -> dict[str, Any]:
        """Without the code, which is made anew where the copy is used."""
        return {name: value for name, value in vars(self).items() if name not in ("_loaded", "_kind")}


_numbers: dict[Any, int] = {}
_next = count()


def _number(kind: Any) -> int:
    """One for each kind, short where the kind itself is long to compare."""
    return _numbers.setdefault(kind, next(_next))


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
            if type(layer) is ReadyConv2d and type(behind) is nn.ReLU and _nobody_listens((layer, behind)):
                x, index = layer.then(x, relu=True), index + 2
            else:
                x, index = layer(x), index + 1
        return x


def _nobody_listens(layers: Iterable[nn.Module]) -> bool:
    """Whether no hook has to be called at the layers, nor a gradient to go through them."""
    if torch.is_grad_enabled() or everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks:
        return False
    return not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)


class ReadyBody:
    """A residual block's body, convolutions with or without ReLU behind them, and what follows the sum.

    `relus` says where one is: behind each convolution, and behind the sum of the last one's output and the shortcut.
    """

    def __init__(self, parts: Sequence[nn.Module], convolutions: Sequence[ReadyConv2d], relus: Sequence[bool]) -> None:
        self.parts = tuple(parts)
        self.convolutions = tuple(convolutions)
        self.relus = tuple(relus)
        self._codes: dict[torch.Size, BodyCode] = {}

    @staticmethod
    def of(body: nn.Module, activation: nn.Module) -> ReadyBody | None:
        """Of the body as it is run; None where it has other layers, or a single one."""
        layers = _opened(body)
        convolutions = [layer for layer in layers if type(layer) is ReadyConv2d]
        behind = [type(layer) is nn.ReLU for layer in (*layers[1:], activation)]
        simple = all(type(layer) in (ReadyConv2d, nn.ReLU) for layer in layers)
        if not simple or len(convolutions) < 2 or any(type(a) is type(b) is nn.ReLU for a, b in pairwise(layers)):
            return None
        if layers[0] is not convolutions[0] or layers[-1] is not convolutions[-1]:
            return None
        if type(activation) not in (nn.ReLU, nn.Identity):
            return None
        relus = [relu for relu, layer in zip(behind, layers, strict=True) if type(layer) is ReadyConv2d]
        return ReadyBody([*body.modules(), activation], convolutions, relus)

    @cached_property
    def kind(self) -> int:
        """A number that bodies share which are alike but for their parameters."""
        return _number((tuple(conv.kind for conv in self.convolutions), self.relus))

    def code(self, x: Tensor, shortcut: Tensor, images: int, layers: Callable[[Tensor], Tensor]) -> BodyCode | None:
        """Code that runs on x, and pays for so many images of it; None where there is none.

        `layers` runs the body layer by layer.
        """
        first = self.convolutions[0]._parameters.get("weight")
        if not images or first is None or not direct.serves(x, first) or not _nobody_listens(self.parts):
            return None
        if x.dtype != shortcut.dtype or not shortcut.is_contiguous(memory_format=torch.channels_last):
            return None
        code = self._code(x.shape[1:])
        if code is None or (len(x), *code.chain[-1].output) != shortcut.shape:
            return None
        key = ("body", self.kind, power_of_two(images), x.shape[1:], x.dtype, torch.get_num_threads())
        ways = partial(_either, layers, x, images)
        pays = chosen(key, ways, lambda directly: _try(code if directly else layers, x, images))
        return code if pays else None

    def _code(self, image: torch.Size) -> BodyCode | None:
        """That for images (C, H, W), with the weights as they are now."""
        code = self._codes.get(image)
        if code is not None:
            if code.is_of(self.convolutions):
                return code
            self._codes.clear()
        chain, size = [], image
        for convolution in self.convolutions:
            loaded = convolution.loaded(size)
            if loaded is None:
                return None
            chain.append(loaded)
            size = loaded.output
        if len({loaded.plan.number for loaded in chain}) > 1:
            return None
        code = self._codes[image] = BodyCode(chain, self.relus)
        return code

    def __getstate__(self) -> dict[str, Any]:
        """Without the code, which is made anew where the copy is used."""
        return {name: value for name, value in vars(self).items() if name != "kind"} | {"_codes": {}}


def _either(layers: Callable[[Tensor], Tensor], x: Tensor, images: int) -> dict[str, bool]:
    _try(layers, x, images)  # so that the trial is not that of its layers' own forms
    return {"layers": False, "direct": True}


def _try(way: Callable[[Tensor], Tensor], x: Tensor, images: int) -> None:
    batch = torch.ones(images, *x.shape[1:], dtype=x.dtype, device=x.device)
    y = way(batch.contiguous(memory_format=torch.channels_last))
    if not isinstance(way, BodyCode):
        (y + y).relu()  # what the code does in passing


@dataclass(frozen=True, eq=False)
class BodyCode:
    """A body's code for images of one size."""

    chain: Sequence[Loaded]
    relus: Sequence[bool]

    def is_of(self, convolutions: Sequence[ReadyConv2d]) -> bool:
        """Whether it has these ones' parameters as they are now."""
        given = (conv._parameters for conv in convolutions)
        pairs = zip(self.chain, given, strict=True)
        return all(loaded.is_of(each.get("weight"), each.get("bias")) for loaded, each in pairs)

    def __call__(self, x: Tensor) -> Tensor:
        """The body on all of x, added to ones."""
        y = self.new(x).fill_(1)
        return self.run(x, y, y)

    def new(self, x: Tensor) -> Tensor:
        """Memory for the output of all images of x."""
        return self.chain[-1].new(x)

    def run(self, x: Tensor, shortcut: Tensor, y: Tensor, rows: Tensor | None = None) -> Tensor:
        """y: at `rows` (all without) what the body makes of x there, plus the shortcut, activated; y may be either."""
        rows = None if rows is None else rows.contiguous()
        images, places = (len(x), 0) if rows is None else (len(rows), rows.data_ptr())
        source, first = x.data_ptr(), places
        for index, loaded in enumerate(self.chain[:-1]):
            between = loaded.between(x, images, index % 2).data_ptr()
            loaded.run(source, between, images, self.relus[index], rows=(first, 0, 0))
            source, first = between, 0
        rows_all = first, places, places
        self.chain[-1].run(source, y.data_ptr(), images, self.relus[-1], shortcut.data_ptr(), rows_all)
        return y


def _opened(body: nn.Module) -> list[nn.Module]:
    if type(body) in (nn.Sequential, ReadySequential):
        return [layer for part in body for layer in _opened(part)]  # type: ignore[attr-defined]
    return [body]


def made_ready(model: nn.Module) -> None:
    """Put the layers of this file in the place of those they are made of, wherever nothing hangs on them."""
    for module in model.modules():
        if type(module) is nn.Conv2d and "forward" not in vars(module) and "weight" in module._parameters:
            module.__class__ = ReadyConv2d
    for module in model.modules():
        if type(module) is nn.Sequential and "forward" not in vars(module):
            layers = list(module)
            pairs = pairwise(layers)
            if any(type(one) is ReadyConv2d and type(other) is nn.ReLU for one, other in pairs):
                module.__class__ = ReadySequential
