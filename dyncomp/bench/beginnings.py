"""Whether the checkpoints that the cells of a plan begin with are what they must be, before anything is trained."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from dyncomp._facts import SHAPE, rebuilding_facts
from dyncomp.bench.group import Cell
from dyncomp.bench.rebuild import rebuild
from dyncomp.core import Net
from dyncomp.core.card import class_names
from dyncomp.core.initial import PLAIN, PLAIN_METHOD
from dyncomp.errors import CannotAttach, InvalidValue
from dyncomp.spec import spec_of


def check_init(reference: Cell) -> None:
    """Raise InvalidValue where a group's checkpoint is not of its trained plain backbone, `reference`."""
    group = reference.group
    if group.init is None:
        return
    facts = rebuilding_facts(group.init)
    known, own = facts["identity"], {"method": reference.identity["method"], "backbone": reference.identity["backbone"]}
    wrong = [f"{kind}={known[kind]}, not {value}" for kind, value in own.items() if known[kind] != value]
    if wrong := wrong + _of_other_data(facts, reference):
        raise InvalidValue(
            f"init={str(group.init)!r} is no checkpoint of the plain backbone that is compared here "
            f"({'; '.join(wrong)}); give one that `benchmark --methods {PLAIN_METHOD}` wrote for it"
        )
    trained(group.init)


def check_teachers(cell: Cell) -> None:
    """Raise InvalidValue where a checkpoint that the cell's method names is not of a network for the cell's data."""
    for name, path in cell.checkpoints.items():
        if name == PLAIN:
            continue
        if wrong := _of_other_data(rebuilding_facts(path), cell):
            raise InvalidValue(
                f"{spec_of(cell.method)}: {path} is no checkpoint for {spec_of(cell.group.dataset)} "
                f"({'; '.join(wrong)}); give one of a network that was trained on this data set"
            )
        trained(path)


def check_takes_all(net: Net, cell: Cell) -> None:
    """Raise CannotAttach where the plain backbone's trained weights have no place in the cell's network, `net`.

    Beside networks that begin with trained weights it would begin with random ones.
    """
    if cell.group.init is None:
        return
    plain = set(trained(cell.group.init).origins.values())
    if missing := sorted(plain - set(net.origins.values())):
        raise CannotAttach(
            f"{spec_of(cell.method)}: it cannot begin with a trained plain backbone: {len(missing)} of {len(plain)} "
            f"tensors, such as {missing[0]}, have no place in its network; leave it out, or do without init"
        )


def trained(checkpoint: Path) -> Net:
    """The network of a checkpoint, read once. Raises InvalidValue where weights are missing, or are no numbers."""
    return _read(checkpoint, checkpoint.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _read(checkpoint: Path, changed_at: int) -> Net:
    net, _ = rebuild(checkpoint, torch.device("cpu"))
    for name, value in net.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise InvalidValue(
                f"{checkpoint}: {name} holds values that are no finite numbers; give a checkpoint of a network whose "
                "training went well"
            )
    return net


def _of_other_data(facts: dict[str, Any], cell: Cell) -> list[str]:
    """What a checkpoint says of its images and classes that is not so in the cell's data."""
    splits = cell.group.splits
    wanted = {name: getattr(splits, name) for name in SHAPE}
    wrong = [f"{name}={facts[name]}, not {value}" for name, value in wanted.items() if facts[name] != value]
    names, own = facts.get("class_names"), class_names(splits.classes, splits.class_names)
    if names and not wrong and tuple(names) not in (own, class_names(splits.classes, ())):
        at = next(index for index, pair in enumerate(zip(names, own, strict=True)) if pair[0] != pair[1])
        wrong.append(f"class {at} is {names[at]!r}, not {own[at]!r}")
    return wrong
