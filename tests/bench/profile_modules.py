"""Modules to be profiled by their names, good and bad."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES = 5


def make() -> nn.Module:
    conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))
    return nn.Sequential(conv, nn.BatchNorm2d(8), nn.ReLU(), *head)


def lazy_and_broken() -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (7, 7)), nn.LazyLinear(CLASSES))


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x.mean((2, 3)))
        return y


class Unpriced(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.fft.fft2(x).abs())


class NoRoom(Plain):
    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 6:
            raise MemoryError("no room")
        return super().forward(x)


class Noisy(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.rand(1))


class Nan(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 0


class Rows(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[0]


class Never(Plain):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("never")


class ReadsStatistics(Plain):
    """Cannot be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        assert self.norm.running_var is not None
        return super().forward(self.norm(self.conv(x)) * self.norm.running_var[:, None, None])


INSTANCE = Plain()
NUMBER = 3


def broken() -> nn.Module:
    raise ValueError("cannot be\nbuilt")


def makes_a_number() -> int:
    return 3
