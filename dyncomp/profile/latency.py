"""How long a batch takes: real images, every route warmed up, the networks compared taking turns."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from dyncomp.core import Net
from dyncomp.data import Split

MOST_BATCHES = 32
MOST_IMAGES = 1024


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
    batches = [b.to(device, memory_format=torch.channels_last) for b in _draw(split, batch_size, seed)]
    errors: dict[str, str] = {}
    alive = {name: net for name, net in nets.items() if _warm(name, net, batches, errors)}
    samples: dict[str, list[float]] = {name: [] for name in alive}
    order = list(alive)
    was_enabled, end = gc.isenabled(), time.perf_counter() + seconds
    gc.collect()
    gc.disable()
    try:
        count = 0
        while order and (count < rounds or time.perf_counter() < end):
            batch = batches[count % len(batches)]
            for name in order:
                samples[name].append(_milliseconds(alive[name], batch))
            order = order[1:] + order[:1]
            count += 1
    finally:
        if was_enabled:
            gc.enable()
    return LatencyRounds(batch_size, samples, errors)


def _draw(split: Split, batch_size: int, seed: int) -> list[Tensor]:
    """Some batches of exactly that size, in an order that `seed` gives; a split too short for them comes round again."""
    wanted = min(MOST_BATCHES, max(4, MOST_IMAGES // batch_size)) * batch_size
    drawn: list[Tensor] = []
    epoch = 0
    while sum(map(len, drawn)) < wanted:
        shuffled = split.batches(min(batch_size, len(split)), epoch=epoch, seed=seed)
        missing = wanted - sum(map(len, drawn))
        drawn += [batch.images for batch in islice(shuffled, -(-missing // min(batch_size, len(split))))]
        epoch += 1
    return list(torch.cat(drawn)[:wanted].split(batch_size))


def _warm(name: str, net: Net, batches: list[Tensor], errors: dict[str, str]) -> bool:
    net.eval()
    try:
        for _ in range(2):
            for batch in batches:
                _milliseconds(net, batch)
    except Exception as error:  # whatever a network raises must not stop the others
        errors[name] = f"{type(error).__name__}: {error}"
    return name not in errors


def _milliseconds(net: Net, batch: Tensor) -> float:
    with torch.inference_mode():
        _wait(batch)
        begin = time.perf_counter_ns()
        net(batch, sparse=True, record=False)
        _wait(batch)
        return (time.perf_counter_ns() - begin) / 1e6


def _wait(batch: Tensor) -> None:
    if batch.is_cuda:
        torch.cuda.synchronize(batch.device)
