"""Early exits: classifiers beside the network, where images leave that are sure enough (BranchyNet, arXiv:1709.01686).

Teerapittayanon, McDanel and Kung, 2016 (ICPR), which begins with a deep backbone and adds side branches to it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from dyncomp.core import Backbone, Method, Net, Output, Point, Seen, Source, Stage, chain, pretrained
from dyncomp.errors import CannotAttach, InvalidValue
from dyncomp.ops import Certainty, Exit
from dyncomp.ops.calibrate import exit_points, exit_sites
from dyncomp.registry import register_method
from dyncomp.spec import option

WIDEST = 128
"""channels in a side head at most, those of MSDNet's (arXiv:1703.09844, section 5)"""
UNCALIBRATED = {"confidence": 0.8, "entropy": 0.5}
"""where images leave before thresholds are calibrated"""


@register_method("early_exit", paper="arXiv:1709.01686")
@dataclass(frozen=True)
class EarlyExit(Method):
    """Side heads behind some of the blocks; an image leaves at the first one that is sure enough of its answer.

    All exits are trained at once by the weighted sum of their cross-entropies (paper, section III-C). Where
    the backbone has classifiers of its own (msdnet), these are the heads, by default behind every block but the last:
    MSDNet's network (arXiv:1703.09844). Elsewhere by default they stand behind the first block and a third and two
    thirds of the blocks in; the paper's residual network has the first two of these. Heads are two strided 3x3
    convolutions, global average pooling and a linear layer, where the paper's are one to three convolutions and a
    linear layer (interpretations).

    An image leaves where the greatest probability of the softmax is high enough, as in MSDNet; the paper asks for a low
    entropy (`criterion="entropy"`). Thresholds are set after training, on the calibration split: one for each exit,
    chosen for the fewest multiply-adds with an accuracy at most `tolerance` points below that of the last classifier
    (the paper screens a grid); further operating points are MSDNet's anytime and budgeted ones. Training begins with
    random weights, as MSDNet's does; a trained backbone, with which the paper begins, was worse at an equal budget
    (`pretraining=0.5`): 93.3 % at 0.48 of the multiply-adds against 93.6 % at 0.44, where the plain backbone has 93.8 %
    (Fashion-MNIST, cifar_resnet20(width=0.5), 10 epochs, calibration split, one seed). The paper's weights, 1.0 for the
    first exit and 0.3 for the last, are `weights=(1.0, ..., 0.3)`; by default all are 1, as in MSDNet. The paper's Adam
    is the recipe's SGD here.

    Against collapse: no gate learns here. An exit that is never or always taken is what the thresholds found cheapest:
    where the first exit answers the calibration split as well as the end does, nobody goes on.
    """

    examples: ClassVar[tuple[str, ...]] = (
        'early_exit(after=(1,), head="linear", criterion="entropy", threshold=1.5, weights=(1.0, 0.3))',
        "early_exit(pretraining=0.5)",
    )
    all_on_is_plain: ClassVar[bool] = True

    after: tuple[int, ...] | None = option(None, "blocks, from 1, with an exit behind them; None: spread", ge=1)
    head: Literal["conv", "linear"] = option(
        "conv", "two convolutions, pooling, linear; or pooling, linear; msdnet has heads of its own"
    )
    criterion: Literal["confidence", "entropy"] = option("confidence", "of the softmax: its greatest, or its entropy")
    threshold: float | None = option(
        None, "leave above this confidence, or below this entropy in nats; None: calibrated", ge=0.0
    )
    tolerance: float = option(0.0, "points of calibration accuracy that thresholds may give up", ge=0.0, le=100.0)
    weights: tuple[float, ...] | None = option(
        None, "of the cross-entropies of the exits in order and of the end; None: all 1", ge=0.0
    )
    pretraining: float = option(0.0, "share of the budget that trains the plain backbone beforehand", ge=0.0, lt=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.after is not None and (not self.after or list(self.after) != sorted(set(self.after))):
            raise InvalidValue(f"early_exit: after={self.after}; give blocks in rising order, each once")
        if self.after and self.weights and len(self.weights) != len(self.after) + 1:
            raise InvalidValue(
                f"early_exit: {len(self.weights)} weights for {len(self.after)} exits; "
                f"give {len(self.after) + 1}, the last for the network's end"
            )

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """The backbone as stretches, each but the first in the rest of the exit before. Raises CannotAttach."""
        backbone = new()
        layers = backbone.layers()
        names = [name for name, _ in layers]
        module, end = None, len(layers)
        for block in reversed(self._places(backbone)):
            name = backbone.blocks[block - 1]
            start = names.index(name) + 1
            rest = _stretch(layers[start:end], module)
            module = Exit(self._head(backbone, name), rest, Certainty(self.criterion), self._start())
            end = start
        return _stretch(layers[:end], module)

    def _places(self, backbone: Backbone) -> Sequence[int]:
        """The numbers of the blocks with an exit behind them."""
        count = len(backbone.blocks)
        places = _spread(backbone) if self.after is None else self.after
        possible = [n for n in range(1, count) if not backbone.multi_scale or backbone.blocks[n - 1] in backbone.heads]
        if not places or not set(places) <= set(possible):
            raise CannotAttach(
                f"early_exit: no exit after={tuple(places)} in {backbone.name}, which has {count} blocks; "
                f"exits may stand behind the blocks {', '.join(map(str, possible)) or '(none)'}"
            )
        if self.weights is not None and len(self.weights) != len(places) + 1:
            raise CannotAttach(
                f"early_exit: {len(self.weights)} weights for {len(places)} exits in {backbone.name}; "
                f"give {len(places) + 1}, the last for the network's end"
            )
        return places

    def _head(self, backbone: Backbone, name: str) -> nn.Module:
        if name in backbone.heads:
            return backbone.heads[name]()
        convolutions = [m for m in backbone.part(name).modules() if isinstance(m, nn.Conv2d)]
        linear = backbone.part(backbone.classifier)
        assert isinstance(linear, nn.Linear)
        return side_head(convolutions[-1].out_channels, linear.out_features, self.head == "conv")

    def _start(self) -> float:
        """The threshold on the score that the network is built with."""
        limit = UNCALIBRATED[self.criterion] if self.threshold is None else self.threshold
        return limit if self.criterion == "confidence" else -limit

    def sources(self) -> Mapping[str, Source]:
        """The plain backbone, trained, where some of the budget is for it."""
        return pretrained(self.pretraining)

    def stages(self) -> Sequence[Stage]:
        """See `Method.stages`."""
        return (Stage("joint", 1.0, lambda output, labels, progress: self.loss(output, labels)),)

    def loss(self, output: Output, labels: Tensor) -> Tensor:
        """The weighted sum of the cross-entropies of all exits and of the end (paper, section III-C)."""
        answers = [*(output.said[site] for site in output.trace), output.logits]
        errors = [F.cross_entropy(answer.float(), labels) for answer in answers]
        weights = self.weights or (1.0,) * len(errors)
        return sum((w * e for w, e in zip(weights, errors, strict=True)), start=errors[0].new_zeros(()))

    def points(self, net: Net, seen: Seen) -> Sequence[Point]:
        """The default point, calibrated or fixed; anytime points; budgeted ones."""
        default, *others = exit_points(net, seen, self.tolerance)
        if self.threshold is not None:
            default = Point("default", "default", dict.fromkeys(exit_sites(net), self._start()))
        return [default, *others]


def side_head(channels: int, classes: int, convolved: bool) -> nn.Sequential:
    """Features (B, C, H, W) -> logits (B, Y).

    Convolutions have twice the channels that come in, at most `WIDEST`: behind a basic block of a residual network
    the head then costs three eighths of that block.
    """
    width = min(2 * channels, WIDEST) if convolved else channels
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if convolved:
        layers["conv1"] = _halving(channels, width)
        layers["conv2"] = _halving(width, width)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten(1)  # (B, width)
    layers["classifier"] = nn.Linear(width, classes)
    return nn.Sequential(layers)


def _halving(inputs: int, outputs: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, 2, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def _spread(backbone: Backbone) -> list[int]:
    """Behind all blocks with a head of the backbone's own; else the first, and a third and two thirds in."""
    if backbone.heads:
        return [number for number, name in enumerate(backbone.blocks[:-1], start=1) if name in backbone.heads]
    count = len(backbone.blocks)
    return sorted({1, round(count / 3), round(2 * count / 3)} - {0, count})


def _stretch(layers: Sequence[tuple[str, nn.Module]], following: nn.Module | None) -> nn.Module:
    """Layers under the name of `trunk`, which the first stage learns, and the exit behind them, if there is one."""
    trunk = nn.Sequential(OrderedDict(trunk=chain(layers)))
    if following is not None:
        trunk.add_module("exit", following)
    return trunk
