"""Cells that begin with other cells: who they are, what they spend, the order of the work, and what a failure does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import dyncomp
from dyncomp.bench import Outcome, runner
from dyncomp.bench.events import CellEnded, CellStarted
from dyncomp.bench.group import Cell
from dyncomp.bench.plan import make_plan
from dyncomp.bench.rebuild import cell_from, sources_of
from dyncomp.errors import CannotAttach, InvalidValue
from dyncomp.methods.distill import TEACHER
from dyncomp.spec import spec_of
from dyncomp.store import Store, cell_key
from tests.jobs import Listening, config, plugin

pytestmark = pytest.mark.usefixtures("no_report", "no_timing")
CPU = torch.device("cpu")


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Listening:
    """Jobs that end when all cells are trained."""
    monkeypatch.setattr(runner, "time_group", lambda *given: [])
    monkeypatch.setattr(runner, "add_resources", lambda *given: None)
    return Listening()


def cells_of(methods: str, **more: Any) -> list[Cell]:
    return make_plan(config("unused", methods, **more)).cells


def last(methods: str, **more: Any) -> Cell:
    return cells_of(methods, **more)[-1]


def test_a_cell_without_sources_has_none_in_its_identity() -> None:
    (static,) = cells_of("static")
    assert (static.sources, static.checkpoints, static.spent) == ({}, {}, 0.0)
    assert not {"sources", "checkpoints"} & set(static.identity)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_the_plain_backbone_is_a_cell_for_its_share_of_the_budget(share: float) -> None:
    static, fbs = cells_of(f"fbs(pretraining={share})", budget="2")
    (name, plain) = next(iter(fbs.sources.items()))
    assert (name, spec_of(plain.method), plain.role, plain.is_source) == ("plain", "static", "source", True)
    assert (plain.group.budget, plain.group.recipe.epochs) == (f"{2 * share:g}", 2 * share)
    assert plain.group.recipe.augment == static.group.recipe.augment  # the run's, not that of a shorter budget
    assert (plain.group.splits, plain.group.seed) == (fbs.group.splits, fbs.group.seed)
    assert fbs.spent == share
    assert plain.key != static.key
    assert fbs.identity["sources"] == {"plain": plain.key}
    assert "checkpoints" not in fbs.identity


def test_roles() -> None:
    cells = cells_of('static(norm="group"),fbs,fixed,ladder(macs=0.5)')
    roles = ["static", "method", "method", "control", "control"]
    assert [cell.role for cell in cells] == roles
    assert {source.role for cell in cells for source in cell.sources.values()} == {"source"}


def test_a_teacher_is_trained_for_the_whole_budget_and_not_counted() -> None:
    _, teacher, distill = cells_of('condconv,distill(teacher="condconv", student="fbs")')
    assert set(distill.sources) == {"plain", TEACHER}
    assert distill.sources[TEACHER].key == teacher.key  # one cell, compared or not
    assert distill.sources[TEACHER].role == "source"
    assert distill.spent == 0.5
    assert distill.identity["sources"] == {name: cell.key for name, cell in distill.sources.items()}


def test_a_control_begins_with_its_method_as_that_is_compared() -> None:
    _, fbs, fixed = cells_of("fbs,fixed(of=fbs)".replace("=fbs", '="fbs"'))
    assert fixed.sources["method"].key == fbs.key
    assert fixed.sources["plain"].key == fbs.sources["plain"].key
    assert fixed.spent == pytest.approx(0.8)
    assert fixed.method.control_of == "fbs"


@pytest.mark.parametrize("change", [{"budget": "0.7"}, {"seeds": "1"}, {"backbone": "cifar_resnet14"}])
def test_a_source_changes_with_what_its_cell_changes_with(change: dict[str, Any]) -> None:
    one, other = last("fbs"), last("fbs", **change)
    assert one.sources["plain"].key != other.sources["plain"].key
    assert one.identity["sources"] != other.identity["sources"]
    assert cell_key({**one.identity, "sources": {"plain": "another"}}) != one.key


def written(path: Path, cell: Cell) -> Path:
    """An untrained network of the cell's, as a checkpoint."""
    net = cell.group.build(cell.method)
    dyncomp.save(net, path)
    return path


def test_a_given_checkpoint_takes_the_place_of_a_cell_and_its_content_is_in_the_key(tmp_path: Path) -> None:
    keys = []
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for path, method in zip(paths, ("condconv", "condconv(experts=2)"), strict=False):
        written(path, last(method))
    paths[2].write_bytes(paths[0].read_bytes())
    for path in paths:
        cell = last(f'distill(checkpoint="{path}")')
        assert (cell.sources, cell.checkpoints, cell.spent) == ({}, {TEACHER: path}, 0.0)
        (hashed,) = cell.identity["checkpoints"].values()
        assert len(hashed) == 16
        keys.append(hashed)
        assert set(sources_of(cell, Store(tmp_path))) == {TEACHER}
    assert keys[0] == keys[2] != keys[1]


def test_a_checkpoint_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", last("condconv", dataset="digits(size=16)"))
    with pytest.raises(InvalidValue, match="image_size=16, not 8") as caught:
        last(f'distill(checkpoint="{path}")')
    assert "\n" not in str(caught.value)
    for name in ("absent.safetensors", "."):
        with pytest.raises(InvalidValue) as caught:
            last(f'distill(checkpoint="{tmp_path / name}")')
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("methods", ["static", "fbs", "distill", 'fixed(of="fbs")'])
@pytest.mark.parametrize("is_source", [False, True])
def test_a_cell_made_again_of_its_identity_is_the_same(methods: str, is_source: bool) -> None:
    cell = last(methods)
    again = cell_from(cell.identity, CPU, None, is_source=is_source)
    assert again.key == cell.key
    assert {name: one.key for name, one in again.sources.items()} == {n: o.key for n, o in cell.sources.items()}
    assert (again.role == "source") == is_source


def test_what_cannot_be_made_or_trained_of_a_source_is_said_before_anything_is_trained() -> None:
    with pytest.raises(CannotAttach, match="mobilenet_v1 has no residual block"):
        last('distill(teacher="skipnet")', backbone="mobilenet_v1(width=0.25)")
    with pytest.raises(InvalidValue, match=r"^snapshot_ensemble: stage 'cycle 1' has 0\.4 epochs") as caught:
        last("snapshot_ensemble", budget="2")
    assert "\n" not in str(caught.value)
    with pytest.raises(InvalidValue, match=r"^snapshot_ensemble: stage"):
        last('distill(teacher="snapshot_ensemble")', budget="2")
    assert last("snapshot_ensemble", budget="5").role == "method"


@pytest.mark.parametrize("jobs", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_cell_waits_for_those_that_it_begins_with(jobs: int, tmp_path: Path, job: Listening) -> None:
    outcome = job.run(config(tmp_path, 'fixed(of="fbs"),fbs', jobs=jobs))
    assert isinstance(outcome, Outcome)
    assert outcome.failed == ()
    ended: set[str] = set()
    for event in job.events:
        if isinstance(event, CellStarted):
            assert {source.key for source in event.cell.sources.values()} <= ended
        if isinstance(event, CellEnded):
            ended.add(event.cell.key)
    assert sorted(job.trained) == ["fbs", 'fixed(of="fbs")', "static", "static"]
    records = {(record["method"], record["role"]): record for record in outcome.store.cells()}
    assert set(records) == {("static", "static"), ("static", "source"), ("fbs", "method"), ("fixed", "control")}
    fixed, fbs = records["fixed", "control"], records["fbs", "method"]
    assert fixed["sources"] == {"plain": records["static", "source"]["key"], "method": fbs["key"]}
    assert (fixed["control_of"], fbs["control_of"]) == ("fbs", "")


LOSES = """
    def build(self, new):
        return new()

    def loss(self, output, labels):
        raise ValueError("lost")
"""


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_cell_fails_in_one_line_when_one_that_it_begins_with_has(jobs: int, tmp_path: Path, job: Listening) -> None:
    loose = plugin(tmp_path / "loses.py", "loses", LOSES)
    asked = config(tmp_path / "out", 'distill(teacher="loses"),condconv', include_path=loose, jobs=jobs)
    outcome = job.run(asked)
    assert outcome is not None
    assert sorted(str(cell.method) for cell in outcome.failed) == ['distill(teacher="loses")', "loses"]
    records = {record["method"]: record for record in outcome.store.cells()}
    assert records["loses"]["error"] == "ValueError: lost"
    assert records["distill"]["error"] == (
        "loses on cifar_resnet8, digits, seed 0, which it begins with, has failed; see the error of that cell"
    )
    assert records["condconv"]["status"] == records["static"]["status"] == "ok"


def test_a_source_that_is_compared_later_is_not_trained_again_and_changes_its_role(
    tmp_path: Path, job: Listening
) -> None:
    job.run(config(tmp_path, 'distill(teacher="condconv")'))
    assert job.trained == ["static", "condconv", 'distill(teacher="condconv")']
    roles = {record["method"]: record["role"] for record in Store.open(tmp_path).cells()}
    assert roles == {"static": "static", "condconv": "source", "distill": "method"}
    job.run(config(tmp_path, "condconv"))
    assert job.trained == []
    assert {record["method"]: record["role"] for record in Store.open(tmp_path).cells()} == {
        "static": "static",
        "condconv": "method",
        "distill": "method",
    }


def test_what_a_cell_began_with_is_trained_again_only_where_the_cell_is(tmp_path: Path, job: Listening) -> None:
    asked = config(tmp_path, "fbs")
    job.run(asked)
    store = Store.open(tmp_path)
    by_role = {record["role"]: record["key"] for record in store.cells()}
    store.checkpoint_path(by_role["source"]).unlink()
    job.run(asked)
    assert job.trained == []
    store.checkpoint_path(by_role["method"]).unlink()
    job.run(asked)
    assert job.trained == ["static", "fbs"]
