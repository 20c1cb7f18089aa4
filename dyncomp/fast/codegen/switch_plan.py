"""What a switch computes, and the arguments of its code."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from dyncomp.fast.codegen.emit import pieces
from dyncomp.fast.codegen.means import MeansPlan

_TOGETHER = 4
"""vectors of logits that are computed together: an image's logits are divided between threads in such groups"""


@dataclass(frozen=True)
class SwitchPlan(MeansPlan):
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

    @property
    def filters(self) -> int:
        """Number of filters of all units."""
        return self.units * self.size


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


def groups_of(units: int, lanes: int) -> list[list[int]]:
    """Widths of the vectors of logits, in the groups that are computed together."""
    widths = pieces(units, lanes)
    return [widths[index : index + _TOGETHER] for index in range(0, len(widths), _TOGETHER)]
