"""The command line's surface, frozen; what is quick stays quick; how a run ends."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from dyncomp.bench import Config, Outcome, runner
from dyncomp.cli import benchmark_main, dyncomp_main, main
from dyncomp.cli.benchmark import benchmark
from dyncomp.cli.compare import compare
from dyncomp.cli.export import export
from dyncomp.cli.others import env, list_, report
from dyncomp.cli.profile import profile
from dyncomp.cli.validate import validate
from dyncomp.store import Store
from tests.records import make_store

OPTIONS: dict[Callable[..., None], set[str]] = {
    benchmark: {
        *("--methods", "--backbone", "--dataset", "--budget", "--seeds", "--seed", "--batch-sizes", "--batch-size"),
        *("--device", "--data-dir", "--output", "--init", "--controls", "--config", "--include-path", "--jobs"),
        *("--latency-width", "--latency-seconds", "--compile", "--no-compile", "--log"),
        *(
            "--fast",
            "--no-fast",
            "--force",
            "--no-force",
            "--strict-macs",
            "--no-strict-macs",
            "--dry-run",
            "--no-dry-run",
        ),
    },
    list_: {"--json", "--include-path", "what"},
    profile: {
        *("checkpoint", "--model", "--input", "--batch-sizes", "--batch-size", "--device", "--data-dir"),
        *("--include-path", "--json", "--fast", "--no-fast"),
    },
    report: {"folders", "--output", "--log", "--results-format"},
    compare: {"before", "after", "--fail-on", "--html"},
    validate: {"target", "--backbone", "--include-path"},
    export: {"checkpoint", "--format", "--routed", "--dense", "--output", "--include-path"},
    env: set(),
}


@pytest.mark.parametrize("verb", OPTIONS, ids=lambda verb: verb.__name__)
def test_options_are_frozen(verb: Callable[..., None]) -> None:
    app = typer.Typer(add_completion=False)
    app.command()(verb)
    parameters = get_command(app).params
    assert {name for p in parameters for name in (*p.opts, *p.secondary_opts)} - {"--help"} == OPTIONS[verb]


def test_every_option_of_a_config_can_be_given() -> None:
    given = set(inspect.signature(benchmark).parameters)
    assert given == {*inspect.signature(Config).parameters, "config"} - {"recipe"}  # a table of a config file's


def called(monkeypatch: pytest.MonkeyPatch, entry: Callable[[], None], *arguments: str) -> Any:
    """The exit status of a console script."""
    monkeypatch.setattr(sys, "argv", ["x", *arguments])
    with pytest.raises(SystemExit) as caught:
        entry()
    return caught.value.code


def test_verbs_are_frozen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert not called(monkeypatch, dyncomp_main)
    shown = capsys.readouterr().out
    assert all(f" {verb} " in shown for verb in ("benchmark", "list", "profile", "report", "validate", "export", "env"))


LIGHT = [
    ("benchmark_main", ["--help"], "--methods"),
    ("dyncomp_main", ["validate", "--help"], "TARGET"),
    ("dyncomp_main", ["profile", "--help"], "CHECKPOINT"),
    ("dyncomp_main", ["list"], "skipnet"),
    ("dyncomp_main", ["list", "methods", "--json"], "arXiv:1711.09485"),
]


@pytest.mark.parametrize(("entry", "arguments", "words"), LIGHT, ids=str)
def test_help_and_list_import_nothing_slow(entry: str, arguments: list[str], words: str) -> None:
    script = f"""
import sys
from dyncomp.cli import {entry}
sys.argv = ["x", *{arguments!r}]
try:
    {entry}()
except SystemExit as error:
    assert not error.code
    slow = {{"torch", "torchvision", "numpy", "pandas", "scipy", "matplotlib", "sklearn", "pyarrow"}}
    assert not slow & set(sys.modules), slow & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout


def test_list_as_json_is_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert not called(monkeypatch, dyncomp_main, "list", "--json")
    shown = json.loads(capsys.readouterr().out)
    assert set(shown) == {"methods", "backbones", "datasets"}
    assert {"condconv", "skipnet", "static"} <= {row["name"] for row in shown["methods"]}


def test_env_says_the_versions(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert not called(monkeypatch, dyncomp_main, "env")
    assert "torch: " in capsys.readouterr().out


def test_report_writes_the_page_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path / "out")
    monkeypatch.setattr("dyncomp.report.write_report", lambda found: [found.folder / "report.html"])
    assert not called(monkeypatch, dyncomp_main, "report", str(store.folder))
    assert capsys.readouterr().out == f"{store.folder / 'report.html'}\n"


def test_several_folders_have_a_report_in_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(make_store(tmp_path / name).folder) for name in ("one", "other")]
    monkeypatch.setattr("dyncomp.report.write_report", lambda found: [found.folder / "report.html"])
    assert called(monkeypatch, dyncomp_main, "report", *folders) == 2
    said = "error: 2 folders are given; give --output, a new folder for their common report\n"
    assert capsys.readouterr().err == said
    assert not called(monkeypatch, dyncomp_main, "report", *folders, "--output", str(tmp_path / "both"))
    assert capsys.readouterr().out == f"{tmp_path / 'both' / 'report.html'}\n"
    assert Store.open(tmp_path / "both").cells() == Store.open(tmp_path / "one").cells()


@pytest.fixture
def run_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, list[Config]]]:
    """Calls `benchmark` with the main job replaced; gives the exit status, and the configs it got."""

    def calling(answer: Callable[[Config], Outcome | None], *arguments: str) -> tuple[Any, list[Config]]:
        configs: list[Config] = []

        def run(config: Config, tell: object) -> Outcome | None:
            configs.append(config)
            return answer(config)

        monkeypatch.setattr(runner, "run", run)
        return called(monkeypatch, benchmark_main, *arguments), configs

    return calling


Calling = Callable[..., tuple[Any, list[Config]]]


def test_command_line_goes_before_file_before_default(run_with: Calling, tmp_path: Path) -> None:
    file = tmp_path / "suite.toml"
    file.write_text("methods = 'condconv'\nbudget = 5\nseeds = [1, 2]\nforce = true\ndry-run = true\n")
    options = ("--config", str(file), "--budget", "7", "--batch-size", "4", "--no-force", "--include-path")
    (plugin := tmp_path / "a.py").write_text(PLUGIN)
    status, (config,) = run_with(lambda config: None, *options, str(plugin), "--include-path", str(plugin))
    assert not status
    assert config == Config(
        methods="condconv",
        budget="7",
        seeds=(1, 2),
        batch_sizes=(4,),
        force=False,
        dry_run=True,
        include_path=(str(plugin),),
    )


PLUGIN = """
from dataclasses import dataclass
from dyncomp import Method, register_method

@register_method("surface_test")
@dataclass(frozen=True)
class Surface(Method):
    "A method of a test."

    def build(self, new):
        return new()
"""


@pytest.mark.parametrize(("failed", "status"), [((), 0), (("a cell",), 1)])
def test_exit_status_says_whether_a_cell_failed(
    failed: tuple[Any, ...],
    status: int,
    run_with: Calling,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = make_store(tmp_path / "out")  # holds a failed cell of an earlier run
    found, _ = run_with(lambda config: Outcome(store, failed), "--methods", "static")
    assert found == status
    out = capsys.readouterr().out
    assert "skipnet" in out
    assert "report.html" in out


def interrupted(config: Config) -> None:
    raise KeyboardInterrupt


def test_an_interruption_is_status_130(run_with: Calling, capsys: pytest.CaptureFixture[str]) -> None:
    status, _ = run_with(interrupted, "--methods", "static")
    assert status == 130
    assert capsys.readouterr().err.splitlines() == [
        "interrupted; finished cells are kept, the same command goes on from there"
    ]


def warns(config: Config) -> None:
    warnings.warn("first line\n  second line", UserWarning, stacklevel=1)


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line(run_with: Calling, capsys: pytest.CaptureFixture[str]) -> None:
    before = warnings.showwarning
    assert not run_with(warns, "--methods", "static")[0]
    assert capsys.readouterr().err == "warning: first line second line\n"
    assert warnings.showwarning is before


@pytest.mark.filterwarnings("default")
def test_a_broken_plugin_in_a_folder_is_told_once(
    run_with: Calling, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good.py").write_text(PLUGIN.replace("surface_test", "surface_other"))
    (tmp_path / "bad.py").write_text("def (:\n")

    def plan_twice(config: Config) -> None:
        from dyncomp.bench import check_names

        check_names(config)

    status, _ = run_with(plan_twice, "--methods", "surface_other", "--include-path", str(tmp_path))
    assert not status
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("warning: plugin left out: ")
    assert "bad.py" in err


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(config: Config, tell: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(runner, "run", bug)
    monkeypatch.setattr(sys, "argv", ["x", "--methods", "static"])
    with pytest.raises(ZeroDivisionError):
        benchmark_main()


def test_usage_errors_are_recognised() -> None:
    assert main.UsageError.__name__ == "UsageError"
    assert issubclass(typer.BadParameter, main.UsageError)
