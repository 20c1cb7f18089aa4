"""The plan: which cells there are, in which order, under which keys, and what stops it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dyncomp import include_path
from dyncomp._checkpoint import find_device
from dyncomp.bench import Config, plan
from dyncomp.bench.group import Cell
from dyncomp.bench.names import CONTROLS
from dyncomp.bench.plan import make_plan
from dyncomp.errors import CannotAttach, DeviceNotAvailable, DyncompError, InvalidValue, UnknownName
from dyncomp.registry import METHODS
from dyncomp.spec import spec_of
from dyncomp.store import cell_key
from dyncomp.train import read_facts, save_checkpoint
from tests.jobs import PLAIN, config, plugin


def cells_of(methods: str = "static", **more: Any) -> list[Cell]:
    return make_plan(config("unused", methods, **more)).cells


def specs(methods: str, **more: Any) -> list[str]:
    return [spec_of(cell.method) for cell in cells_of(methods, **more)]


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        ("static", ["static"]),
        ("condconv", ["static", "condconv"]),
        ("condconv,static", ["static", "condconv"]),
        ("static,condconv,static", ["static", "condconv"]),
        ("condconv,condconv", ["static", "condconv"]),
        ("condconv(experts=8),condconv", ["static", "condconv"]),  # 8 is the default
        ('static(norm="batch"),condconv', ["static", "condconv"]),
        ('static(norm="group")', ["static", "static(norm='group')"]),
        ("skipnet(target=[0.31, 0.62])", ["static", "skipnet(target=0.31)", "skipnet(target=0.62)"]),
        (
            "condconv(experts=[2, 3], begin=[1, 2])",
            ["static", *[f"condconv(experts={k}, begin={b})" for k in (2, 3) for b in (1, 2)]],
        ),
    ],
)
def test_static_comes_first_and_once_and_lists_sweep(methods: str, expected: list[str]) -> None:
    assert [text.replace('"', "'") for text in specs(methods)] == expected


@pytest.mark.parametrize(
    ("methods", "more", "repeated"),
    [
        ("static,condconv,all,skipnet(target=[0.31,0.41])", {}, ()),
        ("condconv,skipnet,condconv(experts=8)", {}, ("condconv",)),
        ("static,condconv(experts=[2,2])", {"seeds": (0, 1)}, ("condconv(experts=2)",)),
        ("static,static", {"backbone": "cifar_resnet8,cifar_resnet8(width=1.0)"}, ("static", "cifar_resnet8")),
        ("static", {"dataset": "digits,digits"}, ("digits",)),
    ],
)
def test_what_is_given_more_than_once_is_said(methods: str, more: dict[str, Any], repeated: tuple[str, ...]) -> None:
    assert make_plan(config("unused", methods, **more)).repeated == repeated


@pytest.mark.parametrize("methods", ["all", " all ", "all,static", "static, all", "all,all"])
def test_all_means_every_method(methods: str) -> None:
    made = make_plan(config("unused", methods))
    found = [spec_of(cell.method) for cell in made.cells]
    assert found[0] == "static"
    assert {"static", "condconv", "skipnet"} <= set(found)
    every = [name for name in METHODS.names() if name not in CONTROLS]
    assert sorted([*found, *(one.method for one in made.left_out)]) == every


def test_all_may_stand_among_others() -> None:
    found = specs("skipnet(target=0.41),all,condconv(experts=3)")
    assert found[:2] == ["static", "skipnet(target=0.41)"]
    assert found[-1] == "condconv(experts=3)"
    assert {"skipnet", "condconv"} < set(found)


def test_all_leaves_out_what_finds_no_place_and_says_why() -> None:
    made = make_plan(config("unused", "all", backbone="mobilenet_v1(width=0.25),cifar_resnet8", seeds="0,1"))
    by_backbone = {
        name: [spec_of(cell.method) for group in made.groups for cell in group if spec_of(cell.group.backbone) == name]
        for name in ("mobilenet_v1(width=0.25)", "cifar_resnet8")
    }
    assert "skipnet" not in by_backbone["mobilenet_v1(width=0.25)"]
    assert by_backbone["cifar_resnet8"].count("skipnet") == 2  # a seed each
    words = "skipnet on mobilenet_v1(width=0.25): mobilenet_v1 has no residual block"
    assert len([one for one in made.left_out if str(one).startswith(words)]) == 1  # not one for each seed
    assert all("\n" not in str(one) for one in made.left_out)


@pytest.mark.parametrize("methods", ["all,skipnet", "skipnet,all", "all,skipnet(target=0.41)"])
def test_what_is_named_beside_all_must_find_its_place(methods: str) -> None:
    with pytest.raises(CannotAttach, match="mobilenet_v1 has no residual block"):
        make_plan(config("unused", methods, backbone="mobilenet_v1(width=0.25)"))


def test_all_takes_no_hyperparameters() -> None:
    with pytest.raises(UnknownName, match="unknown method 'all'"):
        make_plan(config("unused", "all(target=0.4)"))


def test_groups_are_data_set_by_backbone_by_seed() -> None:
    found = make_plan(
        config("unused", "condconv", backbone="cifar_resnet8,cifar_resnet14,cifar-resnet8", seeds="0,1")
    ).groups
    heads = [(spec_of(g[0].group.backbone), g[0].group.seed) for g in found]
    assert heads == [(name, seed) for name in ("cifar_resnet8", "cifar_resnet14") for seed in (0, 1)]
    assert all([spec_of(cell.method) for cell in group] == ["static", "condconv"] for group in found)
    assert [cell.role for group in found for cell in group] == ["static", "method"] * 4
    assert len({cell.key for group in found for cell in group}) == 8


def test_data_are_loaded_once_for_all_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(plan, "load", lambda dataset, folder, seed: loaded.append(seed) or REAL(dataset, folder, seed))
    cells_of(backbone="cifar_resnet8,cifar_resnet14", seeds="0,1")
    assert loaded == [0, 1]


REAL = plan.load


def test_backbone_and_epochs_are_the_data_sets_own() -> None:
    (cell,) = make_plan(Config(methods="static", controls="none")).cells
    dataset = cell.group.dataset
    assert spec_of(cell.group.backbone) == dataset.default_backbone
    assert cell.group.recipe.epochs == dataset.quick_epochs
    (longer,) = make_plan(Config(methods="static", controls="none", budget="standard")).cells
    assert longer.group.recipe.epochs == dataset.standard_epochs


def key(methods: str = "condconv(experts=4, begin=2)", **more: Any) -> str:
    return cells_of(methods, **more)[-1].key


@pytest.mark.parametrize(
    "change",
    [
        {"methods": "condconv(begin=2, experts=4)"},
        {"methods": "condconv( experts = 4,begin=2 )"},
        {"methods": "skipnet,condconv(experts=4, begin=2)"},
        {"methods": 'condconv(experts=4, begin=2, routing="sigmoid")'},  # a default, spelled out
        {"batch_sizes": "1,2,3"},
        {"data_dir": "."},
        {"force": True},
        {"budget": 0.50},
        {"device": "auto" if not torch.cuda.is_available() else "cpu"},
        {"backbone": "cifar-resnet8"},
        {"backbone": "cifar_resnet14,cifar_resnet8"},
        {"seeds": "1,0"},
    ],
)
def test_key_stays_when_nothing_that_matters_changes(change: dict[str, Any]) -> None:
    assert key(**change) == key()


@pytest.mark.parametrize(
    "change",
    [
        {"methods": "condconv(experts=5, begin=2)"},
        {"methods": "condconv(experts=4)"},
        {"methods": "skipnet"},
        {"seeds": "1"},
        {"budget": "0.3"},
        {"backbone": "cifar_resnet14"},
        {"backbone": 'cifar_resnet8(shortcut="pad")'},
        {"dataset": "digits(size=16)"},
    ],
)
def test_key_changes_with_each_ingredient(change: dict[str, Any]) -> None:
    assert key(**change) != key()


@pytest.mark.parametrize("part", ["recipe", "device", "version", "source", "budget", "seed", "dataset"])
def test_key_is_of_the_whole_identity_in_any_order(part: str) -> None:
    identity = cells_of()[0].identity
    assert cell_key(dict(reversed(identity.items()))) == cell_key(identity)
    assert cell_key({**identity, part: "another"}) != cell_key(identity)


def test_key_changes_with_the_methods_file(tmp_path: Path) -> None:
    path = tmp_path / "loose.py"
    keys, statics = [], []
    for mark in ("first", "second", "first"):
        plugin(path, "loose", PLAIN, mark)
        include_path(path)
        static, loose = cells_of("loose")
        keys.append(loose.key)
        statics.append(static.key)
    assert keys[0] == keys[2] != keys[1]
    assert len(set(statics)) == 1


BACKBONE = """
from dataclasses import dataclass
from dyncomp import register_backbone
from dyncomp.backbones.cifar_resnet import CifarResNet
from dyncomp.core import Backbone, BackboneFamily

MARK = "{mark}"
@register_backbone("mine")
@dataclass(frozen=True)
class Mine(BackboneFamily):
    "A backbone of a test."

    def build(self, classes, in_channels, image_size):
        return CifarResNet(depth=8).build(classes, in_channels, image_size)
"""


def test_key_changes_with_the_backbones_file(tmp_path: Path) -> None:
    keys = []
    for mark in ("first", "second"):
        (tmp_path / "mine.py").write_text(BACKBONE.format(mark=mark))
        keys.append(key(backbone="mine", include_path=tmp_path / "mine.py"))
    assert keys[0] != keys[1]


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "meta", "", "CPU "])
def test_a_device_that_is_not_there_is_one_line(name: str) -> None:
    with pytest.raises(DeviceNotAvailable, match="give one of: auto, cpu") as caught:
        find_device(name)
    assert "\n" not in str(caught.value)


def test_auto_is_what_the_machine_has() -> None:
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has one")
def test_cuda_without_one() -> None:
    with pytest.raises(DeviceNotAvailable, match="'cuda' is not available on this machine"):
        find_device("cuda")


def test_a_method_that_finds_no_place_stops_the_plan() -> None:
    with pytest.raises(CannotAttach, match="mobilenet_v1 has no residual block"):
        cells_of("skipnet", backbone="mobilenet_v1")


def test_a_methods_own_fault_does_not_stop_the_plan(tmp_path: Path) -> None:
    broken = plugin(tmp_path / "broken.py", "broken", "def build(self, new):\n    return new().no_such_thing")
    assert specs("broken,condconv", include_path=broken) == ["static", "broken", "condconv"]


def test_including_twice_changes_nothing(tmp_path: Path) -> None:
    path = plugin(tmp_path / "loose.py", "loose", PLAIN)
    first = [cell.key for cell in cells_of("loose", include_path=[path])]
    assert first == [cell.key for cell in cells_of("loose", include_path=[path, tmp_path])]


def test_static_macs_are_the_plain_backbones() -> None:
    static, condconv = cells_of("condconv")
    net = static.group.build(static.method)
    assert net.costs is not None
    assert condconv.group.static_macs == net.costs.full


@pytest.mark.parametrize("budget", ["0.07", "1000000"])
def test_any_budget_can_be_planned(budget: str) -> None:
    assert isinstance(cells_of(budget=budget)[0], Cell)


def checkpoint(path: Path, methods: str = "static", mark: str = "", **more: Any) -> Path:
    """What a run would write for the last cell of such a plan."""
    cell = cells_of(methods, **more)[-1]
    splits = cell.group.splits
    shape = {name: getattr(splits, name) for name in ("classes", "in_channels", "image_size")}
    save_checkpoint(cell.group.build(cell.method), path, {"identity": cell.identity, **shape, "mark": mark})
    return path


def test_init_is_in_every_group_and_its_content_in_every_key(tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path / f"{name}.safetensors", mark=mark) for name, mark in (("a", ""), ("b", "other"))]
    paths.append(tmp_path / "copy.safetensors")
    paths[-1].write_bytes(paths[0].read_bytes())
    plans = [cells_of("skipnet", init=path, seeds="0,1") for path in paths]
    for path, cells in zip(paths, plans, strict=True):
        assert {cell.group.init for cell in cells} == {path}
        assert all(cell.checkpoints == {"plain": path} for cell in cells)
    plain, first, other, copied = ([cell.key for cell in cells] for cells in (cells_of("skipnet", seeds="0,1"), *plans))
    assert first == copied
    assert len({*plain, *first, *other}) == 3 * 4
    assert [cell.group.init for cell in cells_of("skipnet")] == [None, None]
    assert "checkpoints" not in cells_of("skipnet")[0].identity  # cells without one keep their keys


def test_what_cannot_begin_with_the_trained_weights_does_not_stand_beside_what_does(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.safetensors")
    planned = make_plan(config("unused", "all", init=path))
    without = {one.method for one in planned.left_out if "cannot begin with a trained plain backbone: " in one.reason}
    assert without == {"condconv", "dynamic_conv", "conditional_network"}
    for named in ("condconv", "ladder"):
        with pytest.raises(CannotAttach, match=f"^{named}.* tensors, such as .*; leave it out, or do") as caught:
            cells_of(named, init=path)
        assert "\n" not in str(caught.value)
    with_controls = make_plan(config("unused", "static", init=path, controls="auto"))
    assert [one.method for one in with_controls.left_out] == ["ladder"]  # and not one line for each rung
    assert len(with_controls.cells) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"class_names": [*"abcdefghij"]}, "class 0 is 'a', not '0'"),
        ({"nan": True}, "holds values that are no finite numbers"),
        ({"without": True}, "holds the weights of another network"),
    ],
)
@pytest.mark.parametrize("role", ["init", "teacher"])
def test_a_checkpoint_that_would_fail_later_is_refused_before(
    change: dict[str, Any], words: str, role: str, tmp_path: Path
) -> None:
    path = checkpoint(tmp_path / "a.safetensors")
    tensors, facts = load_file(path), read_facts(path)
    first = next(name for name in sorted(tensors) if name.endswith("weight"))
    if "nan" in change:
        tensors[first] = tensors[first] * float("nan")
    if "without" in change:
        del tensors[first]
    facts |= {name: value for name, value in change.items() if name == "class_names"}
    save_file(tensors, path, {"dyncomp": json.dumps(facts), "dyncomp_format": "2"})
    given = {"methods": "skipnet", "init": path} if role == "init" else {"methods": f'distill(checkpoint="{path}")'}
    with pytest.raises(InvalidValue, match=words) as caught:
        cells_of(**given)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"methods": "condconv"}, r"method=condconv\(.*\), not static"),
        ({"backbone": "cifar_resnet14"}, r"backbone=cifar_resnet14.*, not cifar_resnet8"),
        ({"dataset": "digits(size=16)"}, "image_size=16, not "),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(made: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "net.safetensors", **made)
    with pytest.raises(InvalidValue, match=words) as caught:
        cells_of("condconv", init=path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").write_bytes(b"not weights")
    save_checkpoint(cells_of()[0].group.build(cells_of()[0].method), tmp_path / "bare.safetensors", {})
    for name, words in (
        ("net.safetensors", "is not a checkpoint of dyncomp"),
        ("bare.safetensors", "does not say its identity"),
        ("absent.safetensors", "is no file; give a checkpoint"),
        (".", "is no file; give a checkpoint"),
    ):
        with pytest.raises(InvalidValue, match=words) as caught:
            cells_of("condconv", init=tmp_path / name)
        assert "\n" not in str(caught.value)


def test_every_planning_error_is_ours() -> None:
    for wrong in (
        {"init": "nothing"},
        {"methods": "nothing"},
        {"backbone": "nothing"},
        {"dataset": "nothing"},
        {"methods": "condconv(a=1)"},
    ):
        with pytest.raises(DyncompError):
            cells_of(**wrong)
