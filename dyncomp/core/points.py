"""Operating points: what a trained network is set to, and what that is chosen by."""

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
    """One setting of a trained network's thresholds: site -> threshold. `kind` groups the points of one curve."""

    name: str
    kind: str
    thresholds: Mapping[str, float]

    def apply(self, net: Net) -> None:
        """Set the network's thresholds. Raises KeyError for a site that has none."""
        for site, value in self.thresholds.items():
            threshold = net.sites[site].threshold
            assert isinstance(threshold, Tensor)  # a buffer
            with torch.no_grad():
                threshold.fill_(value)


@dataclass(frozen=True)
class Seen:
    """The calibration split as a trained network answers it with every unit on, the dense form; on the CPU.

    labels (N,), logits (N, Y); `said`: what its parts said, by key, each (N, ...).
    """

    labels: Tensor
    logits: Tensor
    said: Mapping[str, Tensor]
