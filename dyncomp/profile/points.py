"""What a trained network does at each of its operating points."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from dyncomp.core import Net, Point, Seen, Trace
from dyncomp.core.decisions import all_on
from dyncomp.core.modes import evaluating
from dyncomp.data import Split
from dyncomp.ops.calibrate import exit_sites
from dyncomp.profile.evaluation import evaluate, in_batches
from dyncomp.store.schema import PointRecord


def observe(net: Net, split: Split) -> Seen:
    """The split as the network answers it in the dense form with every unit on, in order; on the CPU."""
    labels, logits, said = [], [], defaultdict(list)
    with evaluating(net):
        for images, batch_labels, _ in in_batches(net, split):
            output = net(images, sparse=False, decisions=all_on(net, len(images)))
            labels.append(batch_labels.cpu())
            logits.append(output.logits.cpu())
            for key, value in output.said.items():
                said[key].append(value.cpu())
    return Seen(torch.cat(labels), torch.cat(logits), {key: torch.cat(values) for key, values in said.items()})


def measure_points(net: Net, split: Split, points: Sequence[Point]) -> list[PointRecord]:
    """Evaluate the sparse form at each point; the network is left at the first one, also after an error.

    Each row, ready for JSON: name, kind, thresholds (by site), top1 (percent), macs (mean of an image), flops (twice
    that), leaves (share of the images that leave at each exit, and, last, at the end; empty without exits).
    """
    try:
        return [_measured(net, split, point) for point in points]
    finally:
        for point in points[:1]:
            point.apply(net)


def _measured(net: Net, split: Split, point: Point) -> PointRecord:
    point.apply(net)
    found = evaluate(net, split)
    macs = float(found.macs.double().mean())
    return {
        "name": point.name,
        "kind": point.kind,
        "thresholds": dict(point.thresholds),
        "top1": found.top1,
        "macs": macs,
        "flops": 2 * macs,
        "leaves": leaves(found.trace, exit_sites(net)),
    }


def leaves(trace: Trace, exits: Sequence[str]) -> list[float]:
    """The share of the images that leave at each exit in a row, and, last, at the end; empty without exits."""
    if not exits:
        return []
    stays: list[Tensor] = [trace.executed(site)[:, 0].double().mean() for site in exits]
    here = [1.0, *map(float, stays), 0.0]
    return [before - after for before, after in pairwise(here)]
