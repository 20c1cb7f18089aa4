"""LAUDNet's layer skipping: a trained net learns which blocks an image needs (Han et al. 2024, arXiv:2308.15949)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from dyncomp.core import Backbone, Batches, Gated, Method, Net, Output, Stage, chain
from dyncomp.core.attach import residual_blocks
from dyncomp.core.balance import binary_information
from dyncomp.core.losses import cross_entropy, divergence, outside_of_bounds
from dyncomp.core.masker import Masker, chances_said, set_noise
from dyncomp.core.op import Taped
from dyncomp.registry import register_method
from dyncomp.spec import option

HOT, COLD = 5.0, 0.1  # Gumbel temperature at the beginning and at the end
TEACHER = "teacher"
KD_TEMPERATURE = 4.0


@register_method("laudnet", paper="arXiv:2308.15949")
@dataclass(frozen=True)
class LAUDNet(Method):
    """Skips residual blocks of a trained network image by image, which its own static form teaches meanwhile.

    LASNet (arXiv:2210.06223) and LAUDNet unify dynamic pixels, channels and layers; this is the layer mode. Each
    block's masker reads its pooled input: one 1x1 convolution to two logits, hard Gumbel-softmax in training with a
    temperature falling exponentially from 5 to 0.1, argmax in use. Stage 1 trains the plain backbone; stage 2
    fine-tunes everything by cross-entropy + `weight` * ((share - target)^2 + bounds) + `distillation` * KD, where KD is
    the divergence from the frozen net of stage 1 at temperature 4 (Hinton et al. 2015, arXiv:1503.02531), times 16.
    So its gain over the static net is partly the distillation's.

    Against collapse: it starts from a net that works, with open maskers; the bounds hold each block's rate at the
    target and let go along a squared cosine over the first third of stage 2; and, additions to the paper, `balance`
    rewards decisions that depend on the image, and the last part of stage 2 (`quiet`) has no noise, so that the budget
    is met by the decisions of use and not by tossing coins. The masker's `hidden` layer, ConvNet-AIG's, is one too: the
    paper's single layer takes few routes after few epochs.
    """

    examples: ClassVar[tuple[str, ...]] = ("laudnet(target=0.3, hidden=0, distillation=0.0, balance=0.0)",)
    all_on_is_plain: ClassVar[bool] = True

    target: float = option(0.5, "multiply-adds as a share of the plain backbone's", gt=0.0, le=1.0)
    weight: float = option(10.0, "weight of the budget loss and the bounds", ge=0.0)
    distillation: float = option(0.5, "weight of the distillation from the static net", ge=0.0)
    balance: float = option(0.3, "weight of the mutual information of image and decision", ge=0.0)
    enough: float = option(0.2, "nats of that information from which a block gets no more reward", ge=0.0)
    quiet: float = option(0.3, "share of stage 2, at its end, without noise", ge=0.0, le=1.0)
    pretraining: float = option(0.5, "share of the epochs that stage 1 takes", gt=0.0, lt=1.0)
    hidden: int = option(16, "channels inside a masker, with batch norm and ReLU; 0: the paper's single layer", ge=0)
    learning_rate: float = option(1.0, "of stage 2, as a factor on the recipe's", gt=0.0)

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """See `Method.build`."""
        backbone = new()
        for name, block in residual_blocks(backbone, "laudnet").items():
            masker = Masker(block.in_channels, self.hidden or None, (0.0, 2.0))
            backbone.swap(name, Gated(block, masker, form="residual"))
        return Taught(backbone)

    def stages(self) -> Sequence[Stage]:
        """See `Method.stages`."""
        return (
            Stage("pretrain", self.pretraining, cross_entropy, all_on=True, trained=_plain, pretrains=True),
            Stage(
                "finetune",
                1 - self.pretraining,
                self._loss,
                learning_rate=self.learning_rate,
                prepare=self._find_teacher,
                adjust=self._cool,
            ),
        )

    def _find_teacher(self, net: Net, batches: Batches) -> None:
        if self.distillation:
            cast(Taught, net.model).remember()

    def _cool(self, net: Net, progress: float) -> None:
        set_noise(net, HOT * (COLD / HOT) ** progress, noisy=progress < 1 - self.quiet)

    def _loss(self, output: Output, labels: Tensor, progress: float) -> Tensor:
        chances = chances_said(output)
        rates = torch.cat([d.used for d in output.trace.values()], dim=1).mean(dim=0)  # (blocks,)
        budget = (output.share().mean() - self.target).square() + outside_of_bounds(rates, self.target, progress)
        loss = cross_entropy(output, labels) + self.weight * budget.float()
        loss = loss - self.balance * binary_information(chances, chances, self.enough)
        if TEACHER in output.said:
            loss = loss + self.distillation * divergence(output.logits, output.said[TEACHER], KD_TEMPERATURE)
        return loss


class Taught(Taped):
    """A backbone with gates, and in training the frozen plain net that it was: images -> logits, both (B, Y).

    The teacher is no submodule, so it is neither trained nor saved nor priced, but it is copied and moved along. Its
    logits are said under "teacher".
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self._hide(None)

    def _hide(self, teacher: nn.Module | None) -> None:
        self.__dict__["teacher"] = teacher  # past nn.Module, which would register it

    def plain(self) -> nn.Sequential:
        """The backbone without its gates, made of the very same modules."""
        return chain((name, part.block if isinstance(part, Gated) else part) for name, part in self.backbone.layers())

    def remember(self) -> None:
        """Take the plain network as it is now as the teacher."""
        self._hide(copy.deepcopy(self.plain()).eval().requires_grad_(False))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) -> logits (B, Y)."""
        teacher = self.__dict__["teacher"]
        if self.training and teacher is not None:
            with torch.no_grad():
                self.tape.say(TEACHER, teacher(x))
        logits: Tensor = self.backbone(x)
        return logits

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Taught:
        teacher = self.__dict__["teacher"]
        if teacher is not None:
            teacher._apply(fn, recurse)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _plain(net: Net) -> Net:
    """The network that stage 1 trains."""
    return Net(cast(Taught, net.model).plain())
