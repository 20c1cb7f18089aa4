"""The energy that a network takes for an image, where the machine can say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dyncomp.bench.group import Cell
from dyncomp.bench.memory import BATCH_SIZE, sample
from dyncomp.core import Net
from dyncomp.profile.energy import NoCounter, counter_for, measure_energy
from dyncomp.store.schema import EnergyFigures

IMAGES = 1024
"""test images of a pass: energy depends on the routes"""


def energy_of_cell(net: Net, cell: Cell) -> EnergyFigures:
    """The energy of a trained network's sparse form over test images."""
    images = sample(cell.group.splits.test, IMAGES)[0]
    batches = torch.split(images.to(cell.group.device, memory_format=torch.channels_last), BATCH_SIZE)
    return energy_figures(lambda batch: net(batch, sparse=True, record=False), batches)


def energy_figures(ask: Callable[[Tensor], Any], batches: Sequence[Tensor]) -> EnergyFigures:
    """For the record: `energy_j_per_image` over these batches, and by which counter; else None, and why."""
    device = batches[0].device
    figures: EnergyFigures = {"energy_j_per_image": None, "energy_batch_size": len(batches[0])}
    try:
        counter = counter_for(device)
    except NoCounter as error:
        return {**figures, "energy_of": f"not measured: {error}"}

    def work() -> None:
        with torch.inference_mode():
            for batch in batches:
                ask(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    found = measure_energy(work, sum(map(len, batches)), counter)
    return {**figures, "energy_j_per_image": found.joules_per_image, "energy_of": found.source}
