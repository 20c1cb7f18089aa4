"""The memory that a trained cell takes: the jobs that run in processes of their own, and the figures for the record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dyncomp._build import build
from dyncomp.bench.group import Cell
from dyncomp.bench.plugins import Plugins, known_plugins
from dyncomp.bench.rebuild import rebuild
from dyncomp.core import Method, Net, Source
from dyncomp.data import ImageSplit, Split
from dyncomp.errors import in_one_line
from dyncomp.profile.activations import activation_bytes
from dyncomp.profile.apart import NotMeasured, rise_bytes_apart
from dyncomp.profile.peak import MIB, Work
from dyncomp.store.schema import MemoryFigures
from dyncomp.train import Recipe, once, train

BATCH_SIZE = 64
"""images of the batch that memory in use is measured on; training has the recipe's own"""
PASSES = 3
STEPS = 2
"""of training per stage: in the second one gradients, momentum and activations live together"""
OF = {
    "cpu": "rise of a process's peak resident memory over the loaded network and batch",
    "cuda": "rise of the GPU allocator's peak over the loaded network and batch",
}


def memory_figures(net: Net, cell: Cell, checkpoint: Path) -> MemoryFigures:
    """For the record, units in the names; a figure that could not be taken is None, and `memory_error` says why."""
    group = cell.group
    images = sample(group.splits.test, BATCH_SIZE)[0].to(group.device, memory_format=torch.channels_last)

    def rise(name: str) -> int:
        arguments: dict[str, Any] = {"checkpoint": str(checkpoint), "device": str(group.device)}
        arguments["plugins"] = asdict(known_plugins())
        split, count = group.splits.test, BATCH_SIZE
        if name == "training":
            split, count = group.splits.train, group.recipe.batch_size
            arguments["recipe"] = asdict(group.recipe)
        batch, labels = sample(split, count)
        with TemporaryDirectory(prefix="dyncomp-") as folder:
            path = str(Path(folder) / "images.safetensors")
            save_file({"images": batch.contiguous(), "labels": labels}, path)
            return rise_bytes_apart(f"{__name__}:{name}", {**arguments, "images": path})

    return {
        "memory_batch_size": BATCH_SIZE,
        "memory_batch_size_training": group.recipe.batch_size,
        "memory_of": OF[group.device.type],
        **figures_of(net, lambda: net(images, sparse=True, record=False), rise),
    }


def figures_of(net: nn.Module, passes: Callable[[], object], rise: Callable[[str], int]) -> MemoryFigures:
    """The figures themselves: of the parameters, of a pass's activations, and what `rise` says of either work."""
    errors: list[str] = []

    def mib(what: str, do: Callable[[], int]) -> float | None:
        try:
            return do() / MIB
        except NotMeasured as error:
            errors.append(f"{what}: {error}")
        except Exception as error:
            errors.append(f"{what}: {in_one_line(error)}")
        return None

    return {
        "params_mib": sum(p.numel() * p.element_size() for p in net.parameters()) / MIB,
        "activation_mib": mib("activation", lambda: activation_bytes(passes)),
        "memory_mib_inference": mib("inference", lambda: rise("inference")),
        "memory_mib_training": mib("training", lambda: rise("training")),
        "memory_error": "; ".join(errors) or None,
    }


def inference(checkpoint: str, images: str, device: str, plugins: Mapping[str, Any]) -> Work:
    """A few passes of the sparse form over one batch."""
    net, _ = _loaded(checkpoint, device, plugins)
    batch = load_file(images)["images"].to(device, memory_format=torch.channels_last)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(PASSES):
                net(batch, sparse=True, record=False)

    return Work(run, run, device)


def training(checkpoint: str, images: str, device: str, plugins: Mapping[str, Any], recipe: Mapping[str, Any]) -> Work:
    """Two steps of every stage of the method, on one batch, by the recipe of the run."""
    net, method = _loaded(checkpoint, device, plugins)
    stages = method.stages()
    stages = [replace(stage, share=1 / len(stages)) for stage in stages]
    tensors = load_file(images)
    channels = tensors["images"].shape[1]
    split = ImageSplit(tensors["images"], tensors["labels"], torch.zeros(channels), torch.ones(channels))

    sources = {name: _source(one, net, torch.device(device)) for name, one in method.sources().items()}
    method.inherit(net, sources, partial(once, split, torch.device(device)))

    def steps(count: int) -> None:
        train(net, split, stages, replace(Recipe(**recipe), epochs=count * len(stages)), seed=0)

    return Work(lambda: steps(1), lambda: steps(STEPS), device)


def _source(source: Source, net: Net, device: torch.device) -> Net:
    """A network such as the training of `net` begins with: the one that is given, or one of its size."""
    if source.checkpoint:
        return rebuild(Path(source.checkpoint), device)[0]
    assert net.card is not None  # `rebuild` writes it
    shape = {"classes": len(net.card.classes), "in_channels": net.card.in_channels, "image_size": net.card.image_size}
    return build(source.method, net.backbone, **shape).to(device)


def sample(split: Split, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` images (count, C, H, W) and labels; a split that is too small comes round again."""
    batch = next(iter(split.batches(min(count, len(split)))))
    again = torch.arange(count) % len(batch.labels)
    return batch.images[again], batch.labels[again]


def _loaded(checkpoint: str, device: str, plugins: Mapping[str, Any]) -> tuple[Net, Method]:
    Plugins(**plugins).register()
    return rebuild(Path(checkpoint), torch.device(device))
