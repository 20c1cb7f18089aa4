"""Networks whose gates decide by lot, at a rate that is wanted: the gates run and cost what they cost, unheard."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dyncomp import build
from dyncomp.core import Gated, Net, Planned, deployed
from dyncomp.core.gates import Gate


class GateByLot(Gate):
    """Runs the gate and says what was drawn, (B, 1): above 0 is open."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate
        self.drawn = torch.zeros(0, 1)

    def logits(self, x: Tensor) -> Tensor:
        """See `Gate.logits`."""
        self.gate.logits(x)
        return self.drawn


class PolicyByLot(nn.Module):
    """Runs the policy and says what was drawn, (B, U) of 0 and 1."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy
        self.drawn = torch.zeros(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) -> (B, U)."""
        self.policy(x)
        return self.drawn


class ByLot:
    """A network that is ready for use and skips `rate` of its blocks, drawn for each image and block: `draw`, then run.

    Raises TypeError where the decisions of a site are not of a kind that it can draw.
    """

    def __init__(self, spec: str, backbone: str, size: int) -> None:
        self.net: Net = deployed(build(spec, backbone, classes=10, in_channels=3, image_size=size, seed=0).eval())
        self.lots = [self._replaced(op) for op in self.net.sites.values()]

    def _replaced(self, op: nn.Module) -> GateByLot | PolicyByLot:
        if isinstance(op, Gated) and isinstance(op.gate, Gate):
            op.gate = lot = GateByLot(op.gate)
            return lot
        if isinstance(op, Planned):
            op.policy = plan = PolicyByLot(op.policy)
            return plan
        raise TypeError(f"no lots are drawn for a {type(op).__name__}; give a method that skips blocks")

    def draw(self, images: int, rate: float, seed: int) -> float:
        """Draw for so many images; returns the mean share of the network's blocks that runs."""
        generator = torch.Generator().manual_seed(seed)
        shares = []
        for lot, op in zip(self.lots, self.net.sites.values(), strict=True):
            used = (torch.rand(images, op.units, generator=generator) >= rate).float()
            lot.drawn = used - 0.5 if isinstance(lot, GateByLot) else used
            shares.append(used.mean())
        return float(torch.stack(shares).mean())

    @torch.inference_mode()
    def macs(self, x: Tensor) -> float:
        """Multiply-adds of what was drawn, gates included, as priced."""
        return float(self.net(x).macs().sum())


def images(count: int, size: int) -> Tensor:
    """Images (B, 3, size, size), channels-last."""
    return torch.rand(count, 3, size, size).contiguous(memory_format=torch.channels_last)


def floats(text: str) -> Sequence[float]:
    """Numbers with commas between them."""
    return [float(part) for part in text.split(",")]
