"""Trains and measures one cell, and says all of it in a record."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from dyncomp._checkpoint import facts_of
from dyncomp.bench.group import Cell
from dyncomp.bench.rebuild import sources_of
from dyncomp.bench.stamp import git_commit, now
from dyncomp.bench.strict import check_priced
from dyncomp.core import Method, Net
from dyncomp.errors import in_one_line
from dyncomp.fast import choices
from dyncomp.profile import (
    Evaluation,
    accuracy_with_exchanged_routes,
    as_timed,
    by_class,
    count_executed,
    distinct_routes,
    effective_routes,
    environment,
    evaluate,
    gallery,
    gate_health,
    gate_records,
    in_batches,
    mixtures,
    second_opinions,
    spending,
    stream_figures,
    warnings_of,
)
from dyncomp.profile.sanity import check_network, check_untrained
from dyncomp.registry import METHODS
from dyncomp.spec import full_options, name_of, spec_of
from dyncomp.store import Store, schema
from dyncomp.train import Progress, StageLog, once, own_randomness, save_checkpoint, train

MOST_BITS = 256
"""units up to which a route is told bit by bit"""
CHECKED = 64
"""images that a network's answers are checked on before it is measured"""
ROUNDING = 1e-3
"""share of the executed MACs up to which a deployed network's own decisions may differ: rounding tips few gates"""


def run_cell(
    cell: Cell, store: Store, report: Callable[[Progress], None], strict_macs: bool = False, jobs: int = 1
) -> schema.CellContent:
    """Train and measure the cell; its record is in the store when this returns, also when it failed.

    With `strict_macs` the cell fails where an operator ran that has no known cost. What a trained network takes of the
    machine is measured later, by `add_resources`: others may be in training now, `jobs` cells at a time.
    """
    record = _begun(cell)
    record["jobs"] = jobs
    images = None
    try:
        trained, measured, images = _train_and_measure(cell, store, report, strict_macs)
        record = {**record, **trained, **measured, "status": "ok"}
    except Exception as error:  # a cell that fails is a result too; the others go on
        record["error"] = " ".join(f"{type(error).__name__}: {error}".split())  # all of it: what to do comes last
        record["traceback"] = traceback.format_exc()
    record["finished_at"] = now()
    store.write_cell(record, images)
    return record


def write_failure(cell: Cell, store: Store, error: str, started_at: str) -> schema.CellContent:
    """The record of a cell whose process has ended before it could write one."""
    record: schema.CellContent = {**_begun(cell), "error": error, "started_at": started_at, "finished_at": now()}
    store.write_cell(record, None)
    return record


def _begun(cell: Cell) -> schema.CellContent:
    """What is known before the cell is run."""
    group = cell.group
    return {
        "key": cell.key,
        "identity": cell.identity,
        "status": "failed",
        "error": None,
        "traceback": None,
        "method": name_of(cell.method),
        "spec": spec_of(cell.method),
        "hyperparameters": full_options(cell.method),
        "paper": METHODS.entry(name_of(cell.method)).paper,
        "role": cell.role,
        "control_of": cell.method.control_of,
        "sources": {name: source.key for name, source in cell.sources.items()},
        "backbone": spec_of(group.backbone),
        "dataset": spec_of(group.dataset),
        "seed": group.seed,
        "budget": group.budget,
        "epochs": group.recipe.epochs,
        "device": group.device.type,
        "warnings": [],
        "started_at": now(),
        "git_commit": git_commit(),
        "environment": environment(group.device),
    }


def _train_and_measure(
    cell: Cell, store: Store, report: Callable[[Progress], None], strict_macs: bool
) -> tuple[schema.Trained, schema.Measured, schema.ImageColumns]:
    group = cell.group
    net = group.build(cell.method).to(group.device)
    check_untrained(net, _test_images(cell, 2).to(group.device), group.splits.classes)
    if strict_macs and net.costs is not None:  # before anything is trained
        check_priced(net.costs.uncounted)
    begin = time.perf_counter()
    with own_randomness(group.device, group.seed):
        batches = partial(once, group.splits.train, group.device)
        cell.method.inherit(net, sources_of(cell, store), batches)
    logs = train(net, group.splits.train, cell.method.stages(), group.recipe, group.seed, report, cell.spent)
    trained: schema.Trained = {"train_seconds": time.perf_counter() - begin, "stages": [_stage(log) for log in logs]}
    measured, images = measure(net, cell, [warning for log in logs for warning in log.warnings])
    if strict_macs:
        check_priced(measured["uncounted_operators"])
    save_checkpoint(net, store.checkpoint_path(cell.key), {"identity": cell.identity, **facts_of(net)})
    return trained, measured, images


def measure(net: Net, cell: Cell, of_training: Sequence[str] = ()) -> tuple[schema.Measured, schema.ImageColumns]:
    """What a trained network does on the splits: accuracy, gates, MACs, operating points, streams; and image by image.

    All of it follows from the weights and the data: a later call on the same weights gives the same, except which
    operators ran, which depends on the machine. `of_training` are the warnings of its training. Raises BadAnswer.
    """
    group, splits = cell.group, cell.group.splits
    few = _test_images(cell, CHECKED).to(group.device, memory_format=torch.channels_last)
    check_network(net, few, splits.classes, "test images")
    points = _points(net, cell)
    test = evaluate(net, splits.test)
    answers, of_gates = _answers(net, cell, test)
    figures, doubts = _mac_figures(net, cell, test)
    # the gates of a control decide as they are told: nothing in them is worth a warning
    warnings = doubts if cell.role == "control" else [*of_gates, *doubts, *of_training]
    if cell.role == "static":
        warnings = [*warnings, *cell.group.splits.notes]
    chosen: schema.Chosen = {"tuned": choices(), "points": points, "streams": None}
    judges = [site for site, op in net.sites.items() if op.judges_frames]
    if splits.streams is not None and judges:
        chosen["streams"] = stream_figures(net, judges[0], splits.test, splits.streams, group.seed)
    return {**answers, "warnings": warnings, **figures, **chosen}, _images(test)


def _test_images(cell: Cell, count: int) -> Tensor:
    """The first (count, C, H, W) test images."""
    return next(iter(cell.group.splits.test.batches(count))).images


def _points(net: Net, cell: Cell) -> list[schema.PointRecord]:
    """The method's operating points, chosen on the calibration split, on the test split; the first one is left set."""
    if type(cell.method).points is Method.points:
        return []
    from dyncomp.profile.points import measure_points, observe

    splits = cell.group.splits
    points = cell.method.points(net, observe(net, splits.calibration))
    return measure_points(net, splits.test, points) if points else []


def _stage(log: StageLog) -> schema.StageRecord:
    rows = [list(row) for row in log.log]
    return {
        "name": log.name,
        "epochs": log.epochs,
        "seconds": log.seconds,
        "loss_first": rows[0][1],
        "loss_last": rows[-1][1],
        "log": rows,
        "routes": [list(row) for row in log.routes],
        "rates": log.rates,
        "warnings": log.warnings,
    }


def _answers(net: Net, cell: Cell, test: Evaluation) -> tuple[schema.Answers, list[str]]:
    """The figures, and what the gates give to warn of."""
    splits = cell.group.splits
    calibration = evaluate(net, splits.calibration)
    of_class = by_class(net, test.trace, test.labels)
    health = gate_health(net, test.trace, calibration.trace, of_class)
    exchanged = accuracy_with_exchanged_routes(net, splits.test, test.trace, cell.group.seed) if test.trace else None
    answers: schema.Answers = {
        "params": sum(p.numel() for p in net.parameters()),
        "image_size": splits.image_size,
        "sites": len(net.sites),
        "images": len(test.labels),
        "top1": test.top1,
        "top1_calibration": calibration.top1,
        "routes": distinct_routes(test.trace),
        "routes_effective": effective_routes(test.trace),
        "class_p_value": of_class.p_value,
        "gates": gate_records(health),
        "mixtures": mixtures(net, test.trace, test.labels),
        # a control spends as it is told, whatever the image
        "gallery": [] if cell.role == "control" else gallery(splits, test),
        "route_exchange_top1": exchanged,
    }
    return answers, warnings_of(health)


def _mac_figures(net: Net, cell: Cell, test: Evaluation) -> tuple[schema.Computed, list[str]]:
    """The figures, and what makes them doubtful."""
    costs, macs, static = net.costs, test.macs.numpy(), cell.group.static_macs
    splits, doubts, timed = cell.group.splits, list[str](), net
    assert costs is not None  # `build` measures them
    try:
        timed, _ = as_timed(net)
    except Exception as error:  # the network's own code may fail in any way; what was trained must not be lost
        doubts.append(f"executed MACs are of the network as it is, since deploying it fails: {in_one_line(error)}")
    priced, executed = int(macs.sum()), count_executed(timed, splits.test, test.trace)
    if priced != executed.macs:
        doubts.append(f"priced {priced} MACs, but {executed.macs} ran: trust neither")
    own = count_executed(timed, splits.test).macs if test.trace else executed.macs
    if abs(own - executed.macs) > ROUNDING * executed.macs:
        doubts.append(f"deployed, as it is timed, the network decides otherwise: {own} MACs ran by its own decisions")
    difficulty = None if splits.difficulty is None else splits.difficulty.numpy()
    image = next(in_batches(net, splits.test, 1))[0]
    figures: schema.Computed = {
        **spending(test, splits.class_names, difficulty),
        "second_opinions": second_opinions(net, image),
        "macs_always": costs.always,
        "macs_full": costs.full,
        "macs_gates": costs.overhead,
        "macs_static": static,
        "speedup_claimed": static / float(macs.mean()),
        "priced_macs": priced,
        "executed_macs": executed.macs,
        "executed_by_operator": dict(executed.by_operator),
        "speedup_executed": static * len(macs) / executed.macs,
        "uncounted_operators": sorted(executed.uncounted),
        "uncounted_calls": dict(executed.uncounted),
    }
    return figures, doubts


def _images(test: Evaluation) -> schema.ImageColumns:
    """A route is a text of 0 and 1, one per unit of every site; the bits of very many units are hexadecimal digits."""
    bits = test.trace.routes().numpy()  # (N, U)
    many = bits.shape[1] > MOST_BITS
    routes = np.packbits(bits, axis=1) if many else bits.astype(np.uint8) + ord("0")
    return {
        "label": test.labels.numpy(),
        "prediction": test.predictions.numpy(),
        "macs": test.macs.numpy(),
        "route": [row.tobytes().hex() if many else row.tobytes().decode() for row in routes],
    }
