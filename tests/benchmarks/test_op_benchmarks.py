"""The benchmarks of operators: turns, ratios, the file of tables, and that what is compared is equal."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.ops import _common, condconv, early_exit, skipping
from benchmarks.ops._forced import ByLot, images
from benchmarks.ops.condconv import Layer
from benchmarks.ops.skipping import Case


def test_every_way_runs_in_every_round_and_another_begins_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_common, "TURN_MS", 0.0)
    ran: list[str] = []
    times = _common.take_turns({name: lambda name=name: ran.append(name) for name in "abc"}, seconds=0, rounds=3)
    assert ran == [*"aabbcc", *"abc", *"bca", *"cab"]
    assert {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_what_is_short_runs_several_times_in_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[None] = []
    clock = SimpleNamespace(perf_counter=time.perf_counter, perf_counter_ns=lambda: 500_000 * len(ran))
    monkeypatch.setattr(_common, "time", clock)  # on which a pass takes half a millisecond
    times = _common.take_turns({"short": lambda: ran.append(None)}, seconds=0, rounds=2)
    assert times == {"short": [0.5, 0.5]}
    assert len(ran) == 2 + 2 * _common.TURN_MS / 0.5


def test_ratios_are_taken_round_by_round_or_of_the_shortest() -> None:
    times = {"ours": [2.0, 40.0, 6.0], "static": [1.0, 10.0, 4.0]}
    assert _common.ratio(times, "ours", "static") == 2.0
    times = {"ours": [3.0, 40.0, 6.0], "static": [9.0, 10.0, 2.0]}
    assert _common.ratio(times, "ours", "static", least=True) == 1.5


def test_a_section_takes_the_place_of_its_predecessor_and_leaves_the_others(tmp_path: Path) -> None:
    for title, text in (("A", "one"), ("B", "two"), ("A", "three\n\n| a |")):
        path = _common.write_section(title, text, tmp_path)
    assert path.name == f"results-{_common.machine()}.md"
    head, *sections = path.read_text(encoding="utf-8").split("\n\n## ")
    assert head == f"# Operations on {_common.machine()}"
    assert sections == ["A\n\nthree\n\n| a |", "B\n\ntwo\n"]


@pytest.mark.parametrize(("value", "at_most", "said"), [(1.3, True, "reached"), (1.3, False, "missed")])
def test_a_verdict_says_whether_the_goal_is_reached(value: float, at_most: bool, said: str) -> None:
    assert _common.verdict("speed", value, 1.35, at_most).endswith(f"{said})")


@pytest.mark.parametrize("layer", [Layer(1, 6, 4), Layer(3, 6, 4), Layer(3, 6, 4, groups=6)])
def test_ways_that_differ_are_not_compared(layer: Layer) -> None:
    layer = replace(layer, batch=3, experts=2)
    ways = condconv.ways_of(layer)
    ways["ours"] = ways["static"]
    with pytest.raises(AssertionError):
        condconv.check(ways, layer)


def test_the_tables_have_a_row_per_layer_and_goals_need_all_shapes() -> None:
    layers = [replace(shape, batch=64, experts=8) for shape in condconv.SHAPES]
    measured = {layer: {"static": [1.0], "ours": [2.0], "timm": [6.0]} for layer in layers}
    assert len(condconv.layer_table(measured, least=False).splitlines()) == 2 + len(layers)
    lines = condconv.goals(measured, condconv.FORWARD_GOALS, least=False).splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == ["missed)", "reached)"]
    del measured[layers[0]]
    assert condconv.goals(measured, condconv.FORWARD_GOALS, least=False) == ""


@pytest.mark.parametrize("train", [False, True])
def test_a_report_of_a_small_layer(monkeypatch: pytest.MonkeyPatch, train: bool) -> None:
    monkeypatch.setattr(condconv, "SHAPES", (Layer(3, 4, 5),))
    monkeypatch.setattr(condconv, "DEPTHWISE", ())
    arguments = ["--seconds", "0", "--batches", "64", "--experts", "8", *(["--train"] if train else [])]
    report = condconv.layer_report(condconv.options_from(arguments))
    assert "| 3x3 4 @5 | 64 | 8 |" in report
    assert report.count("geometric mean") == (1 if train else 2)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    "spec", ["skipnet", "blockdrop", "lkam", "early_exit", "hydranet(top=1)", "conditional_network"]
)
def test_networks_by_lot_do_what_is_drawn(spec: str) -> None:
    ours = ByLot(spec, "cifar_resnet8", 8)
    x = images(6, 8)
    macs = []
    for rate in (0.0, 1.0):
        ours.draw(len(x), rate, seed=0)
        macs.append(ours.macs(x))
        with torch.inference_mode():
            assert torch.equal(ours.run(x).logits, ours.run(x).logits)
    chooses = spec.startswith(("hydranet", "conditional"))
    assert macs[0] == macs[1] if chooses else macs[0] > macs[1]


@pytest.mark.slow
def test_a_case_has_a_row_for_each_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = (
        Case("skipnet", "cifar_resnet8", 8, {1: 0.8, 2: 0.8}),
        Case("hydranet(top=1)", "cifar_resnet8", 8, {2: 0.8}, (None,)),
    )
    monkeypatch.setattr(skipping, "CASES", cases)
    monkeypatch.setattr(skipping, "DRAWS", 2)
    text = skipping.report(skipping.options_from(["--seconds", "0"]))
    assert text.count("| skipnet | cifar_resnet8 at 8 |") == 6
    assert "| hydranet(top=1) | cifar_resnet8 at 8 | 2 | all but one |" in text
    assert len([line for line in text.splitlines() if line.startswith("* efficiency")]) == 7
    asked = skipping.options_from(["--seconds", "0", "--rates", "0.5", "--batches", "2", "--only", "skipnet"])
    assert skipping.report(asked).count("| skipnet |") == 1


def test_exits_are_compared_by_the_time_of_all_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_exit, "cifar_resnet_ee", None)  # whether or not the peer is installed
    row = early_exit.row_of(8, {"static": 16.0, "ours": 10.0, "earlyon": 20.0}, by_macs=2.0)
    assert row == ["8", "2.00", "2.00", "1.60", "0.80", "0.80"]
    assert early_exit.row_of(8, {"static": 16.0, "ours": 10.0}, by_macs=2.0)[-1] == "not installed"
    assert len(early_exit.Compared().row(2, 0.5, seconds=0.0)) == len(row)
