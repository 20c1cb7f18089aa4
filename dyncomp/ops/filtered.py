"""Filtered: a convolution whose filters are switched for each image, and the layer that reads their outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from dyncomp.core.counter import COUPLED, EACH
from dyncomp.core.op import Op, with_strongest
from dyncomp.core.rules import Rule
from dyncomp.core.trace import Decision
from dyncomp.ops.channel_subsets import Channels, on_channels, spread
from dyncomp.ops.rows import rows_using, take


@dataclass(frozen=True)
class SwitchDescription:
    """A switch that generated code can run: a linear layer from channel means (B, C) to logits (B, U).

    A unit is used if its logit is above 0; if no logit is, the unit with the greatest is used. With `keep` above 0 the
    top-k units are used instead, k = `keep`; then `reads_magnitudes` and `weighted` are true, too.
    """

    layer: nn.Linear
    keep: int = 0

    @property
    def reads_magnitudes(self) -> bool:
        """Whether the layer reads channel means of absolute values."""
        return self.keep > 0

    @property
    def weighted(self) -> bool:
        """Whether the weight of a used unit is ReLU of its logit instead of 1."""
        return self.keep > 0


class ChannelOrder(Protocol):
    """The compaction of features in which each image has its own channels, packed in its own order."""

    @property
    def used(self) -> Tensor:
        """The channels that each image has, (B, C) of 0 and 1, in the original order."""

    @property
    def order(self) -> Tensor:
        """The channel at each position of the features, (B, C) int64: first those that an image has, ascending."""

    def unsorted(self, features: Tensor) -> Tensor:
        """Scatter features (B, C, ...) to the original order of channels, with 0 in channels that an image lacks."""


class Switch(nn.Module, ABC):
    """Decides from pooled features (B, C) which groups of filters an image uses, and with what weight.

    Every image uses at least one group: without filters a layer would have no output.
    """

    units: int

    @abstractmethod
    def forward(self, pooled: Tensor) -> Decision:
        """The decision (B, U). In evaluation the weights of unused units are 0."""

    def pool(self, x: Tensor) -> Tensor:
        """The switch's input from features (B, C, H, W): by default channel means, (B, C)."""
        return x.mean(dim=(2, 3))

    def description(self) -> SwitchDescription | None:
        """The switch as one linear layer; None for a switch of another kind."""
        return None

    def least(self) -> Tensor:
        """The fewest units that an image may use, (U,) of 0 and 1; by default one unit."""
        return torch.eye(self.units)[0]

    def forced(self, used: Tensor, weight: Tensor) -> Decision:
        """The requested units (B, U); an image without any gets the unit of the greatest weight."""
        used = with_strongest(used, weight)
        return Decision(used, used * weight, weight)


class Filtered(Op):
    """consumer(after(weight * before(producer(x))) * mask): filters that an image does not use are not computed.

    `producer` is a convolution; `before` and `after` act on each channel by itself (normalisation, activation,
    pooling, depthwise convolution); `consumer` reads the channels: a convolution, a linear layer, or the next Filtered.
    If `after` is empty there is no mask, only the weight. A unit is a group of adjacent filters. The cost of a used
    unit is that of its filters in the producer, of its depthwise part, and of the consumer's products with its
    channels: an unused filter saves its own multiply-adds and those of the layer that reads it. Sparse form: images
    that use the same filters run together, on kernels cut to these filters, inputs and outputs; in a deployed network a
    fused form runs all images at once where that is faster.
    """

    kept_by = "gathered kernels"

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
            object.__setattr__(consumer, "reads", self)  # not registered: the outer op is no submodule of the inner

    def decide(self, x: Tensor) -> Decision:
        """The switch's decision, from pooled features."""
        pooled = self.switch.pool(x)  # (B, C), or fewer channels where the outer op has computed fewer
        channels: Tensor | ChannelOrder | None = self.tape.handed(self.site)
        if isinstance(channels, Tensor):
            whole = pooled.new_zeros(len(pooled), self.producer.in_channels)
            pooled = whole.index_copy(1, channels, pooled)  # (B, C)
        elif channels is not None:
            pooled = channels.unsorted(pooled)
        decision: Decision = self.switch(pooled)
        return decision

    def dense(self, x: Tensor, decision: Decision) -> Tensor:
        """Compute all filters for all images."""
        weight = self.per_filter(decision.weight)  # (B, filters)
        y = self.before(self.producer(x))
        y = self.after(y * spread(weight, y))
        if len(self.after):
            y = y * spread(self.per_filter(decision.used.detach()), y)
        output: Tensor = self.consumer(y)
        return output

    def sparse(self, x: Tensor, decision: Decision) -> Tensor:
        """Run images that use the same filters, and have the same channels, together, as one sub-batch."""
        if len(x) == 0:
            return self.dense(x, decision)
        handed: Tensor | ChannelOrder | None = self.tape.taken(self.site)
        kinds = decision.used
        there: ChannelOrder | None = None
        channels = handed if isinstance(handed, Tensor) else None
        if handed is not None and not isinstance(handed, Tensor):  # each image has its own
            there = handed
            kinds = torch.cat([kinds, there.used.to(kinds)], dim=1)  # (B, U + C)
        groups = self.moving(alike, kinds) if len(x) > 1 else [[0]]
        if len(groups) == 1 and there is None:
            return self._on(x, channels, decision, self._active(decision))
        order = torch.tensor([row for group in groups for row in group], device=x.device)  # (B,)
        parts, start = list[Tensor](), 0
        for group in groups:
            rows, start = order[start : start + len(group)], start + len(group)

            def here(value: Tensor, group: Sequence[int] = group, rows: Tensor = rows) -> Tensor:
                return value[group[0] : group[0] + 1] if len(group) == 1 else take(value, rows)

            with self.tape.restricted_to(rows):
                some, part = self.moving(decision.map, here), self.moving(here, x)
                if there is not None:
                    count = int(there.used[group[0]].sum())
                    channels, part = there.order[group[0], :count], part[:, :count]  # (C',), (b, C', H, W)
                parts.append(self._on(part, channels, some, self._active(some)))
        y: Tensor = self.moving(torch.cat, parts)
        return y if len(groups) == len(x) else self.moving(_in_order, y, order)

    def branched(self, x: Tensor, decision: Decision) -> Tensor:
        """Run one image on kernels cut to its filters, whose number is a dynamic size of the graph.

        The size is static if all images use the same number of filters; more engines support that.
        """
        channels, description = self.tape.taken(self.site), self.switch.description()
        used = self.per_filter(decision.used)[0]  # (filters,)
        if description is None or not description.keep:
            active = rows_using(used)
            torch._check(active.shape[0] > 0)
            return self._on(x, channels, decision, active)
        return self._on(x, channels, decision, used.topk(description.keep * self.size).indices.sort().values)

    def _on(self, x: Tensor, channels: Tensor | None, decision: Decision, active: Tensor) -> Tensor:
        """Run the op on images x that all use the filters `active` (filters,); `channels`: the input channels of x."""
        y = self.unit(EACH if channels is None else COUPLED, self._on_channels, self.producer, x, channels, active)
        y = self.unit(EACH, self._chain_on_channels, self.before, y, active)
        if decision.weight is not decision.used:  # else the weight of all active filters is 1
            y = y * spread(self.per_filter(decision.weight).index_select(1, active), y)
        y = self.unit(EACH, self._chain_on_channels, self.after, y, active)
        if not isinstance(self.consumer, Filtered):
            output: Tensor = self.unit(EACH, self._on_channels, self.consumer, y, active, None)
            return output
        return self.consumer.on(y, active)

    def _active(self, decision: Decision) -> Tensor:
        """The filters (filters,) that the first image uses."""
        active: Tensor = self.moving(rows_using, self.per_filter(decision.used[:1])[0])
        return active

    def on(self, x: Tensor, channels: Tensor | ChannelOrder) -> Tensor:
        """Run the op on images x that have the input channels `channels` only: indices (C',), or an order per image."""
        tape = self.tape
        tape.hand(self.site, channels)
        try:
            output: Tensor = self(x)
        finally:
            tape.taken(self.site)
        return output

    def _chain_on_channels(self, chain: nn.Sequential, y: Tensor, active: Tensor) -> Tensor:
        for module in chain:
            y = self._on_channels(module, y, active, active)
        return y

    def _on_channels(self, module: nn.Module, x: Tensor, inputs: Channels, outputs: Channels) -> Tensor:
        return on_channels(module, x, inputs, outputs, self.moving)

    def per_filter(self, value: Tensor) -> Tensor:
        """Repeat values of units (B, U) for each of their filters, (B, filters)."""
        return value.repeat_interleave(self.size, dim=1) if self.size > 1 else value  # (B, filters)

    def follow(self, make: Callable[[int, bool], Rule]) -> Rule:
        """See `Op.follow`."""
        rule = make(self.units, True)
        self.switch = _RuledSwitch(rule)
        return rule

    def unit_parts(self) -> tuple[nn.Module | None, ...]:
        """None: a filter is a part of a kernel, not a module."""
        return (None,) * self.units

    def least(self) -> Tensor:
        """See `Switch.least`."""
        return self.switch.least()

    def always(self) -> Tensor:
        """No unit, or all units if the switch requires all."""
        least = self.switch.least()
        return torch.full_like(least, float(bool(least.all())))

    def forced(self, used: Tensor, weight: Tensor) -> Decision:
        """See `Switch.forced`."""
        return self.switch.forced(used, weight)


class _RuledSwitch(Switch):
    """A switch that follows a rule; used units have the rule's weights."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.units = rule.units
        self.rule = rule

    def forward(self, pooled: Tensor) -> Decision:
        """See `Switch.forward`."""
        scores = self.rule.scores(pooled)  # (B, U)
        used = with_strongest((scores > 0.5).to(pooled), scores)
        assert self.rule.weights is not None  # see Filtered.follow
        return Decision(used, used * self.rule.weights.to(used), used)


def alike(used: Tensor) -> list[list[int]]:
    """Group the rows of decisions (B, U) that use the same units, in the order of their first rows."""
    groups: dict[bytes, list[int]] = {}
    for row, units in enumerate((used > 0.5).cpu().numpy()):
        groups.setdefault(units.tobytes(), []).append(row)
    return list(groups.values())


def _in_order(y: Tensor, order: Tensor) -> Tensor:
    return take(y, order.argsort())
