"""The static ladder of every registered backbone; a new one is tested without a line here."""

from __future__ import annotations

from pathlib import Path

import pytest

from dyncomp.bench.controls import RUNGS, controls_of
from dyncomp.bench.plan import make_plan
from dyncomp.core import Backbone, BackboneFamily, Method
from dyncomp.core.outline import outlined
from dyncomp.errors import CannotAttach
from dyncomp.methods.ladder import cost_of
from dyncomp.registry import BACKBONES
from dyncomp.spec import spec_of
from tests.jobs import config
from tests.registered import marks_of

ENOUGH = 5
CLASSES = 10
SPECS = sorted(
    {spec for e in BACKBONES.entries() for spec in (spec_of(e.load()()), *getattr(e.load(), "examples", ()))}
)
SIZES = (28, *(pytest.param(size, marks=pytest.mark.slow) for size in (16, 32, 224)))
WITHOUT_SCALE = """
from dataclasses import dataclass
from dyncomp import register_backbone
from dyncomp.backbones.cifar_resnet import CifarResNet
from dyncomp.core import Backbone, BackboneFamily, Method

@register_backbone("rigid")
@dataclass(frozen=True)
class Rigid(BackboneFamily):
    "A backbone of a test, of one size."

    def build(self, classes, in_channels, image_size):
        return CifarResNet(depth=8).build(classes, in_channels, image_size)
"""


def ladders(family: BackboneFamily, size: int) -> dict[str, list[float]]:
    """By budget the rungs of a family, by their cost as a share of its own; those that are the same network are one."""
    shape = (3, size, size)
    wanted = {budget: list(controls_of((), budget)) for budget in RUNGS}
    costs: dict[Method, float] = {}
    with outlined():
        backbone = family.make(CLASSES, *shape[:2])
        for method in {method for methods in wanted.values() for method in methods}:
            try:
                rung = method.build(lambda: backbone)
            except CannotAttach:
                continue
            assert isinstance(rung, Backbone)
            assert rung.family is not None
            costs[method] = cost_of(rung.family, CLASSES, shape) / cost_of(family, CLASSES, shape)
    return {budget: sorted({costs[one] for one in methods if one in costs}) for budget, methods in wanted.items()}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "spec", [pytest.param(spec, marks=[pytest.mark.slow] if spec == "msdnet" else marks_of("", spec)) for spec in SPECS]
)
def test_every_family_has_five_rungs_in_every_budget(spec: str, size: int) -> None:
    family = BACKBONES.create(spec)
    for found in ladders(family, size).values():
        if not (family.scaled("width") or family.scaled("depth")):
            assert found == []
            continue
        assert len(found) >= ENOUGH
        assert found[0] == pytest.approx(0.25, rel=0.2)
        assert found[-1] == pytest.approx(1.5, rel=0.2)
        assert 1 not in found


def test_a_family_without_a_scale_has_no_rungs_and_runs(tmp_path: Path) -> None:
    (tmp_path / "rigid.py").write_text(WITHOUT_SCALE)
    plan = make_plan(config("unused", "static", controls="auto", backbone="rigid", include_path=tmp_path / "rigid.py"))
    assert [spec_of(cell.method) for cell in plan.cells] == ["static"]
    assert [one.method for one in plan.left_out] == ["ladder"]  # which is told
    assert not any(ladders(plan.cells[0].group.backbone, 28).values())
