"""Chooses the fastest of the equal forms of an expert layer, by a trial for each kind of layer and batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from dyncomp.fast.availability import is_enabled
from dyncomp.fast.mixing.forms import of_convolution, of_linear
from dyncomp.fast.parameters.tracked import track
from dyncomp.fast.shape_key import shape_key
from dyncomp.fast.tuning import chosen
from dyncomp.ops.experts import ExpertLayer, Form, Way, choose_forms_by
from dyncomp.ops.mixture import Mix, Mixing


class TimedChooser:
    """See `dyncomp.ops.experts.FormChooser`."""

    def adopt(self, layer: ExpertLayer) -> None:
        """Track the layer's parameters, since evaluation caches packed copies of the experts."""
        track(layer)

    def form(self, layer: ExpertLayer, x: Tensor, mixing: Mixing) -> Form | None:
        """The fastest form for features like x; None while the fast path is disabled."""
        if not _may_choose():
            return None
        return chosen(
            ("kernels", *_key(layer, x)),
            lambda: forms_of(layer, x, mixing),
            lambda form: _step(layer, lambda copy, mix: form(copy, layer.mixing(mix)), x, Mix(mixing.weight)),
        )

    def way(self, layer: ExpertLayer, x: Tensor, mix: Mix, ways: Mapping[str, Way]) -> Way | None:
        """The fastest of `ways` for features like x; None while the fast path is disabled."""
        if not _may_choose():
            return None
        key = ("mix", layer.mixture.mode, *_key(layer, x))
        return chosen(key, lambda: ways, lambda way: _step(layer, partial(way, layer), x, mix))


def _may_choose() -> bool:
    return torch.compiler.is_compiling() or is_enabled()  # a compiler cannot trace the question; it gets the first form


def forms_of(layer: ExpertLayer, x: Tensor, mixing: Mixing) -> Mapping[str, Form]:
    """All equal forms for features x (B, ...), at least one image, by name."""
    return of_linear(layer, x, mixing) if layer.geometry is None else of_convolution(x, mixing, layer.geometry)


def form_among_layers(layer: ExpertLayer, x: Tensor) -> Form | None:
    """The form for features like x (B, ...), at least one image, where generated code runs several layers in one call.

    For a single image it is the generated form whatever a trial says: a trial includes calling overhead that is saved
    here.
    """
    mixing = layer.mixing(Mix(x.new_full((len(x), layer.mixture.experts), 1 / layer.mixture.experts)))
    return TimedChooser().form(layer, x, mixing) if len(x) > 1 else forms_of(layer, x, mixing).get("generated")


def _key(layer: ExpertLayer, x: Tensor) -> tuple[object, ...]:
    weight = layer.weight
    inference = not torch.compiler.is_compiling() and weight.is_inference()  # compilers cannot trace that
    parameter = (layer.kernel_shape, layer.mixture.experts, weight.dtype, inference)
    return (*shape_key(x), *parameter, torch.is_grad_enabled(), layer.geometry)


def _step(layer: ExpertLayer, form: Callable[[Tensor, Mix], Tensor], x: Tensor, mix: Mix) -> None:
    """One forward pass of the form on detached inputs, and a backward pass in training; leaves no gradient behind."""
    inputs = x.detach().requires_grad_(torch.is_grad_enabled())
    weight = mix.weight.detach().requires_grad_(mix.weight.requires_grad)
    y = form(inputs, replace(mix, weight=weight))
    if torch.is_grad_enabled():
        learning = [layer.weight] if layer.weight.requires_grad else []
        torch.autograd.grad(y.float().sum(), [inputs, *learning])


choose_forms_by(TimedChooser())
