"""Latency: which images are timed, in which order, by whom, and what happens to a network that fails."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from dyncomp.profile import (
    Alone,
    LatencyRounds,
    Setting,
    Team,
    Timed,
    Until,
    allowed_processors,
    latency,
    measure_latency,
)
from dyncomp.profile.allocator import KEEPS, USUAL
from dyncomp.samples import Rounds
from tests.handmade import numbered_split
from tests.profile import forms

NAMES = ("a", "b", "c")
ROOT = Path(__file__).resolve().parents[2]
BRIEF = Until(width=1e9, seconds=20.0)
"""as few rounds as are looked at"""


class Call(NamedTuple):
    name: str
    process: int
    begin: int
    end: int
    images: list[int]


def team_of(*timed: Timed, patience_s: float = 120.0) -> Team:
    return Team(timed, Setting("cpu", 1, allowed_processors(), warm_up_ms=0.0), patience_s)


def noting(log: Path, name: str) -> Timed:
    return Timed(name, partial(forms.noting, str(log), name))


def calls_in(log: Path) -> list[Call]:
    lines = [line.split() for line in log.read_text(encoding="utf-8").splitlines()]
    assert all(inference == "True" for *_, inference in lines)
    return [Call(n, int(p), int(b), int(e), [int(i) for i in i_.split(".")]) for n, p, b, e, i_, _ in lines]


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


class Seen(NamedTuple):
    """Three networks, timed at batches of 8 and then of 400, and the calls that they noted."""

    small: LatencyRounds
    large: LatencyRounds
    first: list[Call]
    second: list[Call]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    log = tmp_path_factory.mktemp("log") / "calls"
    with team_of(*(noting(log, name) for name in NAMES)) as team:
        small = measure_latency(team, numbered_split(100), 8, 3, BRIEF, "a")
        first = calls_in(log)
        log.write_text("")
        large = measure_latency(team, numbered_split(100), 400, 3, BRIEF, "a")
        yield Seen(small, large, first, calls_in(log))


def parts(calls: Sequence[Call], batches: int) -> tuple[list[Call], list[list[Call]]]:
    """The calls of the warm-up, and the turns after it, each the calls of one network in a row."""
    warm = 3 * 2 * batches
    turns = [list(turn) for _, turn in itertools.groupby(calls[warm:], key=lambda call: call.name)]
    return list(calls[:warm]), turns


@pytest.mark.parametrize(("which", "batches"), [("small", 128), ("large", 4)])
def test_warm_up_covers_every_batch_that_is_timed(seen: Seen, which: str, batches: int) -> None:
    calls = seen.first if which == "small" else seen.second
    warm, _ = parts(calls, batches)
    assert [call.name for call in warm] == [name for name in NAMES for _ in range(2 * batches)]
    images = [call.images for call in warm[: 2 * batches]]
    assert images[:batches] == images[batches:]
    assert {tuple(call.images) for call in calls} == {tuple(one) for one in images}


def test_real_images_of_the_split_in_the_seeded_order(seen: Seen) -> None:
    split = numbered_split(100)
    orders = [next(split.batches(100, epoch=epoch, seed=3)).index.tolist() for epoch in range(10)]
    last = next(split.batches(1024 - 1000, epoch=10, seed=3)).index.tolist()
    drawn = list(itertools.chain(*(call.images for call in seen.first[:128])))
    assert drawn == [*itertools.chain(*orders), *last]
    assert orders[0] != list(range(100))
    assert all(len(call.images) == 400 for call in seen.second)  # a split that is too small comes round again


@pytest.mark.parametrize("which", ["small", "large"])
def test_networks_take_turns_on_the_same_batches_in_a_new_order_every_round(seen: Seen, which: str) -> None:
    calls, result, batches = (seen.first, seen.small, 128) if which == "small" else (seen.second, seen.large, 4)
    rounds, per_round = result.rounds, result.rounds.per_round
    warm, _ = parts(calls, batches)
    timed = calls[len(warm) :]
    turns = [timed[at : at + 1 + per_round] for at in range(0, len(timed), 1 + per_round)]
    count = rounds.count("a")
    assert len(turns) == 3 * count
    names = [{call.name for call in turn} for turn in turns]
    assert all(len(one) == 1 for one in names)
    orders = [tuple(one.copy().pop() for one in names[at : at + 3]) for at in range(0, len(names), 3)]
    assert all(sorted(order) == sorted(NAMES) for order in orders)
    assert len(set(orders)) > 3  # by turns there would be three
    for number, turn in enumerate(turns):
        place = number // 3
        first = place % rounds.distinct * per_round
        wanted = [(first - 1) % batches, *range(first, first + per_round)]  # the first is not timed
        assert [call.images for call in turn] == [warm[at].images for at in wanted]
    assert count >= 20
    assert {len(samples) for samples in rounds.samples_ms.values()} == {count * per_round}


def test_each_network_has_a_process_and_no_two_run_at_once(seen: Seen) -> None:
    owners = {name: {call.process for call in seen.first + seen.second if call.name == name} for name in NAMES}
    assert all(len(processes) == 1 for processes in owners.values())
    assert len(set.union(*owners.values()) - {os.getpid()}) == 3
    for calls in (seen.first, seen.second):
        assert all(before.end <= after.begin for before, after in itertools.pairwise(calls))


def test_samples_are_the_times_of_the_calls(seen: Seen) -> None:
    for name in NAMES:
        assert not seen.small.errors
        inside = [(call.end - call.begin) / 1e6 for call in seen.first if call.name == name]
        assert sum(seen.small.rounds.samples_ms[name]) >= sum(inside[256:]) * 0.5
        assert all(0 < sample < 60_000 for sample in seen.small.rounds.samples_ms[name])


def test_what_was_set_is_said(seen: Seen) -> None:
    for result in (seen.small, seen.large):
        wanted = {
            "threads": 1,
            "affinity": list(allowed_processors()),
            "gc": False,
            "clock": "perf_counter",
            "warm_up_ms": 0.0,
        }
        assert result.setting == wanted | {"allocator": result.setting["allocator"]}
        assert result.setting["allocator"] in (KEEPS, USUAL)
        assert result.load.processors == len(allowed_processors())
        assert result.seconds > 0
    assert (seen.small.batch_size, seen.large.batch_size) == (8, 400)


KILLED = "its process ended: killed by signal 9, perhaps for want of memory"
FAILS = {
    "raises at once": (partial(forms.raising, 1), "MemoryError: no room left"),
    "raises in its turn": (partial(forms.raising, 2 * 4 + 5), "MemoryError: no room left"),
    "dies": (partial(forms.dying, 2 * 4 + 5), "its process ended: exit status 3"),
    "killed": (partial(forms.killed, 2), KILLED),
    "hangs": (partial(forms.hanging, 2 * 4 + 5), "TimeoutError: no answer for 5 s; its process was ended"),
    "not made": (forms.not_made, "ValueError: no weights here"),
    "cannot travel": (lambda: None, "Can't"),
}


def test_networks_that_fail_are_named_and_the_others_go_on() -> None:
    failing = [Timed(name, make) for name, (make, _) in FAILS.items()]
    sound = [Timed(name, partial(forms.taking, 0.0)) for name in ("first", "last")]
    with team_of(sound[0], *failing, sound[1], patience_s=5.0) as team:
        result = measure_latency(team, numbered_split(40), 400, 0, BRIEF, "first")
        processes = team.processes()
    assert set(result.errors) == set(FAILS)
    for name, (_, error) in FAILS.items():
        assert error in result.errors[name]
    assert "\n" not in "".join(result.errors.values())
    assert set(result.rounds.samples_ms) == {"first", "last"}
    assert {result.rounds.count(name) for name in ("first", "last")} == {20}
    assert not any(alive(process) for process in processes)


def test_a_batch_size_that_fails_is_not_made_smaller_and_the_next_is_tried() -> None:
    with team_of(Timed("a", partial(forms.raising_above, 8)), Timed("b", partial(forms.killed, 8 * 4))) as team:
        large = measure_latency(team, numbered_split(40), 400, 0, BRIEF)
        small = measure_latency(team, numbered_split(40), 400, 0, Until(1e9, 0.0))
        tiny = measure_latency(team, numbered_split(40), 8, 0, Until(1e9, 0.0))
    assert large.errors == {"a": "RuntimeError: batch of 400", "b": KILLED}
    assert small.errors == {"a": "RuntimeError: batch of 400"}  # b was started again
    assert set(tiny.errors) == {"b"}
    assert len(tiny.rounds.samples_ms["a"]) == tiny.rounds.per_round


def test_without_any_network_that_runs_it_ends() -> None:
    with team_of(Timed("a", partial(forms.raising, 1))) as team:
        result = measure_latency(team, numbered_split(40), 400, 0, BRIEF)
    assert (result.rounds.samples_ms, set(result.errors)) == ({}, {"a"})


def test_an_exception_leaves_no_process() -> None:
    with pytest.raises(ZeroDivisionError), team_of(Timed("a", partial(forms.taking, 0.0))) as team:
        (process,) = team.processes()
        assert alive(process)
        raise ZeroDivisionError
    assert not alive(process)


@pytest.mark.parametrize("enabled", [True, False])
def test_alone_in_this_process_the_garbage_collector_is_as_it_was(enabled: bool) -> None:
    was = gc.isenabled()
    setting = Setting("cpu", torch.get_num_threads(), allowed_processors())
    try:
        gc.enable() if enabled else gc.disable()
        with Alone("a", forms.raising_above(8), setting) as alone:
            large = measure_latency(alone, numbered_split(40), 400, 0, BRIEF)
            small = measure_latency(alone, numbered_split(40), 8, 0, BRIEF)
            assert small.setting["gc"] is False
        assert gc.isenabled() is enabled
    finally:
        gc.enable() if was else gc.disable()
    assert large.errors == {"a": "RuntimeError: batch of 400"}
    assert (small.errors, small.rounds.count("a") >= 20) == ({}, True)


STOPPED = """
import signal
from functools import partial
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
from dyncomp.profile import Setting, Team, Timed, Until, allowed_processors, measure_latency
from tests.handmade import numbered_split
from tests.profile import forms

timed = [Timed("idle", partial(forms.taking, 0.0)), Timed("busy", partial(forms.hanging, 9))]
with Team(timed, Setting("cpu", 1, allowed_processors())) as team:  # no `if __name__ == "__main__"`
    print(*team.processes(), flush=True)
    measure_latency(team, numbered_split(40), 400, 0, Until(1e9, 1.0))
"""


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_a_program_that_is_stopped_leaves_no_process(by: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(STOPPED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert program.stdout is not None
    processes = [int(word) for word in program.stdout.readline().split()]
    assert len(processes) == 2
    time.sleep(1.0)
    program.send_signal(by)
    program.wait(30)
    program.stdout.close()
    end = time.monotonic() + 20
    while any(alive(process) for process in processes):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_rounds_end_when_intervals_are_narrow_or_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def look(rounds: Rounds, width: float, reference: str | None, left_out: Sequence[str]) -> tuple[bool, set[str]]:
        looked.append(rounds.count("a"))
        assert (width, reference, left_out) == (0.25, "a", ())
        return True, set() if len(looked) == 3 else {"a"}

    monkeypatch.setattr(latency, "_look", look)
    with team_of(Timed("a", partial(forms.taking, 0.001))) as team:
        result = measure_latency(team, numbered_split(40), 400, 0, Until(0.25, 60.0), "a")
        assert looked == [20, 23, 27]
        assert result.rounds.count("a") == 27
        over = measure_latency(team, numbered_split(40), 400, 0, Until(0.25, 0.0), "a")
    assert over.rounds.count("a") == 1


@pytest.mark.parametrize(
    ("own", "static", "width", "enough"),
    [
        ([10.0, 10.1] * 20, [20.0, 20.1] * 20, 0.03, True),
        ([10.0, 10.1] * 20, [20.0, 20.1] * 20, 0.001, False),
        ([10.0, 10.1] * 20, [20.0, 40.0] * 20, 0.03, False),  # the ratio is not known
        ([10.0, 14.0] * 20, [20.0, 28.0] * 20, 0.03, True),  # what all share is no matter of the ratio
        ([10.0, 10.1], [20.0, 20.1], 0.03, False),  # no blocks, wide intervals
    ],
)
def test_narrow_means_the_ratios(own: list[float], static: list[float], width: float, enough: bool) -> None:
    assert (not latency._look(Rounds({"s": static, "a": own}), width, "s")[1]) is enough


@pytest.mark.parametrize("reference", ["s", None, "failed"])
@pytest.mark.parametrize(("spread", "enough"), [(1.01, True), (1.4, False)])
def test_without_ratios_narrow_means_the_medians(reference: str | None, spread: float, enough: bool) -> None:
    rounds = Rounds({"s": [20.0, 20.0 * spread] * 20})
    assert latency._look(rounds, 0.03, reference) == (True, set() if enough else {"s"})


@pytest.mark.parametrize(
    ("done", "spent", "enough", "over"),
    [
        *((0, 99.0, False, False), (1, 10.0, False, False), (50, 39.9, False, False), (1, 40.0, False, True)),
        *((20, 9.9, True, False), (20, 10.0, True, True)),
    ],
)
def test_a_timing_whose_ratios_are_not_known_is_prolonged(done: int, spent: float, enough: bool, over: bool) -> None:
    assert Until(seconds=10.0, prolonged=4.0).is_over(done, spent, enough) is over


@pytest.mark.parametrize(("spread", "known"), [(1.02, True), (1.5, False)])
def test_ratios_are_known_that_are_narrow_enough_to_be_valid(spread: float, known: bool) -> None:
    rounds = Rounds({"s": [20.0, 20.0 * spread] * 20, "a": [10.0] * 40})
    assert latency._look(rounds, 0.0, "s") == (known, {"a"})
    assert latency._look(rounds, 0.0, "s", ["a"]) == (True, set())
    assert latency._look(rounds, 0.0, None)[0]


def test_a_network_that_is_known_takes_no_further_turn_nor_does_a_rough_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(rounds: Rounds, width: float, reference: str | None, left_out: Sequence[str]) -> tuple[bool, set[str]]:
        unknown = {"known", "rough", "open"} - set(left_out)
        return False, unknown - {"known"} if rounds.count("open") >= 23 else unknown

    monkeypatch.setattr(latency, "_look", look)
    names = ("static", "known", "rough", "open")
    with team_of(*(Timed(name, partial(forms.taking, 0.0)) for name in names)) as team:
        rounds = measure_latency(team, numbered_split(40), 400, 0, Until(0.0, 0.6, rough=["rough"]), "static").rounds
    counts = {name: rounds.count(name) for name in names}
    assert counts["known"] == 23
    assert counts["rough"] == 32  # looked at after 20, 23, 27 and 32 rounds
    assert counts["static"] == counts["open"] > 32
    for name in names[1:]:
        assert len(rounds.ratios(name, "static")) == counts[name]
        assert len(rounds.beside_ms[name]) == len(rounds.samples_ms[name])


@pytest.mark.parametrize(
    ("passes_ms", "batches", "wanted"),
    [([1.0], 128, 8), ([3.0, 5.0, 4.0], 128, 4), ([16.0], 16, 1), ([500.0], 16, 1), ([1.0], 4, 4), ([], 4, 1)],
)
def test_turns_last_about_as_long_as_they_should(passes_ms: list[float], batches: int, wanted: int) -> None:
    assert latency._per_round(passes_ms, batches) == wanted
