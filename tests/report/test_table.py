"""The table: every column against the records, spelled out another way."""

from __future__ import annotations

import csv
import io
import math
import statistics
import subprocess
import sys

import pandas as pd
import pytest

from dyncomp.report import results, summary
from dyncomp.report.table import COLUMNS, csv_text
from dyncomp.report.tables import results_table
from dyncomp.samples import Interval, between_timings
from dyncomp.store import Store
from tests.records import (
    IMAGES,
    MACS_STATIC,
    condconv_cell,
    failed_cell,
    skipnet_cell,
    static_cell,
    timing,
)

FIRST = (
    "method, spec, backbone, dataset, seed, budget, device, status, params, top1, macs, flops, macs_static, "
    "speedup_claimed, speedup_executed, batch_size, latency_ms_p50, latency_ms_p99, images_per_s, speedup_realised"
)


def row_of(frame: pd.DataFrame, method: str, batch_size: int | None = None) -> pd.Series:
    chosen = frame[frame["method"] == method]
    if batch_size is not None:
        chosen = chosen[chosen["batch_size"] == batch_size]
    assert len(chosen) == 1
    return chosen.iloc[0]


def test_columns_and_rows(store: Store) -> None:
    frame = results(store)
    assert list(frame.columns[:20]) == FIRST.split(", ")
    assert list(frame.columns) == list(COLUMNS)
    rows = [(r["method"], None if pd.isna(r["batch_size"]) else r["batch_size"]) for r in frame.iloc]
    assert rows == [
        ("static", 1),
        ("static", 64),
        ("blockdrop", None),
        ("condconv", 1),
        ("condconv", 64),
        ("skipnet", 1),
        ("skipnet", 64),
    ]


def test_macs_and_gates(store: Store) -> None:
    row = row_of(results(store), "skipnet", 64)
    macs = store.images(row["key"])["macs"].tolist()
    assert row["macs"] == pytest.approx(sum(macs) / IMAGES)
    assert row["flops"] == pytest.approx(2 * sum(macs) / IMAGES)
    assert row["executed_macs_per_image"] == pytest.approx(sum(macs) / IMAGES)
    assert row["macs_static"] == MACS_STATIC
    assert row["speedup_claimed"] == pytest.approx(MACS_STATIC * IMAGES / sum(macs))
    assert row["macs_std"] == pytest.approx(statistics.pstdev(macs))
    assert (row["gates"], row["gates_always_on"], row["gates_always_off"]) == (6, 1, 1)
    assert row["routes"] == len(set(store.images(row["key"])["route"]))
    assert row["warnings"] == "gate blocks.0.0 is always on; gate blocks.3.0 is always off"


def test_latency_is_of_the_batch_and_speedup_is_paired(store: Store) -> None:
    frame = results(store)
    static, own = row_of(frame, "static", 64), row_of(frame, "skipnet", 64)
    record = next(record for record in store.timings() if record["batch_size"] == 64)
    samples = {key: record["samples_ms"][key] for key in (static["key"], own["key"])}
    ordered = sorted(samples[own["key"]])
    assert own["latency_ms_p50"] == ordered[10]  # the middle of 21
    # linear interpolation between the two highest of 21: rank 0.99 * 20 = 19.8
    assert own["latency_ms_p99"] == pytest.approx(ordered[19] + 0.8 * (ordered[20] - ordered[19]))
    assert own["latency_ms_p90"] == pytest.approx(ordered[18])
    assert own["images_per_s"] == pytest.approx(64 * 1000 / ordered[10])
    pairs = zip(samples[static["key"]], samples[own["key"]], strict=True)
    assert own["speedup_realised"] == pytest.approx(statistics.median(a / b for a, b in pairs))
    assert own["rounds"] == 21
    assert own["speedup_realised_low"] < own["speedup_realised"] < own["speedup_realised_high"]
    assert [static[f"speedup_realised{end}"] for end in ("", "_low", "_high")] == [1.0, 1.0, 1.0]


def test_pairing_removes_what_all_networks_share(empty: Store) -> None:
    keys = [static_cell(empty), skipnet_cell(empty)]
    drift = [1.0, 10.0, 3.0]
    timing(empty, keys, 8, (1, 1), samples_ms={keys[0]: [6 * d for d in drift], keys[1]: [4 * d for d in drift]})
    row = row_of(results(empty), "skipnet")
    assert row["speedup_realised"] == pytest.approx(1.5)
    alone = between_timings(Interval(1.5, 1.5, 1.5))
    assert (row["speedup_realised_low"], row["speedup_realised_high"]) == pytest.approx((alone.low, alone.high))


def test_interval_of_the_median_time(store: Store) -> None:
    row = row_of(results(store), "skipnet", 64)
    assert row["latency_ms_p50_low"] < row["latency_ms_p50"] < row["latency_ms_p50_high"]


def test_several_batches_per_round_are_paired_round_by_round(empty: Store) -> None:
    keys = [static_cell(empty), skipnet_cell(empty)]
    samples = {keys[0]: [4.0, 6.0] * 20, keys[1]: [1.0, 4.0] * 20}  # batch by batch it would be 4 and 1.5
    more = {"batches_per_round": 2, "distinct_rounds": 4, "verdicts": {keys[0]: "VALID", keys[1]: "INVALID: noisy"}}
    timing(empty, keys, 8, (1, 1), samples_ms=samples, **more)
    row = row_of(results(empty), "skipnet")
    assert row["speedup_realised"] == 2.0
    assert (row["rounds"], row["latency_ms_p50"], row["verdict"]) == (20, 2.5, "INVALID: noisy")
    assert row_of(results(empty), "static")["verdict"] == "VALID"
    rows = {line["method"]: line for line in csv.DictReader(io.StringIO(csv_text(results(empty))))}
    assert (rows["skipnet"]["verdict"], rows["skipnet"]["speedup_verdict"]) == ("INVALID: noisy", "VALID")
    assert {"ratio", "milliseconds"} <= set(results_table(results(empty)).headers)


def test_a_ratio_is_judged_by_its_own_rounds_alone(empty: Store) -> None:
    keys = [static_cell(empty), skipnet_cell(empty)]
    timing(empty, keys, 8, (2, 1), samples_ms={keys[0]: [2.0] * 19, keys[1]: [1.0] * 19})
    row = row_of(results(empty), "skipnet")
    assert row["speedup_verdict"] == "INVALID: too few rounds (19, at least 20 are wanted)"
    assert row_of(results(empty), "static")["speedup_verdict"] == "VALID"


def test_records_from_before_verdicts_have_none(store: Store) -> None:
    assert results(store)["verdict"].isna().all()
    assert "milliseconds" not in results_table(results(store)).headers
    assert set(results(store)["speedup_verdict"].dropna()) == {"VALID"}  # the rounds themselves are there


def test_failed_cell_has_its_error_and_nothing_measured(store: Store) -> None:
    row = row_of(results(store), "blockdrop")
    named = [
        "method",
        "spec",
        "backbone",
        "dataset",
        "seed",
        "budget",
        "device",
        "status",
        "sentence",
        "role",
        "control_of",
        "error",
        "key",
    ]
    assert [name for name in COLUMNS if not pd.isna(row[name])] == [name for name in COLUMNS if name in named]
    assert row["error"] == "TypeError: build() takes 1 positional argument"
    assert row["status"] == "failed"


def test_latest_timing_of_a_batch_size_counts(store: Store) -> None:
    frame = results(store)
    keys = [row_of(frame, name, 64)["key"] for name in ("static", "skipnet")]
    timing(store, keys, 64, (30.0, 10.0), started_at="2026-02-01T00:00:00+00:00")
    timing(store, keys, 64, (1.0, 9.0), started_at="2025-02-01T00:00:00+00:00")
    frame = results(store)
    assert row_of(frame, "skipnet", 64)["speedup_realised"] == pytest.approx(3.0, rel=0.05)
    assert row_of(frame, "condconv", 64)["speedup_realised"] == pytest.approx(20 / 26, rel=0.05)


def test_timing_in_another_form_does_not_count(empty: Store) -> None:
    keys = [static_cell(empty), skipnet_cell(empty)]
    timing(empty, keys, 8, (2.0, 1.0), form="dense")
    assert pd.isna(row_of(results(empty), "skipnet")["speedup_realised"])


def test_batch_size_that_could_not_be_timed_keeps_its_row(empty: Store) -> None:
    keys = [static_cell(empty), skipnet_cell(empty)]
    timing(empty, keys[:1], 256, (9.0,), errors={keys[1]: "OutOfMemoryError: 3 GiB"})
    row = row_of(results(empty), "skipnet", 256)
    assert row["error"] == "OutOfMemoryError: 3 GiB"
    assert row["status"] == "ok"
    assert pd.isna(row["latency_ms_p50"])
    assert row["top1"] > 98


def test_speedup_needs_static_in_the_same_timing(empty: Store) -> None:
    static_cell(empty)
    timing(empty, [skipnet_cell(empty), condconv_cell(empty)], 8, (2.0, 1.0))
    row = row_of(results(empty), "skipnet")
    assert pd.isna(row["speedup_realised"])
    assert row["latency_ms_p50"] > 0


@pytest.mark.parametrize("edited", [{"source": "def"}, {"version": "0.2.0"}])
def test_edited_method_supersedes_its_older_record(empty: Store, edited: dict[str, str]) -> None:
    static_cell(empty)
    skipnet_cell(empty, errors=20)
    new = skipnet_cell(empty, errors=3, finished_at="2026-02-01T00:00:00+00:00", **edited)
    frame = results(empty)
    assert row_of(frame, "skipnet")["key"] == new
    assert len(empty.cells()) == 3


def test_timing_against_a_superseded_static_still_counts(empty: Store) -> None:
    old = static_cell(empty)
    own = skipnet_cell(empty)
    timing(empty, [old, own], 8, (3.0, 2.0))
    static_cell(empty, finished_at="2026-02-01T00:00:00+00:00", version="0.2.0")
    assert row_of(results(empty), "skipnet")["speedup_realised"] == pytest.approx(1.5, rel=0.05)


def test_summary_over_seeds(seeds: Store) -> None:
    table = summary(results(seeds))
    assert list(table["spec"]) == ["static", "static", "condconv", "condconv", *["skipnet(target=0.5)"] * 2]
    row = table.iloc[-1]
    top1 = [100 * (IMAGES - errors) / IMAGES for errors in (7, 9, 11)]
    assert row["seeds"] == 3
    assert row["top1_mean"] == pytest.approx(statistics.fmean(top1))
    assert row["top1_std"] == pytest.approx(statistics.stdev(top1))
    assert math.isnan(summary(results(seeds).query("seed == 0")).iloc[0]["top1_std"])


def test_csv(store: Store) -> None:
    frame = results(store)
    rows = list(csv.DictReader(io.StringIO(csv_text(frame))))
    assert len(rows) == len(frame)
    skipnet = rows[-1]
    assert skipnet["params"] == "175000"
    assert skipnet["macs_max"] == str(store.images(frame.iloc[-1]["key"])["macs"].max())
    assert float(skipnet["macs"]) == pytest.approx(frame.iloc[-1]["macs"], abs=1e-3)
    assert skipnet["speedup_claimed"] == f"{frame.iloc[-1]['speedup_claimed']:.6g}"
    assert skipnet["seed"] == "0"
    failed = next(row for row in rows if row["method"] == "blockdrop")
    assert failed["top1"] == failed["batch_size"] == failed["macs"] == ""
    assert csv_text(frame) == csv_text(results(store))


def test_large_counts_are_written_in_full(empty: Store) -> None:
    static_cell(empty, params=123_456_789_012, macs_max=9_007_199_254_740_993)
    row = next(csv.DictReader(io.StringIO(csv_text(results(empty)))))
    assert (row["params"], row["macs_max"]) == ("123456789012", "9007199254740993")


def test_folder_without_cells_has_an_empty_table(empty: Store) -> None:
    assert list(results(empty).columns) == list(COLUMNS)
    assert len(results(empty)) == 0
    failed_cell(empty)
    assert list(results(empty)["status"]) == ["failed"]
    assert len(summary(results(empty))) == 0


def test_report_needs_no_torch() -> None:
    code = (
        "import sys, dyncomp.store, dyncomp.report; heavy = ('torch', 'pandas', 'pyarrow', 'matplotlib', 'plotly');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_other_forms_have_columns_beside_the_deployed_one(empty: Store) -> None:
    static, own = static_cell(empty), skipnet_cell(empty)
    names = [static, own, f"{own}.dense", f"{own}.sparse_compiled"]
    form = {"form": "sparse_compiled", "graph_breaks": 5, "not_folded": None, "batch_norms": 0}
    forms = {f"{own}.sparse_compiled": form}
    samples = {static: [8.0] * 30, own: [4.0] * 30, names[2]: [16.0] * 30, names[3]: [2.0] * 30}
    timing(empty, [static, own], 8, (1, 1), samples_ms=samples, forms=forms)
    row = row_of(results(empty), "skipnet")
    assert (row["form"], row["latency_ms_p50"], row["speedup_realised"]) == ("sparse", 4, 2)
    assert (row["latency_ms_p50_dense"], row["speedup_realised_dense"]) == (16, 0.5)
    assert (row["latency_ms_p50_compiled"], row["speedup_realised_compiled"], row["graph_breaks"]) == (2, 4, 5)
    beside = row_of(results(empty), "static")
    assert (beside["form"], beside["latency_ms_p50"]) == ("sparse", 8)
    assert pd.isna(beside["latency_ms_p50_compiled"]) and pd.isna(beside["latency_ms_p50_dense"])


@pytest.mark.parametrize(("compiled_ms", "form", "speedup"), [(5.0, "sparse_compiled", 1.25), (9.0, "sparse", 2.0)])
def test_static_stands_in_its_fastest_form(empty: Store, compiled_ms: float, form: str, speedup: float) -> None:
    static, own = static_cell(empty), skipnet_cell(empty)
    name = f"{static}.sparse_compiled"
    verdicts = {static: "VALID", own: "VALID", name: "INVALID: noisy"}
    samples = {static: [8.0] * 30, name: [compiled_ms] * 30, own: [4.0] * 30}
    timing(empty, [static, own], 8, (1, 1), samples_ms=samples, verdicts=verdicts)
    row = row_of(results(empty), "static")
    assert (row["form"], row["latency_ms_p50"], row["speedup_realised"]) == (form, min(8.0, compiled_ms), 1)
    assert row["latency_ms_p50_compiled"] == compiled_ms
    assert row["verdict"] == verdicts[static if form == "sparse" else name]
    assert row_of(results(empty), "skipnet")["speedup_realised"] == speedup


def test_why_a_form_was_not_compiled_stands_in_the_row(empty: Store) -> None:
    keys = [static_cell(empty), skipnet_cell(empty)]
    timing(empty, keys, 8, (2, 1), not_compiled={f"{keys[1]}.sparse_compiled": "not compiled: no C++ compiler"})
    row = row_of(results(empty), "skipnet")
    assert (row["not_compiled"], row["status"]) == ("not compiled: no C++ compiler", "ok")
    assert pd.isna(row["graph_breaks"]) and pd.isna(row["error"])
