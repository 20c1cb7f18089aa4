"""How a pass mixes experts, and where their layers find that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dyncomp.core.tape import Tapes


def plainly(run: Callable[..., Any], *inputs: Any) -> Any:
    """Run a function whose cost is not metered."""
    return run(*inputs)


Mode = Literal["auto", "kernels", "outputs"]


@dataclass(frozen=True)
class Mix:
    """How a pass mixes: the weights (B, K), whether in the dense form, and what runs what costs overhead."""

    weight: Tensor
    dense: bool = True
    overhead: Callable[..., Any] = plainly


@dataclass(frozen=True)
class Mixing:
    """Kernels that are still to be mixed: image i's is the sum over k of weight[i, k] * experts[k].

    weight (B, K), experts (K, O, N) of N = C / groups * k * k numbers; `shape` (O, C / groups, k, k) is one kernel's.
    `overhead` runs what mixes; `bias` (B, O) is mixed already.
    """

    weight: Tensor
    experts: Tensor
    shape: torch.Size
    overhead: Callable[..., Any] = plainly
    bias: Tensor | None = None

    def whole(self) -> Tensor:
        """All kernels, (B, *shape)."""
        mixed: Tensor = self.overhead(torch.mm, self.weight, self.experts.flatten(1))
        return mixed.view(-1, *self.shape)


class Mixture:
    """What a Mixed op and its expert layers share: how many experts, in which mode, and where a pass's mix is found."""

    def __init__(self, experts: int, mode: Mode) -> None:
        self.experts = experts
        self.mode = mode
        self.site = ""
        self.tapes = Tapes()

    @property
    def mix(self) -> Mix:
        """That of the pass under way in this thread. Raises RuntimeError where there is none."""
        mix: Mix | None = self.tapes.current.handed(self.site)
        if mix is None:
            raise RuntimeError("a layer with experts was run outside its op, which mixes them: call the network")
        return mix

    def use(self, mix: Mix | None) -> None:
        """Mix so in the pass under way in this thread; None: it is done."""
        if mix is None:
            self.tapes.current.taken(self.site)
        else:
            self.tapes.current.hand(self.site, mix)
