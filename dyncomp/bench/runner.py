"""Runs a plan: cells that have no record yet, what they take of the machine, their timing, then the report."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyncomp.bench.config import Config
from dyncomp.bench.events import CellEnded, Listener, Logged, Planned, ReportStarted, silent
from dyncomp.bench.group import Cell
from dyncomp.bench.jobs import jobs_for, run_cells
from dyncomp.bench.names import GATE_CONTROLS
from dyncomp.bench.plan import Plan, make_plan
from dyncomp.bench.resources import add_resources
from dyncomp.bench.strict import unpriced
from dyncomp.bench.timing import time_group
from dyncomp.errors import InvalidValue, OutputError
from dyncomp.spec import name_of, spec_of
from dyncomp.store import Store

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Outcome:
    """Where the results are, and the cells of this run that failed: in training, or when they were timed."""

    store: Store
    failed: tuple[Cell, ...]


def run(config: Config, tell: Listener = silent) -> Outcome | None:
    """Do what the config asks, and write the report into its output folder; None when it asks for the plan only.

    Raises a DyncompError for whatever the user can mend; nothing is written then, unless it turns up in the middle.
    """
    from dyncomp.fast import disabled  # torch, after the options were checked

    with nullcontext() if config.fast else disabled():
        return _run(config, tell)


def _run(config: Config, tell: Listener) -> Outcome | None:
    plan = make_plan(config)
    folder = output_folder(config, plan)
    if config.dry_run:
        store = Store.open(folder) if folder.exists() else Store(folder)
        tell(_planned(plan, _wanted(plan, store, config.force)))
        return None
    jobs = jobs_for(plan.cells, config)
    store = Store.create(folder, {**config.as_record(), "left_out": [one.as_record() for one in plan.left_out]})
    wanted = _wanted(plan, store, config.force)
    for cell in plan.cells:  # a cell that an earlier run only began with is compared now, and its record says so
        record = store.cell(cell.key)
        if record is not None and record["role"] != cell.role:
            store.add_to_cell(cell.key, {"role": cell.role})
    tell(_planned(plan, wanted))
    failed = run_cells(wanted, store, config, jobs, tell)
    if config.strict_macs:
        failed += _unpriced([cell for cell in plan.cells if cell not in wanted], store, tell)
    groups = [[cell for cell in group if _finished(cell, store, _is_timed(cell))] for group in plan.groups]
    for group in groups:
        add_resources([cell for cell in group if cell.role != "control"], store, tell)
    for group in filter(None, groups):
        failed += time_group([cell for cell in group if _is_timed(cell)], store, config, tell)
    tell(ReportStarted())
    from dyncomp.report import write_report  # plotting libraries, needed only now
    from dyncomp.reporters import log_results

    write_report(store)
    try:
        for line in log_results(store, config.log):
            tell(Logged(line))
    except OutputError as error:  # the results are there all the same
        warnings.warn(str(error), stacklevel=2)
    return Outcome(store, tuple(failed))


def benchmark(methods: str | Sequence[str], **options: Any) -> pd.DataFrame:
    """What the command `benchmark` does, from Python: the table of results, a row per cell and batch size.

    `options` are those of `Config`: backbone, dataset, budget, seeds, batch_sizes, device, data_dir, output,
    include_path, force. A cell that failed has its error in the table.
    """
    from dyncomp.report import results

    outcome = run(Config(methods=methods, **options))  # type: ignore[arg-type]  # Config joins several specs
    if outcome is None:
        raise InvalidValue("dry_run=True makes no table; leave it out")
    return results(outcome.store)


def output_folder(config: Config, plan: Plan) -> Path:
    """The folder asked for, or one under reports/ that is named after the data sets and the backbones."""
    if config.output:
        return Path(config.output)
    groups = [cells[0].group for cells in plan.groups]
    names = dict.fromkeys(name for g in groups for name in (spec_of(g.dataset), spec_of(g.backbone)))
    safe = "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in name).strip("_") for name in names)
    return Path("reports") / safe[:100]


def _is_timed(cell: Cell) -> bool:
    """All but controls: of these the static ladder alone is about time, and a quick run leaves that out too."""
    return cell.role != "control" or (name_of(cell.method) not in GATE_CONTROLS and cell.group.budget != "quick")


def _planned(plan: Plan, wanted: Sequence[Cell]) -> Planned:
    begun = [cell for cell in wanted if cell.is_source]
    return Planned(plan, finished=len(plan.cells) - (len(wanted) - len(begun)), beforehand=len(begun))


def _wanted(plan: Plan, store: Store, force: bool) -> list[Cell]:
    """The cells that have to be trained, each behind those that it begins with."""
    own = {cell.key: cell for cell in plan.cells}
    wanted: dict[str, Cell] = {}

    def want(cell: Cell, with_weights: bool) -> None:
        if cell.key in wanted or not (force or not _finished(cell, store, with_weights)):
            return
        for source in cell.sources.values():
            want(own.get(source.key, source), with_weights=True)
        wanted[cell.key] = cell

    for cell in plan.cells:
        want(cell, _is_timed(cell))
    return list(wanted.values())


def _finished(cell: Cell, store: Store, with_weights: bool) -> bool:
    """Whether its record is complete, and, `with_weights`, its checkpoint there, for timing or for another cell."""
    record = store.cell(cell.key)
    complete = record is not None and record["status"] == "ok"
    return complete and (not with_weights or store.checkpoint_path(cell.key).exists())


def _unpriced(cells: Sequence[Cell], store: Store, tell: Listener) -> list[Cell]:
    """Cells finished before whose MACs are not all known: they keep their records, and this run tells of a failure."""
    failed = []
    for cell in cells:
        record = store.cell(cell.key)
        if record is not None and (names := record.get("uncounted_operators")):
            record["status"], record["error"] = "failed", unpriced(names)  # for whoever is told; the file stays
            tell(CellEnded(cell, record))
            failed.append(cell)
    return failed
