"""What a switch computes, and what its code is given."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from dyncomp.fast.codegen.emit import pieces
from dyncomp.fast.codegen.means import MeansPlan

_TOGETHER = 4
"""vectors of logits that are made at one go: an image's are shared out among threads by so many"""


@dataclass(frozen=True)
class SwitchPlan(MeansPlan):
    """Of the means of each channel, a logit for each of the `units`, which are `size` neighbouring filters each.

    A unit is used where its logit is above 0, and where none is, the one of the greatest. `keep`: instead, so many of
    the greatest are used, and weighted by ReLU of their logits; they are made of mean magnitudes. `picks`: each image
    has some of the channels only.
    """

    units: int
    size: int = 1
    keep: int = 0
    picks: bool = False

    @property
    def filters(self) -> int:
        """Of all units."""
        return self.units * self.size


class SwitchArgument(IntEnum):
    """What the code is given, in order: addresses, and counts."""

    X = 0
    IMAGES = 1
    WEIGHTS = 2
    """some vectors of units at a time, for each channel; then the bias"""
    SCRATCH = 3
    LOGITS = 4
    """(images, units)"""
    INPUTS = 5
    """(images, channels): which channel an image has where, as integers"""
    INPUT_COUNTS = 6
    FORCED = 7
    """(images, units) numbers, used where they are above 0, in place of its own choice; 0: none"""
    OUTPUTS = 8
    """(images, filters), to be written: which are used, ascending; what lies behind them says nothing"""
    OUTPUT_COUNTS = 9
    BASE = 10
    """(filters,): where filters are weighted, what is weighted with them"""
    SHIFT = 11
    """(filters,)"""
    SHIFTS = 12
    """(images, filters), to be written: base * weight + shift of the filters used, in their order; behind them 0"""
    SCALES = 13
    """(images, filters), to be written where filters are weighted: the weights"""


def groups_of(units: int, lanes: int) -> list[list[int]]:
    """The vectors of logits that are made together."""
    widths = pieces(units, lanes)
    return [widths[index : index + _TOGETHER] for index in range(0, len(widths), _TOGETHER)]
