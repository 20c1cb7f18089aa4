"""Times the networks of a group together, round by round; the samples are a record of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.utils import convert_conv2d_weight_memory_format

from dyncomp.bench.events import Listener, TimingStarted
from dyncomp.bench.plan import Cell, Group
from dyncomp.bench.stamp import now
from dyncomp.core import Net
from dyncomp.errors import InvalidValue
from dyncomp.profile import environment, measure_latency
from dyncomp.store import Store, cell_key
from dyncomp.train import load_checkpoint

SECONDS = 3.0
SECONDS_STANDARD = 10.0


def time_group(cells: Sequence[Cell], store: Store, batch_sizes: Sequence[int], force: bool, tell: Listener) -> None:
    """Write timing records for all batch sizes that have none yet for just these cells."""
    known = {record["key"] for record in store.timings()}
    wanted = [size for size in batch_sizes if force or _key(cells, size) not in known]
    if not wanted:
        return
    nets = {cell.key: trained(cell, store) for cell in cells}
    for batch_size in wanted:
        tell(TimingStarted(len(nets), batch_size))
        timing = _time(cells[0].group, nets, batch_size)
        store.write_timing({"key": _key(cells, batch_size), **timing})


def _key(cells: Sequence[Cell], batch_size: int) -> str:
    return cell_key({"cells": sorted(cell.key for cell in cells), "batch_size": batch_size})


def trained(cell: Cell, store: Store) -> Net:
    """The cell's network from its checkpoint, as it is timed: on its device, in the layout that is faster there."""
    net = cell.group.build(cell.method)
    path = store.checkpoint_path(cell.key)
    try:
        load_checkpoint(net, path)
    except InvalidValue as error:
        raise InvalidValue(f"{error}; remove the file, and the same command trains that cell again") from error
    net.to(cell.group.device)
    convert_conv2d_weight_memory_format(net, torch.channels_last)
    return net


def _time(group: Group, nets: Mapping[str, Net], batch_size: int) -> dict[str, Any]:
    started = now()
    seconds = SECONDS_STANDARD if group.budget == "standard" else SECONDS
    rounds = measure_latency(nets, group.splits.test, batch_size, group.seed, seconds)
    return {
        "schema": Store.schema,
        "kind": "timing",
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
