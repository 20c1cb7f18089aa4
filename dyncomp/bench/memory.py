"""The memory that a trained cell takes: the jobs that run in processes of their own, and the figures for the record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dyncomp.bench.plan import Cell
from dyncomp.bench.rebuild import loose_files, rebuild
from dyncomp.core import Method, Net
from dyncomp.data import ImageSplit, Split
from dyncomp.profile.activations import activation_bytes
from dyncomp.profile.apart import Apart, NotMeasured
from dyncomp.profile.peak import MIB, Work
from dyncomp.registry import include_path
from dyncomp.train import Recipe, train

BATCH_SIZE = 64
"""images of the batch that memory in use is measured on; training has the recipe's own"""
PASSES = 3
STEPS = 2
"""of training per stage: in the second one gradients, momentum and activations live together"""
OF = {
    "cpu": "rise of a process's peak resident memory over the loaded network and batch",
    "cuda": "rise of the GPU allocator's peak over the loaded network and batch",
}


def memory_figures(net: Net, cell: Cell, checkpoint: Path, apart: Apart) -> dict[str, Any]:
    """For the record, units in the names; a figure that could not be taken is None, and `memory_error` says why."""
    group, errors = cell.group, {}
    images = sample(group.splits.test, BATCH_SIZE)[0].to(group.device, memory_format=torch.channels_last)
    figures = {
        "params_mib": sum(p.numel() * p.element_size() for p in net.parameters()) / MIB,
        "activation_mib": activation_bytes(lambda: net(images, sparse=True, record=False)) / MIB,
        "memory_batch_size": BATCH_SIZE,
        "memory_batch_size_training": group.recipe.batch_size,
        "memory_of": OF[group.device.type],
    }
    for name, arguments in _jobs(cell, checkpoint).items():
        try:
            with _in_file(*arguments.pop("sample")) as path:
                rise = apart.rise_bytes(f"{__name__}:{name}", {**arguments, "images": path})
                figures[f"memory_mib_{name}"] = rise / MIB
        except NotMeasured as error:
            errors[name] = str(error)
            figures[f"memory_mib_{name}"] = None
    return figures | {"memory_error": "; ".join(f"{name}: {error}" for name, error in errors.items()) or None}


def _jobs(cell: Cell, checkpoint: Path) -> dict[str, dict[str, Any]]:
    splits, recipe = cell.group.splits, cell.group.recipe
    shared = {"checkpoint": str(checkpoint), "device": str(cell.group.device), "include": loose_files(cell)}
    return {
        "inference": {**shared, "sample": sample(splits.test, BATCH_SIZE)},
        "training": {**shared, "sample": sample(splits.train, recipe.batch_size), "recipe": asdict(recipe)},
    }


def inference(checkpoint: str, images: str, device: str, include: list[str]) -> Work:
    """A few passes of the sparse form over one batch."""
    net, _ = _loaded(checkpoint, device, include)
    batch = load_file(images)["images"].to(device, memory_format=torch.channels_last)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(PASSES):
                net(batch, sparse=True, record=False)

    return Work(run, run, device)


def training(checkpoint: str, images: str, device: str, include: list[str], recipe: Mapping[str, Any]) -> Work:
    """Two steps of every stage of the method, on one batch, by the recipe of the run."""
    net, method = _loaded(checkpoint, device, include)
    stages = method.stages()
    stages = [replace(stage, share=1 / len(stages)) for stage in stages]
    tensors = load_file(images)
    channels = tensors["images"].shape[1]
    split = ImageSplit(tensors["images"], tensors["labels"], torch.zeros(channels), torch.ones(channels))

    def steps(count: int) -> None:
        train(net, split, stages, replace(Recipe(**recipe), epochs=count * len(stages)), seed=0)

    return Work(lambda: steps(1), lambda: steps(STEPS), device)


def sample(split: Split, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` images (count, C, H, W) and labels; a split that is too small comes round again."""
    batch = next(iter(split.batches(min(count, len(split)))))
    again = torch.arange(count) % len(batch.labels)
    return batch.images[again], batch.labels[again]


@contextmanager
def _in_file(images: Tensor, labels: Tensor) -> Iterator[str]:
    with TemporaryDirectory(prefix="dyncomp-") as folder:
        path = str(Path(folder) / "images.safetensors")
        save_file({"images": images.contiguous(), "labels": labels}, path)
        yield path


def _loaded(checkpoint: str, device: str, include: list[str]) -> tuple[Net, Method]:
    for file in include:
        include_path(file)
    return rebuild(Path(checkpoint), torch.device(device))
