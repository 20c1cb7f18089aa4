"""What stands on the screen when the main job is done: a row per method, and what to ship, in about 20 lines."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dyncomp.report import numbers as n
from dyncomp.report.controls import Setting, settings
from dyncomp.report.overview import overview, written
from dyncomp.report.reading import read
from dyncomp.report.recommendation import ACCEPTED, recommendations
from dyncomp.report.table import results_of
from dyncomp.store import Store

MOST_ROWS = 8
"""methods of a setting that are shown; the others are in the report"""
NOTES = (
    "FLOPs are 2 * MACs; a ratio in brackets comes from no valid timing; worth it: against "
    "static nets of equal latency (without one, of equal MACs)."
)


def show_result(store: Store) -> None:
    """Print a table for each setting, what to ship, what failed, and where the report is."""
    console = Console()
    reading = read(store)
    frame = results_of(reading)
    for setting in settings(reading, frame):
        console.print(result_table(setting))
        for line in _beside(setting):
            console.print(line, markup=False, highlight=False)
    for place, recommendation in enumerate(recommendations(reading, frame)):
        if not place:
            console.print(f"What to ship, at most {ACCEPTED:g} points below static:", markup=False, highlight=False)
        console.print(f"- {recommendation}", markup=False, highlight=False)
    for _, row in frame[frame["status"] != "ok"].iterrows():
        console.print(f"failed: {row['spec']}, seed {row['seed']}: {row['error']}", markup=False, highlight=False)
    console.print(NOTES, markup=False, highlight=False, style="dim")
    console.print(f"Report: {store.folder / 'report.html'}", markup=False, highlight=False, soft_wrap=True)


def result_table(setting: Setting) -> Table:
    """The plain backbone, then the methods, the most accurate first, on 80 columns."""
    first = setting.rows.iloc[0]
    seeds = setting.rows["seed"].nunique()
    told = f"{first['backbone']} on {first['dataset']}, {seeds} seed{'s' if seeds > 1 else ''}"
    table = Table(
        box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False, title=escape(told), title_justify="left"
    )
    table.add_column("method", overflow="fold")
    sizes = dict.fromkeys((*setting.batch_sizes[:1], *setting.batch_sizes[-1:]))
    for head in ("top-1 %", "over static", "MACs", *(f"batch {size}" for size in sizes), "worth it"):
        table.add_column(head, justify="right", no_wrap=True)
    rows = overview(setting)
    methods = [row for row in rows if row.role == "method"][:MOST_ROWS]
    for row in (*(row for row in rows if row.role == "static"), *methods):
        is_static, network = row.role == "static", row.network
        macs = n.macs(network.macs) if is_static or row.macs_ratio is None else n.ratio(row.macs_ratio)
        times = [written(row.times.get(size), is_static) for size in sizes]
        table.add_row(escape(network.spec), n.fixed(network.top1, 2), row.over_static, macs, *times, row.worth)
    return table


def _beside(setting: Setting) -> Iterator[str]:
    """What is not in the table: methods beyond `MOST_ROWS`, and static networks of other sizes."""
    rows = setting.rows
    more = rows.loc[rows["role"] == "method", "spec"].nunique() - MOST_ROWS
    if more > 0:
        yield f"and {more} less accurate methods, in the report"
    rungs = [rung for rung in setting.rungs if rung.spec in set(rows.loc[rows["role"] == "control", "spec"])]
    if rungs:
        costs, accuracies = ([getattr(rung, name) for rung in rungs] for name in ("macs", "top1"))
        span = f"{n.macs(min(costs))} to {n.macs(max(costs))} MACs"
        yield f"static nets of {span}: {n.percent(min(accuracies))} to {n.percent(max(accuracies))}"
