"""What trained networks take of the machine: time by operator, memory, energy; measured when nothing else runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from dyncomp.bench.energy import energy_of_cell
from dyncomp.bench.events import Listener, ResourcesStarted
from dyncomp.bench.group import Cell
from dyncomp.bench.memory import memory_figures
from dyncomp.bench.rebuild import rebuild
from dyncomp.bench.stamp import now
from dyncomp.bench.timeshares import where_time_goes
from dyncomp.bench.timing import said_what_to_do
from dyncomp.core import Net
from dyncomp.errors import in_one_line
from dyncomp.profile import as_timed, environment
from dyncomp.store import Store
from dyncomp.store.schema import Resources


def add_resources(cells: Sequence[Cell], store: Store, tell: Listener) -> None:
    """Add the figures to the records of a group's finished cells, where they are not there yet.

    A run that is stopped in between goes on here.
    """
    records = ((cell, store.cell(cell.key)) for cell in cells)
    lacking = [cell for cell, record in records if record is not None and "operators" not in record]
    if not lacking:
        return
    reference = next((cell for cell in cells if cell.role == "static"), None)
    plain: Net | None = None  # the plain backbone in the form in which it is timed
    if reference is not None:
        net = _trained(reference, store)
        with suppress(Exception):  # its own figures tell of it
            plain = as_timed(net)[0]
    for number, cell in enumerate(lacking, 1):
        tell(ResourcesStarted(cell, number, len(lacking)))
        store.add_to_cell(cell.key, _resources(cell, plain, store))


def _resources(cell: Cell, plain: Net | None, store: Store) -> Resources:
    """The figures; what fails is told in `time_error`, and the cell's results stand without.

    Training may have been elsewhere, on other threads, and long ago: when and where these were taken is told too.
    """
    net, record = _trained(cell, store), store.cell(cell.key)
    try:
        assert record is not None  # it lacks these figures
        times = where_time_goes(as_timed(net)[0], plain, cell, record["uncounted_operators"])
        memory = memory_figures(net, cell, store.checkpoint_path(cell.key))
        energy, where = energy_of_cell(net, cell), environment(cell.group.device)
        return {**times, **memory, **energy, "resources_at": now(), "resources_environment": where}
    except Exception as error:  # whatever a network does here, the others are measured
        return {
            "operators": None,
            "gaps": None,
            "time_error": in_one_line(error),
            "resources_at": now(),
            "resources_environment": environment(cell.group.device),
        }


def _trained(cell: Cell, store: Store) -> Net:
    """The cell's network from its checkpoint, on its device."""
    with said_what_to_do():
        return rebuild(store.checkpoint_path(cell.key), cell.group.device)[0]
