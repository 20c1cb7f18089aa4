"""Where a trained cell's time goes: by operator, and against the plain backbone; for its record."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

from dyncomp.bench.group import Cell
from dyncomp.core import Net
from dyncomp.profile import attribute, audit_operators
from dyncomp.store.schema import TimeFigures

SECONDS = 1.0
"""for the attribution at one batch size; one pass of everything over all batches is made in any case"""
BATCHES = {1: 16, 64: 3}
"""batch sizes at which time is attributed, and how many different batches of each"""
AUDITED = 64
"""batch size of the audit"""


def where_time_goes(net: Net, plain: Net | None, cell: Cell, uncounted: Sequence[str]) -> TimeFigures:
    """`operators`: time by operator. `gaps`: the parts of the time at each batch size, [] for the plain backbone.

    Both networks, the cell's own and the plain backbone's, are in the form in which they are timed; `gaps` is None
    where there is no plain one. What fails here is a warning, and the figures are None: the cell's results stand
    without.
    """
    found: TimeFigures = {"operators": None, "gaps": None, "time_error": None}
    try:
        found["operators"] = audit_operators(net, _drawn(cell, AUDITED, 2), uncounted).as_record()
        if cell.role == "static":
            found["gaps"] = []
        elif plain is not None:
            found["gaps"] = [
                attribute(net, plain, _drawn(cell, size, count), SECONDS).as_record() for size, count in BATCHES.items()
            ]
    except (RuntimeError, MemoryError) as error:
        found["time_error"] = " ".join(f"{type(error).__name__}: {error}".split())
    return found


def _drawn(cell: Cell, size: int, count: int) -> list[Tensor]:
    """Batches of test images in an order that the seed gives; fewer, or one smaller, where there are not enough."""
    group = cell.group
    batches = islice(group.splits.test.batches(size, epoch=0, seed=group.seed), count)
    return [batch.images.to(group.device, memory_format=torch.channels_last) for batch in batches]
