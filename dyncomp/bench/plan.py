"""Which cells a comparison consists of: method x backbone x data set x seed x budget, each with its key."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from dyncomp._build import build
from dyncomp._checkpoint import find_device
from dyncomp._facts import SHAPE
from dyncomp._version import __version__
from dyncomp.bench.config import Config
from dyncomp.bench.names import check_names, named_in, specs_in
from dyncomp.core import BackboneFamily, Method, Net
from dyncomp.core.card import class_names
from dyncomp.data import Dataset, Splits, load
from dyncomp.errors import DyncompError, InvalidValue
from dyncomp.registry import BACKBONES, DATASETS, METHODS, Registry
from dyncomp.spec import Spec, full_spec, name_of, spec_of
from dyncomp.store import cell_key
from dyncomp.train import Recipe, read_facts

T = TypeVar("T")

REFERENCE = "static"


@dataclass(frozen=True)
class Group:
    """What the networks of one comparison have in common; they are trained alike and timed together.

    `init` is a checkpoint of the plain backbone that training begins from; None where it begins from random weights.
    """

    backbone: BackboneFamily
    dataset: Dataset
    splits: Splits
    seed: int
    device: torch.device
    budget: str
    recipe: Recipe
    init: Path | None = None

    def build(self, method: Method) -> Net:
        """A method's network for this comparison; its card says what the data set's images and classes are."""
        splits = self.splits
        shape = {name: getattr(splits, name) for name in SHAPE}
        net = build(method, self.backbone, seed=self.seed, **shape)
        assert net.card is not None  # `build` writes it
        net.card = replace(
            net.card,
            classes=class_names(splits.classes, splits.class_names),
            mean=splits.mean,
            std=splits.std,
            shorter_side=splits.shorter_side,
        )
        return net

    @cached_property
    def static_macs(self) -> int:
        """MACs of the plain backbone for one image."""
        costs = self.build(METHODS.create(REFERENCE)).costs
        assert costs is not None  # `build` measures them
        return costs.full

    @cached_property
    def init_hash(self) -> str:
        """16 hex digits of the SHA-256 of the checkpoint that training begins from; empty without one."""
        return hashlib.sha256(self.init.read_bytes()).hexdigest()[:16] if self.init else ""


@dataclass(frozen=True)
class Cell:
    """One measured thing: a method in a group."""

    method: Method
    group: Group

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that determines the result; `source` are hashes of the files of the plugins."""
        group = self.group
        plugins = ((METHODS, self.method), (BACKBONES, group.backbone), (DATASETS, group.dataset))
        return {
            **{registry.kind: full_spec(plugin) for registry, plugin in plugins},
            "source": {registry.kind: registry.entry(name_of(plugin)).source_hash for registry, plugin in plugins},
            "seed": group.seed,
            "budget": group.budget,
            "recipe": asdict(group.recipe),
            "device": group.device.type,
            "version": __version__,
            **({"init": group.init_hash} if group.init else {}),
        }

    @cached_property
    def key(self) -> str:
        """Hash of the identity."""
        return cell_key(self.identity)

    @property
    def is_reference(self) -> bool:
        """Whether this is the plain backbone that the others are set against."""
        return spec_of(self.method) == REFERENCE

    def __str__(self) -> str:
        group = self.group
        return f"{spec_of(self.method)} on {spec_of(group.backbone)}, {spec_of(group.dataset)}, seed {group.seed}"


@dataclass(frozen=True)
class LeftOut:
    """A method that `all` stands for and that finds no place in this backbone; `reason` is a sentence of its own."""

    method: str
    backbone: str
    reason: str

    def __str__(self) -> str:
        return f"{self.method} on {self.backbone}: {self.reason}"


@dataclass(frozen=True)
class Plan:
    """All cells, group by group, the reference first in each; and what `all` would have stood for besides."""

    groups: tuple[tuple[Cell, ...], ...]
    left_out: tuple[LeftOut, ...] = ()

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
    methods = _create_all(METHODS, [Spec(REFERENCE), *specs_in(METHODS, config.methods)])
    named = {full_spec(m) for m in _create_all(METHODS, [Spec(REFERENCE), *named_in(config.methods)])}
    device = find_device(config.device)
    groups: list[tuple[Cell, ...]] = []
    left_out: dict[LeftOut, None] = {}
    for alike in _groups(config, device):  # all seeds of a backbone on a data set
        refused = _try_to_build([Cell(method, alike[0]) for method in methods], named)
        left_out |= dict.fromkeys(refused.values())
        fitting = [method for method in methods if full_spec(method) not in refused]
        groups += [tuple(Cell(method, group) for method in fitting) for group in alike]
    return Plan(tuple(groups), tuple(left_out))


def _create_all(registry: Registry[T], specs: Iterable[Spec]) -> list[T]:
    """An instance for each spec, in order, each once."""
    created = [registry.create(spec) for spec in specs]
    return list({full_spec(instance): instance for instance in created}.values())


def _groups(config: Config, device: torch.device) -> Iterator[list[Group]]:
    data_dir = Path(config.data_dir) if config.data_dir else None
    init = Path(config.init) if config.init else None
    for dataset in _create_all(DATASETS, specs_in(DATASETS, config.dataset)):
        backbones = _create_all(BACKBONES, specs_in(BACKBONES, config.backbone or dataset.default_backbone))
        recipe = Recipe(epochs=_epochs(config, dataset))
        splits = {seed: load(dataset, data_dir, seed) for seed in config.seeds}
        for backbone in backbones:
            yield [
                Group(backbone, dataset, splits[seed], seed, device, config.budget, recipe, init)
                for seed in config.seeds
            ]


def _epochs(config: Config, dataset: Dataset) -> float:
    if config.epochs is not None:
        return config.epochs
    return float(dataset.quick_epochs if config.budget == "quick" else dataset.standard_epochs)


def _try_to_build(cells: Sequence[Cell], named: Collection[str]) -> dict[str, LeftOut]:
    """Build each network once; what cannot be built and is not `named` is left out, by its full spec.

    What the user can mend in a named one is raised; a method's own fault becomes its cell's record.
    """
    _check_init(cells[0])
    left_out = {}
    for cell in cells:
        try:
            cell.group.build(cell.method)
        except DyncompError as error:
            if full_spec(cell.method) in named:
                raise
            reason = str(error).removeprefix(f"{name_of(cell.method)}: ")
            left_out[full_spec(cell.method)] = LeftOut(spec_of(cell.method), spec_of(cell.group.backbone), reason)
        except Exception:  # the cell raises it again when it is run, and the others run on
            continue
    return left_out


def _check_init(reference: Cell) -> None:
    """Raises InvalidValue where the group's checkpoint holds other weights than those of its plain backbone."""
    group, splits = reference.group, reference.group.splits
    if group.init is None:
        return
    facts = read_facts(group.init)
    wanted = {
        **{kind: reference.identity[kind] for kind in (METHODS.kind, BACKBONES.kind)},
        **{name: getattr(splits, name) for name in SHAPE},
    }
    known = facts | facts.get("identity", {})
    if wrong := [f"{key}={known.get(key)}, not {value}" for key, value in wanted.items() if known.get(key) != value]:
        raise InvalidValue(
            f"init={str(group.init)!r} is no checkpoint of the plain backbone that is compared here "
            f"({'; '.join(wrong)}); give one that `benchmark --methods {REFERENCE}` wrote for it"
        )
