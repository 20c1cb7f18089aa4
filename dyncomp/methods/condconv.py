"""CondConv: kernels mixed for each image out of K experts (Yang, Bender, Le, Ngiam 2019, arXiv:1904.04971)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from dyncomp.core import Backbone, Method
from dyncomp.errors import CannotAttach
from dyncomp.ops import Mixed, Router, is_channel_attention
from dyncomp.ops.norm import with_norm
from dyncomp.ops.placement import needs_single_maps
from dyncomp.registry import register_method
from dyncomp.spec import option

# Backbone -> (first block with experts, counted from 1; whether the classifier has experts). MobileNetV1 is the paper's
# text (Table 4, "begin layer 7"); ResNet-50, EfficientNet-B0 and MnasNet-A1 are the rules that reproduce the published
# multiply-adds; for MobileNetV2 see the class.
PAPER_LAYERS = {
    "mobilenet_v1": (6, True),
    "mobilenet_v2": (12, True),
    "resnet50": (14, False),
    "efficientnet_b0": (9, False),
    "mnasnet_a1": (11, False),
}


@register_method("condconv", paper="arXiv:1904.04971")
@dataclass(frozen=True)
class CondConv(Method):
    """Mixes the kernels of the later blocks for each image out of several experts, by a router on the block's input.

    One router per block, shared by all its convolutions (projection shortcut included); sigmoid routing without
    normalisation, as in the paper, or softmax. On backbones that the paper does not have, the later half of the blocks
    gets experts (an interpretation, after MobileNetV1's proportion); on MobileNetV2 the last six and the
    classifier have them: 323 M, where the published 329 M follow from no rule that the paper states. It skips nothing:
    mixing adds `experts` multiply-adds per weight, and what it buys is accuracy. No gate can close, so none collapses.
    """

    examples: ClassVar[tuple[str, ...]] = (
        'condconv(experts=3, begin=1, mode="outputs")',
        'condconv(experts=2, routing="softmax", temperature=5.0, classifier=True, mode="kernels", norm="group")',
    )

    experts: int = option(8, "experts per layer", ge=1)
    routing: Literal["sigmoid", "softmax"] = option("sigmoid", "activation of the router")
    temperature: float = option(1.0, "the router's logits are divided by it", gt=0.0)
    begin: int | None = option(None, "first block with experts, from 1; None: the paper's choice", ge=1)
    classifier: bool | None = option(None, "experts in the last linear layer; None: the paper's choice")
    mode: Literal["auto", "kernels", "outputs"] = option(
        "auto", "in training mix kernels per image, or the experts' outputs; auto: the faster, measured per layer"
    )
    norm: Literal["batch", "group"] = option("batch", "normalisation; group allows training with batches of 1")

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """The backbone with experts in the blocks from `begin` on. Raises CannotAttach where there are none."""
        backbone = with_norm(new(), self.norm)
        needs_single_maps(backbone, "condconv")
        begin, classifier = self._where(backbone)
        for name in backbone.blocks[begin - 1 :]:
            self._mix(backbone, name)
        if classifier:
            self._mix(backbone, backbone.classifier)
        return backbone

    def _where(self, backbone: Backbone) -> tuple[int, bool]:
        blocks = len(backbone.blocks)
        begin, classifier = PAPER_LAYERS.get(backbone.name.split("(")[0], (blocks // 2 + 1, False))
        begin = begin if self.begin is None else self.begin
        if begin > blocks:
            raise CannotAttach(
                f"condconv: begin={begin}, but {backbone.name} has {blocks} blocks; give begin from 1 to {blocks}"
            )
        return begin, classifier if self.classifier is None else self.classifier

    def _mix(self, backbone: Backbone, name: str) -> None:
        part = backbone.part(name)
        router = Router(_channels(part), self.experts, self.routing == "softmax", self.temperature)
        backbone.swap(name, Mixed(part, router, self.experts, self.mode, leave=is_channel_attention))


def _channels(part: nn.Module) -> int:
    """Channels of the part's input: those of its first layer."""
    for layer in part.modules():
        if isinstance(layer, nn.Conv2d):
            return layer.in_channels
        if isinstance(layer, nn.Linear):
            return layer.in_features
    raise CannotAttach("condconv: a block without convolutions has nothing to mix; choose a later begin")
