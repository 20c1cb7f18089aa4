"""Which cells a comparison consists of: method x backbone x data set x seed x budget, each with its key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from dyncomp._checkpoint import find_device
from dyncomp.bench.beginnings import check_init, check_takes_all, check_teachers
from dyncomp.bench.config import Config
from dyncomp.bench.controls import LEAST_RUNGS, controls_of
from dyncomp.bench.group import Cell, Group
from dyncomp.bench.names import LADDER, check_names, named_in, specs_in
from dyncomp.core import Method, Net
from dyncomp.core.initial import PLAIN_METHOD
from dyncomp.data import load
from dyncomp.errors import CannotAttach, DyncompError, in_one_line
from dyncomp.registry import BACKBONES, DATASETS, METHODS, Registry
from dyncomp.spec import Spec, full_spec, name_of, spec_of
from dyncomp.store.schema import LeftOutRecord
from dyncomp.train import Recipe, check_budget

T = TypeVar("T")


@dataclass(frozen=True)
class LeftOut:
    """A method that `all` stands for, or a control, that cannot be had on this backbone; `reason` is a sentence."""

    method: str
    backbone: str
    reason: str

    def __str__(self) -> str:
        return f"{self.method} on {self.backbone}: {self.reason}"

    def as_record(self) -> LeftOutRecord:
        """For the output folder's config.json."""
        return {"method": self.method, "backbone": self.backbone, "reason": self.reason}


@dataclass(frozen=True)
class Plan:
    """All cells, group by group, the reference first in each; and what there would have been besides."""

    groups: tuple[tuple[Cell, ...], ...]
    left_out: tuple[LeftOut, ...] = ()
    repeated: tuple[str, ...] = ()
    """specs that were given more than once, in whatever spelling; each is run once"""

    @property
    def cells(self) -> list[Cell]:
        """The cells of all groups, in order."""
        return [cell for group in self.groups for cell in group]


def make_plan(config: Config) -> Plan:
    """Resolve every name, load the data and try every method on every backbone, before anything is trained or written.

    Raises a DyncompError for whatever the user can mend; a method that only `all` names, and that cannot be built on a
    backbone, is left out there instead.
    """
    check_names(config)
    methods = _create_all(METHODS, [Spec(PLAIN_METHOD), *specs_in(METHODS, config.methods)])
    named = {full_spec(m) for m in _create_all(METHODS, [Spec(PLAIN_METHOD), *named_in(config.methods)])}
    device = find_device(config.device)
    groups: list[tuple[Cell, ...]] = []
    left_out: dict[LeftOut, None] = {}
    for alike in _groups(config, device):  # all seeds of a backbone on a data set
        check_init(Cell(methods[0], alike[0]))
        refused = _try_to_build([Cell(method, alike[0]) for method in methods], named)
        left_out |= dict.fromkeys(refused.values())
        fitting = [method for method in methods if full_spec(method) not in refused]
        if config.controls == "auto":
            controls, without = _fitting_controls(fitting, alike[0])
            fitting += controls
            left_out |= dict.fromkeys(without)
        groups += [tuple(Cell(method, group) for method in fitting) for group in alike]
    repeated = _repeated(METHODS, named_in(config.methods))
    for registry, text in ((BACKBONES, config.backbone), (DATASETS, config.dataset)):
        repeated += _repeated(registry, specs_in(registry, text)) if text else []
    return Plan(tuple(groups), tuple(left_out), tuple(repeated))


def _fitting_controls(methods: Sequence[Method], group: Group) -> tuple[list[Method], list[LeftOut]]:
    """The controls of a group's methods that find gates to replace, or a rung, and those that cannot be run besides.

    Rungs that are the same network are there once.
    """
    there = {full_spec(method) for method in methods}
    controls = [control for control in controls_of(methods, group.budget) if full_spec(control) not in there]
    fitting, left_out, backbone = dict[Any, Method](), list[LeftOut](), spec_of(group.backbone)
    refused: dict[str, str] = {}
    for control in controls:
        try:
            costs = _check(Cell(control, group)).costs
        except CannotAttach as error:  # no gates, or no rung
            refused |= {name_of(control): str(error)}
            continue
        except Exception as error:
            left_out.append(LeftOut(spec_of(control), backbone, in_one_line(error)))
            continue
        assert costs is not None  # `build` measures them
        fitting.setdefault(costs.full if name_of(control) == LADDER else control, control)
    rungs = sum(name_of(one) == LADDER for one in (*methods, *fitting.values()))
    if rungs < LEAST_RUNGS:
        why = f" ({refused[LADDER]})" if LADDER in refused else ""
        reason = f"a curve of static networks needs {LEAST_RUNGS} rungs, and {rungs} can be made{why}"
        left_out.append(LeftOut(LADDER, backbone, reason))
    return list(fitting.values()), left_out


def _create_all(registry: Registry[T], specs: Iterable[Spec]) -> list[T]:
    """An instance for each spec, in order, each once."""
    created = [registry.create(spec) for spec in specs]
    return list({full_spec(instance): instance for instance in created}.values())


def _repeated(registry: Registry[Any], specs: Iterable[Spec]) -> list[str]:
    """The specs of what is described more than once, as they are spelled shortest."""
    counted = Counter(spec_of(registry.create(spec)) for spec in specs)
    return [spec for spec, count in counted.items() if count > 1]


def _groups(config: Config, device: torch.device) -> Iterator[list[Group]]:
    data_dir = Path(config.data_dir) if config.data_dir else None
    init = Path(config.init) if config.init else None
    for dataset in _create_all(DATASETS, specs_in(DATASETS, config.dataset)):
        backbones = _create_all(BACKBONES, specs_in(BACKBONES, config.backbone or dataset.default_backbone))
        named = dataset.quick_epochs if config.budget == "quick" else dataset.standard_epochs
        epochs = float(named) if config.epochs is None else config.epochs
        recipe = replace(Recipe.tuned(epochs), **config.recipe)
        splits = {seed: load(dataset, data_dir, seed) for seed in config.seeds}
        for backbone in backbones:
            yield [
                Group(backbone, dataset, splits[seed], seed, device, config.budget, recipe, init)
                for seed in config.seeds
            ]


def _try_to_build(cells: Sequence[Cell], named: Collection[str]) -> dict[str, LeftOut]:
    """Build each network once, and those that it begins with; by full spec what cannot be built and is not `named`.

    That is left out. What the user can mend in a named one is raised; a method's own fault becomes its cell's record.
    """
    left_out = {}
    for cell in cells:
        try:
            _check(cell)
        except DyncompError as error:
            if full_spec(cell.method) in named:
                raise
            reason = str(error).removeprefix(f"{name_of(cell.method)}: ")
            left_out[full_spec(cell.method)] = LeftOut(spec_of(cell.method), spec_of(cell.group.backbone), reason)
        except Exception:  # the cell raises it again when it is run, and the others run on
            continue
    return left_out


def _check(cell: Cell) -> Net:
    """The cell's network. Raises a DyncompError where it, or one that it begins with, cannot be made or trained so."""
    group = cell.group
    net = group.build(cell.method)
    check_budget(cell.method.stages(), group.recipe, len(group.splits.train), cell.spent, spec_of(cell.method))
    for source in cell.sources.values():
        _check(source)
    check_teachers(cell)
    check_takes_all(net, cell)
    return net
