"""Filtered: a convolution whose filters are switched for each image, and the layer that reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from dyncomp.core.counter import COUPLED, EACH
from dyncomp.core.narrow import Channels, narrowed
from dyncomp.core.op import Op, with_strongest
from dyncomp.core.rows import rows_using
from dyncomp.core.trace import Decision


class Switch(nn.Module, ABC):
    """Decides from pooled features (B, C) which groups of filters an image uses, and with what weight.

    Every image keeps at least one group: a layer without a filter would cut the network.
    """

    units: int

    @abstractmethod
    def forward(self, pooled: Tensor) -> Decision:
        """The decision (B, U). A weight outside training is 0 where the unit is not used."""

    def pool(self, x: Tensor) -> Tensor:
        """What the switch sees of features (B, C, H, W): each channel's mean, (B, C)."""
        return x.mean(dim=(2, 3))

    def least(self) -> Tensor:
        """The fewest units that an image may use, (U,) of 0 and 1: one, unless the switch says otherwise."""
        return torch.eye(self.units)[0]

    def forced(self, used: Tensor, weight: Tensor) -> Decision:
        """An allowed decision out of wishes (B, U): an image without a unit gets the one of the greatest weight."""
        used = with_strongest(used, weight)
        return Decision(used, used * weight, weight)


class Filtered(Op):
    """consumer(after(weight * before(producer(x))) * mask): filters that an image does not use are not computed.

    `producer` is a convolution; `before` and `after` act on each channel by itself (normalisation, activation,
    pooling, depthwise convolution); `consumer` reads the channels: a convolution, a linear layer, or the next Filtered.
    Where `after` is empty there is no mask: the weight alone shapes the output. A unit is a group of filters that lie
    side by side. What a used unit costs is its filters' share of the producer, its depthwise part, and its share of
    the consumer's input: an unused filter saves its own multiply-adds and those of the layer that would read it.
    Sparse form: images that use the same filters run together, on kernels cut to the filters used, in and out.
    """

    def __init__(
        self, producer: nn.Conv2d, before: nn.Sequential, after: nn.Sequential, consumer: nn.Module, switch: Switch
    ) -> None:
        super().__init__()
        self.units = switch.units
        self.size = producer.out_channels // switch.units
        self.producer = producer
        self.before = before
        self.after = after
        self.consumer = consumer
        self.switch = switch
        if isinstance(consumer, Filtered):
            object.__setattr__(consumer, "reads", self)  # a plain attribute: the outer op is no part of the inner
        self._channels: Tensor | None = None

    def decide(self, x: Tensor) -> Decision:
        """The switch's decision from what it sees of x."""
        pooled = self.switch.pool(x)  # (B, C), or only the channels that there are
        if self._channels is not None:
            whole = pooled.new_zeros(len(pooled), self.producer.in_channels)
            pooled = whole.index_copy(1, self._channels, pooled)  # (B, C)
        decision: Decision = self.switch(pooled)
        return decision

    def dense(self, x: Tensor, decision: Decision) -> Tensor:
        """All filters for all images."""
        weight = self._per_filter(decision.weight)  # (B, filters)
        y = self.before(self.producer(x))
        y = self.after(y * _spread(weight, y))
        if len(self.after):
            y = y * _spread(self._per_filter(decision.used.detach()), y)
        output: Tensor = self.consumer(y)
        return output

    def sparse(self, x: Tensor, decision: Decision) -> Tensor:
        """Images with the same filters together."""
        if len(x) == 0:
            return self.dense(x, decision)
        channels, self._channels = self._channels, None
        routes, which = self.moving(_distinct, decision.used)  # (routes, U), (B,)
        if len(routes) == 1:
            return self._on(x, channels, routes[0], decision.weight)
        y: Tensor | None = None
        for number, route in enumerate(routes):
            rows = self.moving(rows_using, which == number)
            with self.tape.narrow(rows):
                weight = decision.weight.index_select(0, rows)
                part = self._on(self.moving(x.index_select, 0, rows), channels, route, weight)
            y = part.new_empty(len(x), *part.shape[1:]) if y is None else y
            self.moving(y.index_copy_, 0, rows, part)
        assert y is not None  # there is at least one image
        return y

    def _on(self, x: Tensor, channels: Tensor | None, route: Tensor, weight: Tensor) -> Tensor:
        """The op on images x that all use the units of `route` (U,); `channels`: which of its inputs there are."""
        active = self.moving(rows_using, route.repeat_interleave(self.size))  # (filters used,)
        weight = self._per_filter(weight).index_select(1, active)
        y = self.unit(EACH if channels is None else COUPLED, self._narrow, self.producer, x, channels, active)
        y = self.unit(EACH, self._narrow_chain, self.before, y, active)
        y = self.unit(EACH, self._narrow_chain, self.after, y * _spread(weight, y), active)
        if not isinstance(self.consumer, Filtered):
            output: Tensor = self.unit(EACH, self._narrow, self.consumer, y, active, None)
            return output
        self.consumer._channels = active
        output = self.consumer(y)
        return output

    def _narrow_chain(self, chain: nn.Sequential, y: Tensor, active: Tensor) -> Tensor:
        for module in chain:
            y = self._narrow(module, y, active, active)
        return y

    def _narrow(self, module: nn.Module, x: Tensor, inputs: Channels, outputs: Channels) -> Tensor:
        return narrowed(module, x, inputs, outputs, self.moving)

    def _per_filter(self, value: Tensor) -> Tensor:
        return value.repeat_interleave(self.size, dim=1) if self.size > 1 else value  # (B, filters)

    def unit_parts(self) -> tuple[nn.Module | None, ...]:
        """None: a filter is a part of a kernel, not a module."""
        return (None,) * self.units

    def least(self) -> Tensor:
        """What the switch says."""
        return self.switch.least()

    def always(self) -> Tensor:
        """None, unless the switch leaves no choice."""
        least = self.switch.least()
        return torch.full_like(least, float(bool(least.all())))

    def forced(self, used: Tensor, weight: Tensor) -> Decision:
        """What the switch allows."""
        return self.switch.forced(used, weight)


def _distinct(used: Tensor) -> tuple[Tensor, Tensor]:
    """The different routes (routes, U) of `used` (B, U), and which of them is each image's (B,)."""
    routes, which = torch.unique(used > 0.5, dim=0, return_inverse=True)
    return routes, which


def _spread(value: Tensor, like: Tensor) -> Tensor:
    """(B, F) in the type of `like` (B, F, ...), to be multiplied with it."""
    return value.to(like.dtype).view(*value.shape, *[1] * (like.dim() - 2))
