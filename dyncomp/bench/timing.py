"""Times the networks of a group together, round by round; the samples are a record of their own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch
from torch.nn.utils import convert_conv2d_weight_memory_format

from dyncomp.bench.events import Listener, TimingStarted
from dyncomp.bench.plan import Cell
from dyncomp.core import Net
from dyncomp.profile import environment, measure_latency
from dyncomp.store import Store, cell_key
from dyncomp.train import load_checkpoint

SECONDS = {"quick": 3.0}
SECONDS_ELSE = 10.0


def time_group(
    cells: Sequence[Cell], store: Store, batch_sizes: Sequence[int], force: bool, tell: Listener
) -> list[dict[str, Any]]:
    """Timing records for all batch sizes that have none yet for just these cells; returns the new ones."""
    identities = {b: _identity(cells, b) for b in batch_sizes}
    known = {record["key"] for record in store.timings()}
    wanted = {b: i for b, i in identities.items() if force or cell_key(i) not in known}
    if not wanted:
        return []
    nets = {cell.key: _trained(cell, store) for cell in cells}
    return [_time(cells, nets, b, i, store, tell) for b, i in wanted.items()]


def _identity(cells: Sequence[Cell], batch_size: int) -> dict[str, Any]:
    return {"cells": sorted(cell.key for cell in cells), "batch_size": batch_size}


def _trained(cell: Cell, store: Store) -> Net:
    net = cell.group.build(cell.method)
    load_checkpoint(net, store.checkpoint_path(cell.key))
    net.to(cell.group.device)
    convert_conv2d_weight_memory_format(net, torch.channels_last)
    return net


def _time(
    cells: Sequence[Cell],
    nets: dict[str, Net],
    batch_size: int,
    identity: dict[str, Any],
    store: Store,
    tell: Listener,
) -> dict[str, Any]:
    tell(TimingStarted(len(nets), batch_size))
    group = cells[0].group
    started = datetime.now(UTC).isoformat(timespec="seconds")
    seconds = SECONDS.get(group.budget, SECONDS_ELSE)
    rounds = measure_latency(nets, group.splits.test, batch_size, group.seed, seconds)
    record = {
        "schema": 1,
        "kind": "timing",
        "key": cell_key(identity),
        "cells": list(nets),
        "batch_size": batch_size,
        "device": group.device.type,
        "threads": torch.get_num_threads(),
        "form": "sparse",
        "layout": "channels_last",
        "dtype": "float32",
        "compiled": False,
        "clock": "perf_counter_ns, the device synchronised around each batch",
        "seed": group.seed,
        "samples_ms": rounds.samples_ms,
        "errors": rounds.errors,
        "started_at": started,
        "environment": environment(group.device),
    }
    store.write_timing(record)
    return record
