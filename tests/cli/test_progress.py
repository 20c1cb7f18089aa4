"""Progress: plain lines where nobody watches, a live line on a terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dyncomp.bench.events import (
    CellEnded,
    CellStarted,
    CellTrains,
    Event,
    Planned,
    ReportStarted,
    ResourcesStarted,
    TimingStarted,
)
from dyncomp.bench.group import Cell
from dyncomp.bench.plan import LeftOut, Plan, make_plan
from dyncomp.cli import progress
from dyncomp.cli.progress import watching
from dyncomp.train import Progress
from tests.jobs import config

PLAN = make_plan(config(Path("unused"), "skipnet(target=0.41)"))
STATIC, SKIPNET = PLAN.cells
OK = {
    "status": "ok",
    "top1": 97.5,
    "macs": 1_230_000.0,
    "routes": 3,
    "train_seconds": 12.4,
    "warnings": ["gate [bold]a is always on"],
}


def trains(cell: Cell, done: float, share: float = 1.0) -> CellTrains:
    return CellTrains(cell, Progress("supervised", 3, 30, 1.25, share, done, 20.0))


def events(record: dict[str, Any]) -> list[Event]:
    return [
        Planned(PLAN, 1),
        CellStarted(SKIPNET, 1, 1),
        trains(SKIPNET, 0.25, 0.8),
        trains(SKIPNET, 1.0),
        CellEnded(SKIPNET, record),
        ResourcesStarted(SKIPNET, 1, 2),
        TimingStarted(2, 64),
        ReportStarted(),
    ]


def shown(monkeypatch: pytest.MonkeyPatch, told: Sequence[Event], terminal: bool, width: int = 100) -> str:
    stream = io.StringIO()
    made = partial(Console, file=stream, force_terminal=terminal, width=width)
    monkeypatch.setattr(progress, "Console", lambda stderr: made())
    with watching() as tell:
        for event in told:
            tell(event)
    return stream.getvalue()


def test_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, events(OK), terminal=False).splitlines() == [
        "2 cells, 1 finished before",
        "  static on cifar_resnet8, digits, seed 0",
        "  skipnet(target=0.41) on cifar_resnet8, digits, seed 0",
        "[1/1] skipnet(target=0.41) on cifar_resnet8, digits, seed 0",
        "[1/1] supervised: epoch 3/30, loss 1.250, 0 s left",  # the one before came too soon after the start
        "[1/1] top-1 97.50 %, 1.23 M MACs per image, 3 routes, 12 s of training",
        "[1/1] warning: gate [bold]a is always on",
        "measuring time by operator, memory and energy, 1/2: skipnet(target=0.41) on cifar_resnet8, digits, seed 0",
        "timing 2 networks in turns, batch size 64",
        "writing the report",
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_networks_trained_beforehand_are_said(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, [Planned(PLAN, 1, beforehand=3)], terminal)
    assert "2 cells, 1 finished before; 3 networks that they begin with are trained first" in text


def test_plain_lines_come_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 4.9, 5.0, 9.0, 10.1, 10.2])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    told = [CellStarted(STATIC, 1, 1), *(trains(STATIC, done) for done in (0.1, 0.2, 0.4, 0.5, 0.8, 1.0))]
    lines = shown(monkeypatch, told, terminal=False).splitlines()
    assert [line.split(", ")[-1] for line in lines[1:]] == ["30 s left", "5 s left", "0 s left"]


def side_by_side() -> list[Event]:
    started = [CellStarted(STATIC, 1, 2), CellStarted(SKIPNET, 2, 2)]
    return [*started, trains(SKIPNET, 1.0), trains(STATIC, 1.0), CellEnded(SKIPNET, OK), CellEnded(STATIC, OK)]


def test_lines_of_cells_side_by_side_say_which(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, side_by_side(), terminal=False).splitlines()
    assert [line[:5] for line in lines] == ["[1/2]", "[2/2]", "[2/2]", "[1/2]", "[2/2]", "[2/2]", "[1/2]", "[1/2]"]


def test_a_bar_for_every_cell_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, side_by_side()[:4], terminal=True)
    drawn = text.split("\x1b[1A")  # up a line, to draw both anew
    assert any("[1/2] static" in one and "[2/2] skipnet" in other for one, other in pairwise(["", *drawn]))


def test_a_cell_that_was_not_run_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {"status": "failed", "error": "no known cost"}
    text = shown(monkeypatch, [CellEnded(STATIC, failed)], terminal=False)
    assert text == "static on cifar_resnet8, digits, seed 0: failed: no known cost\n"


def test_a_share_of_the_arithmetic_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    assert "loss 1.250, 80% of the MACs, 60 s left" in shown(monkeypatch, events(OK), terminal=False)


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_left_out_is_said(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    left = LeftOut("hydranet", "vgg11", "no [place]")
    text = shown(monkeypatch, [Planned(Plan(PLAN.groups, (left,)), 0)], terminal)
    assert "left out: hydranet on vgg11: no [place]" in text


@pytest.mark.parametrize("terminal", [False, True])
def test_a_spec_that_is_given_twice_is_said(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, [Planned(Plan(PLAN.groups, (), ("skipnet(target=0.41)",)), 0)], terminal)
    assert "given more than once, run once: skipnet(target=0.41)" in text


@pytest.mark.parametrize("terminal", [False, True])
def test_a_failure_is_said(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"status": "failed", "error": "ValueError: boom [/bold]"}
    assert "failed: ValueError: boom [/bold]" in shown(monkeypatch, events(record), terminal)


def test_live_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, events(OK), terminal=True)
    assert "\x1b[" in text
    assert "2 cells, 1 finished before" in text
    assert "top-1 97.50 %" in text
    assert "warning: gate [bold]a is always on" in text
    assert text.endswith("\x1b[2K")  # the bar is taken away, what is finished stays


def test_live_shows_the_time_left_on_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    long = make_plan(config(Path("unused"), "condconv(experts=[3], begin=2, temperature=2.5)")).cells[-1]
    for cell in (SKIPNET, long):
        text = shown(monkeypatch, [CellStarted(cell, 1, 2), trains(cell, 0.25, 0.8)], terminal=True, width=80)
        last = text.split("[1/2]")[-1].split("\x1b[?25h")[0]
        assert "60 s left, supervised: epoch 3/30" in last


def test_live_survives_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=stream, force_terminal=True, width=100))

    def interrupted() -> None:
        with watching() as tell:
            tell(CellStarted(STATIC, 1, 1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "\x1b[?25h" in stream.getvalue()  # the cursor is back
