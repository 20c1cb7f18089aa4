"""Masked: a residual block whose body runs at some pixels of each image only."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dyncomp.core.backbone import ResidualBlock
from dyncomp.core.op import Op, hard_decision
from dyncomp.core.rules import Rule
from dyncomp.core.tape import Taped, Tapes
from dyncomp.core.trace import Decision
from dyncomp.errors import InvalidValue
from dyncomp.ops.channel_subsets import flattened, is_depthwise
from dyncomp.ops.pixels import applied, dilated, neighbourhoods, placed

Size = tuple[int, int]
"""height and width in pixels"""

BY_PIXEL = (nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Identity)
"""layers that act on each pixel by itself"""


class Masked(Op):
    """y = activation(shortcut(x) + m * body(x)), with m in {0, 1} for each pixel of the output.

    (Verelst & Tuytelaars 2020, arXiv:1912.03203, section 3.) `masker` maps x (B, C, H, W) to the probability
    (B, 1, H', W') that the body runs at an output pixel. The units are the output pixels of all convolutions of the
    body, in order: those of the last are the mask, and an inner convolution has to run at all pixels that a later one
    reads, found by dilation of the mask. Sparse form: the needed pixels of all images are rows of one matrix product.
    """

    takes_one_image = False  # pixels of all images are gathered together
    kept_by = "gathered pixels"

    def __init__(self, block: ResidualBlock, masker: nn.Module, size: Size) -> None:
        """`size`: height and width of the features that enter the block."""
        super().__init__()
        self.block = block
        self.masker = masker
        self.size = torch.Size(size)
        self.steps = steps_of(block.body)
        self.sizes: list[Size] = []
        self.spans: list[range] = []
        for conv, _ in self.steps:  # size and units of each convolution's output
            size = (-(-size[0] // conv.stride[0]), -(-size[1] // conv.stride[1]))
            first = self.spans[-1].stop if self.spans else 0
            self.sizes.append(size)
            self.spans.append(range(first, first + size[0] * size[1]))
        self.units = self.spans[-1].stop

    def attach(self, site: str, tapes: Tapes) -> None:
        """See `Taped.attach`; layers of the body may have been replaced since the op was created."""
        super().attach(site, tapes)
        self.steps = steps_of(self.block.body)

    def decide(self, x: Tensor) -> Decision:
        """The thresholded mask, and the inner pixels it needs. Raises InvalidValue for features of another size."""
        if x.shape[2:] != self.size:
            raise InvalidValue(
                f"features of {x.shape[2]} x {x.shape[3]} pixels at {self.site or 'a masked block'}, whose units are "
                f"{self.size[0]} x {self.size[1]} pixels; give images of the size that the network was built for"
            )
        chance = self.masker(x).flatten(1)  # (B, H'*W')
        mask = hard_decision(chance, self.tape.sampling and self.training).used
        used = self._needed(mask)  # (B, U)
        probability = torch.cat([used[:, : self.spans[-1].start].detach(), chance.to(used)], dim=1)
        return Decision(used, used, probability)

    def _needed(self, mask: Tensor) -> Tensor:
        """The output pixels (B, U) of all convolutions that are needed for a mask (B, H'*W')."""
        needed = mask.view(-1, 1, *self.sizes[-1])  # (B, 1, H', W')
        all_needed = [needed]
        for (conv, _), size in zip(self.steps[:0:-1], self.sizes[-2::-1], strict=True):
            needed = dilated(needed, conv, size)
            all_needed.append(needed)
        return torch.cat([needed.flatten(1) for needed in reversed(all_needed)], dim=1)

    def dense(self, x: Tensor, decision: Decision) -> Tensor:
        """Run the body at all pixels, then multiply by the mask."""
        span = self.spans[-1]
        residual: Tensor = self.block.body(x)  # (B, C', H', W')
        mask = decision.weight[:, span.start : span.stop].reshape(-1, 1, *self.sizes[-1])
        return self.block.join(residual * mask.to(residual.dtype), self.block.shortcut(x))

    def sparse(self, x: Tensor, decision: Decision) -> Tensor:
        """Run each convolution at the needed pixels."""
        shortcut: Tensor = self.block.shortcut(x)  # (B, C', H', W')
        y = x
        for (conv, after), span, size in zip(self.steps, self.spans, self.sizes, strict=True):
            needed = decision.used[:, span.start : span.stop].view(x.shape[0], *size) > 0.5
            image, row, column = self.moving(torch.nonzero, needed).unbind(1)  # of each pixel
            seen = self.moving(neighbourhoods, conv, y, (image, row, column))  # (pixels, k*k, C)
            values = after(self.unit(span, applied, conv, seen)[:, :, None, None]).flatten(1)  # (pixels, O)
            y = self.moving(placed, (image, row, column), values, (x.shape[0], *size))
        return self.block.join(y, shortcut)

    def branched(self, x: Tensor, decision: Decision) -> Tensor:
        """The sparse form: the number of pixels is a dynamic size of the graph."""
        return self.sparse(x, decision)

    def follow(self, make: Callable[[int, bool], Rule]) -> Rule:
        """See `Op.follow`; the rule decides about the output pixels."""
        height, width = self.sizes[-1]
        rule = make(height * width, False)
        self.masker = _RuledMaskUnit(rule, (height, width))
        return rule

    def wished(self, decision: Decision) -> Tensor:
        """The output pixels, (B, H'*W')."""
        return decision.used[:, self.spans[-1].start :]

    def unit_parts(self) -> tuple[nn.Module | None, ...]:
        """None: a pixel is a part of a map, not a module."""
        return (None,) * self.units

    def least(self) -> Tensor:
        """No unit: the body may be skipped."""
        return torch.zeros(self.units)

    def forced(self, used: Tensor, weight: Tensor) -> Decision:
        """The requested mask (the units of the last convolution), and the pixels that it needs."""
        span = self.spans[-1]
        used = self._needed(used[:, span.start : span.stop])
        return Decision(used, used, used)


class _RuledMaskUnit(Taped):
    """A mask unit that follows a rule; it passes its mask to `Tape.say`, as learned ones pass their probabilities."""

    def __init__(self, rule: Rule, size: Size) -> None:
        super().__init__()
        self.rule = rule
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, H, W) -> 0 or 1 for each pixel of the output, (B, 1, H', W')."""
        used: Tensor = self.rule(x)  # (B, H'*W')
        self.tape.say(self.site, used)
        return used.view(-1, 1, *self.size)


def steps_of(body: nn.Module) -> list[tuple[nn.Conv2d, nn.Sequential]]:
    """The body as convolutions, each with the pixelwise layers behind it. Raises ValueError for any other body."""
    steps: list[tuple[nn.Conv2d, list[nn.Module]]] = []
    for layer in flattened([body]):
        if isinstance(layer, nn.Conv2d) and _fits(layer):
            steps.append((layer, []))
        elif isinstance(layer, BY_PIXEL) and steps:
            steps[-1][1].append(layer)
        else:
            raise ValueError(f"{type(layer).__name__} does not act pixel by pixel")
    return [(conv, nn.Sequential(*after)) for conv, after in steps]


def _fits(conv: nn.Conv2d) -> bool:
    """Whether the kernel is centred on a pixel, zero-padded and undilated, and has one group or is depthwise."""
    middle = tuple(k // 2 for k in conv.kernel_size)
    odd = all(k % 2 for k in conv.kernel_size) and conv.padding == middle and conv.dilation == (1, 1)
    return odd and conv.padding_mode == "zeros" and (conv.groups == 1 or is_depthwise(conv))
