"""Trains and measures one cell, and says all of it in a record."""

from __future__ import annotations

import subprocess
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dyncomp.bench.plan import Cell
from dyncomp.core import Net
from dyncomp.profile import (
    Evaluation,
    accuracy_with_exchanged_routes,
    count_executed,
    distinct_routes,
    environment,
    evaluate,
    gate_health,
    warnings_of,
)
from dyncomp.registry import METHODS
from dyncomp.spec import full_options, name_of, spec_of
from dyncomp.store import Store
from dyncomp.train import Progress, StageLog, save_checkpoint, train

SCHEMA = 1


def run_cell(cell: Cell, store: Store, report: Callable[[Progress], None]) -> dict[str, Any]:
    """Train and measure the cell; its record is in the store when this returns, also when it failed."""
    record = _head(cell)
    images = None
    try:
        net = cell.group.build(cell.method).to(cell.group.device)
        torch.manual_seed(cell.group.seed)
        begin = time.perf_counter()
        logs = train(net, cell.group.splits.train, cell.method.stages(), cell.group.recipe, cell.group.seed, report)
        record |= {"train_seconds": time.perf_counter() - begin, "stages": [_stage(log) for log in logs]}
        figures, images = _measure(net, cell)
        record |= figures
        facts = {"identity": cell.identity, "classes": cell.group.splits.classes,
                 "in_channels": cell.group.splits.in_channels, "image_size": cell.group.splits.image_size}
        save_checkpoint(net, store.checkpoint_path(cell.key), facts)
        record["status"] = "ok"
    except Exception as error:  # a cell that fails is a result too; the others go on
        record |= {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    record["finished_at"] = _now()
    store.write_cell(record, images)
    return record


def _head(cell: Cell) -> dict[str, Any]:
    group, entry = cell.group, METHODS.entry(name_of(cell.method))
    return {
        "schema": SCHEMA,
        "kind": "cell",
        "key": cell.key,
        "identity": cell.identity,
        "status": "failed",
        "error": None,
        "traceback": None,
        "method": name_of(cell.method),
        "spec": spec_of(cell.method),
        "hyperparameters": full_options(cell.method),
        "paper": entry.paper,
        "role": "static" if cell.is_reference else "method",
        "backbone": spec_of(group.backbone),
        "dataset": spec_of(group.dataset),
        "seed": group.seed,
        "budget": group.budget,
        "epochs": group.recipe.epochs,
        "device": group.device.type,
        "warnings": [],
        "started_at": _now(),
        "git_commit": _git_commit(),
        "environment": environment(group.device),
    }


def _stage(log: StageLog) -> dict[str, Any]:
    rows = [list(row) for row in log.log]
    return {
        "name": log.name,
        "epochs": log.epochs,
        "seconds": log.seconds,
        "loss_first": rows[0][1],
        "loss_last": rows[-1][1],
        "log": rows,
    }


def _measure(net: Net, cell: Cell) -> tuple[dict[str, Any], Mapping[str, Any]]:
    splits = cell.group.splits
    test, calibration = evaluate(net, splits.test), evaluate(net, splits.calibration)
    assert net.costs is not None
    health = gate_health(net, net.costs, test.trace, calibration.trace)
    routes = distinct_routes(test.trace)
    record = {
        "params": sum(p.numel() for p in net.parameters()),
        "images": len(test.labels),
        "top1": test.top1,
        "top1_calibration": calibration.top1,
        **_mac_figures(net, cell, test),
        "routes": routes,
        "gates": [asdict(g) for g in health if g.skippable],
        "warnings": warnings_of(health),
        "route_exchange_top1": _exchanged(net, cell, test),
    }
    images = {
        "label": test.labels.numpy(),
        "prediction": test.predictions.numpy(),
        "macs": test.macs.numpy(),
        "route": _route_texts(test),
    }
    return record, images


def _mac_figures(net: Net, cell: Cell, test: Evaluation) -> dict[str, Any]:
    costs, macs = net.costs, test.macs.double()
    assert costs is not None
    static = _static_macs(cell)
    executed = count_executed(net, cell.group.splits.test)
    p5, p50, p95 = np.percentile(test.macs.numpy(), [5, 50, 95]).tolist()
    mean = float(macs.mean())
    return {
        "macs": mean,
        "macs_std": float(macs.std(correction=0)),
        "macs_p5": p5,
        "macs_p50": p50,
        "macs_p95": p95,
        "macs_max": int(test.macs.max()),
        "macs_always": costs.always,
        "macs_full": costs.full,
        "macs_gates": costs.overhead,
        "macs_static": static,
        "speedup_claimed": static / mean,
        "priced_macs": int(test.macs.sum()),
        "executed_macs": executed.macs,
        "executed_by_operator": dict(executed.by_operator),
        "speedup_executed": static * len(test.macs) / executed.macs,
        "uncounted_operators": sorted(executed.uncounted),
    }


def _static_macs(cell: Cell) -> int:
    """MACs of the plain backbone for one image."""
    from dyncomp.build import create_method
    from dyncomp.bench.plan import REFERENCE

    costs = cell.group.build(create_method(REFERENCE)).costs
    assert costs is not None
    return costs.full


def _exchanged(net: Net, cell: Cell, test: Evaluation) -> float | None:
    if not len(test.trace):
        return None
    return accuracy_with_exchanged_routes(net, cell.group.splits.test, test.trace, cell.group.seed)


def _route_texts(test: Evaluation) -> list[str]:
    """Each image's route as a text of 0 and 1, one per unit."""
    return ["".join("1" if on else "0" for on in row) for row in test.trace.routes().tolist()]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def _git_commit() -> str | None:
    """The commit of the code that runs, marked when the tree differs from it; None outside a checkout."""
    folder = Path(__file__).parent
    try:
        run = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True, text=True, timeout=5, check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()
