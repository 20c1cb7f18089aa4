"""What a tracker is told of an output folder: a run for each cell, with parameters, curves and figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dyncomp.report.details import title
from dyncomp.report.reading import read
from dyncomp.report.words import full_results
from dyncomp.store import Store
from dyncomp.store.schema import CellRecord

PARAMETERS = ("method", "spec", "backbone", "dataset", "seed", "budget", "device", "role", "control_of")
OF_CELL = ("top1", "macs", "flops", "params", "speedup_claimed", "speedup_executed", "routes", "route_exchange_top1")
OF_BATCH = ("latency_ms_p50", "latency_ms_p90", "latency_ms_p99", "images_per_s", "speedup_realised")


@dataclass(frozen=True)
class Run:
    """One finished cell.

    `curve` has the mean loss of each epoch, and the mean share of the plain backbone's multiply-adds that the gates
    asked for; `figures` the columns of results.csv, those of a batch size as `latency_ms_p50/batch_1`.
    """

    name: str
    parameters: Mapping[str, str | int | float]
    curve: tuple[Mapping[str, float], ...]
    figures: Mapping[str, float]
    sentence: str


@dataclass(frozen=True)
class Runs:
    """All of a folder; `files` are the table and the page, as far as they are written."""

    folder: Path
    runs: tuple[Run, ...]
    files: tuple[Path, ...]


class Reporter(ABC):
    """Sends runs to one tracker; made without arguments: what a tracker wants to know stands in its environment."""

    requires: ClassVar[str]
    """the module that has to be installed"""

    @abstractmethod
    def write(self, runs: Runs) -> str:
        """Send them; where they are to be seen, in a few words."""


def runs_of(store: Store) -> Runs:
    """What an output folder holds: its finished cells in the order of results.csv."""
    reading = read(store)
    frame = full_results(reading)
    cells = {cell["key"]: cell for cell in reading.cells if cell["status"] == "ok"}
    runs = []
    for key, rows in frame.groupby("key", sort=False):
        if key not in cells:
            continue
        cell, row = cells[str(key)], rows.iloc[0]
        figures = {name: float(row[name]) for name in OF_CELL if row[name] == row[name]}
        for _, of_batch in rows.iterrows():
            known = [name for name in OF_BATCH if of_batch[name] == of_batch[name]]
            figures |= {f"{name}/batch_{of_batch['batch_size']}": float(of_batch[name]) for name in known}
        hyperparameters = {f"method.{name}": _plain(value) for name, value in cell["hyperparameters"].items()}
        given: Mapping[str, object] = cell
        parameters = {name: _plain(given[name]) for name in PARAMETERS} | hyperparameters
        runs.append(Run(title(cell), parameters, tuple(_curve(cell)), figures, row["sentence"] or ""))
    files = (store.folder / name for name in ("results.csv", "report.html"))
    return Runs(store.folder, tuple(runs), tuple(file for file in files if file.is_file()))


def _curve(cell: CellRecord) -> Iterator[dict[str, float]]:
    for stage in cell["stages"]:
        for _, loss, share in stage["log"]:
            known = {"loss": loss, "share_of_macs": share}
            yield {f"train/{name}": float(value) for name, value in known.items() if value is not None}


def _plain(value: object) -> str | int | float:
    return value if isinstance(value, str | int | float) else str(value)
