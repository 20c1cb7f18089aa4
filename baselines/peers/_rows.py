"""Rows of a comparison with other packages: printed, and kept as CSV with the conditions of the measurement."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.ops._common import conditions


def write(rows: Sequence[Mapping[str, object]], file: Path, options: argparse.Namespace) -> None:
    """Print the rows, and write them unless `--dry` was given."""
    for row in rows:
        print(*row.values())
    if options.dry:
        return
    about = {"conditions": conditions(options)}
    with file.open("w", encoding="utf-8", newline="") as opened:
        written = csv.DictWriter(opened, [*rows[0], *about], lineterminator="\n")
        written.writeheader()
        written.writerows({**row, **about} for row in rows)
