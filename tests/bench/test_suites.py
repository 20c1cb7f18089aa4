"""The suites in benchmarks/suites: every one is a plan, and the papers' settings run on files of CIFAR's format."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from dyncomp.bench import Config, check_names, read_config, run
from dyncomp.bench.names import specs_in
from dyncomp.bench.plan import make_plan
from dyncomp.data.cifar import Cifar10, Cifar100
from dyncomp.errors import InvalidValue, UnknownName
from dyncomp.registry import BACKBONES, DATASETS, METHODS
from dyncomp.spec import spec_of
from dyncomp.train import Recipe
from tests.cifar import write_archive

FOLDER = Path(__file__).parents[2] / "benchmarks/suites"
SUITES = sorted(FOLDER.glob("*.toml"))
WANTED = {"frontier", "condconv-mobilenet", "skipnet-cifar10", "dynconv-cifar10", "msdnet-cifar100", "condconv-cifar10"}


def config_of(file: Path, **more: object) -> Config:
    return Config(**{**read_config(file), **more})  # type: ignore[arg-type]


def test_all_are_there() -> None:
    assert {file.stem for file in SUITES} >= WANTED | {"shapes"}


@pytest.mark.parametrize("file", SUITES, ids=lambda file: file.stem)
def test_every_name_and_value_holds(file: Path) -> None:
    config = config_of(file)
    check_names(config)
    for registry, text in ((METHODS, config.methods), (BACKBONES, config.backbone), (DATASETS, config.dataset)):
        assert [registry.create(spec) for spec in specs_in(registry, text)]
    recipe = replace(Recipe.tuned(10), **config.recipe)
    assert all(getattr(recipe, name) == value for name, value in config.recipe.items())
    assert config.output.startswith("reports/")
    assert f"benchmark --config benchmarks/suites/{file.name}" in file.read_text(encoding="utf-8")


LONG = ("condconv-cifar10", "msdnet-cifar100")
"""suites a few steps of which take long; their methods are trained on other data by other tests"""


@pytest.mark.usefixtures("no_report", "no_timing")
@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, marks=[pytest.mark.slow] if file.stem in LONG else [], id=file.stem)
        for file in SUITES
        if "cifar" in file.stem
    ],
)
def test_the_papers_settings_run(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps of the suite's first method on a small backbone of the same kind, on files of the same format."""
    kind, classes, key = (Cifar100, 20, "fine_labels") if "100" in file.stem else (Cifar10, 10, "labels")
    write_archive(kind, tmp_path / "data", monkeypatch, 80, classes, key)
    suite = config_of(file)
    method = str(specs_in(METHODS, suite.methods)[0])
    small = "msdnet(blocks=2, base=2, step=1)" if "msdnet" in file.stem else "cifar_resnet8"
    given = {"methods": method, "backbone": small, "seeds": 0, "budget": 2, "controls": "none", "jobs": 1}
    given |= {"data_dir": tmp_path / "data", "output": tmp_path / "out", "batch_sizes": 4}
    outcome = run(config_of(file, **given, recipe={**suite.recipe, "batch_size": 32}))
    assert outcome is not None and not outcome.failed
    records = [record for record in outcome.store.cells() if record["role"] == "method"]
    assert [record["spec"] for record in records] == [spec_of(METHODS.create(method))]
    assert records[0]["identity"]["recipe"]["weight_decay"] == suite.recipe["weight_decay"]


@pytest.mark.slow
@pytest.mark.parametrize("file", [file for file in SUITES if "cifar" in file.stem], ids=lambda file: file.stem)
def test_the_whole_suite_is_a_plan(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, classes, key = (Cifar100, 20, "fine_labels") if "100" in file.stem else (Cifar10, 10, "labels")
    write_archive(kind, tmp_path / "data", monkeypatch, 80, classes, key)
    plan = make_plan(config_of(file, data_dir=tmp_path / "data", seeds=0))
    assert not plan.left_out
    assert {cell.role for cell in plan.cells} >= {"static", "method", "control"}


def test_a_recipe_is_checked() -> None:
    with pytest.raises(UnknownName, match=r"learning_rat.*learning_rate"):
        Config(methods="static", recipe={"learning_rat": 0.1})
    with pytest.raises(InvalidValue, match="recipe='fast': give a table"):
        Config(methods="static", recipe="fast")
    for wrong in ({"learning_rate": "high"}, {"momentum": 2.0}, {"milestones": (0.7, 0.3)}, {"batch_size": 0}):
        with pytest.raises(InvalidValue, match="recipe: ") as caught:
            make_plan(Config(methods="static", recipe=wrong, controls="none"))
        assert "\n" not in str(caught.value)


def test_the_config_names_the_recipes_own_hyperparameters() -> None:
    from dyncomp.bench.config import RECIPE

    assert set(RECIPE) == {field.name for field in fields(Recipe)} - {"epochs"}
