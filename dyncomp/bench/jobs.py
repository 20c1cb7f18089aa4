"""Trains cells side by side, each in a process of its own with its share of the cores.

Small networks leave most of a machine idle: a step of a few milliseconds is more calls than arithmetic, and a second
core makes it little faster. Two cells on a core each then take half the time of both. What is sensitive to other load
(latency, memory) is measured afterwards, when all of them have ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from dyncomp.bench.cell import run_cell, write_failure
from dyncomp.bench.config import Config
from dyncomp.bench.events import CellEnded, CellStarted, CellTrains, Listener
from dyncomp.bench.group import Cell
from dyncomp.bench.plugins import Plugins, known_plugins
from dyncomp.bench.rebuild import cell_from
from dyncomp.bench.stamp import now
from dyncomp.errors import InvalidValue
from dyncomp.profile import keep_freed_memory
from dyncomp.profile.child import Child, Failed, first_to_speak, live_with_parent
from dyncomp.store import Store
from dyncomp.store.schema import CellContent, IdentityRecord
from dyncomp.train import Progress

MOST = 4
"""cells at a time where the user does not say: each holds a network, its gradients and the data"""


@dataclass(frozen=True)
class Job:
    """A cell as it travels to its process, which makes it again."""

    identity: IdentityRecord
    key: str
    device: str
    data_dir: Path | None
    init: Path | None
    is_source: bool
    folder: Path
    strict_macs: bool
    plugins: Plugins
    jobs: int
    threads: int


def jobs_for(cells: Sequence[Cell], config: Config) -> int:
    """How many cells are trained at a time: what was asked for, or as many as this machine and the plugins allow.

    Raises InvalidValue where several are asked for and the running program alone knows a plugin or a cost formula.
    """
    try:
        plugins = known_plugins()
        plugins.check_formulas()
        for cell in cells:
            plugins.check(cell.identity)
    except InvalidValue as error:
        if config.jobs in (None, 1):
            return 1
        raise InvalidValue(f"jobs={config.jobs}: {error}; or give jobs=1") from None
    on_gpu = any(cell.group.device.type != "cpu" for cell in cells)  # one network fills it
    return config.jobs or (1 if on_gpu else min(MOST, torch.get_num_threads()))


def run_cells(cells: Sequence[Cell], store: Store, config: Config, jobs: int, tell: Listener) -> list[Cell]:
    """Train and measure the cells, `jobs` at a time, write their records; returns those that failed.

    A cell waits for those that it begins with, and fails where one of them has failed.
    """
    run = _Run(len(cells), store, config, tell)
    jobs = min(jobs, len(cells))
    left = cells if jobs == 1 else _SideBySide(run, jobs).run(cells)
    for cell in left:
        if not run.lacks_source(cell):
            run.here(cell)
    return run.failed


class _Run:
    """What all cells have in common, whoever trains them."""

    def __init__(self, total: int, store: Store, config: Config, tell: Listener) -> None:
        self.total, self.store, self.config, self.tell = total, store, config, tell
        self.failed: list[Cell] = []
        self._told: set[str] = set()

    def started(self, cell: Cell) -> None:
        """Tell of it, once: a process may have begun with a cell, and left it."""
        if cell.key not in self._told:
            self._told.add(cell.key)
            self.tell(CellStarted(cell, len(self._told), self.total))

    def lacks_source(self, cell: Cell) -> bool:
        """Whether a cell that this one begins with has failed; then this one has, too."""
        failed = next((one for one in cell.sources.values() if one.key in {cell.key for cell in self.failed}), None)
        if failed is None:
            return False
        self.started(cell)
        error = f"{failed}, which it begins with, has failed; see the error of that cell"
        self.ended(cell, write_failure(cell, self.store, error, now()))
        return True

    def here(self, cell: Cell) -> None:
        """Train a cell in this process."""
        self.started(cell)
        record = run_cell(cell, self.store, lambda said: self.tell(CellTrains(cell, said)), self.config.strict_macs)
        self.ended(cell, record)

    def ended(self, cell: Cell, record: CellContent) -> None:
        """Tell of a cell's record, and remember one that failed."""
        self.tell(CellEnded(cell, record))
        if record["status"] != "ok":
            self.failed.append(cell)


@dataclass(frozen=True)
class _AtWork:
    cell: Cell
    started_at: str


class _SideBySide:
    """Cells at work, `jobs` at a time; those that no other process can make are left for this one."""

    def __init__(self, run: _Run, jobs: int) -> None:
        self.all, self.jobs = run, jobs
        self.plugins = known_plugins()
        self.at_work: dict[Child, _AtWork] = {}
        self.left: list[Cell] = []

    def run(self, cells: Sequence[Cell]) -> list[Cell]:
        """Run the cells; returns those that are left. On leaving, by whatever way, no process is."""
        waiting = list(cells)
        try:
            while waiting or self.at_work:
                while len(self.at_work) < self.jobs and (cell := self._next(waiting)):
                    waiting.remove(cell)
                    if not self.all.lacks_source(cell):
                        self._start(cell)
                for child in first_to_speak(list(self.at_work)):
                    self._hear(child)
        finally:
            for child in self.at_work:
                child.end()
        return self.left

    def _next(self, waiting: Sequence[Cell]) -> Cell | None:
        """The first of the waiting cells whose sources wait no longer and are not at work."""
        busy = {cell.key for cell in waiting} | {one.cell.key for one in self.at_work.values()}
        return next((cell for cell in waiting if busy.isdisjoint(one.key for one in cell.sources.values())), None)

    def _start(self, cell: Cell) -> None:
        if any(source.key in {one.key for one in self.left} for source in cell.sources.values()):
            self.left.append(cell)
            return
        config = self.all.config
        job = Job(
            identity=cell.identity,
            key=cell.key,
            device=str(cell.group.device),
            data_dir=Path(config.data_dir).absolute() if config.data_dir else None,
            init=cell.group.init,
            is_source=cell.is_source,
            folder=self.all.store.folder.absolute(),
            strict_macs=config.strict_macs,
            plugins=self.plugins,
            jobs=self.jobs,
            threads=max(1, torch.get_num_threads() // self.jobs),
        )
        try:
            child = Child(work, job)
        except Failed:  # no process can be started here
            self.left.append(cell)
            return
        self.at_work[child] = _AtWork(cell, now())
        self.all.started(cell)

    def _hear(self, child: Child) -> None:
        """One message: progress, the record, None where the cell could not be made, or the process's end."""
        one = self.at_work[child]
        try:
            said: Progress | CellContent | None = child.receive()
        except Failed as error:
            said = write_failure(one.cell, self.all.store, str(error), one.started_at)
        if isinstance(said, Progress):
            self.all.tell(CellTrains(one.cell, said))
            return
        del self.at_work[child]
        child.end()
        if said is None:
            self.left.append(one.cell)
        else:
            self.all.ended(one.cell, said)


def work(pipe: Connection, job: Job) -> None:
    """The process of a cell: sends its progress, and at last its record, which is in the store by then.

    Where the cell cannot be made again here, or comes out as another one, it sends None.
    """
    live_with_parent()
    torch.set_num_threads(job.threads)
    keep_freed_memory()  # a step of training takes a tenth less time
    cell = _made_again(job)
    pipe.send(cell and run_cell(cell, Store.open(job.folder), pipe.send, job.strict_macs, job.jobs))


def _made_again(job: Job) -> Cell | None:
    try:
        job.plugins.register()
        cell = cell_from(job.identity, torch.device(job.device), job.data_dir, job.init, job.is_source)
        return cell if cell.key == job.key else None
    except Exception:  # a plugin that only the program knows, in a way that nobody foresaw
        return None
