"""Over a whole test set: do the MACs priced from the gates' decisions equal those of the operators that ran?

    python benchmarks/honesty/priced_equals_executed.py [RUN_FOLDER ...]

Reads the records of run folders. Without one it trains every method briefly on `digits` (about ten minutes on two
cores) and reads that run. Expected: equal, as integers, for every method. Writes a table to benchmarks/honesty/results/
and ends with status 1 where a cell is not equal, or failed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dyncomp.core.operators import GENERATED_NAME
from dyncomp.store import Store

RESULTS = Path(__file__).parent / "results" / "priced_equals_executed.md"
HEAD = """# Priced equals executed

Sum over all test images of the MACs priced from the decisions, and MACs of the operators and of the generated code that
ran in the sparse form of the deployed network, which is the one that is timed. `generated` is the share of these MACs
that generated code reported. FLOPs are twice as many. Made by `benchmarks/honesty/priced_equals_executed.py`.

| method | backbone | data set | seed | images | priced MACs | executed MACs | equal | generated | without a cost |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def main(folders: Sequence[str]) -> int:
    """The exit status."""
    with tempfile.TemporaryDirectory() as made:
        stores = [Store.open(Path(folder)) for folder in folders] or [run_everything(Path(made))]
        cells = [cell for store in stores for cell in store.cells()]
    rows = [row_of(cell) for cell in cells]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(table(rows), encoding="utf-8")
    print(table(rows))
    return 0 if rows and all(row["equal"] == "yes" for row in rows) else 1


def run_everything(folder: Path) -> Store:
    """Every method that fits the backbone, on a tiny budget: the sums must be equal however it is trained."""
    from dyncomp.bench import Config, run

    outcome = run(Config(methods="all", dataset="digits", backbone="cifar_resnet8", budget="1", output=str(folder)))
    assert outcome is not None  # no dry run was asked for
    return outcome.store


def row_of(cell: Mapping[str, Any]) -> dict[str, str]:
    """One record as a row of the table."""
    named = {name: str(cell.get(name)) for name in ("spec", "backbone", "dataset", "seed")}
    if cell.get("status") != "ok":
        empty = dict.fromkeys(("images", "priced", "executed"), "")
        return {**named, **empty, "equal": "failed", "generated": "", "unknown": str(cell["error"])}
    priced, executed = cell["priced_macs"], cell["executed_macs"]
    return {
        **named,
        "images": str(cell["images"]),
        "priced": f"{priced:,}",
        "executed": f"{executed:,}",
        "equal": "yes" if priced == executed else f"no, {executed - priced:+,}",
        "generated": f"{cell['executed_by_operator'].get(GENERATED_NAME, 0) / executed:.0%}",
        "unknown": ", ".join(cell["uncounted_operators"]) or "none",
    }


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """The whole document."""
    return HEAD + "\n".join(lines(rows)) + "\n"


def lines(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Markdown rows, and a last line with the sum."""
    for row in rows:
        yield f"| {' | '.join(value.replace('|', '/') for value in row.values())} |"
    equal = sum(row["equal"] == "yes" for row in rows)
    yield f"\n{equal} of {len(rows)} cells are equal."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
