"""The words for what the clock said, batch size by batch size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dyncomp.report import numbers as n

if TYPE_CHECKING:
    import pandas as pd

SHORT_OF_CLAIM = 0.9
NOISE = 0.02


@dataclass(frozen=True)
class Verdict:
    """The realised speed-up at one batch size; `kind` is faster, same or slower."""

    batch_size: int
    ratio: float
    kind: str


def verdict(batch_size: int, rows: pd.DataFrame) -> Verdict:
    """Faster or slower only where the intervals of all seeds lie on that side of 1."""
    ratio = float(rows["speedup_realised"].mean())
    low, high = rows["speedup_realised_low"].min(), rows["speedup_realised_high"].max()
    low = ratio - NOISE if n.missing(low) else low
    high = ratio + NOISE if n.missing(high) else high
    kind = "faster" if low > 1 else "slower" if high < 1 else "same"
    return Verdict(batch_size, ratio, kind)


def speed(rows: pd.DataFrame) -> str:
    """`, but only 1.05x faster at batch 64 and slower at batch 1 (0.71x)` from one spec's rows."""
    timed = rows[rows["speedup_realised"].notna()]
    if timed.empty:
        return ", not timed"
    verdicts = [verdict(int(size), group) for size, group in timed.groupby("batch_size")]
    claimed = float(rows["speedup_claimed"].mean())
    faster = sorted((v for v in verdicts if v.kind == "faster"), key=lambda v: -v.ratio)
    others = [_others(verdicts, "same"), _others(verdicts, "slower")]
    rest = n.listed([text for text in others if text])
    if not faster:
        return f", {'but' if claimed > 1 else 'and'} {rest}"
    short = faster[0].ratio < SHORT_OF_CLAIM * claimed
    gained = n.listed([f"{n.ratio(v.ratio)} faster at batch {v.batch_size}" for v in faster])
    text = f", {'but only' if short else 'and'} {gained}"
    return f"{text} {'and' if short else 'but'} {rest}" if rest else text


def _others(verdicts: list[Verdict], kind: str) -> str:
    chosen = [v for v in verdicts if v.kind == kind]
    if not chosen:
        return ""
    name = {"same": "no faster", "slower": "slower"}[kind]
    sizes = n.listed([f"{v.batch_size} ({n.ratio(v.ratio)})" for v in chosen])
    return f"{name} at batch {sizes}"
