"""Switches: from features to the filters that each image uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby

from llvmlite import ir

from dyncomp.fast.codegen.build import Arguments, Program
from dyncomp.fast.codegen.emit import INT, Value, integer, pieces, starts
from dyncomp.fast.codegen.means import Means, MeansPlan
from dyncomp.fast.codegen.top_k import TopK

_TOGETHER = 4
"""vectors of logits that are computed together: an image's logits are divided between threads in such groups"""


class SwitchArgument(IntEnum):
    """Arguments of the code, in order: addresses, and counts."""

    X = 0
    IMAGES = 1
    WEIGHTS = 2
    """group by group (see `groups_of`): (channels, units of the group); then the bias (units,)"""
    SCRATCH = 3
    LOGITS = 4
    """(images, units)"""
    INPUTS = 5
    """(images, channels) integers, read with `picks`: index of the channel at each position of x"""
    INPUT_COUNTS = 6
    FORCED = 7
    """(images, units) numbers: they take the place of the logits in the choice, and units above 0 are used; 0: none"""
    OUTPUTS = 8
    """(images, filters), written: indices of the used filters, ascending; the entries after them have no meaning"""
    OUTPUT_COUNTS = 9
    BASE = 10
    """(filters,), read with `weighted`: multiplied by the filter's weight and added to its shift"""
    SHIFT = 11
    """(filters,)"""
    SHIFTS = 12
    """(images, filters), written: base * weight + shift of the used filters, in compacted order, then 0"""
    SCALES = 13
    """(images, filters), written with `weighted`: the weights of the used filters, in compacted order, then 0"""
    FORCED_WEIGHTS = 14
    """(images, units), read with `weighted` where decisions are forced: the units' weights"""


@dataclass(frozen=True)
class SwitchPlan(MeansPlan, Program):
    """A logit, from channel means, for each of `units` units, which are `size` adjacent filters each.

    A unit is used where its logit exceeds 0; if no logit does, the unit of the greatest is used. `keep`, unless 0: the
    units of the top-k logits, k = `keep`, are used instead. `magnitudes`: logits are computed from means of absolute
    values. `weighted`: used units are weighted by ReLU of their logits. `picks`: each image has only some of the
    channels.
    """

    units: int
    size: int = 1
    keep: int = 0
    magnitudes: bool = False
    weighted: bool = False
    picks: bool = False

    arguments = SwitchArgument

    @property
    def filters(self) -> int:
        """Number of filters of all units."""
        return self.units * self.size

    def emit(self, module: ir.Module) -> None:
        """See `Program.emit`."""
        _Switch(module, self).emit()

    def macs(self, given: Arguments) -> int:
        """See `Program.macs`: of all channels, of which those that an image lacks are 0."""
        return given[SwitchArgument.IMAGES] * self.channels * self.units


def groups_of(units: int, lanes: int) -> list[list[int]]:
    """Widths of the vectors of logits, in the groups that are computed together."""
    widths = pieces(units, lanes)
    return [widths[index : index + _TOGETHER] for index in range(0, len(widths), _TOGETHER)]


class _Switch(Means):
    def __init__(self, module: ir.Module, plan: SwitchPlan) -> None:
        super().__init__(module, plan, SwitchArgument.X, SwitchArgument.IMAGES, SwitchArgument.SCRATCH)
        self.plan = plan
        self.given = [self.argument(index) for index in SwitchArgument]

    def emit(self) -> None:
        """Channel means, logits and choices, with a barrier after each of the first two."""
        groups = groups_of(self.plan.units, self.plan.lanes)
        self.sum_up(magnitudes=self.plan.magnitudes)
        self.loop(*self.share(self.images), lambda image: self.mean_to(image, self.sums_of(image)))
        self.barrier()
        self.loop(*self.share(self.mul(self.images, integer(len(groups)))), lambda task: self._logits(task, groups))
        self.barrier()
        self.loop(*self.share(self.images), self._choose)
        self.ret_void()

    def _logits(self, task: Value, groups: list[list[int]]) -> None:
        """Compute the logits of one group of an image's units."""
        image, group = self.sdiv(task, integer(len(groups))), self.srem(task, integer(len(groups)))
        first = 0  # the number of the first group that is as wide, and the first unit of it
        unit = 0
        for widths, alike in groupby(groups):
            count = len(list(alike))
            among = self.icmp_signed(">=", group, integer(first)), self.icmp_signed("<", group, integer(first + count))
            with self.if_then(self.and_(*among)):
                units = self.mul(self.sub(group, integer(first)), integer(sum(widths)))
                self._some_logits(image, self.add(units, integer(unit)), widths)
            first, unit = first + count, unit + count * sum(widths)

    def _some_logits(self, image: Value, first: Value, widths: list[int]) -> None:
        plan, weights = self.plan, self.pointer(self.given[SwitchArgument.WEIGHTS])
        own = self.at(weights, (first, plan.channels))
        bias = self.at(weights, first, integer(plan.units * plan.channels))
        totals = [self.stack_slot(self.number.vector(lanes)) for lanes in widths]
        for total, lanes, offset in zip(totals, widths, starts(widths), strict=True):
            self.store(self.vector(self.at(bias, integer(offset)), lanes), total)
        means, count, channel_of = self.sums_of(image), integer(plan.channels), None
        if plan.picks:
            count = self.load_int(self.pointer(self.given[SwitchArgument.INPUT_COUNTS]), image)
            channel_of = self._words(SwitchArgument.INPUTS, image, plan.channels)

        def add(index: Value) -> None:
            row = index if channel_of is None else self.load_int(channel_of, index)
            value = self.load_element(self.at(means, index))
            for total, lanes, offset in zip(totals, widths, starts(widths), strict=True):
                weight = self.vector(self.at(own, (row, sum(widths)), integer(offset)), lanes)
                held = self.load(total, typ=weight.type)
                self.store(self.multiply_add(self.broadcast(value, lanes), weight, held), total)

        self.loop(integer(0), count, add)
        out = self.at(self._numbers(SwitchArgument.LOGITS, image, plan.units), first)
        for total, lanes, offset in zip(totals, widths, starts(widths), strict=True):
            self.write(self.load(total, typ=self.number.vector(lanes)), self.at(out, integer(offset)))

    def _choose(self, image: Value) -> None:
        """Write the list of filters that an image uses, and their shifts and scales."""
        logits = self._numbers(SwitchArgument.LOGITS, image, self.plan.units)
        forced, zero = self.given[SwitchArgument.FORCED], self.number.type(0.0)
        other = self._numbers(SwitchArgument.FORCED, image, self.plan.units)
        own = self.icmp_signed("==", forced, integer(0))
        scores = self.select(own, logits, other)
        found = self.stack_slot(INT)
        self.store(integer(0), found)

        def is_above(unit: Value) -> Value:
            return self.fcmp_ordered(">", self.load_element(self.at(scores, unit)), zero)

        if self.plan.keep:
            with self.if_then(own):
                self._list(image, found, TopK(self, logits, self.plan.units, self.plan.keep, self.plan.lanes).has)
            with self.if_then(self.not_(own)):
                self._list(image, found, is_above)
        else:
            self._list(image, found, is_above)
        with self.if_then(self.icmp_signed("==", self.load(found, typ=INT), integer(0))):
            best = self._greatest(scores)
            self._list(image, found, lambda unit: self.icmp_signed("==", unit, best))
        count = self.load(found, typ=INT)
        self.store(count, self.int_address(self.pointer(self.given[SwitchArgument.OUTPUT_COUNTS]), image), align=8)
        self._gather(image, count, logits)

    def _list(self, image: Value, found: Value, is_used: Callable[[Value], Value]) -> None:
        outputs, size = self._words(SwitchArgument.OUTPUTS, image, self.plan.filters), self.plan.size

        def look(unit: Value) -> None:
            at, used = self.load(found, typ=INT), self.zext(is_used(unit), INT)
            for part in range(size):  # the next unit overwrites an unused one
                place = self.add(at, integer(part))
                self.store(self.total((unit, size), integer(part)), self.int_address(outputs, place), align=8)
            self.store(self.total(at, (used, size)), found)

        self.loop(integer(0), integer(self.plan.units), look)

    def _greatest(self, scores: Value) -> Value:
        """The unit of the greatest score, the first one of equal scores."""
        best = self.stack_slot(INT)
        self.store(integer(0), best)

        def look(unit: Value) -> None:
            so_far = self.load(best, typ=INT)
            score, most = (self.load_element(self.at(scores, index)) for index in (unit, so_far))
            self.store(self.select(self.fcmp_ordered(">", score, most), unit, so_far), best)

        self.loop(integer(1), integer(self.plan.units), look)
        return self.load(best, typ=INT)

    def _gather(self, image: Value, count: Value, logits: Value) -> None:
        """Gather the shifts and scales of the used filters in compacted order, and write 0 after them."""
        filters, zero = self.plan.filters, self.number.type(0.0)
        outputs = self._words(SwitchArgument.OUTPUTS, image, filters)
        base, shift = (self.pointer(self.given[which]) for which in (SwitchArgument.BASE, SwitchArgument.SHIFT))
        shifts, scales = (
            self._numbers(which, image, filters) for which in (SwitchArgument.SHIFTS, SwitchArgument.SCALES)
        )

        own = self.icmp_signed("==", self.given[SwitchArgument.FORCED], integer(0))
        forced = self._numbers(SwitchArgument.FORCED_WEIGHTS, image, self.plan.units)
        weights = self.select(own, logits, forced)

        def put(place: Value) -> None:
            which = self.load_int(outputs, place)
            added = self.load_element(self.at(shift, which))
            if self.plan.weighted:
                given = self.load_element(self.at(weights, self.sdiv(which, integer(self.plan.size))))
                weight = self.select(own, self.relu(given), given)
                self.write(weight, self.at(scales, place))
                added = self.fadd(added, self.fmul(self.load_element(self.at(base, which)), weight))
            self.write(added, self.at(shifts, place))

        def clear(place: Value) -> None:
            self.write(zero, self.at(shifts, place))
            if self.plan.weighted:
                self.write(zero, self.at(scales, place))

        self.loop(integer(0), count, put)
        self.loop(count, integer(filters), clear)

    def _numbers(self, which: SwitchArgument, image: Value, each: int) -> Value:
        """Address of an image's row in an array (images, each) of floating-point elements."""
        return self.at(self.pointer(self.given[which]), (image, each))

    def _words(self, which: SwitchArgument, image: Value, each: int) -> Value:
        """Address of an image's row in an array (images, each) of integers."""
        return self.int_address(self.pointer(self.given[which]), self.mul(image, integer(each)))
