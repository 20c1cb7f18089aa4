"""Which cells a comparison consists of: method x backbone x data set x seed x budget, each with its key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from dyncomp._build import build
from dyncomp._version import __version__
from dyncomp.bench.config import Config
from dyncomp.bench.names import check_names, specs_in
from dyncomp.core import BackboneFamily, Method, Net
from dyncomp.data import Dataset, Splits, load
from dyncomp.errors import DeviceNotAvailable, DyncompError
from dyncomp.registry import BACKBONES, DATASETS, METHODS, Registry
from dyncomp.spec import Spec, full_spec, name_of, spec_of
from dyncomp.store import cell_key
from dyncomp.train import Recipe

T = TypeVar("T")

REFERENCE = "static"


@dataclass(frozen=True)
class Group:
    """What the networks of one comparison have in common; they are trained alike and timed together."""

    backbone: BackboneFamily
    dataset: Dataset
    splits: Splits
    seed: int
    device: torch.device
    budget: str
    recipe: Recipe

    def build(self, method: Method) -> Net:
        """A method's network for this comparison."""
        return build(
            method,
            self.backbone,
            classes=self.splits.classes,
            in_channels=self.splits.in_channels,
            image_size=self.splits.image_size,
            seed=self.seed,
        )

    @cached_property
    def static_macs(self) -> int:
        """MACs of the plain backbone for one image."""
        costs = self.build(METHODS.create(REFERENCE)).costs
        assert costs is not None  # `build` measures them
        return costs.full


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
class Plan:
    """All cells, group by group, the reference first in each."""

    groups: tuple[tuple[Cell, ...], ...]

    @property
    def cells(self) -> list[Cell]:
        """The cells of all groups, in order."""
        return [cell for group in self.groups for cell in group]


def make_plan(config: Config) -> Plan:
    """Resolve every name, load the data and try every method on every backbone, before anything is trained or written.

    Raises a DyncompError for whatever the user can mend.
    """
    check_names(config)
    methods = _create_all(METHODS, [Spec(REFERENCE), *specs_in(METHODS, config.methods)])
    device = find_device(config.device)
    groups = [tuple(Cell(method, group) for method in methods) for group in _groups(config, device)]
    for cells in groups:
        if cells[0].group.seed == config.seeds[0]:
            _try_to_build(cells)
    return Plan(tuple(groups))


def find_device(name: str) -> torch.device:
    """The device of that name; `auto` is the GPU where there is one. Raises DeviceNotAvailable."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError):
        found = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise DeviceNotAvailable(
            f"device {name!r} is not available on this machine; give one of: auto, {found}"
        ) from None
    return device


def _create_all(registry: Registry[T], specs: Iterable[Spec]) -> list[T]:
    """An instance for each spec, in order, each once."""
    created = [registry.create(spec) for spec in specs]
    return list({full_spec(instance): instance for instance in created}.values())


def _groups(config: Config, device: torch.device) -> Iterator[Group]:
    data_dir = Path(config.data_dir) if config.data_dir else None
    for dataset in _create_all(DATASETS, specs_in(DATASETS, config.dataset)):
        backbones = _create_all(BACKBONES, specs_in(BACKBONES, config.backbone or dataset.default_backbone))
        recipe = Recipe(epochs=_epochs(config, dataset))
        splits = {seed: load(dataset, data_dir, seed) for seed in config.seeds}
        for backbone in backbones:
            for seed in config.seeds:
                yield Group(backbone, dataset, splits[seed], seed, device, config.budget, recipe)


def _epochs(config: Config, dataset: Dataset) -> float:
    if config.epochs is not None:
        return config.epochs
    return float(dataset.quick_epochs if config.budget == "quick" else dataset.standard_epochs)


def _try_to_build(cells: tuple[Cell, ...]) -> None:
    """Build each network once. What the user can mend is raised; a method's own fault becomes its cell's record."""
    for cell in cells:
        try:
            cell.group.build(cell.method)
        except DyncompError:
            raise
        except Exception:  # the cell raises it again when it is run, and the others run on
            continue
