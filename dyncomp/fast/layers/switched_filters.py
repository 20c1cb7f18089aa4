"""Switched filters by generated code: all images in one call, each on its own channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dyncomp.core.counter import COUPLED, EACH
from dyncomp.core.inplace import in_place
from dyncomp.core.trace import Decision
from dyncomp.fast.layers.compaction import Compaction
from dyncomp.fast.layers.compiled import CodeCache, CompiledConvolution
from dyncomp.fast.layers.convolution import TunedConv2d, has_no_listeners
from dyncomp.fast.mixing import generated
from dyncomp.fast.parameters.submodules import Submodules
from dyncomp.fast.tuning import chosen, power_of_two
from dyncomp.ops.channel_subsets import BY_CHANNEL, Shift, on_channels, spread
from dyncomp.ops.filtered import Filtered
from dyncomp.ops.kernels import Geometry

KEEP_ZERO = tuple(kind for kind in BY_CHANNEL if kind not in (Shift, nn.BatchNorm2d))
"""per-channel layers that map 0 to 0"""

_POINT = Geometry((1, 1), (0, 0), (1, 1), 1)


class SwitchedFilters:
    """The layers of a deployed `Filtered` op, run on images that each use filters of their own.

    Features are in the order of `Compaction`. A linear layer runs as a 1x1 convolution of single pixels.
    """

    def __init__(self, op: Filtered) -> None:
        assert isinstance(op.producer, TunedConv2d)  # checked by `of`
        before, after = list(op.before), tuple(op.after)
        self.producer, self.consumer = op.producer, op.consumer
        self.relu = bool(before) and type(before[0]) is nn.ReLU
        self.layers = (op.producer, *before, *after, op.consumer)
        self._chains = op.before, op.after
        self._inside = Submodules(self._chains)
        self.before, self.after = tuple(before[int(self.relu) :]), after
        self._linear = CodeCache()

    @staticmethod
    def of(op: Filtered) -> SwitchedFilters | None:
        """For an op; None where one of its layers is not supported."""
        able = all(type(layer) in (*KEEP_ZERO, Shift) for layer in (*op.before, *op.after))
        known = type(op.consumer) in (TunedConv2d, nn.Linear) or isinstance(op.consumer, Filtered)
        return SwitchedFilters(op) if able and known and type(op.producer) is TunedConv2d else None

    def is_of(self, op: Filtered) -> bool:
        """Whether these are still the op's layers; the op may have another switch."""
        parts = (op.producer is self.producer, op.consumer is self.consumer, op.before is self._chains[0])
        return all(parts) and op.after is self._chains[1] and self._inside.are_the_same()

    def __call__(self, op: Filtered, x: Tensor) -> Tensor | None:
        """See `dyncomp.core.op.Fused`."""
        there: Tensor | Compaction | None = op.tape.handed(op.site)
        if isinstance(there, Tensor) or not len(x) or not self.serves(op, x, there):
            return None
        decision = op.settled(x)
        op.tape.taken(op.site)
        return self.run(op, x, there, decision)

    def serves(self, op: Filtered, x: Tensor, there: Compaction | None) -> bool:
        """Whether images x (B, C, H, W) can run this way at present; `there`: the channels they have, None for all."""
        weight = self.producer._parameters.get("weight")
        if weight is None or not generated.serves(x, weight) or not has_no_listeners(self.layers):
            return False
        return self.is_of(op) and self._code(x, there) is not None

    def run(self, op: Filtered, x: Tensor, there: Compaction | None, decision: Decision) -> Tensor:
        """The op's output for images x; `there`: the input channels that they have, None for all."""
        wanted = op.moving(Compaction.of, op.per_filter(decision.used))
        y: Tensor = op.unit(EACH if there is None else COUPLED, self._convolved, x, there, wanted)
        y = op.unit(EACH, _each, self.before, y, wanted)
        if decision.weight is not decision.used or _adds(self.before):  # else weights are 1, or 0 where y is 0
            y = y * spread(wanted.sorted(op.per_filter(decision.weight)), y)
        y = op.unit(EACH, _each, self.after, y, wanted)
        if _adds(self.after):
            y = y * spread(wanted.sorted(wanted.used), y)
        if isinstance(self.consumer, Filtered):
            return self.consumer.on(y, wanted)
        output: Tensor = op.unit(EACH, self._read, y, wanted)
        return output

    def _code(self, x: Tensor, there: Compaction | None) -> CompiledConvolution | None:
        return self.producer.compiled_for(x.shape[1:], (there is not None, True))

    def _convolved(self, x: Tensor, there: Compaction | None, wanted: Compaction) -> Tensor:
        """The producer and the ReLU behind it, in the faster of the two ways."""
        key = ("filters", self.producer.kind, there is None, power_of_two(len(x)), x.shape[1:], x.dtype)
        half = partial(half_of, len(x), self.producer.out_channels, x)
        way = chosen(
            (*key, torch.get_num_threads()),
            lambda: {"one by one": SwitchedFilters._one_by_one, "at once": SwitchedFilters._at_once},
            lambda way: way(self, x, there, half()),
        )
        return way(self, x, there, wanted)

    def _at_once(self, x: Tensor, there: Compaction | None, wanted: Compaction) -> Tensor:
        code = self._code(x, there)
        assert code is not None  # checked by `serves`
        return code.pick(x, there, wanted, self.relu)

    def _one_by_one(self, x: Tensor, there: Compaction | None, wanted: Compaction) -> Tensor:
        code = self._code(x, there)
        assert code is not None  # checked by `serves`
        y = code.new(x).zero_()
        for i, count in enumerate(wanted.counts.tolist()):
            inputs = None if there is None else there.order[i, : int(there.counts[i])]
            one = x[i : i + 1] if inputs is None else x[i : i + 1, : len(inputs)]
            convolved = on_channels(self.producer, one, inputs, wanted.order[i, :count], _now)
            y[i : i + 1, :count] = convolved.relu_() if self.relu else convolved
        return y

    def _read(self, y: Tensor, there: Compaction) -> Tensor:
        """The consumer's output for images that have some of its input channels."""
        maps = y[:, :, None, None] if isinstance(self.consumer, nn.Linear) else y  # (B, C, H, W)
        code = self.code_to_read(maps.shape[1:]) if self.consumer.weight.dtype == y.dtype else None
        if code is None:
            used = [there.order[i, :count] for i, count in enumerate(there.counts.tolist())]
            consumed = (
                on_channels(self.consumer, y[i : i + 1, : len(which)], which, None, _now)
                for i, which in enumerate(used)
            )
            return torch.cat(list(consumed))
        read = code.pick(maps, there, None)
        return read.flatten(1) if isinstance(self.consumer, nn.Linear) else read

    def code_to_read(self, image: torch.Size) -> CompiledConvolution | None:
        """The consumer's code for images (C, H, W) that each have some of the channels; None where there is none."""
        if isinstance(self.consumer, nn.Linear):
            weight = self.consumer.weight[:, :, None, None]
            return self._linear.code(image, (True, False), weight, self.consumer.bias, lambda: _POINT)
        assert isinstance(self.consumer, TunedConv2d)  # checked by `of`
        return self.consumer.compiled_for(image, (True, False))

    def __getstate__(self) -> dict[str, Any]:
        """Without the generated code, which is generated again where the copy is used."""
        return vars(self) | {"_linear": CodeCache()}


def _now(run: Callable[..., Any], *given: Any) -> Any:
    return run(*given)


def half_of(images: int, channels: int, like: Tensor) -> Compaction:
    """About half of the channels, drawn for each image from a fixed seed; for trials."""
    draw = torch.Generator().manual_seed(0)
    return Compaction.of((torch.rand(images, channels, generator=draw) < 0.5).to(like))


def _adds(layers: Iterable[nn.Module]) -> bool:
    return any(type(layer) is Shift for layer in layers)


def _each(layers: Iterable[nn.Module], y: Tensor, there: Compaction) -> Tensor:
    """Per-channel layers on features that nothing else reads, and that may be overwritten."""
    for layer in layers:
        y = y + spread(there.sorted(layer.bias), y) if isinstance(layer, Shift) else in_place(layer, y)
    return y
