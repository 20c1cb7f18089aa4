"""The main job end to end on a tiny budget: what it writes, what it does not do twice, what a failure leaves."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open

import dyncomp
from dyncomp.bench import Config, Outcome, runner, timeshares, timing
from dyncomp.bench.events import CellTrains, Event
from dyncomp.bench.plan import LeftOut
from dyncomp.bench.stamp import git_commit
from dyncomp.errors import DyncompError, InvalidValue, OutputError
from dyncomp.profile import child
from dyncomp.profile.allocator import KEEPS, USUAL
from dyncomp.store import Store
from dyncomp.store.schema import (
    CellRecord,
    ConfigRecord,
    Fit,
    LeftOutRecord,
    OptionsRecord,
    RecipeRecord,
    TimingRecord,
    keys_of,
)
from dyncomp.train import Recipe
from tests.jobs import PLAIN, TINY, Listening, config, plugin

SKIPNET = "skipnet(pretraining=0.5)"
METHODS = f"condconv,{SKIPNET}"
ORDER = [("static", "static"), ("condconv", "method"), ("static", "source"), ("skipnet", "method")]
COLUMNS = [
    *("method", "spec", "backbone", "dataset", "seed", "budget", "device", "status", "params", "top1", "macs", "flops"),
    *("macs_static", "speedup_claimed", "speedup_executed", "batch_size", "latency_ms_p50", "latency_ms_p99"),
    *("images_per_s", "speedup_realised"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole job; look, do not touch."""
    folder = tmp_path_factory.mktemp("job") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "SECONDS", 0.0)
        patch.setattr(timeshares, "SECONDS", 0.0)
        outcome = Listening().run(config(folder, METHODS, batch_sizes="1,4"))
    assert outcome is not None
    assert outcome.failed == ()
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A finished job's folder to go on with."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


@pytest.fixture
def job() -> Listening:
    return Listening()


def compared(store: Store) -> list[dict[str, Any]]:
    """The records of what is compared; those of networks that others begin with are records too."""
    return [cell for cell in store.cells() if cell["role"] != "source"]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_writes_the_whole_output_folder(finished: Path) -> None:
    top = {path.name for path in finished.iterdir()}
    assert {"results.csv", "report.html", "report.md", "plots", "records", "checkpoints", "config.json"} <= top
    kinds = [path.suffix for path in (finished / "plots").iterdir()]
    assert kinds.count(".png") == kinds.count(".svg") >= 3
    store = Store.open(finished)
    assert [(cell["method"], cell["role"]) for cell in store.cells()] == ORDER
    for cell in store.cells():
        assert (finished / "records" / f"{cell['key']}.parquet").exists()
        assert store.checkpoint_path(cell["key"]).exists()
    assert sorted(t["batch_size"] for t in store.timings()) == [1, 4]
    assert store.config["methods"] == METHODS
    assert not [name for name in files(finished) if "tmp" in name or name.startswith(".")]


def test_results_have_the_promised_columns(finished: Path) -> None:
    table = pd.read_csv(finished / "results.csv")
    assert list(table.columns[: len(COLUMNS)]) == COLUMNS
    assert list(zip(table["method"], table["batch_size"], strict=True)) == [
        (method, size) for method in ("static", "condconv", "skipnet") for size in (1, 4)
    ]
    assert not table[COLUMNS].isna().any().any()
    assert (table["flops"] == 2 * table["macs"]).all()
    assert (table["status"] == "ok").all()


def test_every_file_says_what_is_described(finished: Path) -> None:
    kinds = {"cell": CellRecord, "timing": TimingRecord, None: ConfigRecord}
    found = [json.loads(path.read_bytes()) for path in (finished / "config.json", *finished.glob("records/*.json"))]
    assert {record.get("kind") for record in found} == set(kinds)
    for record in found:
        fit = Fit.of(record, kinds[record.get("kind")])
        assert (fit.faults, fit.oddities, fit.record) == ([], [], record)  # and needs no stand-ins


def test_options_and_recipe_are_described() -> None:
    for described, made in ((OptionsRecord, Config), (RecipeRecord, Recipe), (LeftOutRecord, LeftOut)):
        assert list(keys_of(described)) == [field.name for field in fields(made)]


def test_every_record_is_consistent(finished: Path) -> None:
    store = Store.open(finished)
    static = store.cells()[0]
    for cell in compared(store):
        images = store.images(cell["key"])
        assert cell["priced_macs"] == cell["executed_macs"] == int(images["macs"].sum())
        assert sum(cell["executed_by_operator"].values()) == cell["executed_macs"]
        assert cell["uncounted_operators"] == []
        assert cell["images"] == len(images)
        assert cell["top1"] == pytest.approx(100 * float((images["label"] == images["prediction"]).mean()))
        assert cell["macs"] == pytest.approx(float(images["macs"].mean()))
        assert cell["macs_std"] == pytest.approx(float(np.std(images["macs"])))
        assert cell["macs_static"] == static["macs"] == static["macs_full"]
        assert cell["speedup_claimed"] == pytest.approx(static["macs"] / cell["macs"])
        assert cell["routes"] == images["route"].nunique()
        assert cell["role"] == ("static" if cell["method"] == "static" else "method")
        steps = 4 if cell["method"] == "skipnet" else 8  # half of them were spent before
        assert sum(stage["epochs"] for stage in cell["stages"]) == pytest.approx(steps / 16)  # steps of an epoch's 16
        assert (cell["route_exchange_top1"] is None) == (cell["method"] == "static")
        assert {gate["site"] for gate in cell["gates"]} == gated_sites(cell)


def test_every_record_says_what_the_memory_is(finished: Path) -> None:
    static, condconv, skipnet = compared(Store.open(finished))
    for cell in (static, condconv, skipnet):
        assert cell["memory_error"] is None
        assert (cell["memory_batch_size"], cell["memory_batch_size_training"]) == (64, 64)
        assert cell["params_mib"] == 4 * cell["params"] / 2**20
        assert 0 < cell["activation_mib"] < min(cell["memory_mib_inference"], cell["memory_mib_training"])
    assert static["memory_mib_inference"] < static["memory_mib_training"]
    image = 64 * 4 * 16 * 8 * 8 / 2**20  # MiB of a map of the first stage: 16 channels, 8 x 8, float32
    assert (
        3 * image <= static["activation_mib"] <= 4 * image
    )  # the block's input and two of its body's maps live at once
    table = pd.read_csv(finished / "results.csv").set_index("method")
    row = table[table["batch_size"] == 4].loc["condconv"]
    for name in ("params_mib", "activation_mib", "memory_mib_inference", "memory_mib_training"):
        assert row[name] == pytest.approx(condconv[name], rel=1e-5)
    assert "memory of training, batch 64" in (finished / "report.md").read_text()


def test_every_record_says_where_multiply_adds_and_time_go(finished: Path) -> None:
    store = Store.open(finished)
    for cell in compared(store):
        images = store.images(cell["key"])
        right = images["label"] == images["prediction"]
        for row in cell["macs_by_class"]:
            members = images[images["label"] == int(row["class"])]
            assert row["images"] == len(members)
            assert row["macs"] == pytest.approx(members["macs"].mean())
            assert row["flops"] == 2 * row["macs"]
            assert row["top1"] == pytest.approx(100 * right[members.index].mean())
        assert cell["macs_right"] == pytest.approx(images["macs"][right].mean())
        assert cell["macs_wrong"] == pytest.approx(images["macs"][~right].mean())
        assert "macs_difficulty_rank_correlation" not in cell  # nobody knows it of digits
        opinions = cell["second_opinions"]
        assert opinions["macs"] == opinions["torch"]["macs"] == images["macs"][0]
        assert opinions["fvcore"]["by_operator"]["conv"] > 0
        assert sum(cell["operators"]["shares"].values()) == pytest.approx(1)
        assert cell["uncounted_calls"] == {}
        assert cell["time_error"] is None
        assert [gap["batch_size"] for gap in cell["gaps"]] == ([] if cell["method"] == "static" else [1, 64])
        for gap in cell["gaps"]:
            assert sum(gap["parts_ms"].values()) == pytest.approx(gap["method_ms"])


def gated_sites(cell: dict[str, Any]) -> set[str]:
    return {"model.stages.1.0", "model.stages.2.0"} if cell["method"] == "skipnet" else set()


def test_a_checkpoint_says_what_it_is_of(finished: Path) -> None:
    store = Store.open(finished)
    for cell in store.cells():
        with safe_open(str(store.checkpoint_path(cell["key"])), framework="pt") as file:
            facts = json.loads(file.metadata()["dyncomp"])
        mean, std = facts.pop("mean"), facts.pop("std")
        assert facts == {
            "identity": cell["identity"],
            "classes": 10,
            "class_names": list("0123456789"),
            "in_channels": 1,
            "image_size": 8,
            "shorter_side": None,
            "dtype": "float32",
            "deployed": False,
        }
        assert (mean, std) == ([pytest.approx(0.305, abs=0.01)], [pytest.approx(0.376, abs=0.01)])


def test_timings_keep_raw_samples_of_paired_rounds(finished: Path) -> None:
    store = Store.open(finished)
    keys = [cell["key"] for cell in compared(store)]
    for record in store.timings():
        assert record["cells"] == keys
        static, *others = keys
        names = [static, *(name for key in others for name in (key, f"{key}.dense"))]
        assert list(record["samples_ms"]) == list(record["forms"]) == names
        for name, facts in record["forms"].items():
            form = "dense" if name.endswith(".dense") else "sparse"
            assert facts == {"form": form, "not_folded": None, "graph_breaks": None, "batch_norms": 0}
        assert {len(samples) for samples in record["samples_ms"].values()} == {record["batches_per_round"]}
        assert record["rounds"] == dict.fromkeys(names, 1)  # no time for more
        assert record["verdicts"] == dict.fromkeys(names, "INVALID: too few samples (1 rounds, at least 20 are wanted)")
        assert record["errors"] == record["not_compiled"] == {}
        assert (record["threads"], record["gc"], record["clock"]) == (torch.get_num_threads(), False, "perf_counter")
        assert record["affinity"] == sorted(os.sched_getaffinity(0))
        assert record["allocator"] in (KEEPS, USUAL)
        assert record["load"]["processors"] == len(record["affinity"])


@pytest.mark.usefixtures("no_report")
def test_finished_cells_are_not_run_again(copied: Path, job: Listening) -> None:
    before = files(copied)
    outcome = job.run(config(copied, METHODS, batch_sizes="1,4"))
    assert (job.trained, job.timed) == ([], [])
    assert outcome is not None
    assert outcome.failed == ()
    after = files(copied)
    assert [name for name in before if after[name] != before[name]] == ["config.json"]  # it names another folder
    assert after.keys() - before.keys() == {"config-history.jsonl"}


@pytest.mark.usefixtures("no_report")
def test_a_new_method_is_run_alone_and_timed_with_the_others(copied: Path, job: Listening) -> None:
    job.run(config(copied, f"{METHODS},skipnet(target=0.31)", batch_sizes="4"))
    assert job.trained == ["skipnet(target=0.31)"]
    assert job.timed == [(4, 4)]


@pytest.mark.usefixtures("no_report")
def test_a_new_batch_size_is_timed_alone(copied: Path, job: Listening) -> None:
    job.run(config(copied, METHODS, batch_sizes="1,3,4"))
    assert (job.trained, job.timed) == ([], [(3, 3)])


@pytest.mark.usefixtures("no_report")
def test_asking_for_more_precision_times_again(copied: Path, job: Listening) -> None:
    asked = config(copied, METHODS, batch_sizes="4", latency_seconds=0.001)
    job.run(asked)
    assert (job.trained, job.timed) == ([], [(3, 4)])
    job.run(asked)
    assert job.timed == []


@pytest.mark.usefixtures("no_report")
def test_a_network_that_cannot_be_timed_is_named_and_the_job_fails(tmp_path: Path, job: Listening) -> None:
    loose = plugin(tmp_path / "big.py", "big", TOO_BIG)
    outcome = job.run(config(tmp_path / "out", "big", include_path=loose, batch_sizes="2,300"))
    assert outcome is not None
    assert [str(cell.method) for cell in outcome.failed] == ["big"]
    small, big = sorted(outcome.store.timings(), key=lambda record: record["batch_size"])
    assert small["errors"] == {}
    assert big["errors"] == {outcome.failed[0].key: "RuntimeError: no room for 300 images"}
    assert len(big["samples_ms"]) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_without_a_compiler_everything_else_is_timed(
    tmp_path: Path, job: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    # these begin from nothing, and see this environment
    monkeypatch.setattr(child, "context", lambda module: multiprocessing.get_context("spawn"))
    monkeypatch.setenv("CXX", str(tmp_path / "c++"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    outcome = job.run(config(tmp_path / "out", "skipnet", batch_sizes="4", compile=True))
    assert outcome is not None
    assert outcome.failed == ()
    (timing,) = outcome.store.timings()
    static, skipnet = timing["cells"]
    assert list(timing["samples_ms"]) == [static, skipnet, f"{skipnet}.dense"]
    compiled = [f"{static}.sparse_compiled", f"{skipnet}.sparse_compiled", f"{skipnet}.dense_compiled"]
    assert timing["not_compiled"] == dict.fromkeys(compiled, "not compiled: no C++ compiler")


TOO_BIG = """
    def build(self, new):
        import torch

        class Big(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.model = new()

            def forward(self, images):
                if len(images) == 300:
                    raise RuntimeError("no room for 300\\nimages")
                return self.model(images)

        return Big()
"""


@pytest.mark.usefixtures("no_report")
def test_force_runs_everything_again(copied: Path, job: Listening) -> None:
    job.run(config(copied, "condconv", batch_sizes="4", force=True))
    assert (job.trained, job.timed) == (["static", "condconv"], [(2, 4)])


@pytest.mark.usefixtures("no_report", "no_timing")
def test_a_lost_checkpoint_is_trained_again(copied: Path, job: Listening) -> None:
    store = Store.open(copied)
    store.checkpoint_path(store.cells()[1]["key"]).unlink()
    job.run(config(copied, METHODS, batch_sizes="4", force=False))
    assert (job.trained, job.timed) == (["condconv"], [])


@pytest.mark.usefixtures("no_report")
def test_a_damaged_checkpoint_is_named_with_what_to_do(copied: Path, job: Listening) -> None:
    store = Store.open(copied)
    store.checkpoint_path(store.cells()[1]["key"]).write_bytes(b"damaged")
    with pytest.raises(InvalidValue, match="remove the file, and the same command trains that cell again") as caught:
        job.run(config(copied, METHODS, batch_sizes="2"))
    assert "\n" not in str(caught.value)


def test_dry_run_writes_nothing(tmp_path: Path, finished: Path, job: Listening) -> None:
    assert job.run(config(tmp_path / "new", METHODS, dry_run=True)) is None
    assert list(tmp_path.iterdir()) == []
    (planned,) = job.events
    assert (len(planned.plan.cells), planned.finished, planned.beforehand) == (3, 0, 1)  # type: ignore[union-attr]
    before = files(finished)
    assert job.run(config(finished, f"{METHODS},skipnet(target=0.31)", dry_run=True)) is None
    assert files(finished) == before
    (planned,) = job.events
    assert (len(planned.plan.cells), planned.finished, planned.beforehand) == (4, 3, 0)  # type: ignore[union-attr]


WRONG: list[dict[str, Any]] = [
    {"methods": "skipnet", "backbone": "mobilenet_v1"},
    {"methods": "skipnett"},
    {"methods": "condconv(experts=0)"},
    {"dataset": "digits(size=1)"},
    {"dataset": "imagenet"},
    {"device": "nonsense"},
    {"include_path": "no-such-file.py"},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_nothing_is_written_when_the_plan_fails(
    wrong: dict[str, Any], tmp_path: Path, job: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(DyncompError) as caught:
        job.run(config(tmp_path / "out", **wrong))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dry", [False, True])
def test_a_folder_of_something_else_is_left_alone(dry: bool, tmp_path: Path, job: Listening) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError):
        job.run(config(tmp_path, dry_run=dry))
    assert files(tmp_path) == {"thesis.txt": b"years of work"}
    assert job.trained == []


FAILS = """
    def build(self, new):
        return new()

    def loss(self, output, labels):
        if not Path({flag!r}).exists():
            raise ValueError("the loss\\nis lost")
        return super().loss(output, labels)
"""


@pytest.mark.usefixtures("no_report")
def test_a_cell_that_fails_is_recorded_and_the_others_run_on(tmp_path: Path, job: Listening) -> None:
    flag = tmp_path / "mended"
    loose = plugin(tmp_path / "fails.py", "fails", FAILS.format(flag=str(flag)))
    asked = config(tmp_path / "out", "fails,condconv", include_path=loose)
    outcome = job.run(asked)
    assert isinstance(outcome, Outcome)
    assert [str(cell.method) for cell in outcome.failed] == ["fails"]
    assert job.trained == ["static", "fails", "condconv"]
    assert job.timed == [(2, 2)]
    (record,) = [cell for cell in outcome.store.cells() if cell["status"] == "failed"]
    assert record["error"] == "ValueError: the loss is lost"
    assert "raise ValueError" in record["traceback"]
    assert not (tmp_path / "out" / "records" / f"{record['key']}.parquet").exists()
    assert "top1" not in record
    flag.touch()
    again = job.run(asked)
    assert again is not None
    assert again.failed == ()
    assert job.trained == ["fails"]
    assert job.timed == [(3, 2)]
    assert again.store.cell(record["key"])["error"] is None  # type: ignore[index]


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    "body",
    [
        "def build(self, new):\n    raise KeyError('where')",
        "def build(self, new):\n    return 3",
        f"{PLAIN}\n    def stages(self):\n        return 1 / 0",
    ],
    ids=["build", "no module", "stages"],
)
def test_whatever_a_method_raises_is_its_cells_own(body: str, tmp_path: Path, job: Listening) -> None:
    loose = plugin(tmp_path / "fails.py", "fails", body)
    outcome = job.run(config(tmp_path / "out", "fails", include_path=loose))
    assert outcome is not None
    assert len(outcome.failed) == 1
    assert job.timed == [(1, 2)]


@pytest.mark.usefixtures("no_report", "no_timing")
def test_an_interrupted_run_keeps_its_finished_cells(tmp_path: Path, job: Listening) -> None:
    asked = config(tmp_path / "out", METHODS)

    def interrupt(event: Event) -> None:
        if isinstance(event, CellTrains) and str(event.cell.method) == "condconv":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run(asked, interrupt)
    assert [cell["method"] for cell in Store.open(tmp_path / "out").cells()] == ["static"]
    job.run(asked)
    assert job.trained == ["condconv", "static", SKIPNET]


KILLED = """
import os, signal
from dyncomp.bench import runner
from dyncomp.bench.events import CellTrains
from tests.jobs import config

def kill(event):
    if isinstance(event, CellTrains) and str(event.cell.method) == "condconv":
        os.kill(os.getpid(), signal.SIGKILL)

runner.run(config({folder!r}, {methods!r}, jobs={jobs}), kill)
"""


@pytest.mark.usefixtures("no_report", "no_timing")
@pytest.mark.parametrize("jobs", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_killed_run_loses_the_cells_it_was_in(tmp_path: Path, job: Listening, jobs: int) -> None:
    folder = tmp_path / "out"
    root = Path(__file__).resolve().parents[2]
    script = KILLED.format(folder=str(folder), methods=METHODS, jobs=jobs)
    killed = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    kept = Store.open(folder).cells()
    assert {cell["method"] for cell in kept} <= {"static", "skipnet"}
    assert len(kept) == 1 or jobs > 1
    outcome = job.run(config(folder, METHODS))
    left = [name for name, role in ORDER if (name, role) not in {(cell["method"], cell["role"]) for cell in kept}]
    assert [spec.partition("(")[0] for spec in job.trained] == left
    assert outcome is not None
    records = {cell["key"]: cell for cell in outcome.store.cells()}
    assert [cell["status"] for cell in records.values()] == ["ok"] * 4
    for cell in kept:
        assert {name: records[cell["key"]][name] for name in cell} == cell  # only what it takes of the machine is added


@pytest.mark.usefixtures("no_report")
def test_from_python_it_is_a_table(tmp_path: Path) -> None:
    options = {**TINY, "batch_sizes": [2], "seeds": [0, 1]}
    table = dyncomp.benchmark(["static"], output=tmp_path / "out", **options)
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns[: len(COLUMNS)]) == COLUMNS
    assert list(zip(table["method"], table["seed"], table["batch_size"], strict=True)) == [
        ("static", 0, 2),
        ("static", 1, 2),
    ]


def test_from_python_a_dry_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="dry_run"):
        dyncomp.benchmark("static", output=tmp_path / "out", dry_run=True, **TINY)


@pytest.mark.usefixtures("no_report", "no_timing")
def test_the_default_folder_names_data_and_backbone(
    tmp_path: Path, job: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job.run(config("", "static", dataset="digits(size=16)"))
    assert [path.name for path in (tmp_path / "reports").iterdir()] == ["digits_size_16-cifar_resnet8"]


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


def test_commit_is_that_of_tracked_code_only(tmp_path: Path) -> None:
    code, installed = tmp_path / "code.py", tmp_path / "site" / "code.py"
    installed.parent.mkdir()
    for path in (code, installed):
        path.write_text("x = 1\n")
    assert git_commit(code) is None
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-q", "-m", "first")
    git_commit.cache_clear()
    commit = git_commit(code)
    assert commit is not None
    assert len(commit) == 12
    assert git_commit(installed) is None  # within somebody's repository, yet no part of it
    code.write_text("x = 2\n")
    git_commit.cache_clear()
    assert git_commit(code) == f"{commit}-dirty"
