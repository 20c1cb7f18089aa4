"""Whether the gates of a method look at the image, and whether networks of several seeds decide alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from dyncomp.report import numbers as n
from dyncomp.report.reading import Reading
from dyncomp.report.statistics import binomial_margin
from dyncomp.samples import agreement

if TYPE_CHECKING:
    import pandas as pd

HARDLY = 1.0
"""points of accuracy below which a change within sampling error is called hardly any"""
SURE = 0.01
"""p-value of the permutation test below which decisions follow the class"""
Mark = Literal["looks at the image", "weakly", "a fixed route", "unclear"]


@dataclass(frozen=True)
class Looks:
    """The verdict on the gates of a method, and why: a clause of its sentence."""

    mark: Mark
    why: str


def looks_of(cells: pd.DataFrame) -> Looks | None:
    """The verdict from a method's cells, all seeds of it, a row each; None where nothing is decided.

    Gates look at the image where routes exchanged between images cost more accuracy than the luck of the test images
    explains, and weakly where that is not so, and yet the decisions of every seed follow the class, by a permutation
    test, p < 0.01 (`class_information`). Else the route might as well be fixed: it is one, or is as good as one.
    Unclear: too few test images to tell, or no permutation test on record.
    """
    known = cells[cells["route_exchange_top1"].notna()]
    if known.empty:
        return None
    soft = bool((known["gates_always_on"] == known["gates"]).all())
    if not soft and (known["routes"] == 1).all():
        return Looks("a fixed route", "")
    cost = float((known["top1"] - known["route_exchange_top1"]).mean())
    margin = binomial_margin(known["top1"].mean(), int(known["images"].max()))
    what = f"exchanging {'weights' if soft else 'routes'} between images"
    p_values = known["routes_class_p"]
    follows = None if soft or p_values.isna().any() else bool((p_values < SURE).all())
    if cost > margin:
        why = f"{what} costs {n.fixed(cost, 1)} points, so its gates do look at the image"
        return Looks("looks at the image", why)
    if cost < -margin:
        return Looks("weakly", f"{what} gains {n.fixed(-cost, 1)} points, so its gates harm")
    hardly = n.fixed(cost, 1) in ("0.0", "-0.0")
    change = "costs nothing" if hardly else f"{'costs' if cost > 0 else 'gains'} {n.fixed(abs(cost), 1)} points"
    if follows:
        p = n.significant(float(p_values.max()), 1)
        return Looks(
            "weakly", f"{what} {change}, though routes differ by class (p = {p}): its gates hardly look at the image"
        )
    if abs(cost) >= HARDLY:
        return Looks("unclear", f"{what} {change}, which may be luck of the test images")
    mark: Mark = "unclear" if follows is None and not soft else "a fixed route"
    return Looks(mark, f"{what} {change}, so its gates hardly look at the image")


def agreement_between_seeds(reading: Reading, keys: Sequence[str]) -> float | None:
    """Mean of Cohen's kappa over all pairs of cells that differ in the seed alone; None where it cannot be told."""
    routes = [_decisions(reading.images(key)) for key in keys]
    found = [
        agreement(one, other)
        for one, other in combinations([own for own in routes if own is not None], 2)
        if one.shape == other.shape
    ]
    told = [kappa for kappa in found if kappa is not None]
    return fmean(told) if told else None


def _decisions(images: pd.DataFrame | None) -> Any:
    """Of each test image and unit, (N, U) bool; None without routes. Many units are told in hexadecimal digits."""
    import numpy as np

    if images is None or images.empty or not images["route"].iloc[0]:
        return None
    route = images["route"]
    if route.str.fullmatch("[01]*").all():
        characters = np.frombuffer("".join(route).encode(), dtype=np.uint8)
        return characters.reshape(len(route), -1) == ord("1")
    packed = np.frombuffer(bytes.fromhex("".join(route)), dtype=np.uint8)
    return np.unpackbits(packed.reshape(len(route), -1), axis=1).astype(bool)
