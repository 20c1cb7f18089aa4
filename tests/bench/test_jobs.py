"""Cells side by side: the same results as one after the other, and nothing lost when one of them dies."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.flop_counter import flop_registry

from dyncomp import Method, register_method
from dyncomp.bench import runner
from dyncomp.bench.events import CellEnded, CellTrains, Event, ResourcesStarted
from dyncomp.bench.jobs import MOST, jobs_for
from dyncomp.bench.plan import make_plan
from dyncomp.errors import InvalidValue
from dyncomp.profile import child
from dyncomp.store import Store
from tests.jobs import Listening, config, plugin

pytestmark = pytest.mark.usefixtures("no_report")

SKIPNET = "skipnet(pretraining=0.5)"  # begins with the trained plain backbone
# what follows from weights and data, and not from how long anything took
SAME = ("identity", "status", "top1", "macs", "executed_macs", "gates", "warnings", "params", "hyperparameters")


@pytest.fixture
def job() -> Listening:
    return Listening()


def cells(folder: Path) -> dict[str, dict[str, Any]]:
    return {cell["key"]: cell for cell in Store.open(folder).cells()}


def same(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in SAME}


@pytest.mark.usefixtures("no_timing")
def test_results_are_those_of_one_after_the_other_on_as_many_threads(tmp_path: Path, job: Listening) -> None:
    loose = plugin(tmp_path / "loose.py", "loose", "def build(self, new):\n    return new()")
    for jobs in (1, 2):
        job.run(config(tmp_path / str(jobs), f"{SKIPNET},loose", include_path=loose, jobs=jobs))
    one, two = cells(tmp_path / "1"), cells(tmp_path / "2")
    assert one.keys() == two.keys()
    for key in one:
        assert same(one[key]) == same(two[key])
        pd.testing.assert_frame_equal(Store.open(tmp_path / "1").images(key), Store.open(tmp_path / "2").images(key))
        first, second = (load_file(Store.open(tmp_path / str(jobs)).checkpoint_path(key)) for jobs in (1, 2))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)  # one thread each, as this process has
        assert (one[key]["jobs"], two[key]["jobs"]) == (1, 2)
    assert sorted(job.trained) == ["loose", SKIPNET, "static", "static"]  # skipnet begins with one of them
    assert {str(event.cell.method) for event in job.events if isinstance(event, CellTrains)} == set(job.trained)
    assert len([event for event in job.events if isinstance(event, CellEnded)]) == 4


def test_resources_are_measured_when_all_are_trained(tmp_path: Path, job: Listening) -> None:
    outcome = job.run(config(tmp_path / "out", SKIPNET, jobs=2))
    assert outcome is not None
    kinds = [type(event) for event in job.events]
    assert kinds.index(ResourcesStarted) > max(i for i, kind in enumerate(kinds) if kind is CellEnded)
    started = [event for event in job.events if isinstance(event, ResourcesStarted)]
    assert [(str(event.cell.method), event.number, event.total) for event in started] == [
        ("static", 1, 2),
        (SKIPNET, 2, 2),
    ]
    records = outcome.store.cells()
    assert [record["role"] for record in records if "operators" not in record] == ["source"]
    for record in (record for record in records if record["role"] != "source"):
        assert record["operators"]["operators_ms"] > 0
        assert len(outcome.store.images(record["key"])) == record["images"]


def test_a_record_without_them_gets_them_later(tmp_path: Path, job: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = config(tmp_path / "out", SKIPNET)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "add_resources", lambda *given: None)
        job.run(asked)
    before = cells(tmp_path / "out")
    assert not any("operators" in record for record in before.values())
    job.run(asked)
    after = cells(tmp_path / "out")
    assert job.trained == []
    for key, record in before.items():
        assert after[key].get("operators") or record["role"] == "source"
        assert {name: after[key][name] for name in record} == record
    job.run(asked)
    assert cells(tmp_path / "out") == after


DIES = """
    def build(self, new):
        return new()

    def loss(self, output, labels):
        import os
        {how}
"""
KILLED = "its process ended: killed by signal 9, perhaps for want of memory"
DEATHS = {
    "killed": (
        f"os.kill(os.getpid(), {signal.SIGKILL.value})",
        "its process ended: killed by signal 9, perhaps for want of memory",
    ),
    "left": ("os._exit(3)", "its process ended: exit status 3"),
    "raised": ("raise ValueError('lost')", "ValueError: lost"),
}


@pytest.mark.usefixtures("no_timing")
def test_a_cell_that_dies_is_recorded_and_the_others_go_on(tmp_path: Path, job: Listening) -> None:
    loose = [plugin(tmp_path / f"{name}.py", name, DIES.format(how=how)) for name, (how, _) in DEATHS.items()]
    outcome = job.run(config(tmp_path / "out", f"{','.join(DEATHS)},skipnet", include_path=loose, jobs=2))
    assert outcome is not None
    assert sorted(str(cell.method) for cell in outcome.failed) == sorted(DEATHS)
    records = {record["method"]: record for record in outcome.store.cells()}
    assert {name: records[name]["error"] for name in DEATHS} == {name: said for name, (_, said) in DEATHS.items()}
    assert records["static"]["status"] == records["skipnet"]["status"] == "ok"


@pytest.mark.usefixtures("no_timing")
def test_an_interruption_leaves_no_process_and_keeps_what_is_finished(tmp_path: Path) -> None:
    seen: list[str] = []

    def interrupt(event: Event) -> None:
        if isinstance(event, CellTrains) and seen:
            raise KeyboardInterrupt
        if isinstance(event, CellEnded):
            seen.append(event.record["method"])

    before = children()
    with pytest.raises(KeyboardInterrupt):
        runner.run(config(tmp_path / "out", "skipnet,condconv,lkam", jobs=2), interrupt)
    assert sorted(record["method"] for record in cells(tmp_path / "out").values()) == sorted(seen)
    assert children() <= before | servers()


def children() -> set[int]:
    """Processes whose parent or grandparent is this one."""
    own = os.getpid()
    return {pid for pid, parent in parents().items() if own in (parent, parents().get(parent))}


def servers() -> set[int]:
    """Those from which others are forked, and which stay."""
    return {pid for pid, parent in parents().items() if parent == os.getpid()}


def parents() -> dict[int, int]:
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if state != "Z":
            found[int(stat.parent.name)] = int(parent)
    return found


@pytest.mark.parametrize(("threads", "jobs"), [(1, 1), (2, 2), (16, MOST)])
def test_as_many_as_the_cores_allow(threads: int, jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    asked = config("unused", "skipnet")
    assert jobs_for(make_plan(asked).cells, asked) == jobs


def register_here(name: str) -> None:
    @register_method(name)
    @dataclass(frozen=True)
    class Mine(Method):
        """Known to this function only."""

        def build(self, new: Any) -> Any:
            return new()


def stay_here(methods: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells of these methods are trained in the program, and asking for several at a time is refused."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for jobs in (None, 1):
        asked = config("unused", methods, jobs=jobs)
        assert jobs_for(make_plan(asked).cells, asked) == 1
    asked = config("unused", methods, jobs=2)
    with pytest.raises(InvalidValue, match=rf"jobs=2: {reason}.*jobs=1"):
        jobs_for(make_plan(asked).cells, asked)


def test_a_method_of_the_program_itself_is_trained_there(monkeypatch: pytest.MonkeyPatch) -> None:
    register_here("mine")
    stay_here("mine", "method 'mine' is registered in the program itself", monkeypatch)


@pytest.mark.usefixtures("no_timing")
def test_a_cell_that_no_other_process_can_make_is_trained_here(tmp_path: Path, job: Listening) -> None:
    register_here("mine")
    outcome = job.run(config(tmp_path / "out", f'distill(teacher="mine"),{SKIPNET}', jobs=2))  # it is named inside
    assert outcome is not None
    assert outcome.failed == ()
    jobs = {record["method"]: record["jobs"] for record in outcome.store.cells()}
    assert jobs == {"static": 2, "skipnet": 2, "mine": 1, "distill": 1}
    assert sorted(job.trained) == ['distill(teacher="mine")', "mine", SKIPNET, "static", "static"]


@pytest.mark.usefixtures("no_timing")
def test_where_no_process_can_be_started_all_are_trained_here(
    tmp_path: Path, job: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any) -> None:
        raise child.Failed("AssertionError: daemonic processes are not allowed to have children")

    monkeypatch.setattr("dyncomp.bench.jobs.Child", refuse)
    outcome = job.run(config(tmp_path / "out", SKIPNET, jobs=2))
    assert outcome is not None
    assert outcome.failed == ()
    assert job.trained == ["static", "static", SKIPNET]


def test_a_cost_that_only_the_program_knows_keeps_cells_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def known_here() -> int:
        return 0

    monkeypatch.setitem(flop_registry, torch.ops.aten.sin, known_here)
    stay_here("skipnet", r"the cost of aten.sin is registered in .*test_jobs", monkeypatch)


@pytest.mark.usefixtures("no_timing")
def test_a_data_set_that_loads_by_processes_of_its_own_is_trained_on(tmp_path: Path, job: Listening) -> None:
    folder = tmp_path / "data" / "imagenet"
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 160), ("val", 8)):
        for name in "abcd":
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(0, 256, (8, 8, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / part / name / f"{number}.JPEG")
    asked = {"dataset": "imagenet(size=32)", "data_dir": str(tmp_path / "data"), "budget": "0.3"}
    outcome = job.run(config(tmp_path / "out", SKIPNET, jobs=2, **asked))
    assert outcome is not None
    assert [record["error"] for record in outcome.store.cells()] == [None] * 3


RAISES_LATER = """
    def build(self, new):
        import torch

        class Late(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.model = new()

            def forward(self, images):
                if Path({flag!r}).exists() and len(images) == 4:
                    raise KeyError("too late")
                return self.model(images)

        return Late()
"""


def test_a_network_that_fails_when_resources_are_measured_does_not_stop_the_run(tmp_path: Path, job: Listening) -> None:
    flag = tmp_path / "flag"
    loose = plugin(tmp_path / "late.py", "late", RAISES_LATER.format(flag=str(flag)))
    asked = config(tmp_path / "out", "late,skipnet", include_path=loose)

    def listen(event: Event) -> None:
        if isinstance(event, ResourcesStarted):
            flag.touch()

    outcome = runner.run(asked, listen)
    assert outcome is not None
    records = {record["method"]: record for record in outcome.store.cells()}
    assert records["late"]["operators"] is None
    assert records["late"]["time_error"] == "KeyError: 'too late'"
    assert records["late"]["status"] == "ok"
    assert records["skipnet"]["operators"] is not None
    job.run(asked)
    assert not any(isinstance(event, ResourcesStarted) for event in job.events)  # it was tried, and said


@pytest.mark.parametrize("wrong", [0, -1, 65, 1.5, "two", True])
def test_wrong_jobs(wrong: Any) -> None:
    with pytest.raises(InvalidValue, match=r"jobs=.*from 1 to 64"):
        config("unused", jobs=wrong)
