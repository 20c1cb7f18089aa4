"""From a checkpoint back to its network, and to the cell that it is of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from dyncomp._checkpoint import created, restored
from dyncomp._facts import check_run, rebuilding_facts
from dyncomp.bench.group import Cell, Group
from dyncomp.core import Method, Net
from dyncomp.data import load
from dyncomp.errors import InvalidValue
from dyncomp.registry import BACKBONES, DATASETS, METHODS
from dyncomp.store import Store
from dyncomp.train import Recipe

RUN = ("dataset", "recipe", "budget", "device")
"""what of an identity only a run's checkpoint has"""


def rebuild(checkpoint: Path, device: torch.device) -> tuple[Net, Method]:
    """The trained network, in evaluation mode, as a run leaves it, and its method.

    Raises what `dyncomp.load` raises.
    """
    return restored(checkpoint, device)


def sources_of(cell: Cell, store: Store) -> dict[str, Net]:
    """The trained networks that a cell's training begins with, by name. Raises what `dyncomp.load` raises."""
    paths = {name: store.checkpoint_path(source.key) for name, source in cell.sources.items()} | cell.checkpoints
    return {name: restored(path, cell.group.device)[0] for name, path in paths.items()}


def cell_of(checkpoint: Path, device: torch.device, data_dir: Path | None) -> Cell:
    """The cell that a checkpoint is of, its data loaded; on `device`, whatever the run's was.

    Raises what `rebuild` and the data set raise.
    """
    return cell_from(_facts_of_run(checkpoint)["identity"], device, data_dir)


def cell_from(
    identity: Mapping[str, Any],
    device: torch.device,
    data_dir: Path | None,
    init: Path | None = None,
    is_source: bool = False,
) -> Cell:
    """The cell of that identity, its data loaded; `init` is the checkpoint that its training begins from.

    Raises UnknownName where a plugin is not included, and what the data set raises.
    """
    dataset = created(DATASETS, identity)
    splits = load(dataset, data_dir, identity["seed"])
    recipe = Recipe(**identity["recipe"])
    backbone = created(BACKBONES, identity)
    group = Group(backbone, dataset, splits, identity["seed"], device, identity["budget"], recipe, init)
    return Cell(created(METHODS, identity), group, is_source)


def device_of(checkpoint: Path) -> str:
    """The kind of device that the run was on."""
    return str(_facts_of_run(checkpoint)["identity"]["device"])


def changed_since(checkpoint: Path, cell: Cell) -> list[str]:
    """What of the cell's identity is another today than in the checkpoint: the package's version, a plugin's code."""
    then = _facts_of_run(checkpoint)["identity"]
    today: Mapping[str, Any] = cell.identity
    names = [name for name in today if name not in ("source", "device") and today[name] != then.get(name)]
    files = then.get("source", {})
    return names + [f"the file of the {kind}" for kind, text in today["source"].items() if files.get(kind) != text]


def _facts_of_run(checkpoint: Path) -> dict[str, Any]:
    facts = rebuilding_facts(checkpoint)
    if missing := [name for name in RUN if name not in facts["identity"]]:
        raise InvalidValue(
            f"{checkpoint} does not say its {', '.join(missing)}: dyncomp.save wrote it; give a checkpoint that a "
            "benchmark run wrote"
        )
    check_run(checkpoint, facts["identity"], {field.name for field in fields(Recipe)})
    return facts
