"""Mixed: layers whose kernel is a mixture of K experts, weighted for each image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dyncomp.core.op import Op
from dyncomp.core.tape import Taped, Tapes
from dyncomp.core.trace import Decision
from dyncomp.ops.experts import ExpertConv2d, ExpertLinear
from dyncomp.ops.mixture import Mix, Mixture, Mode


class Mixed(Op):
    """A block whose convolutions and linear layers mix K experts with one router (Yang et al. 2019, arXiv:1904.04971).

    Dense form: sum over k of w_k * layer_k(x), or the mixed kernel, depending on `mode`. Sparse form: one convolution
    with the kernel sum over k of w_k * W_k (eq. 3). All units (experts) are always used: the op adds capacity and saves
    no arithmetic. The router and the mixing (K multiply-adds per weight) are the site's overhead. Layers of ops and
    gates inside the block have no experts, nor do modules for which `leave` is true.
    """

    takes_one_image = False
    kept_by = "mixed kernels"

    def __init__(
        self,
        block: nn.Module,
        router: nn.Module,
        experts: int,
        mode: Mode,
        leave: Callable[[nn.Module], bool] = lambda module: False,
    ) -> None:
        super().__init__()
        self.units = experts
        self.mixture = Mixture(experts, mode)
        self.block = _with_experts(block, self.mixture, leave)
        self.router = router

    def attach(self, site: str, tapes: Tapes) -> None:
        """See `Taped.attach`."""
        super().attach(site, tapes)
        self.mixture.site, self.mixture.tapes = site, tapes

    def decide(self, x: Tensor) -> Decision:
        """Every expert used, with the router's weights (B, K)."""
        weight = self.router(x)  # (B, K)
        used = torch.ones_like(weight)
        return Decision(used, weight, used)

    def dense(self, x: Tensor, decision: Decision) -> Tensor:
        """Run the block with outputs or kernels mixed, depending on `mode`."""
        return self.mix(x, decision.weight, dense=True)

    def sparse(self, x: Tensor, decision: Decision) -> Tensor:
        """Run the block with one mixed kernel per image and layer."""
        return self.mix(x, decision.weight, dense=False)

    def branched(self, x: Tensor, decision: Decision) -> Tensor:
        """The sparse form, without branches: in a graph its layers are batched matrix products, for any batch size."""
        return self.sparse(x, decision)

    def mix(self, x: Tensor, weight: Tensor, dense: bool) -> Tensor:
        """Run the block on features x, with experts mixed by weights (B, K)."""
        self.mixture.use(Mix(weight, dense, self.overhead))
        try:
            y: Tensor = self.block(x)
        finally:
            self.mixture.use(None)
        return y

    def unit_parts(self) -> tuple[nn.Module | None, ...]:
        """None: an expert is a kernel, not a module."""
        return (None,) * self.units

    def least(self) -> Tensor:
        """All units: every expert is used."""
        return torch.ones(self.units)

    def forced(self, used: Tensor, weight: Tensor) -> Decision:
        """Every expert used, with the requested weights."""
        ones = torch.ones_like(used)
        return Decision(ones, weight, ones)


def is_channel_attention(module: nn.Module) -> bool:
    """Whether a module is squeeze-and-excitation, by its class name; in the papers it has no experts."""
    return type(module).__name__ in {"SqueezeExcitation", "SqueezeExcite", "SEModule"}


def _with_experts(module: nn.Module, mixture: Mixture, leave: Callable[[nn.Module], bool]) -> nn.Module:
    if isinstance(module, Taped) or leave(module):
        return module
    if isinstance(module, nn.Conv2d):
        return ExpertConv2d(module, mixture)
    if isinstance(module, nn.Linear):
        return ExpertLinear(module, mixture)
    for name, child in module.named_children():
        setattr(module, name, _with_experts(child, mixture, leave))
    return module
