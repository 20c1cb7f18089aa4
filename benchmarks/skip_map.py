"""Where skipping pays on this machine: batch size x share of blocks skipped -> efficiency, as a picture.

    python -m benchmarks.skip_map [--spec convnet_aig] [--backbone cifar_resnet38] [--least]

What efficiency is, and how it is measured: `benchmarks/ops/skipping.py`. The picture is `skip-map-<machine>.png`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from benchmarks.ops._common import Options, begin, machine
from benchmarks.ops._forced import floats
from benchmarks.ops.skipping import Case, Compared, Measured

FOLDER = Path(__file__).parent


def measured(options: argparse.Namespace) -> dict[tuple[int, float], Measured]:
    """Every batch with every rate."""
    compared = Compared(Case(options.spec, options.backbone, options.size, {}))
    found = {}
    for batch in map(int, options.batches):
        for rate in options.rates:
            found[batch, rate] = got = compared.measure(batch, rate, options.seconds, options.least)
            print(f"batch {batch}, {rate:.0%} skipped: {got.faster:.2f}x of {got.by_macs:.2f}x", flush=True)
    return found


def draw(found: Mapping[tuple[int, float], Measured], title: str, path: Path) -> None:
    """A field for each pair: its colour the efficiency, in it the speed-up by the clock and by multiply-adds."""
    batches, rates = sorted({batch for batch, _ in found}), sorted({rate for _, rate in found})
    field = [[found[batch, rate].efficiency for batch in batches] for rate in rates]
    figure, axes = plt.subplots(figsize=(1.5 + 1.15 * len(batches), 1.6 + 0.75 * len(rates)), layout="constrained")
    shown = axes.imshow(field, origin="lower", aspect="auto", cmap="viridis", vmin=0.0, vmax=1.0)
    for (batch, rate), got in found.items():
        colour = "black" if got.efficiency > 0.6 else "white"
        text = f"{got.efficiency:.2f}\n{got.faster:.2f}x of {got.by_macs:.2f}x"
        axes.text(batches.index(batch), rates.index(rate), text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(batches)), [str(batch) for batch in batches])
    axes.set_yticks(range(len(rates)), [f"{rate:.0%}" for rate in rates])
    axes.set(xlabel="images in a batch", ylabel="blocks skipped", title=title)
    figure.colorbar(shown, label="efficiency: speed-up by the clock / by MACs")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def options_from(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What is asked for."""
    parser = Options(__doc__, seconds=4.0)
    parser.add_argument("--spec", default="convnet_aig", help="a method that skips blocks")
    parser.add_argument("--backbone", default="cifar_resnet38")
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--batches", type=floats, default=[1, 4, 16, 64, 128])
    parser.add_argument("--rates", type=floats, default=[0.1, 0.25, 0.5, 0.75, 0.9])
    parser.add_argument("--least", action="store_true", help="ratios of the shortest times: for a busy machine")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure and draw."""
    options = options_from()
    begin(options)
    path = FOLDER / f"skip-map-{machine()}.png"
    title = f"{options.spec} on {options.backbone}, {options.size} pixels, {torch.get_num_threads()} threads"
    found = measured(options)
    if not options.dry:
        draw(found, title, path)
        print(path)


if __name__ == "__main__":
    main()
