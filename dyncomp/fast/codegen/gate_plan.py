"""What a gate computes, and the arguments of its code."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from dyncomp.fast.codegen.means import MeansPlan


@dataclass(frozen=True)
class Layer:
    """A matrix product with a bias, and ReLU if `relu`."""

    inputs: int
    outputs: int
    relu: bool = False


Squash = Literal["sigmoid", "softmax"]


@dataclass(frozen=True)
class GatePlan(MeansPlan):
    """Layers applied to channel means, with an LSTM cell of `state` units after the first layer unless `state` is 0.

    The gate opens where the second of two outputs exceeds the first, or a single output exceeds 0. With `shares` the
    result is the outputs themselves, passed through `squash` if given: for a router or a classifier.
    """

    layers: tuple[Layer, ...]
    state: int = 0
    shares: bool = False
    squash: Squash | None = None


class GateArgument(IntEnum):
    """Arguments of the code, in order: addresses, and counts."""

    X = 0
    IMAGES = 1
    WEIGHTS = 2
    """layer by layer, the cell after the first layer: weights (inputs, outputs), then the bias (outputs,)"""
    SCRATCH = 3
    OPEN = 4
    """(images,) integers: 1 where the gate opens"""
    ROWS = 5
    """(images,) integers: compacted indices of the images for which the gate opens"""
    COUNT = 6
    """where to write the number of images in `ROWS`: the first of `COUNTS` words, `COUNT_STEP` words apart"""
    COUNTS = 7
    COUNT_STEP = 8
    FORCED = 9
    """(images,) numbers: the gate opens where they exceed 0, whatever its own decision; 0: none"""
    HIDDEN = 10
    """(images, state): hidden state of the cell; its memory likewise"""
    MEMORY = 11
    SHARES = 12
    """(images, outputs): where to write the result of a plan with `shares`"""
