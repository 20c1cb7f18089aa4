"""Networks whose decisions are drawn at a wanted rate and forced: their gates run and cost what they cost, unheard."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dyncomp import build
from dyncomp.core import Decision, Net, Output
from dyncomp.core.op import Op
from dyncomp.fast import deployed
from dyncomp.ops import Routed


class ByLot:
    """A deployed network that leaves out `rate` of what its sites decide about: `draw`, then `run`.

    Drawn for each image and unit: blocks and filters are skipped, and images leave at an exit, with that chance; where
    images choose branches, which ones are drawn, and as many as ever are used.
    """

    def __init__(self, spec: str, backbone: str, size: int) -> None:
        self.net = ready(spec, backbone, size)
        self.forced: dict[str, Decision] = {}

    def draw(self, images: int, rate: float, seed: int) -> None:
        """Draw for so many images."""
        generator = torch.Generator().manual_seed(seed)
        for site, op in self.net.sites.items():
            self.forced[site] = _wished(op, torch.rand(images, op.units, generator=generator), rate)

    def run(self, x: Tensor, record: bool = False) -> Output:
        """The sparse form, by what was drawn."""
        output: Output = self.net(x, sparse=True, record=record, decisions=self.forced or None)
        return output

    @torch.inference_mode()
    def macs(self, x: Tensor) -> float:
        """Multiply-adds of what was drawn, gates included, as priced."""
        return float(self.run(x, record=True).macs().sum())


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
