"""Gates: small networks that map features to the probability that each unit is used."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyncomp.core.rules import Rule
from dyncomp.core.tape import Taped


def pooled(x: Tensor) -> Tensor:
    """Features (B, C, H, W) averaged over space, (B, C); pooled features (B, C) unchanged."""
    return x.mean(dim=(2, 3)) if x.dim() == 4 else x


def on_pooled(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    """Output (B, O) of a 1x1 convolution or linear layer for spatial means of features (B, C, H, W), or (B, C).

    Computed as a matrix product with as few calls as possible, since beside small blocks the time of a gate is that of
    its calls. The divisor of the mean is a factor of the product.
    """
    weight = layer.weight.flatten(1)
    if x.dim() == 2 or layer.bias is None or x.dtype != weight.dtype:
        return F.linear(pooled(x), weight, layer.bias)
    return torch.addmm(layer.bias, x.sum(dim=(2, 3)), weight.t(), alpha=1 / (x.shape[2] * x.shape[3]))


def as_chance(logits: Tensor) -> Tensor:
    """Logits in at least float32: bfloat16 rounds probabilities above 0.998 to 1, with a wrong policy gradient."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def open_bias(probability: float) -> float:
    """The logit at which a gate opens with that probability."""
    return math.log(probability / (1 - probability))


@dataclass(frozen=True)
class GateDescription:
    """A gate or router that generated code can run: linear layers or 1x1 convolutions on channel means (B, C).

    `relus`: for each layer, whether ReLU follows. `cell`: an LSTM cell behind the first layer; its state is on the tape
    under the keys of `RecurrentGate`. `squash`: applied to a router's logits divided by `temperature`.
    """

    layers: Sequence[nn.Conv2d | nn.Linear]
    relus: Sequence[bool]
    cell: nn.LSTMCell | None = None
    squash: Literal["sigmoid", "softmax"] | None = None
    temperature: float = 1.0


class Router(nn.Module):
    """Pooled features -> one linear layer -> sigmoid or softmax(z / temperature), (B, K), for mixing K experts.

    Sigmoid is CondConv's routing function (Yang et al. 2019, arXiv:1904.04971, eq. 2), softmax the variant of its Table
    3. Initial weights are Glorot uniform, biases zero, as in TensorFlow's dense layer.
    """

    def __init__(self, channels: int, experts: int, softmax: bool, temperature: float) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, experts)
        self.softmax = softmax
        self.temperature = temperature
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def description(self) -> GateDescription:
        """The router as linear layers on channel means."""
        return GateDescription(
            (self.linear,), (False,), None, "softmax" if self.softmax else "sigmoid", self.temperature
        )

    def forward(self, x: Tensor) -> Tensor:
        """Mixing weights (B, K) of features (B, C, H, W) or (B, C)."""
        logits = on_pooled(self.linear, x).to(x.dtype)  # (B, K)
        if self.temperature != 1:
            logits = logits / self.temperature
        return logits.softmax(dim=1) if self.softmax else logits.sigmoid()


class Attention(nn.Module):
    """Pooled features -> linear, ReLU, linear -> softmax(z / temperature), (B, K), for mixing K experts.

    DY-CNN's attention (Chen et al. 2020, arXiv:1912.03458, section 3.2): the hidden layer has a quarter of the
    channels, at least four. Its initial biases are 1, so that no hidden unit is 0 for all images (an interpretation: if
    a small hidden layer starts dead, the attention stays uniform). Stages lower `temperature` to 1, its default.
    """

    def __init__(self, channels: int, experts: int) -> None:
        super().__init__()
        hidden = nn.Linear(channels, max(4, channels // 4))
        nn.init.ones_(hidden.bias)
        self.layers = nn.Sequential(hidden, nn.ReLU(), nn.Linear(hidden.out_features, experts))
        self.temperature = 1.0

    def description(self) -> GateDescription:
        """The router as linear layers on channel means."""
        hidden, _, last = self.layers
        assert isinstance(hidden, nn.Linear) and isinstance(last, nn.Linear)  # see __init__
        return GateDescription((hidden, last), (True, False), None, "softmax", self.temperature)

    def forward(self, x: Tensor) -> Tensor:
        """Mixing weights (B, K) of features (B, C, H, W)."""
        logits: Tensor = self.layers(pooled(x)).to(x.dtype)  # (B, K)
        return (logits / self.temperature).softmax(dim=1)


class Gate(Taped, ABC):
    """A gate of one unit, decided by its logits, so that the sparse form needs no probability.

    The gate opens if the second of two logits is above the first, or if a single logit is above 0.
    """

    def description(self) -> GateDescription | None:
        """The gate as linear layers on channel means; None for a gate of another kind.

        Called once, so the result depends on the gate's layers alone. A subclass that computes other logits overrides
        the method.
        """
        return None

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """Features (B, C, H, W) -> logits (B, 1) or (B, 2), at least float32, without noise."""

    def forward(self, x: Tensor) -> Tensor:
        """Probability (B, 1) that the body runs for features (B, C, H, W)."""
        return chance(self.logits(x))


def chance(logits: Tensor) -> Tensor:
    """The probability (B, 1) that a gate with logits (B, 1) or (B, 2) opens."""
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)[:, 1:]


def opens(logits: Tensor) -> Tensor:
    """Whether a gate with logits (B, 1) or (B, 2) opens, (B, 1) bool."""
    if logits.shape[1] == 1:
        return logits > 0
    if logits.shape[1] != 2:
        raise ValueError(f"a gate's logits {tuple(logits.shape)}; give one or two for each image")
    return logits[:, 1:] > logits[:, :1]


class FeedForwardGate(Gate):
    """SkipNet's FFGate-I (`deep=True`) and FFGate-II (Wang et al. 2018, arXiv:1711.09485, section 3.1 and its code).

    I: max-pool 2, conv3x3, conv3x3 of stride 2, average pool, 1x1 conv to two logits, softmax. II: one conv3x3 of
    stride 2 in place of the first three. Output: (B, 1). `start`: initial probability to be open (an interpretation:
    the paper does not give the initial state; a gate that starts half closed rarely opens again).
    """

    def __init__(self, channels: int, deep: bool, start: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if deep:
            layers += [nn.MaxPool2d(2, ceil_mode=True), *_conv(channels, stride=1)]
        self.features = nn.Sequential(*layers, *_conv(channels, stride=2))
        self.head = nn.Conv2d(channels, 2, 1)
        with torch.no_grad():
            self.head.bias.copy_(torch.tensor([0.0, open_bias(start)]))  # type: ignore[union-attr]

    def logits(self, x: Tensor) -> Tensor:
        """See `Gate.logits`."""
        return as_chance(on_pooled(self.head, self.features(x)))  # (B, 2)


class Concrete(nn.Module):
    """Logits (B, U) to probabilities; in training with logistic noise, sigmoid((logits + noise) / temperature).

    The binary concrete distribution, or Gumbel-softmax of two (Maddison et al. 2017, arXiv:1611.00712; Jang et al.
    2017, arXiv:1611.01144): thresholded at 1/2, it is a sample from Bernoulli(sigmoid(logits)). Stages set
    `temperature` and `noisy`; evaluation has neither noise nor temperature.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.noisy = True

    def forward(self, logits: Tensor) -> Tensor:
        """Probabilities in the shape of the logits."""
        logits = as_chance(logits)
        if not self.training:
            return logits.sigmoid()
        if self.noisy:
            uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
            logits = logits + uniform.log() - (-uniform).log1p()
        return (logits / self.temperature).sigmoid()


def _conv(channels: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(channels), nn.ReLU()]


class RecurrentGate(Gate):
    """SkipNet's recurrent gate (Wang et al. 2018, section 3.1): pool, 1x1 conv to 10, LSTM(10, 10), linear, sigmoid.

    Every block has its own projection; `cell` and `head` are shared by all blocks. The LSTM's state is passed from gate
    to gate for each image, initially zero. Input (B, C, H, W), output (B, 1).
    """

    def __init__(self, channels: int, cell: nn.LSTMCell, head: nn.Linear) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, cell.input_size, 1)
        self.cell = cell
        self.head = head

    def description(self) -> GateDescription:
        """See `Gate.description`."""
        return GateDescription((self.projection, self.head), (False, False), self.cell)

    def logits(self, x: Tensor) -> Tensor:
        """See `Gate.logits`; updates the LSTM's state on the tape."""
        embedded = on_pooled(self.projection, x).to(x.dtype)  # (B, 10)
        hidden, memory = (self.tape.recall(key, embedded) for key in ("hidden", "memory"))
        hidden, memory = self.cell(embedded, (hidden, memory))
        self.tape.remember("hidden", hidden)
        self.tape.remember("memory", memory)
        return as_chance(self.head(hidden))  # (B, 1)


def shared_recurrence(size: int, start: float) -> tuple[nn.LSTMCell, nn.Linear]:
    """An LSTM cell and a head for all recurrent gates of a network; `start`: initial probability to be open."""
    cell, head = nn.LSTMCell(size, size), nn.Linear(size, 1)
    nn.init.constant_(head.bias, open_bias(start))
    return cell, head


class RuledGate(Gate):
    """A gate of one unit that follows a rule."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule

    def logits(self, x: Tensor) -> Tensor:
        """Features (B, C, H, W) -> logits 1 or -1, (B, 1)."""
        logits: Tensor = 2 * self.rule(x) - 1
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """1 or 0, (B, 1); passed to `Tape.say` under the gate's name, as learned gates pass their probabilities."""
        used: Tensor = self.rule(x)
        self.tape.say(self.site, used)
        return used
