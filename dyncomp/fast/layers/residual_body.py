"""Bodies of residual blocks as generated code: from a block's input to its output, in place on rows of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from dyncomp.core.backbone import ResidualBlock
from dyncomp.fast.layers.compiled import ALL, CompiledConvolution, RowList
from dyncomp.fast.layers.convolution import FusedSequential, TunedConv2d, has_no_listeners, number_of
from dyncomp.fast.mixing import generated
from dyncomp.fast.parameters.submodules import Submodules
from dyncomp.fast.tuning import code_pays, power_of_two


class GeneratedBody:
    """A residual block's body, convolutions with or without a ReLU behind each, and the activation of the block.

    `relus` says for each convolution whether a ReLU follows; for the last, whether it follows the sum with the
    shortcut.
    """

    def __init__(self, block: ResidualBlock, convolutions: Sequence[TunedConv2d], relus: Sequence[bool]) -> None:
        self.layers = (*block.body.modules(), block.activation)
        self._parts = Submodules([block, *block.body.modules()])
        self.convolutions = tuple(convolutions)
        self.relus = tuple(relus)
        self._codes: dict[torch.Size, BodyCode] = {}

    @staticmethod
    def of(block: ResidualBlock) -> GeneratedBody | None:
        """For a block; None where its body has other layers, or a single convolution."""
        layers, relus = layers_in_order(block.body), relus_of(block.body, block.activation, TunedConv2d)
        if relus is None:
            return None
        convolutions = [layer for layer in layers if type(layer) is TunedConv2d]
        return GeneratedBody(block, convolutions, relus)

    @cached_property
    def kind(self) -> int:
        """A number that bodies share which differ only in the values of their parameters."""
        return number_of((tuple(conv.kind for conv in self.convolutions), self.relus))

    def form(self, x: Tensor, shortcut: Tensor, images: int, layers: Callable[[Tensor], Tensor]) -> BodyCode | None:
        """Code that can run on x and is faster for `images` images of it; None where there is none.

        `layers` runs the body layer by layer; the trial times it against the code.
        """
        first = self.convolutions[0]._parameters.get("weight")
        if first is None or not generated.serves(x, first) or not images or not has_no_listeners(self.layers):
            return None
        if not self._parts.are_the_same():
            return None
        if x.dtype != shortcut.dtype or not shortcut.is_contiguous(memory_format=torch.channels_last):
            return None
        code = self._code(x.shape[1:])
        if code is None or (len(x), *code.chain[-1].output) != shortcut.shape:
            return None
        key = ("body", self.kind, power_of_two(images), x.shape[1:], x.dtype, torch.get_num_threads())

        def trial(runs: bool) -> None:
            batch = torch.ones(images, *x.shape[1:], dtype=x.dtype, device=x.device)
            y = (code if runs else layers)(batch.contiguous(memory_format=torch.channels_last))
            if not runs:
                (y + y).relu()  # the code includes the sum and the ReLU

        return code if code_pays(key, trial) else None

    def _code(self, image: torch.Size) -> BodyCode | None:
        """The code for images (C, H, W) with the current weights; None where there is none."""
        code = self._codes.get(image)
        if code is not None:
            if code.is_of(self.convolutions):
                return code
            self._codes.clear()
        chain, size = [], image
        for convolution in self.convolutions:
            compiled = convolution.compiled_for(size)
            if compiled is None:
                return None
            chain.append(compiled)
            size = compiled.output
        if len({compiled.plan.number for compiled in chain}) > 1:
            return None
        code = self._codes[image] = BodyCode(chain, self.relus)
        return code

    def __getstate__(self) -> dict[str, Any]:
        """Without the generated code, which is generated again where the copy is used."""
        return {name: value for name, value in vars(self).items() if name != "kind"} | {"_codes": {}}


@dataclass(frozen=True, eq=False)
class BodyCode:
    """A body's code for images of one size."""

    chain: Sequence[CompiledConvolution]
    relus: Sequence[bool]

    def is_of(self, convolutions: Sequence[TunedConv2d]) -> bool:
        """Whether the code's weights are copies of these convolutions' parameters in their present state."""
        given = (conv._parameters for conv in convolutions)
        pairs = zip(self.chain, given, strict=True)
        return all(compiled.is_of(each.get("weight"), each.get("bias")) for compiled, each in pairs)

    def __call__(self, x: Tensor) -> Tensor:
        """The body on all images of x, with a shortcut of ones; for trials."""
        y = self.new(x).fill_(1)
        return self.run(x, y, y)

    def new(self, x: Tensor) -> Tensor:
        """Uninitialised memory for the outputs of all images of x."""
        return self.chain[-1].new(x)

    def run(self, x: Tensor, shortcut: Tensor, y: Tensor, rows: Tensor | None = None) -> Tensor:
        """Write activation(body(x) + shortcut) into y for the images at `rows` (None: all); y may be x or shortcut."""
        if rows is None:
            images, first, both = len(x), ALL, ALL
        else:
            listed = RowList.of(rows)
            images, first, both = len(rows), (listed, None, None), (None, listed, listed)
        source = x
        for index, compiled in enumerate(self.chain[:-1]):
            intermediate = compiled.intermediate(x, images, index % 2)
            compiled.run(source, intermediate, images, self.relus[index], rows=first)
            source, first = intermediate, ALL
        self.chain[-1].run(source, y, images, self.relus[-1], shortcut, both)
        return y


def relus_of(body: nn.Module, activation: nn.Module, kind: type[nn.Module]) -> list[bool] | None:
    """Which of a body's convolutions of class `kind` a ReLU follows; the last one's stands after the shortcut's sum.

    None unless the body has at least two of them, one as first and one as last layer, and besides them only single
    ReLUs, and the activation is a ReLU or the identity.
    """
    layers = layers_in_order(body)
    convolutions = [layer for layer in layers if type(layer) is kind]
    simple = all(type(layer) in (kind, nn.ReLU) for layer in layers) and type(activation) in (nn.ReLU, nn.Identity)
    if not simple or len(convolutions) < 2 or any(type(a) is type(b) is nn.ReLU for a, b in pairwise(layers)):
        return None
    if layers[0] is not convolutions[0] or layers[-1] is not convolutions[-1]:
        return None
    behind = [type(layer) is nn.ReLU for layer in (*layers[1:], activation)]
    return [relu for relu, layer in zip(behind, layers, strict=True) if type(layer) is kind]


def layers_in_order(body: nn.Module) -> list[nn.Module]:
    """The layers of a body in order, nested Sequentials replaced by their layers."""
    if type(body) in (nn.Sequential, FusedSequential) and "forward" not in vars(body):
        return [layer for part in body for layer in layers_in_order(part)]  # type: ignore[attr-defined]
    return [body]
