"""Runs of layers in one call: gates, switches and bodies as one sequence of generated code.

Between layers control does not return to Python: a gate writes the list of images that its body reads. For a single
image that is the difference between a few microseconds per block and a few dozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dyncomp.core.counter import uncounted
from dyncomp.core.locks import making
from dyncomp.core.op import Op
from dyncomp.core.trace import Decision
from dyncomp.fast.fusion.candidates import Deciding, Place, deciding, places_of_run
from dyncomp.fast.fusion.program import RunTable
from dyncomp.fast.mixing import generated
from dyncomp.fast.parameters.watched import Snapshot
from dyncomp.fast.tuning import is_watched, power_of_two, takes_turns
from dyncomp.ops.filtered import Filtered
from dyncomp.ops.gated import Gated
from dyncomp.ops.planned import Follower

BATCHES = 32
"""sizes and kinds of batches that a run is prepared for at most"""


class _PreparedLayers:
    """The state of the layers at one time, and the tables prepared for them since."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.places: Sequence[Place] = places_of_run(layers) or []
        # stands for all deciding ops: these belong to one network and share the tape of a pass
        self._op: Deciding | None = next(deciding(self.places), None)
        modules = [module for layer in layers for module in layer.modules()]
        self._ops = [module for module in modules if isinstance(module, Op)]
        self._weighted = next((module for module in modules if "weight" in module._parameters), None)
        self.watched = Snapshot(modules)
        self.tables: dict[tuple[object, ...], RunTable | None] = {}

    def may_run(self) -> bool:
        """Whether this pass asks for no more than the output, and code can follow the decisions that it forces."""
        if isinstance(self._op, Follower):
            return self._op.is_planned
        if self._op is None:
            return True
        tape = self._op.tape
        if not tape.logits_only or tape.rows is not None:
            return False
        return not tape.forced or all(
            _can_follow(op, tape.forced[op.site]) for op in self._ops if op.site in tape.forced
        )

    def serves(self, x: Tensor) -> bool:
        """Whether generated code can run on x, judged by the first layer with weights."""
        weight = None if self._weighted is None else self._weighted._parameters["weight"]
        return weight is not None and generated.serves(x, weight)

    def table(self, key: tuple[object, ...], x: Tensor) -> RunTable | None:
        """The table for batches like x, cached by `key`; None where none pays off."""
        known = self.tables.get(key)
        if known is not None:
            return known
        with making, uncounted():
            if key in self.tables:
                return self.tables[key]
            table = RunTable.of(self.places, x) if self.places else None
            if not takes_turns():
                while len(self.tables) >= BATCHES:
                    self.tables.pop(next(iter(self.tables)), None)
                self.tables[key] = table
            return table


def _can_follow(op: Op, forced: Decision) -> bool:
    """Whether code can follow a forced decision: it has a place for the weights that are forced with it."""
    if isinstance(op, Filtered):
        description = op.switch.description()
        return description is not None and (description.weighted or forced.weight is forced.used)
    return isinstance(op, Gated)


class Run:
    """Consecutive submodules of a Sequential, `layers`, that run in one call."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers = tuple(layers)
        self._seen: _PreparedLayers | None = None

    def _look(self) -> _PreparedLayers:
        """Look at the layers' present state. Threads that look at the same time each go on with their own result."""
        self._seen = look = _PreparedLayers(self.layers)
        return look

    def __call__(self, x: Tensor) -> Tensor | None:
        """The output of the layers for x; None where the layers have to be called one by one."""
        shape = x.shape
        if is_watched() or not shape[0]:  # first, so that a compiler does not trace the rest
            return None
        look = self._seen or self._look()
        if not look.may_run():
            return None
        threads = torch.get_num_threads()
        key = (power_of_two(shape[0]), shape[1:], x.dtype, threads)
        table = look.tables.get(key)
        if table is None and key in look.tables:  # known not to pay off
            return None
        if not look.watched.is_the_same():
            look, table = self._look(), None
            if not look.may_run():
                return None
        if not look.watched.has_no_listeners():
            return None
        if table is None:
            table = look.table(key, x) if look.serves(x) else None
        elif not generated.can_read_features(x):  # parameters were checked for the table, and are unchanged
            return None
        return None if table is None else table.run(x, threads)

    def __getstate__(self) -> dict[str, Any]:
        """The layers alone: tables are made again where the copy is used."""
        return {"layers": self.layers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.layers = state["layers"]
        self._seen = None
