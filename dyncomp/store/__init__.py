"""The output folder: records written the moment a cell is done, readable without torch."""

from __future__ import annotations

from dyncomp.store.files import write_atomically
from dyncomp.store.merging import merge
from dyncomp.store.store import RecordWarning, Store, cell_key

__all__ = ["RecordWarning", "Store", "cell_key", "merge", "write_atomically"]
