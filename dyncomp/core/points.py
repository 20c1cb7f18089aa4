"""Operating points: thresholds of a trained network, and the calibration outputs that they are chosen by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dyncomp.core.net import Net


@dataclass(frozen=True)
class Point:
    """One setting of a trained network's thresholds, site -> threshold. Points of one `kind` form a curve."""

    name: str
    kind: str
    thresholds: Mapping[str, float]

    def apply(self, net: Net) -> None:
        """Set the network's thresholds. Raises KeyError for an unknown site."""
        for site, value in self.thresholds.items():
            threshold = net.sites[site].threshold
            assert isinstance(threshold, Tensor)  # a buffer
            with torch.no_grad():
                threshold.fill_(value)


@dataclass(frozen=True)
class Seen:
    """Outputs of a trained network for the calibration split, in the dense form with every unit on; on the CPU.

    labels (N,), logits (N, Y); `said`: values of `Tape.say` by key, each (N, ...).
    """

    labels: Tensor
    logits: Tensor
    said: Mapping[str, Tensor]
