"""Layers of a network made ready for use: convolutions, and the ReLU behind them, in whichever form is fastest here.

They take the place of the layers they were made of, by class, so that whoever holds those holds these.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import count, pairwise
from operator import is_
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules import module as everywhere

from dyncomp.core import direct
from dyncomp.core.direct import WHOLE, Picks
from dyncomp.core.kernels import Geometry
from dyncomp.core.listeners import Heard
from dyncomp.core.loaded import Loaded, Shelf
from dyncomp.core.tuner import chosen, power_of_two


class ReadyConv2d(Heard, nn.Conv2d):
    """A convolution that nobody trains any more; (B, C, H, W) -> (B, O, H', W').

    Its code has a copy of the parameters, made anew when they change.
    """

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv2d` does."""
        return self.then(x, relu=False)

    def then(self, x: Tensor, relu: bool) -> Tensor:
        """The convolution, and ReLU where asked."""
        return self._by_torch(x, relu) if self.directly(x, relu) is None else self._directly(x, relu)

    def directly(self, x: Tensor, relu: bool) -> Loaded | None:
        """Code for images like x; None where there is none, or torch's is faster."""
        loaded = self.loaded(x.shape[1:]) if direct.serves(x, self.weight) else None
        if loaded is None:
            return None
        key = ("conv", self.kind, relu, power_of_two(len(x)), x.shape[1:], x.dtype, torch.get_num_threads())
        pays = chosen(key, _either, lambda code: self._directly(x, relu) if code else self._by_torch(x, relu))
        return loaded if pays else None

    def _directly(self, x: Tensor, relu: bool) -> Tensor:
        loaded = self.loaded(x.shape[1:])
        assert loaded is not None  # asked before
        y = loaded.new(x)
        if len(x):
            loaded.run(x, y, len(x), relu)
        return y

    def _by_torch(self, x: Tensor, relu: bool) -> Tensor:
        y = super().forward(x)
        return y.relu_() if relu else y  # what a convolution gives is new, and it does not need it back

    @cached_property
    def kind(self) -> int:
        """A number that convolutions share which are alike but for their parameters."""
        return number_of((self.weight.shape, self.geometry))

    @property
    def geometry(self) -> Geometry:
        """How it moves over its input."""
        return Geometry(self.stride, self.padding, self.dilation, self.groups)  # type: ignore[arg-type]

    def loaded(self, image: torch.Size, picks: Picks = WHOLE) -> Loaded | None:
        """Code of our own for images (C, H, W), with the weights as they are now; None where there is none."""
        given = self._parameters
        weight = given.get("weight")
        if weight is None:
            return None  # made anew at every pass, by whoever parametrised it
        return self._shelf.code(image, picks, weight, given.get("bias"), self._moves)

    @cached_property
    def _shelf(self) -> Shelf:
        return Shelf()

    def _moves(self) -> Geometry | None:
        """How it moves over its input, if that is by zeros around it, so many on both sides."""
        return self.geometry if self.padding_mode == "zeros" and not isinstance(self.padding, str) else None

    def __getstate__(self) -> dict[str, Any]:
        """Without the code, which is made anew where the copy is used."""
        return {name: value for name, value in vars(self).items() if name not in ("_shelf", "kind")}


_numbers: dict[Any, int] = {}
_next = count()


def number_of(kind: Any) -> int:
    """One for each kind, short where the kind itself is long to compare."""
    return _numbers.setdefault(kind, next(_next))


def _either() -> dict[str, bool]:
    return {"torch": False, "direct": True}


class ReadySequential(nn.Sequential):
    """Layers one after another, a ReLU together with the convolution before it."""

    def forward(self, x: Any) -> Any:
        """As `nn.Sequential` does."""
        layers = list(self)
        index = 0
        while index < len(layers):
            layer, behind = layers[index], layers[index + 1] if index + 1 < len(layers) else None
            if type(layer) is ReadyConv2d and type(behind) is nn.ReLU and nobody_listens((layer, behind)):
                x, index = layer.then(x, relu=True), index + 2
            else:
                x, index = layer(x), index + 1
        return x


class OneGo(Protocol):
    """Runs so many `layers` of a Sequential in one go."""

    layers: Sequence[nn.Module]

    def __call__(self, x: Tensor) -> Tensor | None:
        """What the layers make of x; None where they have to be called one by one."""


class ReadyBlocks(nn.Sequential):
    """Layers one after another, runs of them in one go wherever that is faster."""

    def forward(self, x: Any) -> Any:
        """As `nn.Sequential` does."""
        runs, layers = self._runs, list(self)
        index = 0
        while index < len(layers):
            for run in runs.get(index, ()) if isinstance(x, Tensor) else ():
                # layers may have been replaced, and then the run is not theirs
                there = layers[index : index + len(run.layers)]
                y = run(x) if len(there) == len(run.layers) and all(map(is_, there, run.layers)) else None
                if y is not None:
                    x, index = y, index + len(run.layers)
                    break
            else:
                x, index = layers[index](x), index + 1
        return x

    @property
    def _runs(self) -> dict[int, list[OneGo]]:
        """By where they begin, the longest first."""
        found: dict[int, list[OneGo]] = vars(self).get("runs", {})
        return found


def nobody_listens(layers: Iterable[nn.Module]) -> bool:
    """Whether no hook has to be called at the layers, nor a gradient to go through them."""
    if torch.is_grad_enabled() or everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks:
        return False
    return not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)


def made_ready(model: nn.Module) -> None:
    """Put the layers of this file in the place of those they are made of, wherever they run as their class does."""
    for module in model.modules():
        if type(module) is nn.Conv2d and "forward" not in vars(module) and "weight" in module._parameters:
            module.__class__ = ReadyConv2d
    for module in model.modules():
        if (
            type(module) is nn.Sequential
            and "forward" not in vars(module)
            and any(type(one) is ReadyConv2d and type(other) is nn.ReLU for one, other in pairwise(module))
        ):
            module.__class__ = ReadySequential
