"""Channels as multiples of a number: 8 in the papers, too coarse for the rungs below a network of a small width."""

from __future__ import annotations

from dyncomp.backbones._layers import scaled


def multiple_near(channels: int, width: float, multiple: int) -> int:
    """The multiple nearest to channels * width, at least one."""
    return scaled(channels, width * 8 / multiple) // 8 * multiple


def finer(multiple: int, width: float) -> int:
    """The multiple for the rungs of a network of that width: as small a part of its channels as at width 1."""
    return max(1, int(multiple * min(1.0, width)))
