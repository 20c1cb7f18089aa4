"""Whether gates work: how often each unit runs, and whether that depends on the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

import numpy as np

from dyncomp.core import Net, Trace
from dyncomp.profile.classes import ByClass
from dyncomp.samples import effective_number
from dyncomp.store.schema import GateRecord

MANY = 8
"""units of a site from which on they are told of together"""
FEW = 3
"""units of a site that are named one by one in a warning"""


@dataclass(frozen=True)
class GateHealth:
    """One unit of one site. Rates are shares of the images for which it ran.

    `input_dependence` is the mutual information between image and decision in bits: the gate is deterministic, so it is
    the decision's entropy over the test images, which shares that were counted understate; 1 / (2 N ln 2) is added
    (Miller 1955). 0: the decision never varies. `class_information` is that between class and decision, see `ByClass`;
    `by_class` the share of each class's images.
    """

    site: str
    unit: int
    rate_test: float
    rate_calibration: float
    input_dependence: float
    overhead_macs: int
    unit_macs: int
    skippable: bool
    class_information: float = math.nan
    by_class: tuple[float, ...] = ()

    @property
    def stuck(self) -> str:
        """Which decision is the only one on the calibration split, "always on" or "always off"; "" if there are two."""
        if not self.skippable:
            return ""
        return {1.0: "always on", 0.0: "always off"}.get(self.rate_calibration, "")


def gate_health(net: Net, test: Trace, calibration: Trace, of_class: ByClass) -> list[GateHealth]:
    """The health of every unit of every site; `of_class` is of the test images."""
    assert net.costs is not None  # `build` measures them
    health: list[GateHealth] = []
    for site, op in net.sites.items():
        cost = net.costs.sites[site]
        on_test, on_calibration = (trace.executed(site).double().mean(0).tolist() for trace in (test, calibration))
        per_unit = net.costs.of_units(site) - sum(cost.units)  # what is coupled to another site's units, shared out
        health += [
            GateHealth(
                site,
                unit,
                rate_test=on_test[unit],
                rate_calibration=on_calibration[unit],
                input_dependence=_entropy(on_test[unit], test.images),
                overhead_macs=cost.overhead,
                unit_macs=cost.units[unit] + per_unit // op.units,
                skippable=not always,
                class_information=float(of_class.information[site][unit]),
                by_class=tuple(of_class.rates[site][unit].tolist()),
            )
            for unit, always in enumerate(op.always().tolist())
        ]
    return health


def warnings_of(health: Sequence[GateHealth]) -> list[str]:
    """One line for each unit that never varies on the calibration split, though it may; few for a site of many."""
    lines = []
    for site, group in groupby(health, key=lambda gate: gate.site):
        gates = list(group)
        for state in ("always on", "always off"):
            stuck = [gate.unit for gate in gates if gate.stuck == state]
            names = [f"{site} unit {unit}" if len(gates) > 1 else site for unit in stuck]
            if len(stuck) > FEW:
                lines.append(f"gate {site}: {len(stuck)} of {len(gates)} units are {state} on the calibration split")
            else:
                lines += [f"gate {name} is {state} on the calibration split" for name in names]
    return lines


def gate_records(health: Sequence[GateHealth]) -> list[GateRecord]:
    """For the record: an entry per unit that may be left out; a site of many units is one entry, with means.

    `units` says of how many an entry speaks, `always_on` and `always_off` how many of them never vary on the test
    split.
    """
    entries: list[GateRecord] = []
    for _, group in groupby((gate for gate in health if gate.skippable), key=lambda gate: gate.site):
        gates = list(group)
        together = [gates] if len(gates) > MANY else [[gate] for gate in gates]
        entries += [_entry(part) for part in together]
    return entries


def _entry(gates: Sequence[GateHealth]) -> GateRecord:
    first, rates = gates[0], [gate.rate_test for gate in gates]
    return {
        "site": first.site,
        "unit": first.unit if len(gates) == 1 else None,
        "units": len(gates),
        "always_on": rates.count(1.0),
        "always_off": rates.count(0.0),
        "rate_test": fmean(rates),
        "rate_calibration": fmean(gate.rate_calibration for gate in gates),
        "input_dependence": fmean(gate.input_dependence for gate in gates),
        "class_information": fmean(gate.class_information for gate in gates if not math.isnan(gate.class_information)),
        "by_class": [fmean(rates) for rates in zip(*(gate.by_class for gate in gates), strict=True)],
        "unit_macs": round(fmean(gate.unit_macs for gate in gates)),
        "overhead_macs": first.overhead_macs,
    }


def distinct_routes(trace: Trace) -> int:
    """How many different routes the images take; 1 where nothing is decided."""
    return trace.distinct()


def effective_routes(trace: Trace) -> float:
    """How many equally frequent routes are as varied as those that the images take (`effective_number`)."""
    routes = np.packbits(trace.routes().cpu().numpy(), axis=1)  # (N, bytes)
    return effective_number(np.unique(routes, axis=0, return_counts=True)[1].tolist()) if routes.shape[1] else 1.0


def _entropy(rate: float, images: int) -> float:
    """Of a decision that was on for that share of the images, in bits; at most 1."""
    if rate in (0.0, 1.0):
        return 0.0
    counted = -rate * math.log2(rate) - (1 - rate) * math.log2(1 - rate)
    return min(1.0, counted + 1 / (2 * images * math.log(2)))
