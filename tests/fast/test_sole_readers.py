"""Who alone reads a layer's output: every way in which somebody else may read it too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dyncomp.fast.dataflow.sole_readers import sole_readers


class Model(nn.Module):
    """Two convolutions and two normalisations, run as a function says."""

    def __init__(self, run: Callable[[Model, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.m, self.n = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.run = run
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def found(model: Model) -> list[tuple[str, str]]:
    model.eval()
    names = {module: name for name, module in model.named_modules()}
    x = torch.randn(2, 3, 4, 4)
    readers = sole_readers(model, [model.a, model.b], [model.m, model.n], lambda: model(x))
    assert all(lone.dimensions == {4} for lone in readers)
    return [(names[lone.maker], names[lone.reader]) for lone in readers]


ALONE = {
    "one behind the other": (lambda self, x: self.n(self.b(self.m(self.a(x)))), [("a", "m"), ("b", "n")]),
    "crosswise": (lambda self, x: self.m(self.b(x)) + self.n(self.a(x)), [("a", "n"), ("b", "m")]),
    "both twice": (lambda self, x: self.m(self.a(self.m(self.a(x)))), [("a", "m")]),
    "something before": (lambda self, x: self.n(self.a(x.relu()).relu() + self.m(self.b(x))), [("b", "m")]),
    "in place behind it": (lambda self, x: self.m(self.a(x)).relu_(), [("a", "m")]),
    "only its shape is read": (lambda self, x: self.m(y := self.a(x)) * y.shape[1], [("a", "m")]),
}


@pytest.mark.parametrize("way", ALONE)
def test_a_lone_reader_is_found(way: str) -> None:
    run, wanted = ALONE[way]
    assert found(Model(run)) == wanted


def reused(self: Model, x: Tensor) -> Tensor:
    """Read through an attribute, later."""
    self.kept = self.a(x)
    y: Tensor = self.m(self.kept)
    return y + self.kept


def hidden(self: Model, x: Tensor) -> Tensor:
    """Read where another reader runs."""
    y = self.a(x)
    z: Tensor = self.m(y) + self.n(y)
    return z


NOT_ALONE: dict[str, Callable[[Model, Tensor], Any]] = {
    "nobody reads it": lambda self, x: self.a(x).relu(),
    "a sum reads it too": lambda self, x: self.m(y := self.a(x)) + y,
    "a list reads it too": lambda self, x: torch.cat([self.m(y := self.a(x)), y]),
    "another layer reads it too": lambda self, x: self.m(y := self.a(x)) + self.b(y),
    "another normalisation reads it too": hidden,
    "it is changed in between": lambda self, x: self.m(self.a(x).relu_()),
    "a view is taken": lambda self, x: self.m(y := self.a(x)) + y[:, :1],
    "a number is taken": lambda self, x: self.m(y := self.a(x)) + y.sum().item(),
    "it is given back": lambda self, x: {"answer": [self.m(y := self.a(x))], "features": (y,)},
    "it is kept": reused,
    "one layer, two readers": lambda self, x: self.m(self.a(x)) + self.n(self.a(x)),
    "one reader, two layers": lambda self, x: self.m(self.a(x)) + self.m(self.b(x)),
    "the reader reads the image too": lambda self, x: self.m(self.a(x)) + self.m(x),
    "one output is not read": lambda self, x: self.m(self.a(self.a(x))),
    "its kernel is read too": lambda self, x: self.m(self.a(x)) + self.a.weight.sum(),
    "its kernel is read by another layer": lambda self, x: self.m(self.a(x * self.a.bias.mean())),
}


@pytest.mark.parametrize("way", NOT_ALONE)
def test_a_reader_that_is_not_alone_is_not(way: str) -> None:
    assert ("a", "m") not in found(Model(NOT_ALONE[way]))


def test_a_kernel_that_two_layers_share_belongs_to_none() -> None:
    model = Model(lambda self, x: self.m(self.a(x)) + self.n(self.b(x)))
    model.b.weight = model.a.weight
    assert found(model) == []


def test_nothing_is_left_on_the_modules() -> None:
    model = Model(lambda self, x: self.m(self.a(x)))
    found(model)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
