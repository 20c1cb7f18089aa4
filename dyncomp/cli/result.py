"""What stands on the screen when the main job is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dyncomp.report import is_invalid
from dyncomp.report.reading import read
from dyncomp.report.recommendation import ACCEPTED, recommendations
from dyncomp.report.table import results_of
from dyncomp.report.words import words_of
from dyncomp.store import Store

if TYPE_CHECKING:
    import pandas as pd


def show_result(store: Store) -> None:
    """Print the result table, a sentence per method, and what to ship."""
    console = Console()
    reading = read(store)
    frame = results_of(reading)
    console.print(result_table(frame))
    for sentence in words_of(reading, frame):
        console.print(f"- {sentence}", markup=False, highlight=False)
    for place, recommendation in enumerate(recommendations(reading, frame)):
        if not place:
            console.print(f"\nWhat to ship, at most {ACCEPTED:g} points below static:", markup=False, highlight=False)
        console.print(f"- {recommendation}", markup=False, highlight=False)
    console.print(f"\nReport: {store.folder / 'report.html'}", markup=False, highlight=False, soft_wrap=True)


VARYING = {"backbone": "backbone", "dataset": "data", "seed": "seed"}
FIGURES = ("top-1 %", "M MACs", "claimed", "executed", "batch", "ms", "realised")
CAPTION = "FLOPs are 2 * MACs; a ratio in brackets comes from no valid timing, and the report says why"


def result_table(frame: pd.DataFrame) -> Table:
    """A row per cell and batch size, on 80 columns; what is the same in all rows stands in the title."""
    same = [f"{frame[name].iloc[0]}" for name in ("backbone", "dataset") if frame[name].nunique() == 1]
    varying = [name for name in VARYING if frame[name].nunique() > 1]
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
        pad_edge=False,
        show_edge=False,
        title=" on ".join(same) or None,
        title_justify="left",
        caption=CAPTION,
        caption_justify="left",
    )
    table.add_column("method", overflow="fold")
    for name in varying:
        table.add_column(VARYING[name], overflow="fold")
    for head in FIGURES:
        table.add_column(head, justify="right", no_wrap=True)
    for row in frame.to_dict("records"):
        table.add_row(escape(str(row["spec"])), *(escape(str(row[name])) for name in varying), *_figures(row))
    return table


def _figures(row: dict[str, object]) -> list[str]:
    if row["status"] != "ok":
        return ["failed", *[""] * (len(FIGURES) - 1)]
    return [
        f"{row['top1']:.2f}",
        f"{float(str(row['macs'])) / 1e6:.2f}",
        *(_text(row[name], "{:.2f}x") for name in ("speedup_claimed", "speedup_executed")),
        _text(row["batch_size"], "{:.0f}"),
        _text(row["latency_ms_p50"], "{:.2f}"),
        _text(row["speedup_realised"], "({:.2f}x)" if is_invalid(row["speedup_verdict"]) else "{:.2f}x"),
    ]


def _text(value: object, form: str) -> str:
    """The number in that form; nothing where there is none."""
    number = float(str(value)) if value is not None and str(value) not in ("nan", "<NA>", "None") else None
    return "" if number is None else form.format(number)
