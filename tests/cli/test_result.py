"""The table on the screen."""

from __future__ import annotations

import pandas as pd
from rich.console import Console

from dyncomp.cli.result import result_table

ROW = {
    "backbone": "cifar_resnet14",
    "dataset": "digits",
    "seed": 0,
    "status": "ok",
    "top1": 98.33,
    "macs": 2.85e6,
    "speedup_claimed": 0.58,
    "speedup_executed": 0.58,
    "batch_size": 64,
    "latency_ms_p50": 139.64,
}


def rendered(*rows: dict[str, object]) -> str:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(result_table(pd.DataFrame([ROW | row for row in rows])))
    return console.export_text()


def test_everything_is_legible_on_80_columns() -> None:
    text = rendered(
        {"spec": "conditional_network", "speedup_realised": 0.13, "speedup_verdict": "VALID"},
        {"spec": "skipnet", "speedup_realised": 10.71, "speedup_verdict": "INVALID: drifting"},
    )
    for words in ("conditional_network", "skipnet", "98.33", "2.85", "0.58x", "139.64", " 0.13x", "(10.71x)"):
        assert words in text
    assert "\u2026" not in text
    assert "FLOPs are 2 * MACs" in text


def test_a_failed_cell_says_so() -> None:
    assert "failed" in rendered(
        {"spec": "skipnet", "status": "failed", "speedup_realised": None, "speedup_verdict": None}
    )
