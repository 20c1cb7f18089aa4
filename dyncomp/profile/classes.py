"""What the decisions have to do with the class: how often each unit runs for it, and the weights of mixtures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dyncomp.core import Net, Trace
from dyncomp.samples import class_information
from dyncomp.store.schema import MixtureRecord

MOST_UNITS = 64
"""units of a site that are tested, evenly spread over it: a site that decides about pixels has thousands"""


@dataclass(frozen=True)
class ByClass:
    """Of the units of each site: the share of each class's images that a unit runs for (U, C), and bits (U,).

    C are the classes that have images, in order.
    `information`: mutual information of class and decision in bits (`class_information`); NaN for a unit that was left
    out. `p_value`: how likely as much is by chance, in all sites together; None where no unit may be left out.
    """

    rates: Mapping[str, Tensor]
    information: Mapping[str, Tensor]
    p_value: float | None


def by_class(net: Net, trace: Trace, labels: Tensor) -> ByClass:
    """Of the decisions about images with these labels (N,)."""
    members = _members(labels)  # (N, C)
    rates = {site: trace.executed(site).double().T @ members / members.sum(0) for site in net.sites}  # (U, C)
    tested = {site: _spread(op.always()) for site, op in net.sites.items()}
    decisions = [trace.executed(site)[:, units].numpy() > 0.5 for site, units in tested.items()]
    information = {site: torch.full((op.units,), torch.nan, dtype=torch.double) for site, op in net.sites.items()}
    if not sum(map(len, tested.values())):
        return ByClass(rates, information, None)
    found = class_information(np.concatenate(decisions, axis=1), labels.numpy())
    bits = iter(found.bits)
    for site, units in tested.items():
        information[site][units] = torch.tensor([next(bits) for _ in units], dtype=torch.double)
    return ByClass(rates, information, found.p_value)


def _spread(always: Tensor) -> Tensor:
    """Indices of the units that may be left out, of many a few."""
    units = (always < 0.5).nonzero().flatten()
    return units[torch.linspace(0, len(units) - 1, min(len(units), MOST_UNITS)).round().long()]


def _members(labels: Tensor) -> Tensor:
    """1 where an image is of a class, else 0, for each class that has images, (N, C)."""
    _, own = np.unique(labels.numpy(), return_inverse=True)
    return torch.nn.functional.one_hot(torch.from_numpy(own)).double()


def mixtures(net: Net, trace: Trace, labels: Tensor) -> list[MixtureRecord]:
    """The weights of every unit of a site whose units all run for every image, and are weighted: means by class."""
    members = _members(labels)  # (N, C)
    records: list[MixtureRecord] = []
    for site, op in net.sites.items():
        weight = trace[site].weight
        if op.units < 2 or weight is trace[site].used or not bool(op.always().all()):
            continue
        of_class = weight.double().T @ members / members.sum(0)  # (U, C)
        for unit, (own, mean) in enumerate(zip(of_class.tolist(), weight.double().mean(0).tolist(), strict=True)):
            records.append({"site": site, "unit": unit, "weight": mean, "by_class": own})
    return records
