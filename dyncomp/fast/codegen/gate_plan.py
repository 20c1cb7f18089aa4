"""What a gate computes, and what its code is given."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from dyncomp.fast.codegen.means import MeansPlan


@dataclass(frozen=True)
class Layer:
    """A matrix product and its bias, and ReLU where asked."""

    inputs: int
    outputs: int
    relu: bool = False


Squash = Literal["sigmoid", "softmax"]


@dataclass(frozen=True)
class GatePlan(MeansPlan):
    """Of the means of each channel, layers; behind the first an LSTM cell of `state` numbers, if any.

    It opens where the second of two outputs is above the first, or a single one above 0. With `shares`, what comes out
    are numbers, squashed where asked: a router's, or a classifier's.
    """

    layers: tuple[Layer, ...]
    state: int = 0
    shares: bool = False
    squash: Squash | None = None


class GateArgument(IntEnum):
    """What the code is given, in order: addresses, and counts."""

    X = 0
    IMAGES = 1
    WEIGHTS = 2
    """layer by layer, the cell in its place: for each input those of all outputs; then the bias"""
    SCRATCH = 3
    OPEN = 4
    """(images,) integers: 1 where the gate opens"""
    ROWS = 5
    """(images,) integers: where it opens, one after the other"""
    COUNT = 6
    """where to write how many these are: the first of `COUNTS` places, `COUNT_STEP` words apart"""
    COUNTS = 7
    COUNT_STEP = 8
    FORCED = 9
    """(images,) numbers to open by (above 0) in place of the gate's own; 0: none"""
    HIDDEN = 10
    """(images, state), the cell's, as its memory"""
    MEMORY = 11
    SHARES = 12
    """(images, outputs), where numbers come out"""
