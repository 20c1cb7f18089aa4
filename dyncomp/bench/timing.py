"""Times the networks of a group together, round by round; the samples are a record of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from dyncomp.bench.config import Config
from dyncomp.bench.events import Listener, TimingStarted
from dyncomp.bench.forms import known_plugins, sparse_form
from dyncomp.bench.plan import Cell, Group
from dyncomp.bench.rebuild import rebuild
from dyncomp.bench.stamp import now
from dyncomp.core import Net
from dyncomp.errors import InvalidValue
from dyncomp.profile import (
    LatencyRounds,
    Setting,
    Team,
    Timed,
    Until,
    allowed_processors,
    environment,
    measure_latency,
)
from dyncomp.samples import verdict
from dyncomp.store import Store, cell_key
from dyncomp.train import read_facts

SECONDS = 2.5
SECONDS_STANDARD = 10.0


def time_group(cells: Sequence[Cell], store: Store, config: Config, tell: Listener) -> list[Cell]:
    """Write timing records for all batch sizes that have none yet for just these cells; returns those that failed."""
    known = {record["key"] for record in store.timings()}
    keys = {size: _key(cells, size, config) for size in config.batch_sizes}
    wanted = [size for size, key in keys.items() if config.force or key not in known]
    if not wanted:
        return []
    group = cells[0].group
    setting = Setting(str(group.device), torch.get_num_threads(), allowed_processors())
    failed: dict[str, str] = {}
    if group.device.type == "cuda":
        torch.cuda.empty_cache()  # what training has left, the processes need
    with Team(_forms(cells, store), setting) as team:
        for size in wanted:
            tell(TimingStarted(len(cells), size))
            started, until = now(), _until(config)
            reference = next((cell.key for cell in cells if cell.is_reference), None)
            measured = measure_latency(team, group.splits.test, size, group.seed, until, reference)
            record = {"key": keys[size], "cells": [cell.key for cell in cells], "wanted": asdict(until)}
            store.write_timing(record | _record(measured, group, reference) | {"started_at": started})
            failed |= measured.errors
    return [cell for cell in cells if cell.key in failed]


def _key(cells: Sequence[Cell], batch_size: int, config: Config) -> str:
    """The same for the same cells; asking for more precision than usual is asking anew."""
    asked = {"width": config.latency_width, "seconds": config.latency_seconds}
    usual = {"width": Config.latency_width, "seconds": Config.latency_seconds}
    more = {} if asked == usual else asked
    return cell_key({"cells": sorted(cell.key for cell in cells), "batch_size": batch_size, **more})


def trained(cell: Cell, store: Store) -> Net:
    """The cell's network from its checkpoint, as it is timed: on its device, in the layout that is faster there."""
    with _said_what_to_do():
        return rebuild(store.checkpoint_path(cell.key), cell.group.device)[0]


@contextmanager
def _said_what_to_do() -> Iterator[None]:
    """A checkpoint that cannot be read has a remedy."""
    try:
        yield
    except InvalidValue as error:
        raise InvalidValue(f"{error}; remove the file, and the same command trains that cell again") from error


def _until(config: Config) -> Until:
    usual = SECONDS_STANDARD if config.budget == "standard" else SECONDS
    return Until(config.latency_width / 100, usual if config.latency_seconds is None else config.latency_seconds)


def _forms(cells: Sequence[Cell], store: Store) -> list[Timed]:
    plugins, device = known_plugins(), str(cells[0].group.device)
    forms = []
    for cell in cells:
        path = store.checkpoint_path(cell.key).resolve()
        with _said_what_to_do():
            read_facts(path)
        forms.append(Timed(cell.key, partial(sparse_form, path, device, plugins)))
    return forms


def _record(measured: LatencyRounds, group: Group, reference: str | None) -> dict[str, Any]:
    rounds = measured.rounds
    beside = reference if reference in rounds.samples_ms else None
    return {
        "schema": Store.schema,
        "kind": "timing",
        "batch_size": measured.batch_size,
        "device": group.device.type,
        "threads": torch.get_num_threads(),
        **measured.setting,
        "form": "sparse",
        "layout": "channels_last",
        "dtype": "float32",
        "compiled": False,
        "processes": "one per network, taking turns",
        "seed": group.seed,
        "batches_per_round": rounds.per_round,
        "distinct_rounds": rounds.distinct,
        "rounds": {name: rounds.count(name) for name in rounds.samples_ms},
        "samples_ms": rounds.samples_ms,
        "verdicts": {name: verdict(rounds, name, measured.load, beside) for name in rounds.samples_ms},
        "load": asdict(measured.load),
        "seconds": measured.seconds,
        "errors": measured.errors,
        "environment": environment(group.device),
    }
