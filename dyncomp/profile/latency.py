"""How long a batch takes: real images, every route warmed up, the networks compared taking turns."""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from dyncomp.core import Net
from dyncomp.data import Split

MOST_BATCHES = 128
MOST_IMAGES = 1024
LEAST_BATCHES = 4
WARM_UPS = 2


@dataclass(frozen=True)
class LatencyRounds:
    """Raw samples of one batch size: `samples_ms[name][r]` is the time of round r, the same images for every network.

    `errors` holds the networks that could not run at this batch size.
    """

    batch_size: int
    samples_ms: dict[str, list[float]]
    errors: dict[str, str]


def measure_latency(
    nets: Mapping[str, Net], split: Split, batch_size: int, seed: int, seconds: float, rounds: int = 30
) -> LatencyRounds:
    """Time the sparse form of all networks, round by round, on batches of real images in a seeded order.

    In every round each network runs the same batch once; which one begins changes from round to round, so that drift of
    the machine hits all alike. Before that each network runs every batch that will come, so that every route and every
    size of sub-batch is warm. At least `rounds` rounds, then on until `seconds` are over; input and output stay on the
    device, and a GPU is synchronised around each batch. A network that fails is left out and its error kept.
    """
    device = next(next(iter(nets.values())).parameters()).device
    images = _draw(split, _batch_count(batch_size) * batch_size, seed)
    batches = [b.to(device, memory_format=torch.channels_last) for b in torch.split(images, batch_size)]
    result = LatencyRounds(batch_size, {name: [] for name in nets}, {})
    for name, net in nets.items():
        net.eval()
        for batch in batches * WARM_UPS:
            _milliseconds(result, name, net, batch)
    for samples in result.samples_ms.values():
        samples.clear()
    with _no_garbage_collection():
        _take_turns(result, nets, batches, seconds, rounds)
    return result


def _take_turns(
    result: LatencyRounds, nets: Mapping[str, Net], batches: list[Tensor], seconds: float, rounds: int
) -> None:
    end = time.perf_counter() + seconds
    order = deque(result.samples_ms)
    done = 0
    while result.samples_ms and (done < rounds or time.perf_counter() < end):
        for name in order:
            _milliseconds(result, name, nets[name], batches[done % len(batches)])
        order.rotate(-1)
        done += 1


def _batch_count(batch_size: int) -> int:
    return min(MOST_BATCHES, max(LEAST_BATCHES, MOST_IMAGES // batch_size))


def _draw(split: Split, wanted: int, seed: int) -> Tensor:
    """(wanted, C, H, W) images in an order that `seed` gives; a split that is too small comes round again."""
    drawn: list[Tensor] = []
    for epoch in count():
        missing = wanted - sum(map(len, drawn))
        if not missing:
            break
        drawn.append(next(iter(split.batches(min(len(split), missing), epoch=epoch, seed=seed))).images)
    return torch.cat(drawn)


def _milliseconds(result: LatencyRounds, name: str, net: Net, batch: Tensor) -> None:
    """Add a sample; a network that fails, whatever it raises, loses its samples and must not stop the others."""
    if name in result.errors:
        return
    try:
        result.samples_ms[name].append(_timed(net, batch))
    except Exception as error:
        del result.samples_ms[name]
        result.errors[name] = " ".join(f"{type(error).__name__}: {error}".split())


def _timed(net: Net, batch: Tensor) -> float:
    with torch.inference_mode():
        _wait(batch)
        begin = time.perf_counter_ns()
        net(batch, sparse=True, record=False)
        _wait(batch)
        return (time.perf_counter_ns() - begin) / 1e6


def _wait(batch: Tensor) -> None:
    if batch.is_cuda:
        torch.cuda.synchronize(batch.device)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
