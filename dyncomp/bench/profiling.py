"""Measures one network alone: a checkpoint of a run, or any module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from dyncomp._checkpoint import find_device
from dyncomp.bench import modules
from dyncomp.bench.cell import measure
from dyncomp.bench.config import fit_option
from dyncomp.bench.energy import energy_figures, energy_of_cell
from dyncomp.bench.memory import memory_figures
from dyncomp.bench.profiled import Latency, Profile
from dyncomp.bench.rebuild import cell_of, changed_since, device_of, rebuild
from dyncomp.bench.timeshares import AUDITED
from dyncomp.core import Net
from dyncomp.core.counter import MacCounter
from dyncomp.core.modes import evaluating
from dyncomp.data import ImageSplit, Split
from dyncomp.errors import BadAnswer, CannotDeploy, InvalidValue, in_one_line
from dyncomp.fast import folded
from dyncomp.profile import (
    Alone,
    LatencyRounds,
    Setting,
    Until,
    allowed_processors,
    as_timed,
    audit_operators,
    measure_latency,
)
from dyncomp.profile.sanity import check_module
from dyncomp.profile.unseen import unseen
from dyncomp.report import numbers as n
from dyncomp.samples import verdict
from dyncomp.store.schema import EnergyFigures, Measured, OperatorsRecord, Taken

T = TypeVar("T")

SECONDS = 3.0
"""the longest timing at one batch size"""
COUNTED = 4
"""images on which the MACs of a module are counted, and its answers checked"""


def profile_checkpoint(
    path: str | Path, batch_sizes: Sequence[int] = (1, 64), device: str = "", data_dir: str | Path | None = None
) -> Profile:
    """Measure a trained network of a run again, from its checkpoint: all that its record says, and its latency.

    What follows from weights and data (accuracy, MACs, routes, operators that ran) equals the record. Without `device`
    it is the run's. Raises InvalidValue for a file that is no checkpoint of a run, UnknownName where a loose plugin is
    not included, and what the data set raises.
    """
    path, sizes = Path(path), fit_option("batch_sizes", list(batch_sizes))
    if not path.is_file():
        raise InvalidValue(f"{path}: no such file; give a checkpoint of a run (OUTPUT/checkpoints/KEY.safetensors)")
    place = find_device(device or device_of(path))
    cell = cell_of(path, place, Path(data_dir) if data_dir else None)
    net, errors = rebuild(path, place)[0], list[str]()
    figures, _ = _tried(lambda: measure(net, cell), errors) or (Measured(), None)
    splits = cell.group.splits
    timed, unfolded = as_timed(net)
    with evaluating(timed):
        run = partial(timed, sparse=True, record=False)
        latency = _latency(run, splits.test, sizes, cell.group.seed, _setting(place))
    memory: Taken = {**memory_figures(net, cell, path), **energy_of_cell(net, cell)}
    audited = next(iter(splits.test.batches(min(AUDITED, len(splits.test))))).images
    audited = audited.to(place, memory_format=torch.channels_last)
    changed = [f"{what} is not as the run had it: figures may differ" for what in changed_since(path, cell)]
    ran = figures.get("executed_by_operator", {})
    return Profile(
        name=str(cell),
        image_shape=(splits.in_channels, splits.image_size, splits.image_size),
        device=str(place),
        images="test images",
        params=sum(p.numel() for p in net.parameters()),
        macs=figures.get("macs"),
        macs_by_operator={name: macs / figures["images"] for name, macs in ran.items()},
        uncounted=figures.get("uncounted_calls", {}),
        unseen=(),  # what a run does not see is among its warnings
        operators=_operators(timed, audited, figures.get("uncounted_calls", {}), errors),
        latency=latency,
        memory=memory,
        trained=figures,
        errors=(*errors, *_failed(latency, memory)),
        warnings=(*figures.get("warnings", ()), *changed, *_said(unfolded), *_not_measured(memory)),
    )


def profile_model(
    model: nn.Module | Callable[[], nn.Module] | str,
    image_shape: tuple[int, int, int],
    batch_sizes: Sequence[int] = (1, 64),
    device: str = "auto",
) -> Profile:
    """Measure any module that answers images (B, C, H, W): MACs, operators without a cost, latency, memory.

    `model` is a module, a function that makes one, or the name of either, `my.module:make_model`; by a name, or a
    function of a module's top level, its memory is measured in processes of their own, else in this one. The images are
    standard normal noise: a network whose work depends on the image is better measured by a run. A module that is given
    is copied and stays as it is. What fails is told in `errors`; the rest is measured. Raises InvalidValue and
    BrokenPlugin where there is no module to measure.
    """
    shape, sizes, place = _shape(image_shape), fit_option("batch_sizes", list(batch_sizes)), find_device(device)
    name, importable = modules.name_of_module(model)
    found = modules.load_module(model) if isinstance(model, str) else modules.made(model, name)
    with modules.as_subject(found, shape, place, own=found is not model) as subject:
        return _profiled(subject, name, importable, sizes)


def _profiled(subject: modules.Subject, name: str, importable: bool, sizes: Sequence[int]) -> Profile:
    shape, place = subject.shape, subject.device
    errors: list[str] = []
    few, many = subject.noise(COUNTED), subject.noise(max(sizes))
    _tried(lambda: check_module(subject.asked(), few, f"{COUNTED} images of noise"), errors)
    timed, unfolded = _as_timed(subject.module, few[:1].clone())
    labels, mean, std = torch.zeros(len(many), dtype=torch.long), torch.zeros(shape[0]), torch.ones(shape[0])
    split = ImageSplit(many.float().cpu(), labels, mean, std)
    setting = replace(_setting(place), dtype=subject.dtype, layout=subject.layout)
    with evaluating(timed):
        latency = _latency(subject.asked(timed), split, sizes, 0, setting)
    # of energy nothing where the module does not run
    energy = _tried(lambda: energy_figures(subject.asked(), [many]), []) or EnergyFigures()
    memory: Taken = {**modules.memory_of_module(subject, len(many), name if importable else ""), **energy}
    counted, of_count = _counted(subject, few)
    return Profile(
        name=name,
        image_shape=shape,
        device=str(place),
        images="standard normal noise",
        params=sum(p.numel() for p in subject.module.parameters()),
        **counted,
        operators=_operators(timed, many[:AUDITED], counted["uncounted"], errors),
        latency=latency,
        memory=memory,
        errors=(*errors, *_failed(latency, memory)),
        warnings=(*subject.notes, *of_count, *_said(None if errors else unfolded), *_not_measured(memory)),
    )


def _operators(net: Net, images: Tensor, uncounted: Mapping[str, int], errors: list[str]) -> OperatorsRecord | None:
    """The time by operator, for a profile; None where the network does not run."""
    with evaluating(net):
        audit = _tried(lambda: audit_operators(net, [images], sorted(uncounted)), errors)
    return None if audit is None else audit.as_record()


def _as_timed(module: nn.Module, image: Tensor) -> tuple[Net, str | None]:
    """The module with its batch norms folded where that is safe, and why not where it is not."""
    if isinstance(module, Net):
        return as_timed(module) if module.costs is not None else (module, None)
    try:
        return Net(folded(module, image)), None
    except CannotDeploy as error:
        return Net(module), str(error)
    except Exception as error:  # a module that cannot be copied, or that the folded layers' layout does not suit
        return Net(module), in_one_line(error)


def _said(unfolded: str | None) -> tuple[str, ...]:
    return () if unfolded is None else (f"timed with its batch norms as they are: {unfolded}",)


def _shape(given: Sequence[int]) -> tuple[int, int, int]:
    if len(given) != 3 or not all(isinstance(side, int) and side > 0 for side in given):
        raise InvalidValue(f"image_shape={given!r}: give channels, height and width, such as (3, 224, 224)")
    channels, height, width = given
    return channels, height, width


def _counted(subject: modules.Subject, images: Tensor) -> tuple[dict[str, Any], list[str]]:
    """What a profile says of MACs, an image's mean, from the operators that ran, and what a reader must know of it.

    None where none could run. Counted image by image: what a network does once for a whole batch is all of it done for
    a single image.
    """
    together, alone = (_count(subject, batches) for batches in ([images], torch.split(images, 1)))
    counter = alone or together
    if together is None or counter is None:
        return {"macs": None, "macs_by_operator": {}, "uncounted": {}, "unseen": ()}, []
    with evaluating(subject.module):
        missed = tuple(unseen(lambda: subject.asked()(images)))
    figures = {
        "macs": counter.total / len(images),
        "macs_by_operator": {name: macs / len(images) for name, macs in counter.by_operator.items()},
        "uncounted": dict(together.uncounted),
        "unseen": missed,
    }
    if counter.total == together.total:
        return figures, []
    shared = n.macs(together.total / len(images))
    return figures, [
        f"MACs of an image depend on its batch: these are of a batch of 1, of {len(images)} it would be {shared}"
    ]


def _count(subject: modules.Subject, batches: Sequence[Tensor]) -> MacCounter | None:
    """A counter of the passes over these batches; None where one fails."""
    with evaluating(subject.module), MacCounter() as counter:
        done = _tried(lambda: [subject.asked()(batch) for batch in batches], [])
    return None if done is None else counter


def _setting(device: torch.device) -> Setting:
    return Setting(str(device), torch.get_num_threads(), allowed_processors())


def _latency(
    run: Callable[[Tensor], object], split: Split, batch_sizes: Sequence[int], seed: int, setting: Setting
) -> tuple[Latency, ...]:
    """Each batch size, the network alone; one that fails is told, and the others are measured."""
    with Alone("", run, setting) as alone:
        measured = [measure_latency(alone, split, size, seed, Until(seconds=SECONDS)) for size in batch_sizes]
    return tuple(_latency_of(one) for one in measured)


def _latency_of(measured: LatencyRounds) -> Latency:
    size, rounds = measured.batch_size, measured.rounds
    if error := measured.errors.get(""):
        return Latency(size, error=f"{error}; give other batch sizes, or mend the network for this one")
    middle = rounds.median("")
    p90, p99 = np.percentile(rounds.samples_ms[""], [90, 99]).tolist()
    told = verdict(rounds, "", measured.load)
    return Latency(size, middle.middle, middle.low, middle.high, p90, p99, rounds.count(""), told)


def _tried(do: Callable[[], T], errors: list[str]) -> T | None:
    """What it gives; None where it fails, and why in `errors`."""
    try:
        return do()
    except BadAnswer as error:
        errors.append(str(error))
    except Exception as error:
        errors.append(in_one_line(error))
    return None


def _failed(latency: Sequence[Latency], memory: Taken) -> list[str]:
    """One line for each batch size that failed, and for the memory of inference."""
    timed = [f"latency, {one}" for one in latency if one.error]
    error = memory.get("memory_error")
    return timed + ([f"memory, {error}"] if error and not _infers(memory) else [])


def _not_measured(memory: Taken) -> list[str]:
    """One line where training alone failed: a network for inference need not learn, nor from such a batch."""
    error = memory.get("memory_error")
    return [f"memory not measured, {error}"] if error and _infers(memory) else []


def _infers(memory: Taken) -> bool:
    return memory["activation_mib"] is not None and memory["memory_mib_inference"] is not None
