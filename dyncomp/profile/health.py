"""Whether gates work: how often each unit runs, and whether that depends on the image."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dyncomp.core import Net, Trace


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
        """Which decision is the only one on the calibration split, "always on" or "always off"; "" if there are two."""
        if not self.skippable:
            return ""
        return {1.0: "always on", 0.0: "always off"}.get(self.rate_calibration, "")


def gate_health(net: Net, test: Trace, calibration: Trace) -> list[GateHealth]:
    """The health of every unit of every site."""
    return [unit for site in net.sites for unit in _site_health(net, site, test, calibration)]


def _site_health(net: Net, site: str, test: Trace, calibration: Trace) -> Iterator[GateHealth]:
    assert net.costs is not None  # `build` measures them
    op, cost = net.sites[site], net.costs.sites[site]
    on_test, on_calibration = (trace.executed(site).double().mean(0).tolist() for trace in (test, calibration))
    per_unit = net.costs.of_units(site) - sum(cost.units)  # what is coupled to another site's units, shared out
    for unit, always in enumerate(op.always().tolist()):
        yield GateHealth(
            site,
            unit,
            rate_test=on_test[unit],
            rate_calibration=on_calibration[unit],
            input_dependence=_entropy(on_test[unit]),
            overhead_macs=cost.overhead,
            unit_macs=cost.units[unit] + per_unit // op.units,
            skippable=not always,
        )


def warnings_of(health: Sequence[GateHealth]) -> list[str]:
    """One line for each unit that never varies on the calibration split, though it may."""
    units = Counter(gate.site for gate in health)
    names = {id(gate): f"{gate.site} unit {gate.unit}" if units[gate.site] > 1 else gate.site for gate in health}
    return [f"gate {names[id(gate)]} is {gate.stuck} on the calibration split" for gate in health if gate.stuck]


def distinct_routes(trace: Trace) -> int:
    """How many different routes the images take; 1 where nothing is decided."""
    return len({tuple(route) for route in trace.routes().tolist()})


def _entropy(rate: float) -> float:
    """Of a decision that is on with that rate, in bits."""
    if rate in (0.0, 1.0):
        return 0.0
    return -rate * math.log2(rate) - (1 - rate) * math.log2(1 - rate)
