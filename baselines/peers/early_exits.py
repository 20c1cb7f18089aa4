"""Time a trained network with early exits by ours and by earlyon, on real test images; writes early_exits.csv.

    python -m baselines.peers.early_exits CHECKPOINT [--seconds 20] [--dry]

CHECKPOINT is one of a run of `early_exit` by the criterion `confidence`. Both packages run the same layers, heads,
weights and thresholds. earlyon (0.3) takes one image at a time, or a batch, all of whose images leave at the first exit
at which each of them is sure enough; ours sends every image out on its own. `plain` is the same network without its
heads, by torch, channels-last. A row has the median milliseconds per image over passes through the first 256 test
images, the median over rounds of plain's time by the engine's, the accuracy on these images, and the share of images
whose class is that of ours at batch 1. `benchmarks.ops.early_exit` compares the two where leaving is drawn by lot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch
from earlyon.core.types import EarlyExitConfig, ExitPoint
from earlyon.core.wrappers import EarlyExitWrapper
from torch import Tensor, nn

import dyncomp
from baselines.peers._rows import write
from benchmarks.ops._common import Options, begin, take_turns
from dyncomp.core import Net
from dyncomp.data import load
from dyncomp.ops.exits import Exit
from dyncomp.registry import DATASETS
from dyncomp.train import read_facts

IMAGES = 256
BATCHES = (1, 8, 64)
"""batch sizes, each a divisor of `IMAGES`"""


def unrolled(net: Net) -> tuple[nn.Sequential, Mapping[str, Exit]]:
    """The network's layers without its heads, and its exits by the name of the layer that each stands behind."""
    layers, exits, module = nn.Sequential(), dict[str, Exit](), net.model
    while True:
        following = None
        for child in module.children():
            if isinstance(child, Exit):
                exits[str(len(layers) - 1)] = following = child
            else:
                layers.add_module(str(len(layers)), child)
        if following is None:
            return layers, exits
        module = following.rest


def of_earlyon(layers: nn.Sequential, exits: Mapping[str, Exit], image: Tensor, classes: int) -> EarlyExitWrapper:
    """The same network, with the same heads and thresholds, in earlyon's wrapper."""
    config = EarlyExitConfig(
        backbone="custom",
        num_classes=classes,
        exit_points=[ExitPoint(f"e{layer}", layer, 1) for layer in exits],  # its heads are given: no channels needed
        confidence_thresholds=[min(1.0, float(one.threshold)) for one in exits.values()],
    )
    heads = {f"e{layer}": one.head for layer, one in exits.items()}
    return EarlyExitWrapper(layers, heads, nn.Identity(), config, input_shape=tuple(image.shape)).eval()


def by_earlyon(wrapper: EarlyExitWrapper, batch: Tensor) -> Tensor:
    """Logits (B, Y)."""
    if len(batch) == 1:
        return wrapper(batch, mode="inference").prediction  # type: ignore[no-any-return]
    return wrapper.forward_inference_batched(batch).predictions  # type: ignore[no-any-return]


def classes_of(run: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> Tensor:
    """The most likely class of each image (N,)."""
    return torch.cat([run(batch) for batch in batches]).argmax(dim=1)


def main() -> None:
    """Time the network at all batch sizes."""
    options = Options(__doc__, seconds=20.0)
    options.add_argument("checkpoint", type=Path, help="of a run of early_exit")
    given = options.parse_args()
    begin(given)
    net = dyncomp.load(given.checkpoint)
    layers, exits = unrolled(net)
    facts = read_facts(given.checkpoint)
    first = next(load(DATASETS.create(facts["identity"]["dataset"])).test.batches(IMAGES))
    images = first.images.to(memory_format=torch.channels_last)
    ours, layers = dyncomp.deployed(net), layers.to(memory_format=torch.channels_last)
    wrapper = of_earlyon(layers, exits, images[:1], facts["classes"])
    plain = nn.Sequential(*layers.children())  # without the hooks that earlyon has registered on the layers
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "plain, torch": plain,
        "earlyon": partial(by_earlyon, wrapper),
        "dyncomp, deployed": lambda batch: ours(batch, record=False).logits,
    }
    rows = []
    with torch.inference_mode():
        wanted = classes_of(ways["dyncomp, deployed"], images.split(1))
        for size in BATCHES:
            batches = images.split(size)
            times = take_turns({name: partial(classes_of, run, batches) for name, run in ways.items()}, given.seconds)
            for name, run in ways.items():
                found = classes_of(run, batches)
                ratios = [a / b for a, b in zip(times["plain, torch"], times[name], strict=True)]
                rows.append(
                    {
                        "batch_size": size,
                        "engine": name,
                        "ms_per_image": f"{median(times[name]) / IMAGES:.4g}",
                        "faster_than_plain": f"{median(ratios):.3g}",
                        "top1": f"{100 * float((found == first.labels).float().mean()):.2f}",
                        "same_class": f"{float((found == wanted).float().mean()):.4f}",
                    }
                )
    write(rows, Path(__file__).with_suffix(".csv"), given)


if __name__ == "__main__":
    main()
