"""Tables and sentences of where multiply-adds and time go, from records by hand."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from dyncomp.report import numbers, results, words
from dyncomp.report.content import content
from dyncomp.report.page import html, markdown
from dyncomp.report.reading import read
from dyncomp.report.spent import class_table, clauses, facts, gap_table, operator_table
from dyncomp.report.table import csv_text, results_of
from dyncomp.report.tables import Table
from dyncomp.store import Store
from tests.records import ENVIRONMENT, skipnet_cell, static_cell

CLASSES = [
    {"class": "cat", "images": 5, "macs": 2e6, "flops": 4e6, "top1": 80.0},
    {"class": "dog", "images": 7, "macs": 3e6, "flops": 6e6, "top1": 100.0},
]
OPERATORS = {
    "batch_size": 64,
    "batches": 2,
    "wall_ms": 9.0,
    "operators_ms": 8.0,
    "shares": {"priced": 0.5, "free": 0.375, "unknown": 0.125},
    "top": {
        "priced": [{"operator": "aten.convolution", "calls": 30, "share": 0.5}],
        "free": [{"operator": "aten.batch_norm", "calls": 12, "share": 0.25}],
        "unknown": [{"operator": "aten._fft_c2c", "calls": 2, "share": 0.125}],
    },
}
GAP = {
    "batch_size": 8,
    "cycles": 5,
    "verdict": "VALID",
    "stopwatch_slowdown": 1.1,
    "call_us": 1.0,
    "calls": 90.0,
    "calls_static": 60.0,
    "macs": 1e6,
    "flops": 2e6,
    "static_ms": 20.0,
    "method_ms": 25.0,
    "parts_ms": {
        "arithmetic": 10.0,
        "pace": -1.0,
        "gates": 6.0,
        "moving": 4.0,
        "launches": 1.0,
        "smaller_batches": 5.0,
    },
}
OPINIONS = {
    "macs": 1_000_000,
    "flops": 2_000_000,
    "by_operator": {},
    "torch": {"macs": 1_000_000, "flops": 2_000_000, "by_operator": {}, "differences": {}},
    "fvcore": {
        "macs": 1_030_000,
        "flops": 2_060_000,
        "by_operator": {},
        "differences": {"batch_norm": 40_000, "matrix products": -10_000},
        "unsupported": {},
    },
}
CELL = {"key": "k", "spec": "a", "backbone": "b", "dataset": "c", "seed": 0}
MORE: dict[str, Any] = {
    "macs_by_class": CLASSES,
    "macs_right": 700_000.0,
    "macs_wrong": 770_000.0,
    "macs_wrong_less_right": {"mean": 70_000.0, "low": 30_000.0, "high": 110_000.0},
    "macs_difficulty_rank_correlation": 0.312,
    "macs_difficulty_rank_correlation_low": 0.27,
    "macs_difficulty_rank_correlation_high": 0.35,
    "macs_difficulty_rank_correlation_p_value": 1e-9,
    "operators": OPERATORS,
    "gaps": [GAP],
    "time_error": None,
    "resources_at": "2026-01-01T10:02:00+00:00",
    "resources_environment": ENVIRONMENT,
    "second_opinions": OPINIONS,
    "uncounted_calls": {"aten._fft_c2c": 2},
}


def texts(table: Table | None) -> list[list[str]]:
    assert table is not None
    assert all(len(row) == len(table.headers) for row in table.rows)
    return [[cell.text for cell in row] for row in table.rows]


def test_classes_in_both_conventions() -> None:
    assert texts(class_table(CLASSES)) == [
        ["cat", "5", "2.00 M", "4.00 M", "80.0 %"],
        ["dog", "7", "3.00 M", "6.00 M", "100.0 %"],
    ]
    assert class_table(CLASSES[:1]) is None


def test_of_many_classes_the_dearest_and_the_cheapest() -> None:
    many = [{**CLASSES[0], "class": str(number), "macs": 1000.0 * number} for number in range(100)]
    rows = [row[0] for row in texts(class_table(many))]
    assert rows == [str(number) for number in [*range(99, 89, -1), *range(9, -1, -1)]]


def test_operators_by_kind() -> None:
    rows = texts(operator_table(OPERATORS))
    assert [row[0] for row in rows] == ["all", "aten.convolution", "all", "aten.batch_norm", "all", "aten._fft_c2c"]
    assert [row[3] for row in rows] == ["50.0 %", "50.0 %", "37.5 %", "25.0 %", "12.5 %", "12.5 %"]
    assert operator_table(None) is None


def test_the_gap_is_in_percent_of_static() -> None:
    (row,) = texts(gap_table([{**CELL, "gaps": [GAP]}]))
    assert row[1:] == ["8", "50 %", "-5 %", "30 %", "20 %", "5 %", "25 %", "125 %", "0.80x", "VALID"]
    former = {name: value for name, value in GAP.items() if name != "verdict"}
    assert texts(gap_table([{**CELL, "gaps": [former]}]))[0][-1] == numbers.MISSING
    assert gap_table([{"gaps": []}, {"gaps": None}, {}]) is None


@pytest.mark.parametrize(
    ("verdict", "realised", "told"),
    [
        ("VALID", 0.9, "VALID"),
        ("VALID", None, "VALID"),
        ("VALID", 0.3, "INVALID: the timing says 0.30x"),
        (None, 1.3, "INVALID: the timing says 1.30x"),
        ("INVALID: too few passes", 0.3, "INVALID: too few passes"),
    ],
)
def test_a_gap_that_the_timing_contradicts_is_invalid(verdict: str | None, realised: float | None, told: str) -> None:
    cell = {**CELL, "gaps": [{**GAP, "verdict": verdict}]}
    frame = pd.DataFrame({"key": ["k", "other"], "batch_size": [8, 8], "speedup_realised": [realised, 7.0]})
    (row,) = texts(gap_table([cell], frame))
    assert row[-1] == told


def test_facts_name_what_the_counters_differ_by() -> None:
    told = dict(facts({**MORE, "macs_std": 1.0}))
    assert told["one image by torch's counter"] == "1.00 M MACs (2.00 M FLOPs); ours 1.00 M MACs (2.00 M FLOPs)"
    assert told["one image by fvcore"].endswith("; +3.0 %, by batch_norm +40.0 k and matrix products -10.0 k")
    assert told["without a known cost"] == "aten._fft_c2c, 2 calls over the test images"
    assert told["rank correlation of MACs with difficulty"] == "0.31 (95 % interval 0.27 to 0.35)"
    failed = {"macs": 1, "fvcore": {"error": "could not count: X: y"}, "torch": {"error": "cannot"}}
    nothing = {"macs_std": 0.0, "uncounted_calls": {}}
    assert dict(facts({**nothing, "second_opinions": failed}))["one image by fvcore"] == "could not count: X: y"
    assert list(facts(nothing)) == []


def record(low: float, high: float, r: float = 0.0) -> dict[str, Any]:
    name = "macs_difficulty_rank_correlation"
    mean = {"mean": (low + high) / 2, "low": low, "high": high}
    return {"macs": 100.0, "macs_wrong_less_right": mean, name: r, f"{name}_low": r - 0.1, f"{name}_high": r + 0.1}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (record(5, 15, 0.3), ["spends 10 % more on images that it gets wrong", "spends more on harder images"]),
        (record(-15, -5, -0.3), ["spends 10 % less on images that it gets wrong", "spends less on harder images"]),
        (record(-5, 15, 0.05), ["spends about the same on images", "does not depend on how hard"]),
        (record(0.1, 0.3, 0.05), ["spends about the same on images", "does not depend on how hard"]),
    ],
)
def test_clauses(found: dict[str, Any], expected: list[str]) -> None:
    varied = pd.DataFrame({"macs_std": [3.0]})
    for clause, words_of_it in zip(clauses(varied, [found]), expected, strict=True):
        assert words_of_it in clause
    assert list(clauses(pd.DataFrame({"macs_std": [0.0]}), [found])) == []
    assert list(clauses(varied, [{"macs": 100.0, "macs_wrong_less_right": None}])) == []


def test_all_of_it_is_in_table_words_and_pages(empty: Store) -> None:
    static_cell(empty)
    key = skipnet_cell(empty, **MORE)
    row = results(empty).set_index("key").loc[key]
    assert (row["macs_right"], row["macs_wrong"]) == (700_000, 770_000)
    assert row["macs_difficulty_rank_correlation"] == 0.312
    assert (row["time_share_free"], row["time_share_unknown"]) == (0.375, 0.125)
    assert ",0.312," in csv_text(results(empty))
    (said,) = [sentence.text for sentence in words(empty) if sentence.method == "skipnet"]
    assert "more on images that it gets wrong" in said
    assert "it spends more on harder images (rank correlation of MACs with difficulty 0.31 (0.27 to 0.35))" in said
    reading = read(empty)
    shown = content(reading, results_of(reading))
    for page in (markdown(shown, []), html(shown, [], {}).replace("&#39;", "'")):
        for told in ("Where the time goes", "cat", "aten", "6.00 M", "125 %", "fvcore", "2.00 M FLOPs"):
            assert told in page, told
