"""The verb `compare`: two output folders, cell by cell, for people and for continuous integration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from dyncomp.report.comparison import Comparison, Judged

FAILED = 1
MARKS = {"SAME": "=", "UNCLEAR": "?", "NOT COMPARABLE": "-"}


def compare(
    before: Annotated[Path, typer.Argument(help="Output folder of a benchmark.")],
    after: Annotated[Path, typer.Argument(help="Another one, of the same data.")],
    fail_on: Annotated[
        str | None,
        typer.Option(help="Exit with status 1 where a cell is worse by more: latency_ms_p50:5%,top1:0.5"),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the whole comparison as a page into this new file.")] = None,
) -> None:
    """Set two folders against each other: accuracy, MACs, latency and memory of every cell that both have."""
    from rich.console import Console

    from dyncomp.errors import OutputError
    from dyncomp.report import comparison as c
    from dyncomp.report.page import comparison_page
    from dyncomp.report.reading import read
    from dyncomp.store import Store, write_atomically

    limits = c.limits_of(fail_on) if fail_on is not None else []
    if html is not None and html.exists():
        raise OutputError(f"{html} exists; give --html a new file, nothing is written over")
    compared = c.compare(*(read(Store.open(folder)) for folder in (before, after)))
    beyond = c.broken(compared, limits)
    console = Console()
    console.print(_table(compared))
    for reason in _reasons(compared):
        console.print(reason, markup=False, highlight=False, soft_wrap=True)
    for pair, judged in beyond:
        at = "" if judged.batch_size is None else f" at batch {judged.batch_size}"
        worse = f"{judged.quantity.name}{at} is {_mark(judged)}" if judged.change else judged.why
        text = f"failed: {pair}: {worse}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    if html is not None:
        write_atomically({html: comparison_page(compared, before, after).encode()})
        console.print(f"Page: {html}", markup=False, highlight=False, soft_wrap=True)
    if beyond:
        raise typer.Exit(FAILED)


def _table(compared: Comparison) -> Table:
    """A row per cell and batch size; columns are quantities."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    table.add_column("method", overflow="fold")
    for head in ("seed", "batch", "top-1", "MACs", "ms", "realised", "memory"):
        table.add_column(head, justify="right", no_wrap=True)
    for pair in compared.pairs:
        whole = {judged.quantity.name: _mark(judged) for judged in pair.judged if judged.batch_size is None}
        sizes: list[int | None] = [*sorted({one.batch_size for one in pair.judged if one.batch_size is not None})]
        for size in sizes or [None]:
            own = {judged.quantity.name: _mark(judged) for judged in pair.judged if judged.batch_size == size} | whole
            first = not sizes or size == sizes[0]
            spec = f"{pair.spec}{f' ({pair.differs})' if pair.differs else ''}"
            cells = (own.get(name, "") for name in ("top1", "macs", "latency_ms_p50", "speedup_realised"))
            table.add_row(
                escape(spec) if first else "",
                str(pair.seed) if first else "",
                "" if size is None else str(size),
                *(text if first or place > 1 else "" for place, text in enumerate(cells)),
                own.get("memory_mib_inference", "") if first else "",
            )
    return table


def _mark(judged: Judged) -> str:
    """`WORSE +4.2 %`; marks in place of the words that need no reading."""
    word = MARKS.get(judged.verdict, judged.verdict)
    return word if judged.change is None else f"{word} {judged.quantity.written(judged.change.middle)}"


def _reasons(compared: Comparison) -> Iterator[str]:
    """What the marks mean, how often each verdict was given, and why quantities are not comparable or unclear."""
    counts = compared.counts()
    yield ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) + (
        "; = SAME, ? UNCLEAR, - NOT COMPARABLE; changes are from the first folder to the second"
    )
    whys = Counter((judged.quantity.name, judged.verdict, judged.why) for _, judged in compared.judged() if judged.why)
    for (name, verdict, why), count in whys.items():
        yield f"{name} {verdict} in {count} place{'s' if count > 1 else ''}: {why}"
    for which, cells in (("first", compared.left), ("second", compared.right)):
        if cells:
            yield f"only in the {which} folder: {', '.join(cells)}"
