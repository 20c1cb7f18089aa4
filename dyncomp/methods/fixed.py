"""fixed: a control in which each gate decides alike for all images. Is a method more than pruning?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dyncomp.core import Net
from dyncomp.core.modes import evaluating
from dyncomp.core.rules import Constant
from dyncomp.methods._control import Control, Usage, rules_of
from dyncomp.registry import register_method
from dyncomp.spec import option

HALVINGS = 20
"""of the interval in which the threshold on the rates is looked for"""
NEAR = 0.005
"""share of the method's multiply-adds by which the control's may differ before another threshold is looked for"""


@register_method("fixed")
@dataclass(frozen=True)
class Fixed(Control):
    """A method's trained network, each gate's decision the same for all images, trained on until it is used to that.

    A unit is kept where more than half of the images use it: each gate's most frequent decision. Where that costs more
    or fewer multiply-adds than the method does in the mean, the half becomes another threshold on the rates, one for
    all units, at which the cost is as near to the method's as it gets. Gates are gone, and their cost with them;
    parameters of units that no image uses stay in the file. Weights of units, where the op has any, begin as their
    means over the images that use the unit, and are learnt. A method that is no better than this control is a costly
    way to prune.

    It trains on for a fifth of the budget at most, at 0.3 of the recipe's rate; more is a gain of its own. For a
    skipnet of 93.4 % the control had 93.2 % untrained, 93.6 % after 2 epochs and 94.0 % after 5, where the plain
    backbone has 93.8 % after its 10 (Fashion-MNIST, cifar_resnet20(width=0.5), calibration split, one seed).
    """

    examples: ClassVar[tuple[str, ...]] = ('fixed(of="fbs")', 'fixed(of="hydranet(branches=3, top=1, after=1)")')
    rule = Constant
    share = 0.2
    rate = 0.3

    of: str = option("skipnet(target=0.5)", "spec of the method whose gates are replaced, in quotes")

    def settle(self, net: Net, usage: Usage) -> None:
        """Keep the units whose rates are above the threshold that spends what the method spends."""
        rules = rules_of(net)
        rates = dict(zip(rules, usage.rates.values(), strict=True))
        assert net.costs is not None  # `build` measures them
        like = next(net.parameters())
        image = torch.zeros(1, *net.costs.image_shape, device=like.device, dtype=like.dtype)

        def excess(threshold: float) -> float:
            """Multiply-adds beyond the method's, at a threshold, which is set: `Constant` compares with 1/2."""
            for site, rule in rules.items():
                rule.rates.copy_(rates[site] - threshold + 0.5)
            return float(net(image).macs()) - usage.macs

        with evaluating(net):
            if abs(excess(0.5)) <= NEAR * usage.macs:
                return
            low, high = -0.1, 1.0  # where all units are kept, and none
            for _ in range(HALVINGS):
                middle = (low + high) / 2
                low, high = (middle, high) if excess(middle) > 0 else (low, middle)
            excess(min((0.5, low, high), key=lambda threshold: abs(excess(threshold))))
