"""Networks that decide by lot, at a rate that is wanted: their gates run and cost what they cost, unheard."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dyncomp import build
from dyncomp.core import (
    Decision,
    Filtered,
    Gated,
    Net,
    Output,
    Planned,
    Routed,
    Switch,
    SwitchProducts,
    deployed,
)
from dyncomp.core.gates import Gate, Products
from dyncomp.core.op import Op


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

    def products(self) -> Products | None:
        """See `Gate.products`."""
        return self.gate.products()

    def overruled(self) -> Tensor:
        """See `Gate.overruled`."""
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


class SwitchByLot(Switch):
    """Runs the switch and says what was drawn, (B, U): used is what is above 0.

    `rows` says which images of the batch a pass asks about, None for all.
    """

    def __init__(self, switch: Switch, rows: Callable[[], Tensor | None]) -> None:
        super().__init__()
        self.switch = switch
        self.units = switch.units
        self.rows = rows
        self.drawn = torch.zeros(0, 1)

    def pool(self, x: Tensor) -> Tensor:
        """See `Switch.pool`."""
        return self.switch.pool(x)

    def forward(self, pooled: Tensor) -> Decision:
        """See `Switch.forward`."""
        self.switch(pooled)
        rows = self.rows()
        drawn = self.drawn if rows is None else self.drawn[rows]
        used = (drawn > 0).float()
        return Decision(used, used, used)

    def products(self) -> SwitchProducts | None:
        """See `Switch.products`."""
        return self.switch.products()

    def overruled(self) -> Tensor:
        """See `Switch.overruled`."""
        return self.drawn


class ByLot:
    """A network that is ready for use and leaves out `rate` of what its sites decide about: `draw`, then `run`.

    Drawn for each image and unit: blocks and filters are skipped, and images leave at an exit, with that chance; where
    images choose branches, which ones are drawn, and as many as ever are used.
    """

    def __init__(self, spec: str, backbone: str, size: int) -> None:
        self.net = ready(spec, backbone, size)
        # these run without a decision where nobody asks for one: forced from outside, they would be slower than in use
        lots = {site: _replaced(op) for site, op in self.net.sites.items()}
        self.lots = {site: lot for site, lot in lots.items() if lot is not None}
        self.forced: dict[str, Decision] = {}

    def draw(self, images: int, rate: float, seed: int) -> None:
        """Draw for so many images."""
        generator = torch.Generator().manual_seed(seed)
        for site, op in self.net.sites.items():
            drawn = torch.rand(images, op.units, generator=generator)
            lot = self.lots.get(site)
            if lot is None:
                self.forced[site] = _wished(op, drawn, rate)
            else:
                lot.drawn = _lot(op, lot, drawn, rate)

    def run(self, x: Tensor, record: bool = False) -> Output:
        """The sparse form, by what was drawn."""
        output: Output = self.net(x, sparse=True, record=record, decisions=self.forced or None)
        return output

    @torch.inference_mode()
    def macs(self, x: Tensor) -> float:
        """Multiply-adds of what was drawn, gates included, as priced."""
        return float(self.run(x, record=True).macs().sum())


Lot = GateByLot | PolicyByLot | SwitchByLot


def _lot(op: Op, lot: Lot, drawn: Tensor, rate: float) -> Tensor:
    """What it says of numbers (B, U) between 0 and 1."""
    used = (drawn >= rate).float()
    if isinstance(lot, SwitchByLot):
        used = op.forced(used, torch.ones_like(used)).used  # at least one filter
    return used if isinstance(lot, PolicyByLot) else used - 0.5


def _replaced(op: nn.Module) -> Lot | None:
    """What decides, put in its own place, to say what was drawn; None where there is none of its kind to replace."""
    if isinstance(op, Gated) and isinstance(op.gate, Gate):
        op.gate = lot = GateByLot(op.gate)
        return lot
    if isinstance(op, Planned):
        op.policy = plan = PolicyByLot(op.policy)
        return plan
    products = op.switch.products() if isinstance(op, Filtered) else None
    if isinstance(op, Filtered) and products is not None and not products.keep:  # weights are 1
        op.switch = switch = SwitchByLot(op.switch, lambda: op.tape.rows)
        return switch
    return None


def _wished(op: Op, drawn: Tensor, rate: float) -> Decision:
    """A decision of the op out of numbers (B, U) between 0 and 1; what is used has the weight that it has in use."""
    if isinstance(op, Routed):
        chosen = torch.zeros_like(drawn).scatter(1, drawn.topk(op.most, dim=1).indices, 1.0)
        return op.forced(chosen, drawn)
    used = op.forced((drawn >= rate).float(), torch.ones_like(drawn)).used
    return Decision(used, used, used)


def ready(spec: str, backbone: str, size: int) -> Net:
    """An untrained network for images of `size` pixels, ready for use."""
    return deployed(build(spec, backbone, classes=10, in_channels=3, image_size=size, seed=0).eval())


def images(count: int, size: int) -> Tensor:
    """Images (B, 3, size, size), channels-last."""
    return torch.rand(count, 3, size, size).contiguous(memory_format=torch.channels_last)


def floats(text: str) -> Sequence[float]:
    """Numbers with commas between them."""
    return [float(part) for part in text.split(",")]
