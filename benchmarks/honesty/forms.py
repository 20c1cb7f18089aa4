"""Forms of networks for the honesty benchmarks; a module of its own, because other processes import it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

import dyncomp
from dyncomp.profile import as_timed
from dyncomp.profile.child import live_with_parent

Run = Callable[[Tensor], Any]


def network(spec: str, backbone: str, in_channels: int, image_size: int) -> Run:
    """The sparse form of an untrained network, deployed as a comparison times it."""
    net, _ = as_timed(dyncomp.build(spec, backbone, in_channels=in_channels, image_size=image_size))
    return partial(net, sparse=True, record=False)


def slowed(make: Callable[[], Run], share: float) -> Run:
    """The same, and after each pass it keeps its processor busy for a share of the time that the pass took."""
    run = make()

    def slower(batch: Tensor) -> None:
        begin = time.perf_counter()
        run(batch)
        now = time.perf_counter()
        end = now + share * (now - begin)
        while time.perf_counter() < end:
            pass

    return slower


def make_busy(share: float) -> None:
    """Work and sleep in turn, 1 to 100 ms at a time, as long as the parent lives: a neighbour that comes and goes."""
    live_with_parent()
    draw = random.Random(0)
    while True:
        burst = draw.uniform(0.001, 0.1)
        end = time.perf_counter() + burst * share
        while time.perf_counter() < end:
            pass
        time.sleep(burst * (1 - share))
