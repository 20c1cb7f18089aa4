"""The words for what the clock said, batch size by batch size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dyncomp.report import numbers as n
from dyncomp.samples import is_invalid, side_of

if TYPE_CHECKING:
    import pandas as pd

SHORT_OF_CLAIM = 0.9
OTHERS = {"same": "no faster", "slower": "slower", "invalid": "no valid timing"}


@dataclass(frozen=True)
class Speed:
    """The realised speed-up at one batch size; `kind` is faster, same or slower, or invalid: not to be relied on."""

    batch_size: int
    ratio: float
    kind: str


def speed_of(batch_size: int, rows: pd.DataFrame) -> Speed:
    """Faster or slower only where the intervals of all seeds lie on that side of 1, and all their ratios are valid."""
    ratio = float(rows["speedup_realised"].mean())
    if any(is_invalid(text) for text in rows["speedup_verdict"]):
        return Speed(batch_size, ratio, "invalid")
    return Speed(batch_size, ratio, side_of(rows["speedup_realised_low"].min(), rows["speedup_realised_high"].max()))


def speed(rows: pd.DataFrame) -> str:
    """`, but only 1.05x faster at batch 64 and slower at batch 1 (0.71x)` from one spec's rows."""
    timed = rows[rows["speedup_realised"].notna()]
    if timed.empty:
        return ", not timed"
    speeds = [speed_of(int(size), group) for size, group in timed.groupby("batch_size")]
    claimed = float(rows["speedup_claimed"].mean())
    faster = sorted((s for s in speeds if s.kind == "faster"), key=lambda s: -s.ratio)
    others = []
    for kind, said in OTHERS.items():
        measured = " measured" if kind == "invalid" else ""
        sizes = [f"{s.batch_size} ({n.ratio(s.ratio)}{measured})" for s in speeds if s.kind == kind]
        others += [f"{said} at batch {n.listed(sizes)}"] if sizes else []
    rest = n.listed(others)
    if not faster:
        return f", {'but' if claimed > 1 else 'and'} {rest}"
    short = faster[0].ratio < SHORT_OF_CLAIM * claimed
    gained = n.listed([f"{n.ratio(s.ratio)} faster at batch {s.batch_size}" for s in faster])
    text = f", {'but only' if short else 'and'} {gained}"
    return f"{text} {'and' if short else 'but'} {rest}" if rest else text
