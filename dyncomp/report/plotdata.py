"""What a plot is, before anything draws it; and its colours."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from dyncomp.report.front import front

# Okabe and Ito's set without black and yellow, then Tol's muted and high-contrast: told apart by the colour-blind, as
# far as so many can be
PALETTE = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#882255", "#332288"),
    *("#E69F00", "#56B4E9", "#117733", "#999933", "#AA4499", "#661100"),
    *("#44AA99", "#CC6677", "#004488", "#997700", "#6699CC", "#994455", "#88CCEE", "#DDAA33"),
)
STATIC_COLOUR = "#555555"
FAR_APART = 5.0
"""costs that differ by more than this factor are drawn on a logarithmic axis"""


@dataclass(frozen=True)
class Point:
    """One operating point; `x_std`, `y_std` are NaN for a single seed."""

    label: str
    method: str
    static: bool
    x: float
    y: float
    x_std: float
    y_std: float


@dataclass(frozen=True)
class Panel:
    """One pair of axes of a scatter plot; `ladder` are static nets of several sizes (x, y), the cheapest first."""

    title: str
    x_label: str
    points: tuple[Point, ...]
    ladder: tuple[tuple[float, float], ...] = ()

    @property
    def front(self) -> tuple[tuple[float, float], ...]:
        """The static nets that no cheaper one equals: the line that a method has to be above."""
        return tuple(front(self.ladder, lambda point: point[1]))

    @property
    def overall_front(self) -> tuple[tuple[float, float], ...]:
        """All networks, methods and static nets, that no cheaper one equals; none without a method among them."""
        own = [(point.x, point.y) for point in self.points]
        found = tuple(front(sorted({*own, *self.ladder}, key=lambda at: (at[0], -at[1])), lambda at: at[1]))
        return found if set(found) - set(self.ladder) and len(found) > 1 else ()

    @property
    def ticks(self) -> tuple[float, ...]:
        """Where a logarithmic axis of costs has its ticks, at 1, 2 and 5 of each decade; none on a linear one."""
        costs = [x for x, _ in self.ladder] + [point.x for point in self.points]
        low, high = min(costs), max(costs)
        if not 0 < FAR_APART * low < high:
            return ()
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        marks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
        return tuple(mark for mark in marks if low / 2 <= mark <= 2 * high)


@dataclass(frozen=True)
class Scatter:
    """Accuracy against a cost; the points of one method belong together."""

    name: str
    title: str
    subtitle: str
    y_label: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Row:
    """How many images (`counts`) cost how much (between two neighbouring `edges`)."""

    label: str
    method: str
    static: bool
    counts: tuple[int, ...]
    mean: float


@dataclass(frozen=True)
class Histogram:
    """MACs per test image; `edges` are shared by all rows, `reference` is static's cost."""

    name: str
    title: str
    subtitle: str
    x_label: str
    edges: tuple[float, ...]
    rows: tuple[Row, ...]
    reference: float | None


@dataclass(frozen=True)
class Series:
    """One bar per label; `low` and `high` bound its 95 % interval, NaN where there is none."""

    name: str
    kind: str
    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Bars:
    """Claimed, executed and realised speed-up side by side; static is 1."""

    name: str
    title: str
    subtitle: str
    x_label: str
    labels: tuple[str, ...]
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Curve:
    """Values at points of a training; `share` says that they are from 0 to 1, else they are losses."""

    name: str
    share: bool
    x: tuple[float, ...]
    y: tuple[float | None, ...]


@dataclass(frozen=True)
class Curves:
    """What happened in the training of one cell, epoch by epoch; `begins` are the epochs at which its stages begin."""

    name: str
    title: str
    curves: tuple[Curve, ...]
    begins: tuple[tuple[float, str], ...]


Figure = Scatter | Histogram | Bars


def colours(methods: Iterable[str]) -> dict[str, str]:
    """A colour per method by its place among the sorted names, so no order of running shows."""
    names = sorted(set(methods))
    return {name: PALETTE[place % len(PALETTE)] for place, name in enumerate(names)}
