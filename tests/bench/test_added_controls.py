"""The controls that a run adds by itself: for whom, which rungs, and where there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dyncomp
from dyncomp.bench.controls import LEAST_RUNGS, controls_of
from dyncomp.bench.events import Planned
from dyncomp.bench.group import Cell
from dyncomp.bench.plan import Plan, make_plan
from dyncomp.registry import METHODS
from dyncomp.spec import spec_of
from dyncomp.train import save_checkpoint
from tests.jobs import Listening, config, plugin

RUNGS = ["ladder(macs=0.25)", "ladder(macs=0.4)", "ladder(macs=0.55)", "ladder(macs=0.75)"]
RUNGS += ["ladder(macs=1.25)", "ladder(macs=1.5)"]


def planned(methods: str, **more: Any) -> Plan:
    return make_plan(config("unused", methods, **{"controls": "auto", **more}))


def specs(methods: str, **more: Any) -> list[str]:
    return [spec_of(cell.method).replace('"', "'") for cell in planned(methods, **more).cells]


def macs(cell: Cell) -> int:
    costs = cell.group.build(cell.method).costs
    assert costs is not None
    return costs.full


def test_a_gated_method_has_both_controls_and_the_plain_backbone_its_rungs() -> None:
    plan = planned("skipnet,condconv")
    found = [spec_of(cell.method).replace('"', "'") for cell in plan.cells]
    assert found == ["static", "skipnet", "condconv", "fixed(of='skipnet')", "random(of='skipnet')", *RUNGS]
    assert plan.left_out == ()
    assert [cell.role for cell in plan.cells] == ["static", "method", "method", *["control"] * 8]
    assert [cell.method.control_of for cell in plan.cells[3:]] == ["skipnet"] * 2 + ["static"] * 6


def test_none_are_added_where_none_are_wanted() -> None:
    assert specs("skipnet", controls="none") == ["static", "skipnet"]


def test_what_is_named_is_there_once_and_controls_have_none() -> None:
    found = specs('fixed(of="skipnet"),skipnet,ladder(macs=0.4)')
    assert found == [
        "static",
        "fixed(of='skipnet')",
        "skipnet",
        RUNGS[1],
        "random(of='skipnet')",
        *RUNGS[:1],
        *RUNGS[2:],
    ]


def test_hyperparameters_go_with_the_control() -> None:
    found = specs("skipnet(target=[0.31, 0.62])")
    for name in ("fixed", "random"):
        assert [one for one in found if one.startswith(name)] == [
            f"{name}(of='skipnet(target={t})')" for t in (0.31, 0.62)
        ]


@pytest.mark.parametrize(
    ("backbone", "by_width", "by_depth"),
    [
        ("cifar_resnet20", 6, 3),
        ("vgg11(width=0.125)", 6, 0),
        pytest.param("mnasnet_a1(width=0.25)", 6, 0, marks=pytest.mark.slow),
    ],
)
def test_rungs_are_different_networks_as_the_family_has_them(backbone: str, by_width: int, by_depth: int) -> None:
    plan = planned("static", backbone=backbone)
    found = [spec_of(cell.method) for cell in plan.cells]
    assert sum("depth" in one for one in found) == by_depth
    assert len(found) == 1 + by_width + by_depth
    assert [one.method for one in plan.left_out] == ["ladder"] * (by_width + by_depth < LEAST_RUNGS)
    costs = [macs(cell) for cell in plan.cells]
    assert len(set(costs)) == len(costs)


def test_every_group_has_its_own() -> None:
    groups = planned("skipnet", backbone="cifar_resnet8,cifar_resnet20", seeds="0,1").groups
    assert [len(group) for group in groups] == [10, 10, 13, 13]
    assert len({cell.key for group in groups for cell in group}) == 46


def test_a_control_begins_with_the_cell_of_its_method() -> None:
    by_spec = {spec_of(cell.method): cell for cell in planned("skipnet").cells}
    for name in ("fixed", "random"):
        assert by_spec[f'{name}(of="skipnet")'].sources["method"].key == by_spec["skipnet"].key


def test_controls_of_no_controls() -> None:
    methods = [METHODS.create(spec) for spec in ("static", "skipnet", "fixed", "ladder")]
    gates = [spec_of(one) for one in controls_of(methods, "3") if not spec_of(one).startswith("ladder")]
    assert gates == [f'{name}(of="{of}")' for of in ("static", "skipnet") for name in ("fixed", "random")]


def test_with_a_given_plain_backbone_there_are_controls_too(tmp_path: Path) -> None:
    (static,) = make_plan(config("unused", "static")).cells
    splits, path = static.group.splits, tmp_path / "plain.safetensors"
    shape = {name: getattr(splits, name) for name in ("classes", "in_channels", "image_size")}
    save_checkpoint(static.group.build(static.method), path, {"identity": static.identity, **shape})
    found = planned("skipnet", init=path).cells
    assert [spec_of(cell.method) for cell in found][:4] == [
        "static",
        "skipnet",
        *(f'{n}(of="skipnet")' for n in ("fixed", "random")),
    ]
    assert set(found[2].sources) == {"method"}


def test_a_method_that_cannot_be_built_has_no_controls(tmp_path: Path) -> None:
    broken = plugin(tmp_path / "broken.py", "broken", "def build(self, new):\n    return new().no_such_thing")
    assert specs("broken", include_path=broken) == ["static", "broken", *RUNGS]


def test_from_python_they_can_be_left_out() -> None:
    with pytest.raises(dyncomp.errors.InvalidValue, match="controls='some': give auto or none"):
        config("unused", controls="some")


@pytest.mark.usefixtures("no_report")
def test_rungs_are_timed_and_fixed_and_random_routes_are_not(tmp_path: Path) -> None:
    found = specs("static", budget="quick")
    assert found == ["static", *RUNGS[:4], RUNGS[5]]
    outcome = Listening().run(config(tmp_path / "out", "skipnet", controls="auto"))
    assert outcome is not None and not outcome.failed
    records = {record["spec"]: record for record in outcome.store.cells() if record["role"] != "source"}
    controls = [record for record in records.values() if record["role"] == "control"]
    assert len(controls) == 8
    assert all(record["warnings"] == [] for record in controls)  # a rule decides as it is told
    timed = {key for timing in outcome.store.timings() for key in timing["cells"]}
    rungs = {record["key"] for spec, record in records.items() if spec.startswith("ladder")}
    assert timed == {records["static"]["key"], records["skipnet"]["key"]} | rungs
    assert all(("operators" in record) == (record["role"] != "control") for record in records.values())
    for record in controls:
        outcome.store.checkpoint_path(record["key"]).unlink()
    again = Listening()
    again.run(config(tmp_path / "out", "skipnet", controls="auto", dry_run=True))
    (event,) = again.events
    assert isinstance(event, Planned)
    assert len(event.plan.cells) - event.finished == len(rungs) == 6  # to be timed, rungs need their weights
