"""Images per second of one network shared by two threads, as a ratio to one thread: every method, made ready for use.

`python -m benchmarks.throughput [METHOD ...]` writes `throughput.md`. Both numbers of threads take turns for half a
second each, so that what else the machine does hits both; quoted are the median of the ratios and the middle half.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor

import dyncomp
from benchmarks.divided import divided, images_for
from dyncomp.core import Net

BACKBONES = {"cifar_resnet14(width=0.5)": (1, 28), "cifar_resnet38": (3, 32)}
"""and the channels and the side of their images"""
ROUNDS, SECONDS, IMAGES = 7, 0.5, 64
RECORDS = Path(__file__).with_name("throughput.json")
TABLE = RECORDS.with_suffix(".md")


def rate(net: Net, images: Sequence[Tensor], threads: int) -> float:
    """Images per second of so many threads, one image a pass."""
    passes, begin, end = [0] * threads, threading.Barrier(threads + 1), threading.Event()

    def work(index: int) -> None:
        torch.set_num_threads(1)
        mine = images[index::threads]
        with torch.inference_mode():
            for image in mine:
                net(image, record=False)
            begin.wait()
            for image in cycle(mine):
                net(image, record=False)
                passes[index] += 1
                if end.is_set():
                    break

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    begin.wait()
    started = time.perf_counter()
    time.sleep(SECONDS)
    end.set()
    for worker in workers:
        worker.join()
    return sum(passes) / (time.perf_counter() - started)


def measured(method: str, backbone: str) -> dict[str, float]:
    """Two threads to one, and the images per second of one."""
    channels, side = BACKBONES[backbone]
    net = dyncomp.deployed(divided(method, backbone, classes=10, in_channels=channels, image_size=side))
    images = images_for(net, IMAGES, seed=1).split(1)
    rounds = [(rate(net, images, 1), rate(net, images, 2)) for _ in range(ROUNDS)]
    low, middle, high = statistics.quantiles((two / one for one, two in rounds), n=4)
    return {"ratio": middle, "low": low, "high": high, "one": statistics.median(one for one, _ in rounds)}


def main() -> None:
    """Measure what is asked for, and write the table of all that is known."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("methods", nargs="*", default=dyncomp.list_methods())
    methods: Sequence[str] = parser.parse_args().methods
    torch.set_num_threads(1)
    known = json.loads(RECORDS.read_text()) if RECORDS.exists() else {}
    for backbone in BACKBONES:
        for method in methods:
            known.setdefault(backbone, {})[method] = found = measured(method, backbone)
            RECORDS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
            print(
                f"{method} on {backbone}: {found['ratio']:.2f} ({found['low']:.2f} to {found['high']:.2f})", flush=True
            )
    lines = ["# Two threads that share a network", "", "Made by `python -m benchmarks.throughput`; batch 1.", ""]
    lines += [f"| method | {' | '.join(BACKBONES)} |", "|---|" + "---|" * len(BACKBONES)]
    for method in sorted({method for rows in known.values() for method in rows}):
        cells = [known[backbone].get(method) for backbone in BACKBONES]
        shown = [f"{c['ratio']:.2f}x ({c['low']:.2f} to {c['high']:.2f})" if c else "not measured" for c in cells]
        lines.append(f"| `{method}` | {' | '.join(shown)} |")
    TABLE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
