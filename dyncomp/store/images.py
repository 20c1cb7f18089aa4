"""What happened to each test image, one Parquet file per cell."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyncomp.errors import InvalidValue, OutputError
from dyncomp.store.schema import ImageColumns, keys_of

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = tuple(keys_of(ImageColumns))


def parquet_bytes(images: Mapping[str, Any]) -> bytes:
    """`label`, `prediction`, `macs` (int64) and `route` (text), a row per test image.

    Raises `InvalidValue` where a column is missing, unknown or of another length than the others.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if set(images) != set(COLUMNS):
        given = ", ".join(sorted(images)) or "none"
        raise InvalidValue(f"per-image columns are {', '.join(COLUMNS)}; given: {given}")
    lengths = {name: len(images[name]) for name in COLUMNS}
    if len(set(lengths.values())) != 1:
        raise InvalidValue(f"per-image columns must be equally long; given: {lengths}")
    table = pa.table(
        {
            name: pa.array(
                [str(route) for route in images[name]] if name == "route" else images[name],
                type=pa.string() if name == "route" else pa.int64(),
            )
            for name in COLUMNS
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read_parquet(path: Path) -> pd.DataFrame:
    """One row per test image, in test order. Raises `OutputError` where none can be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, columns=list(COLUMNS)).to_pandas()
    except (OSError, pa.ArrowException) as error:
        state = "is not readable" if path.exists() else "does not exist"
        raise OutputError(f"per-image file {path.name} {state}; run the cell again with --force") from error
