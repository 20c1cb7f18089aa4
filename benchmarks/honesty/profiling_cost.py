"""What does profiling cost: accuracy, MACs per image and routes of 10,000 images, against inference alone?

    python benchmarks/honesty/profiling_cost.py [SPEC ...]

Both run the sparse form over the test split in batches of the same size; `profiled` is `dyncomp.profile.evaluate`,
`plain` only asks for the logits. The two take turns in each round, the first one changing. Expected: a ratio of at most
1.10. A minute or two per method on two quiet cores. Weights are random but the gates are opened, so that half of the
units run; Fashion-MNIST's test images, or `digits` 28 pixels wide where they are not installed. Writes a table to
benchmarks/honesty/results/. Freed memory is kept, as in the processes that train and evaluate: without it the features'
pages are faulted in anew at every batch, or not, by what the records of a pass have left in between.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch.nn.utils import convert_conv2d_weight_memory_format

from dyncomp import build
from dyncomp.core import Net
from dyncomp.data import Split, load
from dyncomp.errors import DataNotFound
from dyncomp.profile import environment, evaluate, in_batches, keep_freed_memory
from dyncomp.registry import DATASETS
from dyncomp.samples import median_interval

RESULTS = Path(__file__).parent / "results" / "profiling_cost.md"
METHODS = ("static", "skipnet", "condconv", "convnet_aig", "lkam", "early_exit")
BACKBONE = "cifar_resnet14"
LEAST_ROUNDS, MOST_ROUNDS = 5, 15
SECONDS = 45.0
"""for one method; a round that has begun is ended"""
MOST = 1.10


@dataclass(frozen=True)
class Cost:
    """Seconds of each round, both ways."""

    spec: str
    images: int
    plain_s: list[float]
    profiled_s: list[float]

    @property
    def ratio(self) -> tuple[float, float, float]:
        """Low, median and high of profiled by plain: paired in each round, 95 % bootstrap interval."""
        return median_interval([b / a for a, b in zip(self.plain_s, self.profiled_s, strict=True)])


def main(specs: Sequence[str]) -> int:
    """The exit status: 1 where a median is above what is promised."""
    keep_freed_memory()
    split, name = test_images()
    costs = [measure(spec, split) for spec in specs or METHODS]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(document(costs, name), encoding="utf-8")
    print(document(costs, name))
    return 0 if all(cost.ratio[1] <= MOST for cost in costs) else 1


def test_images() -> tuple[Split, str]:
    """The test split, and whose it is."""
    for spec in ("fashion_mnist", "digits(size=28)"):
        try:
            return load(DATASETS.create(spec)).test, spec
        except DataNotFound as error:
            print(f"{spec}: {error}", file=sys.stderr)
    raise SystemExit("no data set is to be found")


def measure(spec: str, split: Split, seconds: float = SECONDS) -> Cost:
    """Both ways in turns, after one pass of each to warm up."""
    net = prepared(spec, split)
    ways: dict[str, Callable[[], object]] = {
        "plain": lambda: plain(net, split),
        "profiled": lambda: evaluate(net, split),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for run in ways.values():
        run()
    start = time.perf_counter()
    for number in range(MOST_ROUNDS):
        if number >= LEAST_ROUNDS and time.perf_counter() - start > seconds:
            break
        for name in sorted(ways, reverse=bool(number % 2)):
            gc.collect()
            begin = time.perf_counter()
            ways[name]()
            taken[name].append(time.perf_counter() - begin)
    print(spec, taken, flush=True)
    return Cost(spec, len(split), taken["plain"], taken["profiled"])


def prepared(spec: str, split: Split) -> Net:
    """An untrained network; its gates have no bias and large weights, so that routes differ from image to image."""
    images = next(split.batches(64)).images
    net = build(spec, BACKBONE, classes=10, in_channels=images.shape[1], image_size=images.shape[-1]).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if ".gate." in name:
                parameter.zero_() if name.endswith("bias") else parameter.mul_(20)
    return convert_conv2d_weight_memory_format(net, torch.channels_last)  # type: ignore[no-any-return]


def plain(net: Net, split: Split) -> None:
    """Inference alone: the same images, batches and form."""
    with torch.inference_mode():
        for images, _, _ in in_batches(net, split):
            net(images, sparse=True, record=False)


def document(costs: Sequence[Cost], data: str) -> str:
    """The table, and on what it was measured."""
    head = (
        "# What profiling costs\n\n"
        f"Accuracy, MACs per image and routes of the test images of {data} on {BACKBONE}, by the time of inference "
        f"alone: same form, same batch size, in turns. At most {MOST:.2f} is promised. Made by "
        "`benchmarks/honesty/profiling_cost.py`.\n\n"
        "| method | images | rounds | plain, s | profiled, s | ratio | 95 % interval | kept |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    machine = environment(torch.device("cpu"))
    where = ", ".join(f"{name} {machine[name]}" for name in ("torch", "processor", "cores", "threads"))
    return head + "".join(row(cost) for cost in costs) + f"\n{where}\n"


def row(cost: Cost) -> str:
    """One line of the table."""
    low, middle, high = cost.ratio
    seconds = f"{median(cost.plain_s):.3f} | {median(cost.profiled_s):.3f}"
    kept = "yes" if middle <= MOST else "no"
    return (
        f"| {cost.spec} | {cost.images} | {len(cost.plain_s)} | {seconds} | {middle:.3f} | "
        f"{low:.3f} to {high:.3f} | {kept} |\n"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
