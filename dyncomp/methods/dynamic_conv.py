"""DY-CNN: kernels mixed by an attention for each convolution (Chen et al. 2020, arXiv:1912.03458)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from dyncomp.core import Backbone, Method, Net, Stage
from dyncomp.core.losses import cross_entropy
from dyncomp.errors import CannotAttach
from dyncomp.ops import Attention, Mixed, is_channel_attention
from dyncomp.registry import register_method
from dyncomp.spec import option


@register_method("dynamic_conv", paper="arXiv:1912.03458")
@dataclass(frozen=True)
class DynamicConv(Method):
    """Mixes the kernels of every convolution in the blocks out of a few, by an attention of its own with softmax.

    It skips nothing: mixing adds `kernels` multiply-adds per weight. What keeps the attention from choosing one kernel
    for good before the kernels differ is the paper's flat softmax at the start: the temperature falls linearly from
    `temperature` to 1. The paper does that over the first 10 epochs of about 300; here it is a share of the budget,
    longer because budgets are shorter (an interpretation). The stem and the classifier stay static, as in the paper.
    """

    examples: ClassVar[tuple[str, ...]] = ('dynamic_conv(kernels=2, mode="outputs")',)

    kernels: int = option(4, "kernels per convolution", ge=1)
    temperature: float = option(30.0, "of the softmax, at the start of the training", ge=1.0)
    anneal: float = option(0.3, "share of the training over which the temperature falls to 1", ge=0.0, le=1.0)
    mode: Literal["auto", "kernels", "outputs"] = option(
        "auto", "in training mix kernels per image, or the kernels' outputs; auto: the faster, measured per layer"
    )

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """See `Method.build`."""
        backbone = new()
        found = [(block, name, conv) for block in backbone.blocks for name, conv in _convolutions(backbone.part(block))]
        if not found:
            raise CannotAttach(
                f"dynamic_conv: {backbone.name} has no convolutions in its blocks; choose another backbone"
            )
        for block, name, conv in found:
            mixed = Mixed(conv, Attention(conv.in_channels, self.kernels), self.kernels, self.mode)
            backbone.swap(f"{block}.{name}", mixed)
        return backbone

    def stages(self) -> Sequence[Stage]:
        """See `Method.stages`."""
        return (Stage("train", 1.0, cross_entropy, adjust=self._cool),)

    def _cool(self, net: Net, progress: float) -> None:
        fallen = 1.0 if self.anneal == 0 else min(1.0, progress / self.anneal)
        for module in net.modules():
            if isinstance(module, Attention):
                module.temperature = self.temperature + (1.0 - self.temperature) * fallen


def _convolutions(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Conv2d]]:
    """The convolutions inside by name, but those of squeeze-and-excitation."""
    if isinstance(module, nn.Conv2d):
        yield name, module
    elif not is_channel_attention(module):
        for child, part in module.named_children():
            yield from _convolutions(part, f"{name}.{child}".lstrip("."))
