"""Snapshot ensemble: one network's states at the ends of learning rate cycles (Huang et al. 2017, arXiv:1704.00109)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from dyncomp.core import Backbone, Batches, Method, Net, Output, Stage
from dyncomp.errors import InvalidValue
from dyncomp.ops.exits import Ensemble
from dyncomp.registry import register_method
from dyncomp.spec import option


@register_method("snapshot_ensemble", paper="arXiv:1704.00109")
@dataclass(frozen=True)
class SnapshotEnsemble(Method):
    """Trains one network through cycles of the learning rate; the last snapshots answer together, by their mean.

    In each cycle the rate falls from its full height along half a cosine, step by step (eq. 2), without warm-up. A
    cycle is a stage; it begins with the snapshot of the one before, statistics included, so the members together train
    for the budget of one network; a cycle needs an epoch at least. The rate at which cycles begin is the recipe's times
    `restart`; the official example begins them at 0.2 (batches of 64, 200 epochs, 5 cycles). The optimiser's momentum
    begins anew with each cycle, which the paper does not ask for. All members run for every image: nothing can
    collapse.
    """

    examples: ClassVar[tuple[str, ...]] = ("snapshot_ensemble(cycles=2, members=2)",)

    cycles: int = option(5, "cycles of the learning rate in the whole budget", ge=1, le=100)
    members: int = option(3, "snapshots that answer, the last ones", ge=1, le=100)
    restart: float = option(1.0, "factor on the recipe's learning rate as cycles begin", gt=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.members > self.cycles:
            raise InvalidValue(
                f"snapshot_ensemble: members={self.members}, but cycles={self.cycles} make no more snapshots; "
                f"give members from 1 to {self.cycles}"
            )

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """See `Method.build`."""
        return Ensemble([new() for _ in range(self.members)], "average")

    def stages(self) -> Sequence[Stage]:
        """See `Method.stages`."""
        return [self._cycle(number) for number in range(1, self.cycles + 1)]

    def _cycle(self, number: int) -> Stage:
        """Cycle `number`, from 1: the first cycles, whose snapshots are not kept, train the first member."""
        member = max(0, number - 1 - (self.cycles - self.members))
        return Stage(
            f"cycle {number}",
            1 / self.cycles,
            partial(_own_loss, member),
            learns=(f"model.voters.{member}.*",),
            learning_rate=self.restart,
            restarts=True,
            epochs=1.0,
            prepare=partial(_go_on, member),
        )


def _own_loss(member: int, output: Output, labels: Tensor, progress: float) -> Tensor:
    return F.cross_entropy(output.said[f"voters.{member}"].float(), labels)


def _go_on(member: int, net: Net, batches: Batches) -> None:
    """Let that member train alone, from where the one before it stands; the first one goes on with itself."""
    ensemble = net.model
    assert isinstance(ensemble, Ensemble)
    ensemble.only = member
    if member > 0:
        before = ensemble.voters[member - 1].state_dict()
        ensemble.voters[member].load_state_dict(before)
