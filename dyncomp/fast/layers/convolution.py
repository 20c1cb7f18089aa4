"""Layers of a deployed network: convolutions in their fastest form, Sequentials that run several layers in one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import count, pairwise
from operator import is_
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as everywhere

from dyncomp.core.hooks import Heard
from dyncomp.fast.layers.compiled import CodeCache, CompiledConvolution
from dyncomp.fast.mixing import generated
from dyncomp.fast.mixing.generated import WHOLE, Picks
from dyncomp.fast.tuning import code_pays, power_of_two
from dyncomp.ops.kernels import Geometry

Layer = TypeVar("Layer", bound=nn.Module)


class TunedConv2d(Heard, nn.Conv2d):
    """A convolution that is not trained any more, by torch or by generated code; (B, C, H, W) -> (B, O, H', W').

    Generated code holds a copy of the parameters, which is remade when they change.
    """

    makes_new_output = True
    fused = True
    """see `dyncomp.fast.is_deployed`"""

    def forward(self, x: Tensor) -> Tensor:
        """See `nn.Conv2d`."""
        return self.then(x, relu=False)

    def then(self, x: Tensor, relu: bool) -> Tensor:
        """The convolution, followed by ReLU if `relu`."""
        return self._by_torch(x, relu) if self.directly(x, relu) is None else self._directly(x, relu)

    def directly(self, x: Tensor, relu: bool) -> CompiledConvolution | None:
        """Generated code for images like x; None where there is none or torch's operator is faster."""
        compiled = self.compiled_for(x.shape[1:]) if generated.serves(x, self.weight) else None
        if compiled is None:
            return None
        key = ("conv", self.kind, relu, power_of_two(len(x)), x.shape[1:], x.dtype, torch.get_num_threads())
        pays = code_pays(key, lambda code: self._directly(x, relu) if code else self._by_torch(x, relu))
        return compiled if pays else None

    def _directly(self, x: Tensor, relu: bool) -> Tensor:
        compiled = self.compiled_for(x.shape[1:])
        assert compiled is not None  # checked by `directly`
        y = compiled.new(x)
        if len(x):
            compiled.run(x, y, len(x), relu)
        return y

    def _by_torch(self, x: Tensor, relu: bool) -> Tensor:
        y = super().forward(x)
        return y.relu_() if relu else y  # the output is new, and the convolution does not need it

    @cached_property
    def kind(self) -> int:
        """A number that convolutions share which differ only in the values of their parameters."""
        return number_of((self.weight.shape, self.geometry))

    @property
    def geometry(self) -> Geometry:
        """Stride, padding, dilation and groups."""
        return Geometry(self.stride, self.padding, self.dilation, self.groups)  # type: ignore[arg-type]

    def compiled_for(self, image: torch.Size, picks: Picks = WHOLE) -> CompiledConvolution | None:
        """Generated code for images (C, H, W) with the current weights; None where there is none."""
        given = self._parameters
        weight = given.get("weight")
        if weight is None:
            return None  # a parametrization computes it at every pass
        return self._code_cache.code(image, picks, weight, given.get("bias"), self._moves)

    @cached_property
    def _code_cache(self) -> CodeCache:
        return CodeCache()

    def _moves(self) -> Geometry | None:
        """The geometry if the padding is with zeros, by the same number on both sides; else None."""
        return self.geometry if self.padding_mode == "zeros" and not isinstance(self.padding, str) else None

    def __getstate__(self) -> dict[str, Any]:
        """Without the generated code, which is generated again where the copy is used."""
        return {name: value for name, value in vars(self).items() if name not in ("_code_cache", "kind")}


_numbers: dict[Any, int] = {}
_next = count()


def number_of(kind: Any) -> int:
    """A number for each kind, cheap to compare where the kind itself is not."""
    return _numbers.setdefault(kind, next(_next))


class FusedLayers(Protocol):
    """Consecutive `layers` of a Sequential that generated code runs in one call."""

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The layers of the Sequential that are run."""

    def __call__(self, x: Tensor) -> Tensor | None:
        """The output of the layers for x; None where the layers have to be called one by one."""


class FusedSequential(nn.Sequential):
    """A Sequential that runs several layers in one call where that is faster, and a ReLU together with its convolution.

    `fused` maps the index of a first layer to the stretches of layers from there that can run in one call, the longest
    first.
    """

    is_chain = True
    fused: Mapping[int, Sequence[FusedLayers]]

    joins_relus: bool
    """whether a ReLU directly follows one of its convolutions"""

    def forward(self, x: Any) -> Any:
        """See `nn.Sequential`."""
        if not (self.fused or self.joins_relus):
            return super().forward(x)  # type: ignore[no-untyped-call]
        layers, index = list(self), 0
        while index < len(layers):
            x, index = self._from(layers, index, x)
        return x

    def _from(self, layers: Sequence[nn.Module], index: int, x: Any) -> tuple[Any, int]:
        """The output of the layers that run together from `index` on, and the index of the layer after them."""
        for stretch in self.fused.get(index, ()) if isinstance(x, Tensor) else ():
            # the stretch is invalid if layers were replaced since
            there = layers[index : index + len(stretch.layers)]
            y = stretch(x) if len(there) == len(stretch.layers) and all(map(is_, there, stretch.layers)) else None
            if y is not None:
                return y, index + len(stretch.layers)
        layer, behind = layers[index], layers[index + 1] if index + 1 < len(layers) else None
        if type(layer) is TunedConv2d and type(behind) is nn.ReLU and has_no_listeners((layer, behind)):
            return layer.then(x, relu=True), index + 2
        return layer(x), index + 1


def has_no_listeners(layers: Iterable[nn.Module]) -> bool:
    """Whether gradients are off and no forward hook, of the layers or of all modules, has to be called."""
    if torch.is_grad_enabled() or everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks:
        return False
    return not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)


def with_tuned_layers(model: nn.Module) -> nn.Module:
    """The model with layers of this file in place of torch's own, except those with a `forward` set on the instance.

    A new layer shares parameters, modules and hooks with the layer that it replaces, so code that still holds the old
    layer outside the module tree computes the same.
    """
    return _exchanged(model, {})


def _exchanged(module: nn.Module, known: dict[nn.Module, nn.Module]) -> nn.Module:
    if module in known:
        return known[module]
    for name, child in module._modules.items():
        if child is not None:
            module._modules[name] = _exchanged(child, known)
    made, kind = module, None if "forward" in vars(module) else type(module)
    if kind is nn.Conv2d and "weight" in module._parameters:
        made = _with_state(TunedConv2d, module)
    elif kind is nn.Sequential:
        made = chain = _with_state(FusedSequential, module)
        chain.fused = {}
        chain.joins_relus = any(type(one) is TunedConv2d and type(other) is nn.ReLU for one, other in pairwise(chain))
    known[module] = made
    return made


def _with_state(kind: type[Layer], layer: nn.Module) -> Layer:
    made = kind.__new__(kind)
    vars(made).update(vars(layer))  # the same dicts of parameters, buffers, modules and hooks
    return made
