"""Results in experiment trackers: what is sent is what results.csv says, in stores on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from dyncomp.errors import BrokenPlugin, InvalidValue, OutputError, UnknownName
from dyncomp.report import results
from dyncomp.reporters import Reporter, Runs, check_reporters, log_results, runs_of, sending
from dyncomp.reporters.sending import OWN
from dyncomp.store import Store
from tests.records import failed_cell, make_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = make_store(tmp_path / "out")
    failed_cell(made)
    (skipnet,) = (cell["key"] for cell in made.cells() if cell["method"] == "skipnet")
    made.add_to_cell(skipnet, {"hyperparameters": {"target": 0.5, "blocks": [1, 2]}})  # type: ignore[typeddict-unknown-key]
    (made.folder / "results.csv").write_text("a table")
    return made


def test_a_run_for_each_finished_cell_with_the_figures_of_the_table(store: Store) -> None:
    table = results(store)
    finished = table[table["status"] == "ok"]
    runs = runs_of(store)
    assert [run.parameters["spec"] for run in runs.runs] == list(dict.fromkeys(finished["spec"]))
    assert runs.files == (store.folder / "results.csv",)
    for run in runs.runs:
        for _, row in finished[finished["spec"] == run.parameters["spec"]].iterrows():
            assert run.figures["top1"] == row["top1"]
            assert run.figures["macs"] == row["macs"]
            assert run.figures[f"speedup_realised/batch_{row['batch_size']}"] == row["speedup_realised"]
        assert run.sentence.startswith(f"{run.parameters['spec']}: ")
        assert all(value == value for value in run.figures.values())
        (cell,) = (cell for cell in store.cells() if cell["spec"] == run.parameters["spec"])
        logged = [row for stage in cell["stages"] for row in stage["log"]]
        assert [figures["train/loss"] for figures in run.curve] == [loss for _, loss, _ in logged]
    (skipnet,) = (run for run in runs.runs if run.parameters["method"] == "skipnet")
    assert (skipnet.parameters["method.target"], skipnet.parameters["method.blocks"]) == (0.5, "[1, 2]")


def test_tensorboard_reads_it_back(store: Store) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (line,) = log_results(store, ["tensorboard"])
    assert line == f"tensorboard: tensorboard --logdir {store.folder / 'tensorboard'}"
    runs = runs_of(store).runs
    folders = sorted((store.folder / "tensorboard").iterdir())
    assert len(folders) == len(runs)
    for folder in folders:
        read = EventAccumulator(str(folder))
        read.Reload()
        (run,) = (run for run in runs if run.figures["macs"] == pytest.approx(read.Scalars("macs")[0].value))
        assert [e.value for e in read.Scalars("train/loss")] == pytest.approx([c["train/loss"] for c in run.curve])
        for name, value in run.figures.items():
            assert read.Scalars(name)[0].value == pytest.approx(value)


def test_mlflow_reads_it_back(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    (line,) = log_results(store, ["mlflow"])
    assert line == f"mlflow: mlflow ui --backend-store-uri {(tmp_path / 'mlruns').as_uri()}"
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("dyncomp")
    assert experiment is not None
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    for run in runs_of(store).runs:
        there = found.pop(run.name)
        assert there.data.params == {name: str(value) for name, value in run.parameters.items()}
        assert run.figures.items() <= there.data.metrics.items()
        losses = [one.value for one in client.get_metric_history(there.info.run_id, "train/loss")]
        assert losses == [figures["train/loss"] for figures in run.curve]
    (report,) = found.values()
    assert [file.path for file in client.list_artifacts(report.info.run_id)] == ["results.csv"]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_trackers_with_the_interface_of_wandb(name: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Any, ...]] = []
    library = SimpleNamespace(
        __spec__=object(),
        init=lambda **given: told.append(("init", given)),
        log=lambda figures, step: told.append(("log", figures, step)),
        finish=lambda: told.append(("finish",)),
    )
    monkeypatch.setitem(sys.modules, name, library)  # type: ignore[arg-type]
    monkeypatch.setenv(f"{name.upper()}_PROJECT", "mine")
    assert log_results(store, [name]) == [f"{name}: project mine"]
    for run in runs_of(store).runs:
        kind, given = told.pop(0)
        assert (kind, given["project"], given["name"]) == ("init", "mine", run.name)
        assert run.parameters.items() <= given["config"].items()
        sent = [told.pop(0) for _ in range(len(run.curve) + 1)]
        assert sent == [("log", figures, step) for step, figures in enumerate([*run.curve, run.figures])]
        assert told.pop(0) == ("finish",)
    assert told == []


@pytest.mark.slow
def test_wandb_offline(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log_results(store, ["wandb"])
    assert len(list((store.folder / "wandb").glob("offline-run-*/*.wandb"))) == len(runs_of(store).runs)


@pytest.mark.slow
def test_trackio_on_this_machine(store: Store, tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}  # read when it is imported
    command = [str(Path(sys.executable).parent / "dyncomp"), "report", str(store.folder), "--log", "trackio"]
    subprocess.run(command, env=environment, check=True)
    assert [path.name for path in (tmp_path / "trackio").glob("dyncomp*.db")] == ["dyncomp.db"]


class Mine(Reporter):
    """A reporter of a user."""

    requires: ClassVar[str] = "json"

    def write(self, runs: Runs) -> str:
        if not runs.folder.name.startswith("out"):
            raise ConnectionError("no\nnetwork")
        return f"{len(runs.runs)} runs"


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [EntryPoint("mine", f"{__name__}:Mine", "dyncomp.reporters"), EntryPoint("lost", "nowhere:Lost", "")]
    monkeypatch.setattr(sending, "entry_points", lambda group: found)


@pytest.mark.usefixtures("mine")
def test_a_reporter_of_another_package_is_found(store: Store, tmp_path: Path) -> None:
    assert log_results(store, ["mine"]) == ["mine: 3 runs"]
    with pytest.raises(BrokenPlugin, match=r"reporter lost \(nowhere:Lost\): ModuleNotFoundError"):
        check_reporters(["lost"])
    other = make_store(tmp_path / "other")
    with pytest.raises(OutputError) as caught:
        log_results(other, ["mine"])
    said = f"`dyncomp report {other.folder} --log mine` sends them"
    assert str(caught.value) == f"mine: ConnectionError: no network; the results are in {other.folder}, and {said}"


@pytest.mark.parametrize("name", OWN)
def test_a_library_that_is_not_installed_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "find_spec", lambda module: None)
    with pytest.raises(InvalidValue) as caught:
        check_reporters([name])
    assert str(caught.value) == f"log={name!r}: {name} is not installed; pip install 'dyncomp[{name}]'"


def test_an_unknown_reporter_is_told() -> None:
    with pytest.raises(UnknownName, match=r"unknown reporter 'tensorbord': did you mean tensorboard\?"):
        check_reporters(["mlflow", "tensorbord"])
