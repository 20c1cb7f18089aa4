"""What a report reads of an output folder: the current cells, the timings, the per-image data."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from dyncomp.errors import OutputError
from dyncomp.store import RecordWarning, Store
from dyncomp.store.schema import CellRecord, TimingRecord

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Reading:
    """One look at a folder: everything in a report comes from the same look."""

    store: Store
    cells: tuple[CellRecord, ...]
    """the latest finished of each cell; those that an edited method has superseded are left out"""
    statics: frozenset[str]
    """keys of all static cells, superseded ones included: timings may still refer to them"""
    timings: tuple[TimingRecord, ...]
    problems: tuple[str, ...]
    """one line for each record that could not be read, or that holds what nobody knows"""

    @cached_property
    def _images(self) -> dict[str, pd.DataFrame | None]:
        return {}

    def images(self, key: str) -> pd.DataFrame | None:
        """The per-image data of a cell; None where there is none that can be read."""
        if key not in self._images:
            try:
                self._images[key] = self.store.images(key)
            except OutputError:
                self._images[key] = None
        return self._images[key]


def read(store: Store) -> Reading:
    """Read all records once; those that cannot be read are named in `problems` and warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RecordWarning)
        cells, timings = store.cells(), store.timings()
    for warning in caught:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno, source=None)
    return Reading(
        store=store,
        cells=tuple(_current(cells)),
        statics=frozenset(cell["key"] for cell in cells if cell["role"] == "static"),
        timings=tuple(timings),
        problems=tuple(str(warning.message) for warning in caught if warning.category is RecordWarning),
    )


def _current(cells: Sequence[CellRecord]) -> list[CellRecord]:
    """Of cells that differ in nothing but the version of the code, the latest finished; no sources of others."""
    latest: dict[str, CellRecord] = {}
    for cell in (cell for cell in cells if cell["role"] != "source"):  # the latest finished comes last
        kept = {name: value for name, value in cell["identity"].items() if name not in ("source", "sources", "version")}
        latest[json.dumps(kept, sort_keys=True, default=str)] = cell
    return list(latest.values())
