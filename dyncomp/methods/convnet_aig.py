"""ConvNet-AIG: residual blocks whose gates open at a given rate (Veit & Belongie 2018, arXiv:1711.11503)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dyncomp.core import Backbone, Method, Net, Output, ResidualBlock, Source, Stage, pretrained
from dyncomp.core.losses import cross_entropy
from dyncomp.errors import CannotAttach, InvalidValue
from dyncomp.ops import Gated
from dyncomp.ops.balance import binary_information
from dyncomp.ops.gumbel_gate import GumbelGate, chances_said, set_noise
from dyncomp.ops.placement import residual_blocks
from dyncomp.registry import register_method
from dyncomp.spec import option

HIDDEN = 16  # channels inside a gate (section 3.2)
BIASES = (0.1, 2.0)  # logits at the start: open for about 85 % of the images


@register_method("convnet_aig", paper="arXiv:1711.11503")
@dataclass(frozen=True)
class ConvNetAIG(Method):
    """Gates every residual block's body by a small network on the block's pooled input.

    Decisions are drawn in training by hard Gumbel-softmax with straight-through gradients, and thresholded in use. (The
    official code keeps the noise on when it evaluates; here two evaluations agree.) The loss is cross-entropy +
    `weight` * mean over gates of (t - rate over the batch)^2 (section 3.3), with one target rate t for all gates, or
    one for each: None stands for a block without a gate, where the paper's code has a gate that its loss leaves out.
    0.6 and 2 are the values for CIFAR. The first block and those that change the shape have no gate, as the paper
    advises for ImageNet, unless no other block is left, or `everywhere` says so. Training begins with random weights,
    as in the paper on CIFAR; a trained backbone (`pretraining=0.5`) was worse at an equal budget: 92.8 % at 0.66 of the
    multiply-adds against 93.6 % at 0.64 (Fashion-MNIST, cifar_resnet20(width=0.5), target 0.5, 10 epochs, one seed).

    Against collapse: gates begin open for 87 %, the target is each gate's own, so that none may stay shut or open for
    all images, and noise lets shut blocks be tried. Tossing coins at the target rate would satisfy that loss too, and
    thresholding would turn it into one fixed route: so the last part of the training (`quiet`, an addition) has no
    noise.
    """

    examples: ClassVar[tuple[str, ...]] = ("convnet_aig(targets=(None, 0.3, 0.9), balance=0.1)",)
    all_on_is_plain: ClassVar[bool] = True

    target: float = option(0.6, "share of the images that each block runs for", ge=0.0, le=1.0)
    targets: tuple[float | None, ...] | None = option(
        None, "a share for each residual block, the last for those behind; None in it: no gate"
    )
    everywhere: bool = option(False, "gates also for the first block and for those that change the shape")
    weight: float = option(2.0, "weight of the rates' loss", ge=0.0)
    balance: float = option(0.0, "weight of the mutual information of image and decision (not the paper's)", ge=0.0)
    quiet: float = option(0.5, "share of the training, at its end, without noise", ge=0.0, le=1.0)
    pretraining: float = option(0.0, "share of the budget that trains the plain backbone beforehand", ge=0.0, lt=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(t is not None and not 0 <= t <= 1 for t in self.targets or ()):
            raise InvalidValue(f"convnet_aig: targets={self.targets}; give shares from 0 to 1, or None for no gate")
        if self.targets is not None and set(self.targets) <= {None}:
            raise InvalidValue(f"convnet_aig: targets={self.targets} leaves no gate; give at least one share")

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """See `Method.build`."""
        backbone = new()
        blocks = residual_blocks(backbone, "convnet_aig")
        targets = self._targets(list(blocks.values()))
        if set(targets) == {None}:
            raise CannotAttach(
                f"convnet_aig: targets={self.targets} leaves no gate in the {len(blocks)} residual blocks of "
                f"{backbone.name}; give a share earlier"
            )
        for (name, block), target in zip(blocks.items(), targets, strict=True):
            if target is not None:
                backbone.swap(name, Gated(block, GumbelGate(block.in_channels, HIDDEN, BIASES), form="residual"))
        return backbone

    def _targets(self, blocks: Sequence[ResidualBlock]) -> list[float | None]:
        """The target of each of the residual blocks; None for those without a gate."""
        if self.targets is not None:
            return [self.targets[min(at, len(self.targets) - 1)] for at in range(len(blocks))]
        free = [self.everywhere or (at > 0 and isinstance(one.shortcut, nn.Identity)) for at, one in enumerate(blocks)]
        return [self.target if gated or not any(free) else None for gated in free]

    def sources(self) -> Mapping[str, Source]:
        """The plain backbone, trained, where some of the budget is for it."""
        return pretrained(self.pretraining)

    def stages(self) -> Sequence[Stage]:
        """See `Method.stages`."""
        return (Stage("train", 1.0, self._loss, adjust=self._quieten),)

    def _quieten(self, net: Net, progress: float) -> None:
        set_noise(net, temperature=1.0, noisy=progress < 1 - self.quiet)

    def _loss(self, output: Output, labels: Tensor, progress: float) -> Tensor:
        rates = torch.cat([d.used for d in output.trace.values()], dim=1).float().mean(dim=0)  # (gates,)
        off_target = (rates - rates.new_tensor(self._gate_targets(len(rates)))).square().mean()
        loss = cross_entropy(output, labels) + self.weight * off_target
        if not self.balance:
            return loss
        chances = chances_said(output)
        return loss - self.balance * binary_information(chances, chances)

    def _gate_targets(self, gates: int) -> list[float]:
        """The targets of that many gates; blocks without one are not among them."""
        given = (self.target,) if self.targets is None else self.targets
        known = [target for target in given if target is not None]
        return [known[min(gate, len(known) - 1)] for gate in range(gates)]
