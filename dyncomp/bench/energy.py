"""The energy that a trained cell takes for an image, where the machine can say."""

from __future__ import annotations

from typing import Any

import torch

from dyncomp.bench.memory import BATCH_SIZE, sample
from dyncomp.bench.plan import Cell
from dyncomp.core import Net
from dyncomp.profile.energy import NoCounter, counter_for, measure_energy

IMAGES = 1024
"""test images of a pass: energy depends on the routes"""


def energy_figures(net: Net, cell: Cell) -> dict[str, Any]:
    """For the record: `energy_j_per_image` of the sparse form, and by which counter; else None, and why."""
    device = cell.group.device
    figures: dict[str, Any] = {"energy_j_per_image": None, "energy_batch_size": BATCH_SIZE}
    try:
        counter = counter_for(device)
    except NoCounter as error:
        return figures | {"energy_of": f"not measured: {error}"}
    images = sample(cell.group.splits.test, IMAGES)[0].to(device, memory_format=torch.channels_last)
    batches = images.split(BATCH_SIZE)

    def work() -> None:
        with torch.inference_mode():
            for batch in batches:
                net(batch, sparse=True, record=False)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    found = measure_energy(work, IMAGES, counter)
    return figures | {"energy_j_per_image": found.joules_per_image, "energy_of": found.source}
