"""Times the networks of a group together, round by round; the samples are a record of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from dyncomp.bench.config import Config
from dyncomp.bench.events import Listener, TimingStarted
from dyncomp.bench.forms import timed_form
from dyncomp.bench.group import Cell
from dyncomp.bench.plugins import known_plugins
from dyncomp.bench.stamp import now
from dyncomp.errors import InvalidValue
from dyncomp.fast import is_enabled
from dyncomp.profile import (
    Setting,
    Team,
    Timed,
    Until,
    allowed_processors,
    environment,
    forms_of,
    measure_latency,
)
from dyncomp.profile.team import PATIENCE_S
from dyncomp.samples import is_compiled, is_dense, key_in, name_of_form, verdict
from dyncomp.store import Store, cell_key
from dyncomp.store.schema import TimingContent
from dyncomp.train import read_facts

SECONDS = 2.5
SECONDS_STANDARD = 10.0
PROLONGED_QUICK = 2.0
"""`Until.prolonged` where the budget is quick"""
TOGETHER_S = 35.0
"""the longest timing of all networks together at one batch size where the budget is quick"""
PATIENCE_TO_COMPILE_S = 1800.0
"""the longest that a pass may take which compiles something first"""


def time_group(cells: Sequence[Cell], store: Store, config: Config, tell: Listener) -> list[Cell]:
    """Write timing records for all batch sizes that have none yet for just these cells; returns those that failed."""
    known = {record["key"] for record in store.timings()}
    keys = {size: _key(cells, size, config) for size in config.batch_sizes}
    wanted = [size for size, key in keys.items() if config.force or key not in known]
    if not wanted:
        return []
    group = cells[0].group
    setting = Setting(str(group.device), torch.get_num_threads(), allowed_processors())
    failed: set[str] = set()
    if group.device.type == "cuda":
        torch.cuda.empty_cache()  # what training has left, the processes need
    patience_s = PATIENCE_TO_COMPILE_S if config.compile else PATIENCE_S
    with Team(_forms(cells, store, config.compile), setting, patience_s) as team:
        for size in wanted:
            tell(TimingStarted(len(cells), size))
            record = _timed(cells, keys[size], size, team, config)
            store.write_timing(record)
            failed |= {key_in(name) for name in record["errors"]}
    return [cell for cell in cells if cell.key in failed]


def _key(cells: Sequence[Cell], batch_size: int, config: Config) -> str:
    """The same for the same cells; asking for more precision than usual is asking anew."""
    asked = {"width": config.latency_width, "seconds": config.latency_seconds}
    usual = {"width": Config.latency_width, "seconds": Config.latency_seconds}
    more: dict[str, Any] = {} if asked == usual else dict(asked)
    forms = [form.name for form in forms_of(decides=True, compiled=config.compile)]
    more |= {} if is_enabled() else {"fast": False}
    return cell_key({"cells": sorted(cell.key for cell in cells), "batch_size": batch_size, "forms": forms, **more})


@contextmanager
def said_what_to_do() -> Iterator[None]:
    """A checkpoint that cannot be read has a remedy: InvalidValue says it."""
    try:
        yield
    except InvalidValue as error:
        raise InvalidValue(f"{error}; remove the file, and the same command trains that cell again") from error


def _forms(cells: Sequence[Cell], store: Store, compiled: bool) -> list[Timed]:
    plugins, device = known_plugins(), str(cells[0].group.device)
    forms = []
    for cell in cells:
        path = store.checkpoint_path(cell.key).resolve()
        with said_what_to_do():
            read_facts(path)
        record = store.cell(cell.key)
        decides = record is not None and record["sites"] > 0
        for form in forms_of(decides, compiled):
            name = name_of_form(cell.key, form.name)
            forms.append(Timed(name, partial(timed_form, path, device, plugins, form)))
    return forms


def _timed(cells: Sequence[Cell], key: str, batch_size: int, team: Team, config: Config) -> TimingContent:
    group, started_at = cells[0].group, now()
    usual = SECONDS_STANDARD if config.budget == "standard" else min(SECONDS, TOGETHER_S / len(team.names))
    asked = config.latency_seconds
    prolonged = PROLONGED_QUICK if config.budget == "quick" and asked is None else Until.prolonged
    rough = [name for name in team.names if is_dense(name)]
    until = Until(config.latency_width / 100, usual if asked is None else asked, prolonged, rough)
    reference = next((cell.key for cell in cells if cell.role == "static"), None)
    measured = measure_latency(team, group.splits.test, batch_size, group.seed, until, reference)
    rounds, load, errors = measured.rounds, measured.load, measured.errors
    return {
        "key": key,
        "cells": [cell.key for cell in cells],
        "wanted": {"width": until.width, "seconds": until.seconds},
        "batch_size": measured.batch_size,
        "device": group.device.type,
        "threads": torch.get_num_threads(),
        **measured.setting,
        "forms": measured.forms,
        "layout": "channels_last",
        "dtype": "float32",
        "processes": "one per network, taking turns",
        "seed": group.seed,
        "batches_per_round": rounds.per_round,
        "distinct_rounds": rounds.distinct,
        "rounds": {name: rounds.count(name) for name in rounds.samples_ms},
        "samples_ms": rounds.samples_ms,
        "reference": rounds.reference,
        "beside_ms": rounds.beside_ms,
        "verdicts": {name: verdict(rounds, name, load) for name in rounds.samples_ms},
        "load": {"processors": load.processors, "own": load.own, "others": load.others, "average": load.average},
        "seconds": measured.seconds,
        "errors": {name: error for name, error in errors.items() if not is_compiled(name)},
        "not_compiled": {
            name: error.removeprefix("NotCompiled: ")  # else the error's own name would say it twice
            for name, error in errors.items()
            if is_compiled(name)
        },
        "environment": environment(group.device),
        "started_at": started_at,
    }
