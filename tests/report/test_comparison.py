"""Two folders set against each other: what is said of differences that were planted."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dyncomp.cli import dyncomp_main
from dyncomp.errors import InvalidValue, OutputError
from dyncomp.report.comparison import QUANTITIES, Comparison, Judged, broken, compare, limits_of
from dyncomp.report.page import comparison_page
from dyncomp.report.reading import read
from dyncomp.store import Store
from tests.records import CONFIG, ENVIRONMENT, RATES, failed_cell, skipnet_cell, static_cell, timing

MEMORY = {
    "params_mib": 0.7,
    "activation_mib": 1.0,
    "memory_mib_inference": 10.0,
    "memory_mib_training": 30.0,
    "memory_batch_size": 64,
    "memory_batch_size_training": 64,
    "memory_error": None,
    "memory_of": "the process",
    "resources_environment": ENVIRONMENT,
    "resources_at": "2026-01-01T10:03:00+00:00",
    "operators": None,
    "gaps": None,
    "time_error": None,
}
Making = Callable[..., Store]


@pytest.fixture
def made(tmp_path: Path) -> Making:
    """Makes a folder of static and SkipNet, timed with little noise."""

    def make(
        name: str,
        errors: int = 7,
        ms: tuple[float, float] = (20.0, 10.0),
        noise: float = 0.01,
        machine: dict[str, Any] | None = None,
        seed: int = 0,
        timed: dict[str, Any] | None = None,
        rates: tuple[float, ...] = RATES,
        **more: Any,
    ) -> Store:
        store = Store.create(tmp_path / name, CONFIG)
        keys = [static_cell(store, seed), skipnet_cell(store, seed, errors, rates=rates, **{**MEMORY, **more})]
        draw = np.random.default_rng(len(name))
        samples = {
            key: [float(value) for value in draw.normal(mean, noise * mean, 60)]
            for key, mean in zip(keys, ms, strict=True)
        }
        environment = {"environment": {**ENVIRONMENT, **(machine or {})}}
        timing(store, keys, 64, ms, **{"samples_ms": samples, **environment, **(timed or {})})
        return store

    return make


def compared(before: Store, after: Store) -> Comparison:
    return compare(read(before), read(after))


def judged(before: Store, after: Store) -> dict[str, Judged]:
    """What is said of SkipNet's quantities, by name."""
    pair = next(pair for pair in compared(before, after).pairs if pair.spec.startswith("skipnet"))
    return {one.quantity.name: one for one in pair.judged}


def test_a_folder_and_itself_are_the_same(made: Making) -> None:
    store = made("a")
    said = compared(store, store)
    assert [pair.spec for pair in said.pairs] == ["static", "skipnet(target=0.5)"]
    assert {one.verdict for _, one in said.judged()} == {"SAME", "NOT COMPARABLE"}
    assert {one.why for _, one in said.judged() if one.verdict == "NOT COMPARABLE"} == {"not measured in both folders"}
    assert set(judged(store, store)) == set(QUANTITIES)
    assert (said.left, said.right) == ((), ())


@pytest.mark.parametrize(
    ("name", "changes", "verdict", "change"),
    [
        ("top1", {"errors": 100}, "WORSE", -100 * 93 / 360),
        ("top1", {"errors": 0}, "BETTER", 100 * 7 / 360),
        ("top1", {"errors": 8}, "UNCLEAR", -100 / 360),
        ("macs", {"rates": (1.0,) * 6}, "WORSE", None),
        ("macs", {"rates": (0.0,) * 6}, "BETTER", None),
        ("latency_ms_p50", {"ms": (20.0, 11.0)}, "WORSE", 0.1),
        ("latency_ms_p50", {"ms": (20.0, 9.0)}, "BETTER", -0.1),
        ("latency_ms_p50", {"ms": (20.0, 10.05)}, "SAME", 0.005),
        ("latency_ms_p50", {"ms": (20.0, 10.7), "noise": 0.15}, "UNCLEAR", None),
        ("speedup_realised", {"ms": (40.0, 22.0)}, "WORSE", -1 / 11),
        ("speedup_realised", {"ms": (40.0, 20.0)}, "SAME", 0.0),
        ("memory_mib_inference", {"memory_mib_inference": 12.0}, "WORSE", 0.2),
        ("memory_mib_training", {"memory_mib_training": 29.0}, "SAME", -1 / 30),
        ("memory_mib_training", {"memory_mib_training": 20.0}, "BETTER", -1 / 3),
    ],
)
def test_what_is_planted_is_found(
    made: Making, name: str, changes: dict[str, Any], verdict: str, change: float | None
) -> None:
    found = judged(made("a"), made("other", **changes))[name]
    assert found.verdict == verdict
    assert found.change is not None
    assert change is None or found.change.middle == pytest.approx(change, abs=0.01 if "ms" in name else 0.02)
    assert found.change.low <= found.change.middle <= found.change.high


@pytest.mark.parametrize(
    ("changes", "names", "why"),
    [
        ({"machine": {"processor": "Another"}}, ["latency_ms_p50", "speedup_realised"], "processor: A Processor, then"),
        ({"machine": {"torch": "3.0"}}, ["latency_ms_p50"], "torch: 2.14.1, then 3.0"),
        ({"timed": {"dtype": "bfloat16"}}, ["latency_ms_p50", "speedup_realised"], "dtype: float32, then bfloat16"),
        ({"memory_batch_size": 8}, ["memory_mib_inference"], "batch size: 64, then 8"),
        ({"memory_mib_training": None}, ["memory_mib_training"], "not measured in both folders"),
        (
            {"resources_environment": {**ENVIRONMENT, "threads": 1}},
            ["memory_mib_inference", "memory_mib_training"],
            "threads: 2, then 1",
        ),
    ],
)
def test_what_was_not_measured_alike_is_not_comparable(
    made: Making, changes: dict[str, Any], names: list[str], why: str
) -> None:
    found = judged(made("a"), made("b", **changes))
    for name in names:
        assert found[name].verdict == "NOT COMPARABLE"
        assert found[name].why.startswith(why)
    assert found["top1"].verdict == "SAME"


def test_an_invalid_timing_is_unclear(made: Making) -> None:
    store = made("a")
    (key,) = (cell["key"] for cell in read(store).cells if cell["role"] == "method")
    found = judged(store, made("b", ms=(20.0, 15.0), timed={"verdicts": {key: "INVALID: noisy"}}))
    assert (found["latency_ms_p50"].verdict, found["latency_ms_p50"].why) == ("UNCLEAR", "INVALID in the second folder")
    assert found["speedup_realised"].verdict == "WORSE"  # the ratio has a verdict of its own


def test_cells_are_paired_by_what_they_are(made: Making, tmp_path: Path) -> None:
    store, other = made("a"), Store.create(tmp_path / "b", CONFIG)
    skipnet_cell(other, budget="standard")
    skipnet_cell(other, seed=1)
    failed_cell(other, "static")
    said = compared(store, other)
    assert [(pair.spec, pair.differs) for pair in said.pairs] == [
        ("static", ""),
        ("skipnet(target=0.5)", "budget: quick, then standard"),
    ]
    assert {one.why for one in said.pairs[0].judged} == {"failed in the second folder"}
    assert said.right == ("skipnet(target=0.5) on cifar_resnet14, digits, seed 1",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("top1", "'' is no number; give NAME:LIMIT"),
        ("", "'' is not compared"),
        ("speed:5%", "'speed' is not compared"),
        ("latency_ms_p50:5", "in percent of it"),
        ("top1:1%", "in percentage points, without a percent sign"),
        ("top1:-1", "a number from 0 on"),
        ("top1:nan", "a number from 0 on"),
        ("top1:0.5,", "'' is not compared"),
        ("latency_ms_p50:five%", "'five%' is no number"),
    ],
)
def test_a_limit_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidValue, match=re.escape(said)):
        limits_of(text)


def test_only_what_is_worse_beyond_its_limit_fails(made: Making) -> None:
    said = compared(made("a"), made("other", ms=(20.0, 11.0), errors=100))
    assert [one.quantity.name for _, one in broken(said, limits_of("latency_ms_p50:15%, top1:30"))] == []
    assert [one.quantity.name for _, one in broken(said, limits_of("latency_ms_p50:5%,top1:0.5"))] == [
        "top1",
        "latency_ms_p50",
    ]


def test_a_cell_that_fails_in_the_second_folder_alone_fails(made: Making, tmp_path: Path) -> None:
    other = Store.create(tmp_path / "b", CONFIG)
    failed_cell(other, "static")
    skipnet_cell(other)
    said = compared(made("a"), other)
    assert [(pair.spec, one.why) for pair, one in broken(said, limits_of("top1:50"))] == [
        ("static", "failed in the second folder")
    ]
    assert broken(said, []) == []
    assert broken(compared(other, made("c")), limits_of("top1:50")) == []


def test_a_limit_of_what_cannot_be_compared_is_refused(made: Making) -> None:
    said = compared(made("a"), made("b", machine={"processor": "Another"}))
    with pytest.raises(InvalidValue, match="latency_ms_p50: it can be compared in no cell"):
        broken(said, limits_of("latency_ms_p50:5%"))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["dyncomp", "compare", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        dyncomp_main()
    return int(ended.value.code or 0)


def test_the_command_prints_writes_and_says_by_its_status(
    made: Making, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after, page = made("a").folder, made("other", ms=(20.0, 11.0)).folder, tmp_path / "page.html"
    assert run(monkeypatch, before, after, "--html", page, "--fail-on", "latency_ms_p50:20%") == 0
    assert "WORSE +" in capsys.readouterr().out
    assert "<script" in page.read_text() and "http" not in page.read_text()
    assert run(monkeypatch, before, after, "--fail-on", "latency_ms_p50:5%") == 1
    assert (
        "failed: skipnet(target=0.5) on cifar_resnet14, digits, seed 0: latency_ms_p50 at batch 64 is WORSE"
        in capsys.readouterr().out
    )
    assert run(monkeypatch, before, after, "--html", page) == 2  # never over a file
    assert run(monkeypatch, before, after, "--fail-on", "nothing") == 2
    assert run(monkeypatch, before, tmp_path / "none") == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_folders_of_different_data_are_refused(made: Making, tmp_path: Path) -> None:
    other = Store.create(tmp_path / "b", CONFIG)
    static_cell(other, dataset="fashion_mnist")
    with pytest.raises(InvalidValue, match="about different data, digits and fashion_mnist"):
        compared(made("a"), other)
    with pytest.raises(InvalidValue, match="no cell in common"):
        compared(made("c"), Store.create(tmp_path / "d", CONFIG))


def test_names_are_escaped_in_the_page(made: Making, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "x", CONFIG)
    skipnet_cell(store, spec="skipnet(<b>)")
    text = comparison_page(compared(store, store), Path("<i>"), Path("b"))
    assert "<b>)" not in text and "<i>" not in text


def test_a_newer_format_is_named(made: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    store = made("a")
    monkeypatch.setattr(Store, "schema", 0)
    with pytest.raises(OutputError):
        Store.open(store.folder)
