"""From a checkpoint back to its network, and to the cell that it is of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import convert_conv2d_weight_memory_format

from dyncomp._build import build
from dyncomp.bench.plan import Cell, Group
from dyncomp.core import Method, Net
from dyncomp.data import load
from dyncomp.errors import InvalidValue, UnknownName
from dyncomp.registry import BACKBONES, DATASETS, METHODS, Registry
from dyncomp.train import Recipe, load_checkpoint, read_facts

SHAPE = ("classes", "in_channels", "image_size")


def rebuild(checkpoint: Path, device: torch.device) -> tuple[Net, Method]:
    """The trained network, in evaluation mode, as a run leaves it, and its method.

    Raises InvalidValue for a file that is no checkpoint of a run, UnknownName where a plugin is not included.
    """
    facts = _facts(checkpoint)
    identity = facts["identity"]
    method = _created(METHODS, identity)
    shape = {name: facts[name] for name in SHAPE}
    net = build(method, _created(BACKBONES, identity), seed=identity["seed"], **shape)
    load_checkpoint(net, checkpoint)
    net.to(device)
    convert_conv2d_weight_memory_format(net, torch.channels_last)
    return net, method


def cell_of(checkpoint: Path, device: torch.device, data_dir: Path | None) -> Cell:
    """The cell that a checkpoint is of, its data loaded; on `device`, whatever the run's was.

    Raises what `rebuild` and the data set raise.
    """
    return cell_from(_facts(checkpoint)["identity"], device, data_dir)


def cell_from(
    identity: Mapping[str, Any], device: torch.device, data_dir: Path | None, init: Path | None = None
) -> Cell:
    """The cell of that identity, its data loaded; `init` is the checkpoint that its training begins from.

    Raises UnknownName where a plugin is not included, and what the data set raises.
    """
    dataset = _created(DATASETS, identity)
    splits = load(dataset, data_dir, identity["seed"])
    recipe = Recipe(**identity["recipe"])
    backbone = _created(BACKBONES, identity)
    group = Group(backbone, dataset, splits, identity["seed"], device, identity["budget"], recipe, init)
    return Cell(_created(METHODS, identity), group)


def device_of(checkpoint: Path) -> str:
    """The kind of device that the run was on."""
    return str(_facts(checkpoint)["identity"]["device"])


def changed_since(checkpoint: Path, cell: Cell) -> list[str]:
    """What of the cell's identity is another today than in the checkpoint: the package's version, a plugin's file."""
    then, today = _facts(checkpoint)["identity"], cell.identity
    names = [name for name in today if name not in ("source", "device") and today[name] != then.get(name)]
    files = then.get("source", {})
    return names + [f"the file of the {kind}" for kind, text in today["source"].items() if files.get(kind) != text]


def _facts(checkpoint: Path) -> dict[str, Any]:
    facts = read_facts(checkpoint)
    if missing := [name for name in ("identity", *SHAPE) if name not in facts]:
        raise InvalidValue(
            f"{checkpoint} does not say its {', '.join(missing)}; give a checkpoint that a benchmark run wrote"
        )
    return facts


def _created(registry: Registry[Any], identity: Mapping[str, Any]) -> Any:
    try:
        return registry.create(identity[registry.kind])
    except UnknownName as error:
        raise UnknownName(f"{error}; the checkpoint names it: give its file by --include-path") from None
