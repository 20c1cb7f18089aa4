"""What stands on the screen when the main job is done."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from dyncomp.report import results, sentences
from dyncomp.store import Store


def show_result(store: Store) -> int:
    """Print the result table and a sentence per method; the exit status: 1 if a cell failed."""
    console = Console(soft_wrap=False)
    table = results(store)
    console.print(_table(table))
    for sentence in sentences(store):
        console.print(f"- {sentence}", markup=False, highlight=False)
    console.print(f"Report: {store.folder / 'report.html'}", markup=False, highlight=False)
    failed = table[table.status == "failed"]
    for row in failed.drop_duplicates("key").itertuples():
        console.print(f"failed: {row.spec}: {row.error}", markup=False, style="red")
    return 1 if len(failed) else 0


def _table(frame: object) -> Table:
    raise NotImplementedError
