"""Trains cells side by side, each in a process of its own with its share of the cores.

Small networks leave most of a machine idle: a step of a few milliseconds is more calls than arithmetic, and a second
core makes it little faster. Two cells on a core each then take half the time of both. What is sensitive to other load
(latency, memory) is measured afterwards, when all of them have ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from dyncomp.bench.cell import run_cell, write_failure
from dyncomp.bench.config import Config
from dyncomp.bench.events import CellEnded, CellStarted, CellTrains, Listener
from dyncomp.bench.plan import Cell
from dyncomp.bench.plugins import Plugins, known_plugins
from dyncomp.bench.rebuild import cell_from
from dyncomp.errors import InvalidValue
from dyncomp.profile.child import Child, Failed, first_to_speak, live_with_parent
from dyncomp.profile.sanity import in_one_line
from dyncomp.store import Store
from dyncomp.train import Progress

MOST = 4
"""cells at a time where the user does not say: each holds a network, its gradients and the data"""


@dataclass(frozen=True)
class Job:
    """A cell as it travels to its process, which makes it again."""

    identity: dict[str, Any]
    key: str
    device: str
    data_dir: Path | None
    init: Path | None
    folder: Path
    strict_macs: bool
    plugins: Plugins
    threads: int


def jobs_for(cells: Sequence[Cell], config: Config) -> int:
    """How many cells are trained at a time: what was asked for, or as many as this machine and the plugins allow.

    Raises InvalidValue where several are asked for and a plugin is known to the running program only.
    """
    try:
        plugins = known_plugins()
        for cell in cells:
            plugins.check(cell.identity)
    except InvalidValue as error:
        if config.jobs in (None, 1):
            return 1
        raise InvalidValue(f"jobs={config.jobs}: {error}; or give jobs=1") from None
    on_gpu = any(cell.group.device.type != "cpu" for cell in cells)  # one network fills it
    return config.jobs or (1 if on_gpu else min(MOST, torch.get_num_threads()))


def run_cells(cells: Sequence[Cell], store: Store, config: Config, jobs: int, tell: Listener) -> list[Cell]:
    """Train and measure the cells, `jobs` at a time, write their records; returns those that failed."""
    if min(jobs, len(cells)) > 1:
        return _SideBySide(cells, store, config, tell).run(min(jobs, len(cells)))
    failed = []
    for number, cell in enumerate(cells, start=1):
        tell(CellStarted(cell, number, len(cells)))
        record = run_cell(cell, store, partial(_pass_on, cell, tell), config.strict_macs)
        tell(CellEnded(cell, record))
        if record["status"] != "ok":
            failed.append(cell)
    return failed


def _pass_on(cell: Cell, tell: Listener, progress: Progress) -> None:
    tell(CellTrains(cell, progress))


class _SideBySide:
    """The cells that wait, and those at work."""

    def __init__(self, cells: Sequence[Cell], store: Store, config: Config, tell: Listener) -> None:
        self.total, self.store, self.config, self.tell = len(cells), store, config, tell
        self.plugins = known_plugins()
        self.waiting = deque(enumerate(cells, start=1))
        self.at_work: dict[Child, Cell] = {}
        self.failed: list[Cell] = []

    def run(self, jobs: int) -> list[Cell]:
        """Run all, `jobs` at a time; returns those that failed. On leaving, by whatever way, no process is left."""
        threads = max(1, torch.get_num_threads() // jobs)
        try:
            while self.waiting or self.at_work:
                while self.waiting and len(self.at_work) < jobs:
                    self._start(*self.waiting.popleft(), threads)
                for child in first_to_speak(list(self.at_work)):
                    self._hear(child)
        finally:
            for child in self.at_work:
                child.end()
        return self.failed

    def _start(self, number: int, cell: Cell, threads: int) -> None:
        self.tell(CellStarted(cell, number, self.total))
        group = cell.group
        job = Job(
            identity=cell.identity,
            key=cell.key,
            device=str(group.device),
            data_dir=Path(self.config.data_dir) if self.config.data_dir else None,
            init=group.init,
            folder=self.store.folder,
            strict_macs=self.config.strict_macs,
            plugins=self.plugins,
            threads=threads,
        )
        self.at_work[Child(work, job)] = cell

    def _hear(self, child: Child) -> None:
        """One message: progress, the record, or why there is none."""
        cell = self.at_work[child]
        said = _said(child)
        if isinstance(said, Progress):
            self.tell(CellTrains(cell, said))
            return
        del self.at_work[child]
        child.end()
        record = write_failure(cell, self.store, said) if isinstance(said, str) else said
        self.tell(CellEnded(cell, record))
        if record["status"] != "ok":
            self.failed.append(cell)


def _said(child: Child) -> Progress | dict[str, Any] | str:
    """The next message; a process that has ended says nothing more, and how it ended is what is said."""
    try:
        said: Progress | dict[str, Any] | str = child.receive()
    except Failed as error:
        return str(error)
    return said


def work(pipe: Connection, job: Job) -> None:
    """The process of a cell: sends its progress, and at last its record, which is in the store by then.

    Where the cell cannot be made again here it sends why.
    """
    live_with_parent()
    torch.set_num_threads(job.threads)
    store = Store.open(job.folder)
    try:
        cell = _made_again(job)
    except Exception as error:
        pipe.send(in_one_line(error))
    else:
        pipe.send(run_cell(cell, store, pipe.send, job.strict_macs))


def _made_again(job: Job) -> Cell:
    job.plugins.register()
    cell = cell_from(job.identity, torch.device(job.device), job.data_dir, job.init)
    if cell.key != job.key:
        raise InvalidValue(f"{cell} is not what it was when the run began: a plugin's file was changed; run it again")
    return cell
