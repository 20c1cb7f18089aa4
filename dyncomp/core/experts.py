"""Layers whose parameters are mixed for each image out of K experts' own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyncomp.core.branches import graph_form, is_traced
from dyncomp.core.columns import in_graph
from dyncomp.core.forms import Form, of_convolution, of_linear
from dyncomp.core.kernels import Geometry, convolve
from dyncomp.core.locks import making
from dyncomp.core.mixture import Mix, Mixture
from dyncomp.core.shape_key import shape_key
from dyncomp.core.tiles import Mixing
from dyncomp.core.tracked import track
from dyncomp.core.tuner import chosen
from dyncomp.errors import CannotAttach


class ExpertLayer(nn.Module, ABC):
    """K copies of a layer's parameters, each expert drawn on its own with the spread of the layer it replaces.

    Initialising the stacked tensor as one would count K times the fan-in and start K experts too small.
    """

    geometry: Geometry | None = None
    """How the layer moves over maps; None for one of vectors."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, mixture: Mixture) -> None:
        super().__init__()
        self.mixture = mixture
        self.kernel_shape = layer.weight.shape
        # flat kernels: a parameter of five dimensions would break `net.to(memory_format=torch.channels_last)`
        self.weight = nn.Parameter(_drawn_alike(layer.weight, mixture.experts).flatten(2))  # (K, O, C * k * k)
        self.bias = None if layer.bias is None else nn.Parameter(_drawn_alike(layer.bias, mixture.experts))
        track(self)  # evaluation keeps copies of experts
        self.register_buffer("shift", None)  # (O,) added whatever the mix: what a folded normalisation leaves
        self.shift: Tensor | None

    def fold(self, scale: Tensor, shift: Tensor) -> None:
        """From now on give scale * y + shift in place of y, both (O,): every expert scaled, the shift not mixed."""
        self.weight = nn.Parameter((self.weight * scale[:, None]).to(self.weight.dtype))
        if self.bias is not None:
            self.bias = nn.Parameter((self.bias * scale).to(self.bias.dtype))
        self.shift = (shift if self.shift is None else self.shift * scale + shift).to(self.weight.dtype)

    def kernel(self, expert: int) -> Tensor:
        """One expert's kernel, (O, ...)."""
        # not `weight[expert]`, which holds Python's lock while it waits for the parameter's: threads that record
        # gradients, one of them in another operator on it, would wait for each other
        return self.weight.select(0, expert).view(self.kernel_shape)

    def by_kernels(self, x: Tensor, mix: Mix) -> Tensor:
        """Each image by its own mixed kernel, in the form that is fastest here."""
        if len(mix.weight) != len(x) or mix.weight.shape[1] != self.mixture.experts:
            raise ValueError(
                f"{len(mix.weight)} images' mixing weights for {len(x)} images; give each image one for each of "
                f"{self.mixture.experts} experts"
            )
        if x.shape[0] == 0:  # any kernel gives the right shape
            return self.apply_expert(x, self.kernel(0), None)
        mixing = self._mixing(mix)  # once: mixing a bias is counted
        return self._form(x, mixing)(x, mixing)

    def form_in_run(self, x: Tensor) -> Form | None:
        """The form for features like x (B, ...), at least one image, where layers run in one go by code of our own.

        For a single image that is its form whatever a trial says, which times the call from here that a run saves.
        """
        mixing = self._mixing(Mix(x.new_full((len(x), self.mixture.experts), 1 / self.mixture.experts)))
        return self._form(x, mixing) if len(x) > 1 else self.forms(x, mixing).get("direct")

    def _form(self, x: Tensor, mixing: Mixing) -> Form:
        return chosen(
            ("kernels", *self._key(x)),
            lambda: self.forms(x, mixing),
            lambda form: self._step(lambda copy, mix: form(copy, self._mixing(mix)), x, Mix(mixing.weight)),
        )

    def _mixing(self, mix: Mix) -> Mixing:
        return Mixing(mix.weight, self.weight, self.kernel_shape, mix.overhead, self._bias(mix))

    def _bias(self, mix: Mix) -> Tensor | None:
        """Each image's own, (B, O)."""
        if self.bias is None:
            return None if self.shift is None else self.shift.expand(mix.weight.shape[0], -1)
        mixed: Tensor = mix.overhead(torch.mm, mix.weight, self.bias)
        return mixed if self.shift is None else mixed + self.shift

    def by_outputs(self, x: Tensor, mix: Mix, together: bool) -> Tensor:
        """Every expert on the whole batch, outputs mixed; all experts in one call, or one call for each."""
        y = self._together(x, mix.weight) if together else self._each(x, mix.weight)
        return y if self.shift is None else y + self.shift.view(-1, *[1] * (y.dim() - 2))

    def _each(self, x: Tensor, shares: Tensor) -> Tensor:
        """One call for each expert."""
        biases = [None] * self.mixture.experts if self.bias is None else self.bias.unbind()
        y = None
        # not one expert at a time out of the whole: each would bring a gradient as large as all
        for k, (weight, bias) in enumerate(zip(self.weight.unbind(), biases, strict=True)):
            output = self.apply_expert(x, weight.view(self.kernel_shape), bias)
            share = shares[:, k].to(output.dtype)
            term = output * share.view(-1, *[1] * (output.dim() - 1))
            y = term if y is None else y + term
        assert y is not None  # there is at least one expert
        return y

    def _together(self, x: Tensor, shares: Tensor) -> Tensor:
        """One call for all experts, whose outputs lie side by side: cheaper where a call has little to do."""
        kernels = self.weight.view(-1, *self.kernel_shape[1:])  # (K * O, ...)
        y = self.apply_expert(x, kernels, None if self.bias is None else self.bias.flatten())
        y = y.view(len(y), self.mixture.experts, self.kernel_shape[0], *y.shape[2:])  # (B, K, O, ...)
        share = shares.to(y.dtype)
        mixed: Tensor = (y * share.view(*share.shape, *[1] * (y.dim() - 2))).sum(1)
        return mixed

    def _is_one_call(self) -> bool:
        """Whether all experts' kernels in a row are a kernel of the layer."""
        return True

    @abstractmethod
    def forms(self, x: Tensor, mixing: Mixing) -> Mapping[str, Form]:
        """The equal forms of the layer for features x, each image by its own mixed kernel."""

    @abstractmethod
    def apply_expert(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer with one expert's kernel (O, ...) and bias (O,) for all images."""

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for features x, each image by its own mix."""
        recording = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        held = _held((self.weight, self.bias)) if recording else ()
        y = self._forward(x)
        del held  # from here on the graph of y holds them
        return y

    def _forward(self, x: Tensor) -> Tensor:
        mix = self.mixture.mix
        if graph_form() == "routed":
            return in_graph(x, self._mixing(mix), self.geometry)
        if mix.dense and is_traced():  # the other ways have a number of images in them
            return self.by_outputs(x, mix, together=False)
        if not mix.dense or self.mixture.mode == "kernels":
            return self.by_kernels(x, mix)
        key = ("mix", self.mixture.mode, *self._key(x))
        way = chosen(key, self._ways, lambda way: self._step(partial(way, self), x, mix))
        return way(self, x, mix)

    def _ways(self) -> dict[str, Callable[[ExpertLayer, Tensor, Mix], Tensor]]:
        """The equal ways that the mode allows, by name; of any layer, since layers that are alike share a choice."""
        ways: dict[str, Callable[[ExpertLayer, Tensor, Mix], Tensor]] = {}
        if self.mixture.mode != "outputs":
            ways["kernels"] = ExpertLayer.by_kernels
        if self.mixture.mode != "kernels":
            ways["outputs one by one"] = partial(ExpertLayer.by_outputs, together=False)
            if self._is_one_call():
                ways["outputs together"] = partial(ExpertLayer.by_outputs, together=True)
        return ways

    def _key(self, x: Tensor) -> tuple[object, ...]:
        weight = self.weight
        inference = not torch.compiler.is_compiling() and weight.is_inference()  # compilers cannot ask
        parameter = (self.kernel_shape, self.mixture.experts, weight.dtype, inference)
        return (*shape_key(x), *parameter, torch.is_grad_enabled())

    def _step(self, form: Callable[[Tensor, Mix], Tensor], x: Tensor, mix: Mix) -> None:
        """One forward pass, and a backward pass when training, on a copy; no gradient is left behind."""
        inputs = x.detach().requires_grad_(torch.is_grad_enabled())
        weight = mix.weight.detach().requires_grad_(mix.weight.requires_grad)
        y = form(inputs, replace(mix, weight=weight))
        if torch.is_grad_enabled():
            learning = [self.weight] if self.weight.requires_grad else []
            torch.autograd.grad(y.float().sum(), [inputs, *learning])


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

    def forms(self, x: Tensor, mixing: Mixing) -> Mapping[str, Form]:
        """Convolutions of each image by its own kernel."""
        return of_convolution(x, mixing, self.geometry)

    def _key(self, x: Tensor) -> tuple[object, ...]:
        return (*super()._key(x), self.geometry)

    def _is_one_call(self) -> bool:
        return self.geometry.groups == 1  # else the outputs of a group would have to lie together

    def apply_expert(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """One convolution for all images."""
        return convolve(x, weight, bias, self.geometry)


class ExpertLinear(ExpertLayer):
    """A linear layer with K experts; (B, C) -> (B, O)."""

    def forms(self, x: Tensor, mixing: Mixing) -> Mapping[str, Form]:
        """Products of each image's vector and its own matrix."""
        return of_linear(x, mixing)

    def apply_expert(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """One linear layer for all images."""
        return F.linear(x, weight, bias)


def _held(parameters: Iterable[Tensor | None]) -> list[Tensor]:
    """Keeps the nodes alive by which parameters stand in graphs, as long as what comes back is kept.

    Torch makes such a node under a lock of the parameter, for which it may need Python's lock; an autograd function has
    Python's lock when it asks for the node. Threads that share a network would wait for each other for ever, unless the
    node is there (torch 2.14, without any dyncomp: one thread takes `p[0]`, another `p.flatten()`, again and again).
    """
    with making:
        return [p.view_as(p) for p in parameters if p is not None and p.requires_grad]


def _drawn_alike(parameter: Tensor, experts: int) -> Tensor:
    """`experts` independent normal draws with the mean and spread of `parameter`, (K, ...)."""
    spread = parameter.detach().std(correction=0)
    drawn = torch.randn(experts, *parameter.shape, dtype=parameter.dtype, device=parameter.device)
    return drawn.mul_(spread).add_(parameter.detach().mean())
