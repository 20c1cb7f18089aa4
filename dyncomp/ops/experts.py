"""Layers with K experts, whose parameters are mixed for each image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyncomp.core.graphs import graph_form, is_traced
from dyncomp.core.locks import making
from dyncomp.errors import CannotAttach
from dyncomp.ops import kernels
from dyncomp.ops.columns import in_graph
from dyncomp.ops.kernels import Geometry, PerImageConv, convolve
from dyncomp.ops.mixture import Mix, Mixing, Mixture

Form = Callable[[Tensor, Mixing], Tensor]
"""Maps features x to a layer's output, with one kernel per image, which the form mixes."""


class FormChooser(Protocol):
    """Chooses among the equal forms of layers with experts; `dyncomp.fast` sets it by `choose_forms_by`."""

    def adopt(self, layer: ExpertLayer) -> None:
        """Called when a layer is created, and after it was folded."""

    def form(self, layer: ExpertLayer, x: Tensor, mixing: Mixing) -> Form | None:
        """The form to run the layer in on features x; None: the first of `plain_forms`."""

    def way(self, layer: ExpertLayer, x: Tensor, mix: Mix, ways: Mapping[str, Way]) -> Way | None:
        """The way to mix in the dense form; None: the first of `ways`."""


_chooser: FormChooser | None = None


def choose_forms_by(chooser: FormChooser) -> None:
    """Set the chooser for all layers with experts in this process."""
    global _chooser
    _chooser = chooser


class ExpertLayer(nn.Module, ABC):
    """A layer with K experts, each initialised independently with mean and standard deviation of the replaced layer.

    An initialiser for the stacked tensor would count K times the fan-in, and so start with weights that are too small.
    """

    geometry: Geometry | None = None
    """geometry of a convolution; None for a linear layer"""

    def __init__(self, layer: nn.Conv2d | nn.Linear, mixture: Mixture) -> None:
        super().__init__()
        self.mixture = mixture
        self.kernel_shape = layer.weight.shape
        # flat kernels: a parameter of five dimensions would break `net.to(memory_format=torch.channels_last)`
        self.weight = nn.Parameter(_drawn_alike(layer.weight, mixture.experts).flatten(2))  # (K, O, C * k * k)
        self.bias = None if layer.bias is None else nn.Parameter(_drawn_alike(layer.bias, mixture.experts))
        self.register_buffer("shift", None)  # (O,) shift of a folded normalisation, the same for every mix
        self.shift: Tensor | None
        if _chooser is not None:
            _chooser.adopt(self)

    def fold(self, scale: Tensor, shift: Tensor) -> None:
        """Fold scale * y + shift, both (O,), into the layer: scale every expert; the shift is not mixed."""
        self.weight = nn.Parameter((self.weight * scale[:, None]).to(self.weight.dtype))
        if self.bias is not None:
            self.bias = nn.Parameter((self.bias * scale).to(self.bias.dtype))
        self.shift = (shift if self.shift is None else self.shift * scale + shift).to(self.weight.dtype)

    def kernel(self, expert: int) -> Tensor:
        """One expert's kernel, (O, ...)."""
        # not `weight[expert]`, which holds the GIL while it waits for the parameter's lock: threads that record
        # gradients could deadlock, one of them in another operator on the parameter
        return self.weight.select(0, expert).view(self.kernel_shape)

    def by_kernels(self, x: Tensor, mix: Mix) -> Tensor:
        """Run each image with its mixed kernel, in the chosen form. Raises ValueError for weights of a wrong shape."""
        if len(mix.weight) != len(x) or mix.weight.shape[1] != self.mixture.experts:
            raise ValueError(
                f"{len(mix.weight)} images' mixing weights for {len(x)} images; give each image one for each of "
                f"{self.mixture.experts} experts"
            )
        if x.shape[0] == 0:  # every kernel has an output of the right shape
            return self.apply_expert(x, self.kernel(0), None)
        mixing = self.mixing(mix)  # once, since the counter counts the mixing of biases
        form = None if _chooser is None else _chooser.form(self, x, mixing)
        return (form or next(iter(self.plain_forms(x, mixing).values())))(x, mixing)

    def mixing(self, mix: Mix) -> Mixing:
        """The layer's kernels, to be mixed by `mix`, and its mixed biases."""
        bias: Tensor | None = None  # (B, O)
        if self.bias is not None:
            bias = mix.overhead(torch.mm, mix.weight, self.bias)
        if self.shift is not None:
            bias = self.shift.expand(mix.weight.shape[0], -1) if bias is None else bias + self.shift
        return Mixing(mix.weight, self.weight, self.kernel_shape, mix.overhead, bias)

    def by_outputs(self, x: Tensor, mix: Mix, together: bool) -> Tensor:
        """Run every expert on the whole batch, and mix outputs; `together`: all experts in one call."""
        y = self._together(x, mix.weight) if together else self._each(x, mix.weight)
        return y if self.shift is None else y + self.shift.view(-1, *[1] * (y.dim() - 2))

    def _each(self, x: Tensor, shares: Tensor) -> Tensor:
        """Run one call for each expert."""
        biases = [None] * self.mixture.experts if self.bias is None else self.bias.unbind()
        y = None
        # unbind, since the gradient of each `weight[k]` would be as large as the whole parameter
        for k, (weight, bias) in enumerate(zip(self.weight.unbind(), biases, strict=True)):
            output = self.apply_expert(x, weight.view(self.kernel_shape), bias)
            share = shares[:, k].to(output.dtype)
            term = output * share.view(-1, *[1] * (output.dim() - 1))
            y = term if y is None else y + term
        assert y is not None  # there is at least one expert
        return y

    def _together(self, x: Tensor, shares: Tensor) -> Tensor:
        """Run all experts in one call, with their outputs concatenated; cheaper for small layers."""
        kernels = self.weight.view(-1, *self.kernel_shape[1:])  # (K * O, ...)
        y = self.apply_expert(x, kernels, None if self.bias is None else self.bias.flatten())
        y = y.view(len(y), self.mixture.experts, self.kernel_shape[0], *y.shape[2:])  # (B, K, O, ...)
        share = shares.to(y.dtype)
        mixed: Tensor = (y * share.view(*share.shape, *[1] * (y.dim() - 2))).sum(1)
        return mixed

    def _is_one_call(self) -> bool:
        """Whether the experts' kernels, concatenated along the outputs, can run in one call."""
        return True

    @abstractmethod
    def plain_forms(self, x: Tensor, mixing: Mixing) -> Mapping[str, Form]:
        """The equal forms of the layer for features x, of torch's operators, by name; the first is the default."""

    @abstractmethod
    def apply_expert(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Run the layer with one expert's kernel (O, ...) and bias (O,) for all images."""

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for features x, with each image's own mixture of experts."""
        recording = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        held = _held((self.weight, self.bias)) if recording else ()
        mix = self.mixture.mix
        if graph_form() == "routed":
            y = in_graph(x, self.mixing(mix), self.geometry)
        elif mix.dense and is_traced():  # the other ways contain the batch size as a constant
            y = self.by_outputs(x, mix, together=False)
        elif not mix.dense or self.mixture.mode == "kernels":
            y = self.by_kernels(x, mix)
        else:
            ways = self._ways()
            way = None if _chooser is None else _chooser.way(self, x, mix, ways)
            y = (way or next(iter(ways.values())))(self, x, mix)
        del held  # the graph of y holds the nodes from now on
        return y

    def _ways(self) -> dict[str, Way]:
        """The equal ways that the mode allows, by name; unbound functions, since equal layers share a choice."""
        ways: dict[str, Way] = {}
        if self.mixture.mode != "outputs":
            ways["kernels"] = ExpertLayer.by_kernels
        if self.mixture.mode != "kernels":
            ways["outputs one by one"] = partial(ExpertLayer.by_outputs, together=False)
            if self._is_one_call():
                ways["outputs together"] = partial(ExpertLayer.by_outputs, together=True)
        return ways


Way = Callable[[ExpertLayer, Tensor, Mix], Tensor]
"""Maps features x to a layer's output in the dense form."""


class ExpertConv2d(ExpertLayer):
    """A convolution with K experts; (B, C, H, W) -> (B, O, H', W')."""

    geometry: Geometry

    def __init__(self, layer: nn.Conv2d, mixture: Mixture) -> None:
        super().__init__(layer, mixture)
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise CannotAttach(
                f"experts need convolutions that pad with a number of zeros, not padding={layer.padding!r} of "
                f"{layer.padding_mode}; choose other layers"
            )
        self.geometry = Geometry(layer.stride, layer.padding, layer.dilation, layer.groups)  # type: ignore[arg-type]

    def plain_forms(self, x: Tensor, mixing: Mixing) -> Mapping[str, Form]:
        """See `plain_convolutions`."""
        return plain_convolutions(x, mixing, self.geometry)

    def _is_one_call(self) -> bool:
        return self.geometry.groups == 1  # else the outputs of each group would have to be adjacent

    def apply_expert(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Run one convolution for all images."""
        return convolve(x, weight, bias, self.geometry)


class ExpertLinear(ExpertLayer):
    """A linear layer with K experts; (B, C) -> (B, O)."""

    def plain_forms(self, x: Tensor, mixing: Mixing) -> Mapping[str, Form]:
        """A batched matrix product."""
        return {"whole": _products}

    def apply_expert(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Run one linear layer for all images."""
        return F.linear(x, weight, bias)


def plain_convolutions(x: Tensor, mixing: Mixing, geometry: Geometry) -> dict[str, Form]:
    """The forms of torch's operators that can convolve features x (B, C, H, W), B > 0, by name."""
    alike = mixing.experts.select(0, 0).view(mixing.shape).expand(x.shape[0], *mixing.shape)
    able = kernels.forms(alike, geometry)
    return {name: partial(by_whole_kernels, form, geometry) for name, form in able.items()}


def by_whole_kernels(form: PerImageConv, geometry: Geometry, x: Tensor, mixing: Mixing) -> Tensor:
    """Mix all kernels of the batch, then run a form of convolution."""
    return form(x, mixing.whole(), mixing.bias, geometry)


def _products(x: Tensor, mixing: Mixing) -> Tensor:
    matrices, bias = mixing.whole(), mixing.bias
    if bias is None:
        return torch.bmm(matrices, x[:, :, None]).squeeze(2)  # (B, O)
    return torch.baddbmm(bias[:, :, None].to(x.dtype), matrices, x[:, :, None]).squeeze(2)


def _held(parameters: Iterable[Tensor | None]) -> list[Tensor]:
    """Views of parameters, which keep the parameters' gradient accumulators alive.

    Torch creates an accumulator under a lock of the parameter, and may need the GIL for it; an autograd function holds
    the GIL when it requests the accumulator. Without an existing one, threads that share a network can deadlock (torch
    2.14 alone, too: one thread takes `p[0]`, another `p.flatten()`, repeatedly).
    """
    with making:
        return [p.view_as(p) for p in parameters if p is not None and p.requires_grad]


def _drawn_alike(parameter: Tensor, experts: int) -> Tensor:
    """`experts` independent normal draws with mean and standard deviation of `parameter`, (K, ...)."""
    spread = parameter.detach().std(correction=0)
    drawn = torch.randn(experts, *parameter.shape, dtype=parameter.dtype, device=parameter.device)
    return drawn.mul_(spread).add_(parameter.detach().mean())
