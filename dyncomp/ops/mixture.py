"""The mixing weights of a pass, which a Mixed op hands to its layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dyncomp.core.tape import Tapes


def plainly(run: Callable[..., Any], *inputs: Any) -> Any:
    """Run a function without metering its cost."""
    return run(*inputs)


Mode = Literal["auto", "kernels", "outputs"]


@dataclass(frozen=True)
class Mix:
    """The mixing of a pass: weights (B, K), and whether in the dense form; `overhead` runs and meters the mixing."""

    weight: Tensor
    dense: bool = True
    overhead: Callable[..., Any] = plainly


@dataclass(frozen=True)
class Mixing:
    """Kernels to be mixed: the kernel of image i is the sum over k of weight[i, k] * experts[k].

    weight (B, K), experts (K, O, N) with N = C / groups * k * k; `shape` (O, C / groups, k, k) of one kernel.
    `overhead` runs and meters the mixing; `bias` (B, O) is mixed already.
    """

    weight: Tensor
    experts: Tensor
    shape: torch.Size
    overhead: Callable[..., Any] = plainly
    bias: Tensor | None = None

    def whole(self) -> Tensor:
        """All mixed kernels, (B, *shape)."""
        mixed: Tensor = self.overhead(torch.mm, self.weight, self.experts.flatten(1))
        return mixed.view(-1, *self.shape)


class Mixture:
    """State shared by a Mixed op and its layers: the number of experts, the mode, and the tapes that hold the mix."""

    def __init__(self, experts: int, mode: Mode) -> None:
        self.experts = experts
        self.mode = mode
        self.site = ""
        self.tapes = Tapes()

    @property
    def mix(self) -> Mix:
        """The mix of the current pass in this thread. Raises RuntimeError outside a pass of the op."""
        mix: Mix | None = self.tapes.current.handed(self.site)
        if mix is None:
            raise RuntimeError("a layer with experts was run outside its op, which mixes them: call the network")
        return mix

    def use(self, mix: Mix | None) -> None:
        """Set the mix of the current pass in this thread; None removes it."""
        if mix is None:
            self.tapes.current.taken(self.site)
        else:
            self.tapes.current.hand(self.site, mix)
