"""Tables and sentences about where multiply-adds and time go, from the records of cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from dyncomp.report import numbers as n
from dyncomp.report.tables import Table, both, row_of
from dyncomp.samples import in_words, is_invalid
from dyncomp.store.schema import (
    CellRecord,
    ClassRecord,
    GapRecord,
    OperatorsRecord,
    OpinionRecord,
    OpinionsRecord,
)

if TYPE_CHECKING:
    import pandas as pd

MOST_CLASSES = 20
"""classes up to which all are told; of more, those on which most and least is spent"""
KINDS: Mapping[Literal["priced", "free", "unknown"], str] = {
    "priced": "priced in MACs",
    "free": "free by convention",
    "unknown": "without a known cost",
}
PARTS: Mapping[Literal["arithmetic", "pace", "gates", "moving", "launches", "smaller_batches"], str] = {
    "arithmetic": "MACs at static's pace",
    "pace": "slower or faster per MAC",
    "gates": "gates",
    "moving": "gathering, scattering",
    "launches": "launches",
    "smaller_batches": "smaller batches",
}
ENDS: tuple[Literal["mean", "low", "high"], ...] = ("mean", "low", "high")
HARDLY = 0.01
"""share of the mean from which on a difference in MACs is worth a sentence"""
APART = 1.25
"""between the speed-up of the passes whose time is taken apart and the realised one: more is a contradiction"""
COUNTERS: Mapping[Literal["torch", "fvcore"], str] = {"torch": "torch's counter", "fvcore": "fvcore"}


def class_table(classes: Sequence[ClassRecord]) -> Table | None:
    """One row per class: images, mean MACs and FLOPs, accuracy; of very many classes the dearest and the cheapest."""
    if len(classes) < 2:
        return None
    rows = sorted(classes, key=lambda row: -row["macs"]) if len(classes) > MOST_CLASSES else list(classes)
    if len(rows) > MOST_CLASSES:
        half = MOST_CLASSES // 2
        rows = [*rows[:half], *rows[-half:]]
    headers = ("class", "images", "MACs", "FLOPs", "top-1")
    cells = [
        row_of(
            (row["class"], row["class"]),
            (n.fixed(row["images"], 0), row["images"]),
            *both(row["macs"]),
            (n.percent(row["top1"]), row["top1"]),
        )
        for row in rows
    ]
    return Table(headers, tuple(cells))


def operator_table(operators: OperatorsRecord | None) -> Table | None:
    """One row per operator that takes time: what the convention calls it, calls, share of the time in operators."""
    if not operators:
        return None
    rows = []
    for kind, text in KINDS.items():
        share = 100 * operators["shares"][kind]
        rows.append(row_of(("all", ""), (text, text), ("", ""), (n.fixed(share, 1, " %"), share)))
        rows += [
            row_of(
                (entry["operator"], entry["operator"]),
                (text, text),
                (n.fixed(entry["calls"], 0), entry["calls"]),
                (n.fixed(100 * entry["share"], 1, " %"), 100 * entry["share"]),
            )
            for entry in operators["top"][kind]
        ]
    return Table(("operator", "kind", "calls", "share of operators' time"), tuple(rows))


def gap_table(cells: Iterable[CellRecord], frame: pd.DataFrame | None = None) -> Table | None:
    """One row per method and batch size: the parts of its time in percent of static's, which add up to `all`.

    What its own passes, or the realised speed-ups of `frame`, say against it stands beside it.
    """
    realised = {} if frame is None else frame.set_index(["key", "batch_size"])["speedup_realised"].to_dict()
    rows = [
        row_of(*_gap(cell, gap, realised.get((cell["key"], gap["batch_size"]))))
        for cell in cells
        for gap in cell.get("gaps") or ()
    ]
    headers = ("method", "batch", *PARTS.values(), "all", "is", "passes")
    return Table(headers, tuple(rows)) if rows else None


def _gap(cell: CellRecord, gap: GapRecord, realised: float | None) -> Iterable[tuple[str, Any]]:
    name = f"{cell['spec']}, {cell['backbone']} on {cell['dataset']}, seed {cell['seed']}"
    yield name, name
    yield n.fixed(gap["batch_size"], 0), gap["batch_size"]
    for part in PARTS:
        share = 100 * gap["parts_ms"][part] / gap["static_ms"]
        yield n.fixed(share, 0, " %"), share
    whole = 100 * gap["method_ms"] / gap["static_ms"]
    yield n.fixed(whole, 0, " %"), whole
    ratio = 100 / whole
    yield n.ratio(ratio), ratio
    told = str(gap.get("verdict") or n.MISSING)  # records of former versions have none
    if not n.missing(realised) and realised and not is_invalid(told) and not 1 / APART < ratio / realised < APART:
        told = in_words([f"the timing says {n.ratio(realised)}"])
    yield told, told


def facts(cell: CellRecord) -> Iterator[tuple[str, str]]:
    """Lines for one cell: right and wrong answers, difficulty, what other counters say, time without a known cost."""
    if cell["macs_std"] and None not in (cell["macs_right"], cell["macs_wrong"]):
        yield "MACs of images answered rightly, wrongly", f"{n.both(cell['macs_right'])}, {n.both(cell['macs_wrong'])}"
    if (r := cell.get("macs_difficulty_rank_correlation")) is not None:
        low, high = cell["macs_difficulty_rank_correlation_low"], cell["macs_difficulty_rank_correlation_high"]
        interval = f"95 % interval {n.fixed(low, 2)} to {n.fixed(high, 2)}"
        yield "rank correlation of MACs with difficulty", f"{n.fixed(r, 2)} ({interval})"
    if opinions := cell.get("second_opinions"):
        for name, text in COUNTERS.items():
            yield f"one image by {text}", _opinion(opinions[name], opinions)
    for operator, calls in cell["uncounted_calls"].items():
        yield "without a known cost", f"{operator}, {calls} calls over the test images"
    if error := cell.get("time_error"):
        yield "time by part", f"not measured: {error}"


def _opinion(theirs: OpinionRecord, ours: OpinionsRecord) -> str:
    if "error" in theirs:
        return theirs["error"]
    text = f"{n.both(theirs['macs'])}; ours {n.both(ours['macs'])}"
    apart = theirs["differences"]
    if not apart:
        return text
    share = n.points(100 * (theirs["macs"] / ours["macs"] - 1)) if ours["macs"] else n.MISSING
    parts = n.listed([f"{name} {'+' if macs > 0 else '-'}{n.macs(abs(macs))}" for name, macs in apart.items()])
    return f"{text}; {share} %, by {parts}"


def clauses(cells: pd.DataFrame, records: Sequence[CellRecord]) -> Iterator[str]:
    """What a method spends on wrong and on harder images, said where its gates tell images apart."""
    if not (cells["macs_std"] > 0).any():
        return
    yield from _on_wrong(records)
    yield from _on_harder(records)


def _on_wrong(records: Sequence[CellRecord]) -> Iterator[str]:
    known = [(found, record["macs"]) for record in records if (found := record["macs_wrong_less_right"])]
    if not known:
        return
    mean, low, high = (fmean(found[end] / macs for found, macs in known) for end in ENDS)
    if low <= 0 <= high or abs(mean) < HARDLY:
        yield "it spends about the same on images that it gets wrong as on the others"
    else:
        more = "more" if mean > 0 else "less"
        yield f"it spends {n.fixed(100 * abs(mean), 0, ' %')} {more} on images that it gets wrong than on the others"


def _on_harder(records: Sequence[CellRecord]) -> Iterator[str]:
    name = "macs_difficulty_rank_correlation"
    known: list[Mapping[str, Any]] = [record for record in records if record.get(name) is not None]
    if not known:
        return
    r, low, high = (fmean(record[f"{name}{end}"] for record in known) for end in ("", "_low", "_high"))
    text = f"rank correlation of MACs with difficulty {n.fixed(r, 2)} ({n.fixed(low, 2)} to {n.fixed(high, 2)})"
    if low > 0:
        yield f"it spends more on harder images ({text})"
    elif high < 0:
        yield f"it spends less on harder images ({text})"
    else:
        yield f"what it spends does not depend on how hard an image is ({text})"
