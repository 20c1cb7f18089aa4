"""What is compared: cells, each a method in a group of networks that are trained alike and timed together."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import torch

from dyncomp._build import build
from dyncomp._facts import SHAPE
from dyncomp._version import __version__
from dyncomp.core import BackboneFamily, Method, Net
from dyncomp.core.card import class_names
from dyncomp.core.initial import PLAIN, PLAIN_METHOD
from dyncomp.data import Dataset, Splits
from dyncomp.errors import InvalidValue
from dyncomp.registry import BACKBONES, DATASETS, METHODS
from dyncomp.spec import full_spec, name_of, spec_of
from dyncomp.store import cell_key
from dyncomp.store.schema import IdentityRecord, RecipeRecord, Role
from dyncomp.train import Recipe


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

    def with_share(self, share: float) -> Group:
        """The same, for a share of the budget."""
        if share == 1:
            return self
        epochs = self.recipe.epochs * share
        return replace(self, budget=f"{epochs:g}", recipe=replace(self.recipe, epochs=epochs))

    @cached_property
    def static_macs(self) -> int:
        """MACs of the plain backbone for one image."""
        costs = self.build(METHODS.create(PLAIN_METHOD)).costs
        assert costs is not None  # `build` measures them
        return costs.full


@dataclass(frozen=True)
class Cell:
    """One measured thing: a method in a group. Where `is_source`, it is trained only because others begin with it."""

    method: Method
    group: Group
    is_source: bool = False

    @cached_property
    def sources(self) -> dict[str, Cell]:
        """The cells whose trained networks this one's training begins with, by name.

        A checkpoint that is given takes the place of its cell.
        """
        given = {PLAIN} if self.group.init else set[str]()
        wanted = {name: one for name, one in self.method.sources().items() if name not in given and not one.checkpoint}
        return {
            name: Cell(METHODS.create(one.method), self.group.with_share(one.share), is_source=True)
            for name, one in wanted.items()
        }

    @cached_property
    def checkpoints(self) -> dict[str, Path]:
        """The checkpoints that are given for the training to begin with, by name."""
        init = {PLAIN: self.group.init} if self.group.init else {}
        return init | {name: Path(one.checkpoint) for name, one in self.method.sources().items() if one.checkpoint}

    @property
    def spent(self) -> float:
        """The share of the budget that the sources have used of this cell's own."""
        sources = self.method.sources()
        return sum(sources[name].counted for name in self.sources)

    @cached_property
    def identity(self) -> IdentityRecord:
        """All that determines the result; `source` are hashes of the plugins' code.

        `sources` are the keys of the cells that it begins with, and `checkpoints` hashes of the files given in their
        stead, 16 hex digits of the SHA-256.
        """
        group = self.group
        sources = {name: cell.key for name, cell in self.sources.items()}
        checkpoints = {name: _hash(path) for name, path in self.checkpoints.items()}
        recipe = asdict(group.recipe) | {"milestones": list(group.recipe.milestones)}  # its keys are the fields
        identity: IdentityRecord = {
            "method": full_spec(self.method),
            "backbone": full_spec(group.backbone),
            "dataset": full_spec(group.dataset),
            "source": {
                "method": METHODS.entry(name_of(self.method)).source_hash,
                "backbone": BACKBONES.entry(name_of(group.backbone)).source_hash,
                "dataset": DATASETS.entry(name_of(group.dataset)).source_hash,
            },
            "seed": group.seed,
            "budget": group.budget,
            "recipe": cast(RecipeRecord, recipe),
            "device": group.device.type,
            "version": __version__,
        }
        if sources:
            identity["sources"] = sources
        if checkpoints:
            identity["checkpoints"] = checkpoints
        return identity

    @cached_property
    def key(self) -> str:
        """Hash of the identity."""
        return cell_key(self.identity)

    @property
    def role(self) -> Role:
        """What it is in a comparison: `static` is the plain backbone that the others are set against."""
        if self.is_source:
            return "source"
        if self.method.control_of:
            return "control"
        return "static" if spec_of(self.method) == PLAIN_METHOD else "method"

    def __str__(self) -> str:
        group = self.group
        return f"{spec_of(self.method)} on {spec_of(group.backbone)}, {spec_of(group.dataset)}, seed {group.seed}"


def _hash(path: Path) -> str:
    """Raises InvalidValue where there is no such file."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise InvalidValue(f"checkpoint {path} cannot be read: {error.strerror}; give the path of one") from error
