"""Data and networks so small that every number about them can be said by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dyncomp.core import Net, ResidualBlock, measure_costs
from dyncomp.data import Augmentation, ImageSplit, in_memory
from dyncomp.data import Splits as Splits
from dyncomp.ops import Gated

SIDE = 4
ALWAYS_MACS = 2 * 2  # the last linear layer
BODY_MACS = 2 * 2 * SIDE * SIDE  # a 1x1 convolution, two channels to two


def plain_split(images: Tensor, labels: Tensor) -> ImageSplit:
    """Images (N, C, H, W) from 0 to 1, seen as they are."""
    channels = images.shape[1]
    return ImageSplit(images, labels, torch.zeros(channels), torch.ones(channels))


def numbered_split(count: int) -> ImageSplit:
    """Image i is grey i / 1000 everywhere, so that a batch tells which images it holds."""
    values = torch.arange(count) / 1000
    return plain_split(values.view(-1, 1, 1, 1).expand(-1, 2, SIDE, SIDE).contiguous(), torch.arange(count) % 2)


def numbers_in(images: Tensor) -> list[int]:
    """Which images of a `numbered_split` these are."""
    return (images[:, 0, 0, 0] * 1000).round().int().tolist()


def bright_or_dark(bright: Sequence[bool]) -> ImageSplit:
    """White images of class 1 and black ones of class 0."""
    labels = torch.tensor(bright).long()
    return plain_split(labels.float().view(-1, 1, 1, 1).expand(-1, 2, SIDE, SIDE).contiguous(), labels)


class Gate(nn.Module):
    """Decides by a rule on (B, C, H, W), without parameters and without multiply-adds."""

    def __init__(self, rule: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, x: Tensor) -> Tensor:
        return self.rule(x).to(x)[:, None]  # (B, 1)


def is_bright(x: Tensor) -> Tensor:
    return x[:, 0].mean((1, 2)) > 0.5


def always(x: Tensor) -> Tensor:
    return torch.ones(len(x))


def never(x: Tensor) -> Tensor:
    return torch.zeros(len(x))


def gated_net(rule: Callable[[Tensor], Tensor] = is_bright, gates: int = 1) -> Net:
    """Answers 1 if any of its bodies ran, else 0: right on `bright_or_dark` only while its gate looks at the image."""
    blocks = [Gated(ResidualBlock(_marks(), nn.Identity(), nn.Identity()), Gate(rule)) for _ in range(gates)]
    net = Net(nn.Sequential(*blocks, _Pool(), _reads_mark()))
    net.costs = measure_costs(net, torch.zeros(1, 2, SIDE, SIDE))
    return net.eval()


class _Pool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def _marks() -> nn.Module:
    """Adds 10 to the second channel and leaves the first."""
    conv = nn.Conv2d(2, 2, 1)
    with torch.no_grad():
        conv.weight.zero_()
        conv.bias.copy_(torch.tensor([0.0, 10.0]))  # type: ignore[union-attr]
    return conv


def _reads_mark() -> nn.Module:
    linear = nn.Linear(2, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[0.0, -1.0], [0.0, 1.0]]))
        linear.bias.copy_(torch.tensor([5.0, -5.0]))
    return linear


@dataclass
class Log:
    """What spies saw: (name, numbers of the images) per call."""

    calls: list[tuple[str, list[int]]] = field(default_factory=list)


class _Spy(nn.Module):
    def __init__(self, name: str, log: Log, fails_at: int | None) -> None:
        super().__init__()
        self.name, self.log, self.fails_at = name, log, fails_at
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.log.calls.append((self.name, numbers_in(x)))
        if self.fails_at is not None and sum(name == self.name for name, _ in self.log.calls) >= self.fails_at:
            raise MemoryError("no room\nleft")
        y: Tensor = self.linear(x.mean((2, 3)))
        return y


def spy_net(name: str, log: Log, fails_at: int | None = None) -> Net:
    """A network that notes which images it was called with; from its call `fails_at` on it fails."""
    return Net(_Spy(name, log, fails_at))


def stripes(count: int = 96, size: int = 8) -> Splits:
    """Horizontal or vertical stripes under noise, two classes; each split has `count` images (1, size, size)."""

    def pair(seed: int) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % 2
        stripe = (torch.arange(size) % 2).float()
        rows, columns = stripe[:, None].expand(size, size), stripe[None].expand(size, size)
        clean = torch.where(labels[:, None, None] == 0, rows, columns)
        return (0.7 * clean + 0.3 * torch.rand(count, size, size, generator=draw))[:, None], labels

    return in_memory(pair(1), pair(2), pair(3), ("rows", "columns"), Augmentation(padding=1))
