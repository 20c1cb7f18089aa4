"""Two output folders set against each other, cell by cell: what became better, what worse, what cannot be said.

A quantity of a cell is SAME, BETTER or WORSE in the second folder, UNCLEAR where its interval leaves that open, or NOT
COMPARABLE, with a reason, where the two were not measured alike.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from dyncomp.errors import InvalidValue
from dyncomp.report import numbers as n
from dyncomp.report.latency import CellTiming, columns, timed
from dyncomp.report.reading import Reading
from dyncomp.report.statistics import paired_difference
from dyncomp.report.table import ROLES
from dyncomp.report.tables import Table, row_of
from dyncomp.samples import Z95, Interval, between_timings, is_invalid
from dyncomp.store.schema import CellRecord

if TYPE_CHECKING:
    import pandas as pd

SAME_POINTS = 0.2
"""percentage points of accuracy that are no difference, where the whole interval is within them"""
SAME_SHARE = 0.005
"""the same for multiply-adds, as a share of them"""
SAME_MEMORY = 0.05
"""the same for memory, which is one measurement without an interval"""
SAME_TIME = 0.1
"""the same for times and their ratios: two timings of one network differ by half of it"""
SAME_CELL = ("spec", "backbone", "dataset", "seed")
"""what a cell of one folder and one of the other have to agree in"""
FALLEN = "failed in the second folder"
OTHER_IMAGES = "not the same test images in both folders"
MACHINE = ("processor", "machine", "cores", "threads", "cpu_capability", "fast_path", "device", "torch")
"""of the environment, what times and memory depend on"""
PASS = ("dtype", "layout", "threads", "allocator", "clock", "warm_up_ms")
"""of a timing, what its times depend on"""


Frames = tuple["pd.DataFrame | None", "pd.DataFrame | None"]
"""of the test images, one of each folder"""


class Verdict(StrEnum):
    """What is said of a quantity in the second folder, beside the first."""

    SAME = "SAME"
    BETTER = "BETTER"
    WORSE = "WORSE"
    UNCLEAR = "UNCLEAR"
    NOT_COMPARABLE = "NOT COMPARABLE"


@dataclass(frozen=True)
class Quantity:
    """A column of `results.csv` that is compared.

    `relative`: a change is a share of the first folder's value, else a difference. `timed`: there is one value for each
    batch size. `gain`: 1 where more is better, -1 where less is.
    """

    name: str
    relative: bool
    timed: bool
    gain: int

    def written(self, change: float) -> str:
        """A change for people: `+4.2 %`, or `-0.31` points."""
        return f"{100 * change:+.1f} %" if self.relative else f"{change:+.2f}"


TOP1 = Quantity("top1", relative=False, timed=False, gain=1)
MACS = Quantity("macs", relative=True, timed=False, gain=-1)
LATENCY = Quantity("latency_ms_p50", relative=True, timed=True, gain=-1)
SPEEDUP = Quantity("speedup_realised", relative=True, timed=True, gain=1)
MEMORY = (
    Quantity("memory_mib_inference", relative=True, timed=False, gain=-1),
    Quantity("memory_mib_training", relative=True, timed=False, gain=-1),
)
QUANTITIES = {quantity.name: quantity for quantity in (TOP1, MACS, LATENCY, SPEEDUP, *MEMORY)}


@dataclass(frozen=True)
class Judged:
    """One quantity of a cell in both folders; `change` is from `before` to `after`, with its 95 % interval."""

    quantity: Quantity
    batch_size: int | None
    before: float | None
    after: float | None
    change: Interval | None
    verdict: Verdict
    why: str


@dataclass(frozen=True)
class Pair:
    """A cell of both folders; `differs` says in what, such as `budget: 2, then 10`, if in anything."""

    spec: str
    backbone: str
    dataset: str
    seed: int
    differs: str
    judged: tuple[Judged, ...]

    def __str__(self) -> str:
        return _named(self.spec, self.backbone, self.dataset, self.seed)


@dataclass(frozen=True)
class Comparison:
    """All pairs; `left` and `right` are cells that only the first, or only the second folder has."""

    pairs: tuple[Pair, ...]
    left: tuple[str, ...]
    right: tuple[str, ...]

    def judged(self) -> Iterator[tuple[Pair, Judged]]:
        """Every judgement with its pair."""
        return ((pair, judged) for pair in self.pairs for judged in pair.judged)

    def counts(self) -> Mapping[Verdict, int]:
        """How often each verdict was given."""
        counter = Counter(judged.verdict for _, judged in self.judged())
        return {verdict: counter[verdict] for verdict in Verdict}


@dataclass(frozen=True)
class Limit:
    """By how much a quantity may become worse: a share of it, or a difference."""

    quantity: Quantity
    most: float

    def is_broken(self, judged: Judged) -> bool:
        """Whether a quantity is worse, beyond doubt, and its change is greater than allowed."""
        change = judged.change
        ours = judged.quantity == self.quantity and judged.verdict is Verdict.WORSE
        return ours and change is not None and -change.middle * self.quantity.gain > self.most


def limits_of(text: str) -> list[Limit]:
    """The limits of `--fail-on`, such as `latency_ms_p50:5%,top1:0.5`. Raises InvalidValue."""
    return [_limit(part.strip()) for part in text.split(",")]


def _limit(part: str) -> Limit:
    name, _, number = (word.strip() for word in part.partition(":"))
    quantity = QUANTITIES.get(name)
    form = "give NAME:LIMIT, such as latency_ms_p50:5%,top1:0.5"
    if quantity is None:
        raise InvalidValue(f"--fail-on {part!r}: {name!r} is not compared; {form}, of {', '.join(QUANTITIES)}")
    percent = number.endswith("%")
    try:
        most = float(number.removesuffix("%"))
    except ValueError:
        raise InvalidValue(f"--fail-on {part!r}: {number!r} is no number; {form}") from None
    if not 0 <= most < math.inf:
        raise InvalidValue(f"--fail-on {part!r}: a limit is a number from 0 on; {form}")
    if percent != quantity.relative:
        unit = "in percent of it (5%)" if quantity.relative else "in percentage points, without a percent sign (0.5)"
        raise InvalidValue(f"--fail-on {part!r}: the limit of {name} is {unit}")
    return Limit(quantity, most / 100 if percent else most)


def broken(comparison: Comparison, limits: Sequence[Limit]) -> list[tuple[Pair, Judged]]:
    """What is worse by more than a limit allows, and, where there are limits, cells that only then fail.

    Raises InvalidValue where a quantity that has a limit can be compared in no cell: nothing would ever fail.
    """
    fallen = [(pair, pair.judged[0]) for pair in comparison.pairs if limits and pair.judged[0].why == FALLEN]
    for limit in limits:
        own = [one for _, one in comparison.judged() if one.quantity == limit.quantity and one.why != FALLEN]
        if not fallen and all(judged.verdict is Verdict.NOT_COMPARABLE for judged in own):
            why = own[0].why if own else "neither folder has it"
            raise InvalidValue(f"--fail-on {limit.quantity.name}: it can be compared in no cell ({why})")
    return fallen + [found for found in comparison.judged() if any(limit.is_broken(found[1]) for limit in limits)]


def compare(before: Reading, after: Reading) -> Comparison:
    """Every cell that both folders have; one is the other's by spec, backbone, data set and seed.

    Raises InvalidValue where the folders have no data set in common, or no cell.
    """
    data = [{cell["dataset"] for cell in reading.cells} for reading in (before, after)]
    if all(data) and not data[0] & data[1]:
        names = " and ".join(", ".join(sorted(own)) for own in data)
        raise InvalidValue(f"the two folders are about different data, {names}; compare folders of one data set")
    found, left, right = _paired(before.cells, after.cells)
    if not found:
        raise InvalidValue("the two folders have no cell in common: none of one spec, backbone, data set and seed")
    pairs = [_pair(first, second, before, after) for first, second in sorted(found, key=_place)]
    alone = [
        tuple(_named(cell["spec"], cell["backbone"], cell["dataset"], cell["seed"]) for cell in cells)
        for cells in (left, right)
    ]
    return Comparison(tuple(pairs), *alone)


def comparison_table(compared: Comparison) -> Table:
    """A row per quantity of a cell, with everything that is known of it."""
    headers = ("method", "backbone", "seed", "batch", "quantity", "first", "second", "change", "95 % interval")
    rows = [row_of(*_columns(pair, judged)) for pair, judged in compared.judged()]
    return Table((*headers, "verdict", "why"), tuple(rows))


def _columns(pair: Pair, judged: Judged) -> Iterator[tuple[str, Any]]:
    quantity, change = judged.quantity, judged.change
    yield pair.spec, pair.spec
    yield pair.backbone, pair.backbone
    yield str(pair.seed), pair.seed
    yield n.fixed(judged.batch_size, 0), judged.batch_size
    yield quantity.name, quantity.name
    for value in (judged.before, judged.after):
        yield n.macs(value) if quantity == MACS else n.significant(value, 4), value
    yield n.MISSING if change is None else quantity.written(change.middle), None if change is None else change.middle
    known = change is not None and change.low != change.high
    ends = f"{quantity.written(change.low)} to {quantity.written(change.high)}" if change and known else n.MISSING
    yield ends, ends
    yield str(judged.verdict), str(judged.verdict)
    why = "; ".join(text for text in (pair.differs, judged.why) if text)
    yield why, why


def _named(spec: str, backbone: str, dataset: str, seed: int) -> str:
    return f"{spec} on {backbone}, {dataset}, seed {seed}"


def _paired(
    before: Sequence[CellRecord], after: Sequence[CellRecord]
) -> tuple[list[tuple[CellRecord, CellRecord]], list[CellRecord], list[CellRecord]]:
    """Cells that agree in everything first; then, of those left, those that are the only ones of their spec."""
    pairs: list[tuple[CellRecord, CellRecord]] = []
    left, right = list(before), list(after)
    for names in ((*SAME_CELL, "budget", "device"), SAME_CELL):
        own, others = _by(left, names), _by(right, names)
        alike = [key for key in own if len(own[key]) == len(others.get(key, ())) == 1]
        pairs += [(own[key][0], others[key][0]) for key in alike]
        taken = {id(cell) for pair in pairs for cell in pair}
        left = [cell for cell in left if id(cell) not in taken]
        right = [cell for cell in right if id(cell) not in taken]
    return pairs, left, right


def _place(pair: tuple[CellRecord, CellRecord]) -> tuple[Any, ...]:
    """Where a pair stands: static first, controls last, as in `results.csv`."""
    cell, _ = pair
    return cell["dataset"], cell["backbone"], ROLES.get(cell["role"], 1), cell["spec"], cell["seed"]


def _by(cells: Iterable[CellRecord], names: Sequence[str]) -> dict[tuple[Any, ...], list[CellRecord]]:
    found: dict[tuple[Any, ...], list[CellRecord]] = {}
    for cell in cells:
        found.setdefault(tuple(cell[name] for name in names), []).append(cell)  # type: ignore[literal-required]
    return found


def _pair(first: CellRecord, second: CellRecord, before: Reading, after: Reading) -> Pair:
    differs = "; ".join(
        f"{name}: {first[name]}, then {second[name]}" for name in ("budget", "device") if first[name] != second[name]
    )
    judged = list(_judged(first, second, before, after))
    return Pair(first["spec"], first["backbone"], first["dataset"], first["seed"], differs, tuple(judged))


def _judged(first: CellRecord, second: CellRecord, before: Reading, after: Reading) -> Iterator[Judged]:
    for cell, why in ((first, "failed in the first folder"), (second, FALLEN)):
        if cell["status"] != "ok":
            yield from (_incomparable(quantity, why) for quantity in QUANTITIES.values() if not quantity.timed)
            return
    frames = before.images(first["key"]), after.images(second["key"])
    yield _accuracy(first, second, frames)
    yield _macs(first, second, frames)
    yield from _times(first, second, before, after)
    for quantity in MEMORY:
        yield _memory(quantity, first, second)


def _incomparable(quantity: Quantity, why: str, batch_size: int | None = None) -> Judged:
    return Judged(quantity, batch_size, None, None, None, Verdict.NOT_COMPARABLE, why)


def _accuracy(first: CellRecord, second: CellRecord, frames: Frames) -> Judged:
    own, other = frames
    difference = None if own is None or other is None else paired_difference(own, other)
    if difference is None:
        return _incomparable(TOP1, OTHER_IMAGES)
    points, margin = difference.points, difference.margin
    change = Interval(points - margin, points, points + margin)
    verdict = _verdict(TOP1, change, SAME_POINTS)
    return Judged(TOP1, None, first["top1"], second["top1"], change, verdict, "")


def _macs(first: CellRecord, second: CellRecord, frames: Frames) -> Judged:
    """From the difference of each test image, by a normal distribution of their mean."""
    own, other = frames
    if own is None or other is None or len(own) != len(other) or (own["label"] != other["label"]).any():
        return _incomparable(MACS, OTHER_IMAGES)
    differences = (other["macs"] - own["macs"]).to_numpy(dtype=float)
    mean, margin = float(differences.mean()), Z95 * float(differences.std()) / math.sqrt(len(differences))
    change = Interval(*((mean + by) / first["macs"] for by in (-margin, 0.0, margin)))
    verdict = _verdict(MACS, change, SAME_SHARE)
    return Judged(MACS, None, first["macs"], second["macs"], change, verdict, "")


def _times(first: CellRecord, second: CellRecord, before: Reading, after: Reading) -> Iterator[Judged]:
    own, others = (
        {timing.batch_size: timing for timing in timed(cell["key"], reading.timings, reading.statics)}
        for cell, reading in ((first, before), (second, after))
    )
    for size in sorted(own.keys() & others.keys()):
        yield from _timed(size, own[size], others[size])


def _timed(size: int, first: CellTiming, second: CellTiming) -> Iterator[Judged]:
    """Two timings' medians and ratios, with intervals that hold what differs `between_timings`."""
    rows = columns(first), columns(second)
    why = _differing(first.record["environment"], second.record["environment"], MACHINE)
    why = why or _differing(first.record, second.record, PASS)
    for quantity, verdict in ((LATENCY, "verdict"), (SPEEDUP, "speedup_verdict")):
        values = [row.get(quantity.name) for row in rows]
        if why or any(value is None or math.isnan(value) for value in values):
            yield _incomparable(quantity, why or "not timed in both folders", size)
            continue
        known = [Interval(*(row[f"{quantity.name}{end}"] for end in ("_low", "", "_high"))) for row in rows]
        if quantity is LATENCY:  # a speed-up's interval holds it
            known = [between_timings(each) for each in known]
        change = _ratio(*known)
        invalid = [which for row, which in zip(rows, ("first", "second"), strict=True) if is_invalid(row[verdict])]
        said = Verdict.UNCLEAR if invalid else _verdict(quantity, change, SAME_TIME)
        told = f"INVALID in the {' and the '.join(invalid)} folder" if invalid else ""
        yield Judged(quantity, size, values[0], values[1], change, said, told)


def _ratio(before: Interval, after: Interval) -> Interval:
    """`after` by `before`, less 1: relative half widths of independent medians add up as squares do."""
    middle = after.middle / before.middle
    low = math.hypot(1 - after.low / after.middle, 1 - before.middle / before.high)
    high = math.hypot(after.high / after.middle - 1, before.middle / before.low - 1)
    return Interval(middle * (1 - low) - 1, middle - 1, middle * (1 + high) - 1)


def _memory(quantity: Quantity, first: CellRecord, second: CellRecord) -> Judged:
    training = "_training" if quantity.name.endswith("training") else ""
    (own, size, machine), (other, other_size, other_machine) = (
        (cell.get(quantity.name), cell.get(f"memory_batch_size{training}"), cell.get("resources_environment"))
        for cell in (first, second)
    )
    if not isinstance(own, float | int) or not isinstance(other, float | int):
        return _incomparable(quantity, "not measured in both folders")
    why = _differing(machine or {}, other_machine or {}, MACHINE)
    why = why or ("" if size == other_size else f"batch size: {size}, then {other_size}")
    if why:
        return _incomparable(quantity, why)
    share = other / own - 1
    change = Interval(share, share, share)
    return Judged(quantity, None, own, other, change, _verdict(quantity, change, SAME_MEMORY), "")


def _differing(first: Mapping[str, Any], second: Mapping[str, Any], names: Sequence[str]) -> str:
    """In what two records differ, of these keys; empty where in nothing."""
    return "; ".join(
        f"{name}: {first.get(name)}, then {second.get(name)}" for name in names if first.get(name) != second.get(name)
    )


def _verdict(quantity: Quantity, change: Interval, same: float) -> Verdict:
    """SAME where all of the interval is within `same`; else by the side of 0 that all of it is on."""
    if -same <= change.low and change.high <= same:
        return Verdict.SAME
    if change.low <= 0 <= change.high:
        return Verdict.UNCLEAR
    return Verdict.BETTER if (change.middle > 0) == (quantity.gain > 0) else Verdict.WORSE
