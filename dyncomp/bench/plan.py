"""Which cells a comparison consists of: method x backbone x data set x seed x budget, each with its key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from dyncomp._version import __version__
from dyncomp.bench.config import Config
from dyncomp.build import build
from dyncomp.core import BackboneFamily, Method, Net
from dyncomp.data import Dataset, Splits, load
from dyncomp.errors import DeviceNotAvailable, DyncompError, InvalidValue
from dyncomp.registry import BACKBONES, DATASETS, METHODS, Registry
from dyncomp.spec import full_spec, name_of, parse_specs, spec_of
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


@dataclass(frozen=True)
class Cell:
    """One measured thing: a method in a group."""

    method: Method
    group: Group

    @property
    def identity(self) -> dict[str, Any]:
        """All that determines the result."""
        group, name = self.group, name_of(self.method)
        return {
            "method": full_spec(self.method),
            "source": METHODS.entry(name).source_hash,
            "backbone": full_spec(group.backbone),
            "dataset": full_spec(group.dataset),
            "seed": group.seed,
            "budget": group.budget,
            "recipe": asdict(group.recipe),
            "device": group.device.type,
            "version": __version__,
        }

    @property
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
    methods = _methods(config.methods)
    device = find_device(config.device)
    groups = [tuple(Cell(m, g) for m in methods) for g in _groups(config, device)]
    for group in groups:
        if group[0].group.seed == config.seeds[0]:
            for cell in group:
                cell.group.build(cell.method)
    return Plan(tuple(groups))


def find_device(name: str) -> torch.device:
    """The device of that name; `auto` is the GPU where there is one. Raises DeviceNotAvailable."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        found = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise DeviceNotAvailable(
            f"device {name!r} is not available on this machine; give one of: auto, {found}"
        ) from None
    return device


def _create_all(registry: Registry[T], text: str) -> list[T]:
    """An instance for each spec in the text; `all` stands for every registered name."""
    if text.strip() == "all":
        return [registry.create(name) for name in registry.names()]
    return [registry.create(spec) for spec in parse_specs(text)]


def _methods(text: str) -> list[Method]:
    """The methods asked for, the reference first, each once."""
    asked = _create_all(METHODS, text)
    chosen = {spec_of(m): m for m in [METHODS.create(REFERENCE), *asked]}
    return list(chosen.values())


def _groups(config: Config, device: torch.device) -> Iterator[Group]:
    data_dir = Path(config.data_dir) if config.data_dir else None
    for dataset in _create_all(DATASETS, config.dataset):
        for backbone in _create_all(BACKBONES, config.backbone or dataset.default_backbone):
            for seed in config.seeds:
                splits = load(dataset, data_dir, seed)
                recipe = Recipe(epochs=_epochs(config, dataset))
                yield Group(backbone, dataset, splits, seed, device, config.budget, recipe)


def _epochs(config: Config, dataset: Dataset) -> float:
    named = {"quick": dataset.quick_epochs, "standard": dataset.standard_epochs}
    return float(named.get(config.budget, config.epochs or 0))
