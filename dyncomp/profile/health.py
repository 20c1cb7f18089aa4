"""Whether gates work: how often each unit runs, and whether that depends on the image."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dyncomp.core import Costs, Net, Trace


@dataclass(frozen=True)
class GateHealth:
    """One unit of one site. Rates are shares of the images for which it ran.

    `input_dependence` is the mutual information between image and decision in bits: the gate is deterministic, so it is
    the decision's entropy over the test images. 0: the decision never varies.
    """

    site: str
    unit: int
    rate_test: float
    rate_calibration: float
    input_dependence: float
    overhead_macs: int
    unit_macs: int
    skippable: bool

    @property
    def stuck(self) -> str:
        """"always on" or "always off" where the calibration split shows no other decision, else nothing."""
        if not self.skippable:
            return ""
        return {1.0: "always on", 0.0: "always off"}.get(self.rate_calibration, "")


def gate_health(net: Net, costs: Costs, test: Trace, calibration: Trace) -> list[GateHealth]:
    """The health of every unit of every site."""
    rows = []
    for site, op in net.sites.items():
        least = op.least()
        rates = test.executed(site).double().mean(0).tolist()
        on_calibration = calibration.executed(site).double().mean(0).tolist()
        for unit in range(op.units):
            rows.append(
                GateHealth(
                    site,
                    unit,
                    rates[unit],
                    on_calibration[unit],
                    _entropy(rates[unit]),
                    costs.sites[site].overhead,
                    costs.sites[site].units[unit],
                    skippable=not bool(least[unit]),
                )
            )
    return rows


def warnings_of(health: list[GateHealth]) -> list[str]:
    """One line for each unit that never varies on the calibration split, though it may."""
    return [f"gate {g.site} is {g.stuck} on the calibration split" for g in health if g.stuck]


def distinct_routes(trace: Trace) -> int:
    """How many different routes the images take."""
    routes = trace.routes()
    return len(routes.unique(dim=0)) if routes.numel() else 1


def _entropy(rate: float) -> float:
    if rate in (0.0, 1.0):
        return 0.0
    return -rate * math.log2(rate) - (1 - rate) * math.log2(1 - rate)
