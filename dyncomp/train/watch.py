"""Watches a network's gates while it is trained, as they would decide in use."""

from __future__ import annotations

import torch
from torch import Tensor

from dyncomp.core import Net
from dyncomp.core.modes import evaluating


class GateWatch:
    """Notes how many different routes a fixed batch of training images takes, and says when they fall into one.

    One route for all images is what gates that begin open show at first, so it is a collapse only when there were
    several before, or when the stage ends so. Sites whose thresholds are chosen after the training are not watched.
    """

    def __init__(self, net: Net, images: Tensor) -> None:
        self.net = net
        self.images = images
        self.sites = [site for site, op in net.sites.items() if op.is_gate]
        self.routes = 1
        self.rates: dict[str, float] = {}
        """by site, the mean share of its units that ran when it was last looked"""

    def look(self, stage: str, epoch: int, last: bool) -> str:
        """The warning at the end of an epoch; "" where all is well."""
        if not self.sites:
            return ""
        with evaluating(self.net), torch.autocast(self.images.device.type, enabled=False):
            trace = self.net(self.images, sparse=False).trace  # decides as the sparse form does, and faster
        before, self.routes = self.routes, trace.distinct(self.sites)
        self.rates = {site: float(trace.executed(site).float().mean()) for site in self.sites}
        if self.routes > 1 or (before == 1 and not last):
            return ""
        event = "have collapsed" if before > 1 else "never varied"
        return f"stage {stage}: the gates {event}: in epoch {epoch} all {len(self.images)} images take the same route"
