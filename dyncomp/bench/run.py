"""Runs a plan: cells that have no record yet, then their timing, then the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyncomp.bench.cell import run_cell
from dyncomp.bench.config import Config, joined
from dyncomp.bench.events import CellEnded, CellStarted, CellTrains, Listener, Planned, ReportStarted, silent
from dyncomp.bench.plan import Cell, Plan, make_plan
from dyncomp.bench.timing import time_group
from dyncomp.registry import include_path
from dyncomp.spec import spec_of
from dyncomp.store import Store

if TYPE_CHECKING:
    import pandas as pd


def run(config: Config, tell: Listener = silent) -> Store | None:
    """Do what the config asks, and write the report into its output folder; None when it asks for the plan only."""
    for path in config.include_path:
        include_path(Path(path))
    plan = make_plan(config)
    if config.dry_run:
        tell(Planned(plan, 0))
        return None
    store = Store.create(output_folder(config, plan), config.as_json())
    wanted = [c for c in plan.cells if config.force or not _finished(c, store)]
    tell(Planned(plan, len(plan.cells) - len(wanted)))
    for number, cell in enumerate(wanted, start=1):
        tell(CellStarted(cell, number, len(wanted)))
        record = run_cell(cell, store, lambda progress, cell=cell: tell(CellTrains(cell, progress)))
        tell(CellEnded(cell, record))
    for group in plan.groups:
        able = [cell for cell in group if _finished(cell, store)]
        if able:
            time_group(able, store, config.batch_sizes, config.force, tell)
    tell(ReportStarted())
    from dyncomp.report import write_report  # plotting libraries, needed only now

    write_report(store)
    return store


def benchmark(
    methods: str | Sequence[str], *, output: str | Path = "", **options: Any
) -> pd.DataFrame:
    """What the command `benchmark` does, from Python: the table of results, a row per cell and batch size.

    `options` are those of `Config`: backbone, dataset, budget, seeds, batch_sizes, device, data_dir, include_path, force.
    """
    from dyncomp.report import results

    store = run(Config(methods=joined(methods), output=str(output), **options))
    assert store is not None
    return results(store)


def output_folder(config: Config, plan: Plan) -> Path:
    """The folder asked for, or one under reports/ that is named after the data set and the backbone."""
    if config.output:
        return Path(config.output)
    groups = [cells[0].group for cells in plan.groups]
    names = dict.fromkeys(name for g in groups for name in (spec_of(g.dataset), spec_of(g.backbone)))
    safe = "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in name).strip("_") for name in names)
    return Path("reports") / safe[:100]


def _finished(cell: Cell, store: Store) -> bool:
    record = store.cell(cell.key)
    return record is not None and record["status"] == "ok" and store.checkpoint_path(cell.key).exists()
