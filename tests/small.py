"""Small networks in float64 for the tests of ops and gates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dyncomp.core import Decision, Net, ResidualBlock, measure_costs
from dyncomp.ops import Gated, Mixed, Router

C, SIDE, CLASSES = 6, 5, 4


def images(count: int = 7, seed: int = 0) -> Tensor:
    return torch.randn(count, C, SIDE, SIDE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def conv(kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(C, C, kernel, padding=kernel // 2)


def residual(body: nn.Module) -> ResidualBlock:
    return ResidualBlock(body, conv(1), nn.ReLU())


class LinearGate(nn.Module):
    """Pooled features -> one logit; open for about half of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(C, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        chance: Tensor = self.linear(x.mean(dim=(2, 3))).mul(20).sigmoid()  # (B, 1)
        return chance


def gated(body: nn.Module, gate: nn.Module | None = None) -> Gated:
    return Gated(residual(body), gate or LinearGate())


def mixed(block: nn.Module, experts: int = 3) -> Mixed:
    return Mixed(block, Router(C, experts, softmax=False, temperature=1.0), experts, "kernels")


def network(make: Callable[[], list[nn.Module]], seed: int = 0) -> Net:
    """The modules in a row, a classifier behind them, costs measured, in evaluation mode."""
    torch.manual_seed(seed)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(C, CLASSES)]
    net = Net(nn.Sequential(*make(), *head)).double().eval()
    net.costs = measure_costs(net, images(1))
    return net


def only(used: list[int]) -> Decision:
    """A single unit's decision for these images."""
    value = torch.tensor(used, dtype=torch.float64)[:, None]
    return Decision(value, value, value)
