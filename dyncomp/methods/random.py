"""random: a control in which each gate tosses a coin of the trained rate. Do gates look at the image?"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dyncomp.core import Backbone, Net
from dyncomp.core.rules import Coin, Seeds
from dyncomp.methods._control import Control, Usage
from dyncomp.registry import register_method
from dyncomp.spec import option


@register_method("random")
@dataclass(frozen=True)
class Random(Control):
    """A method's trained network, each gate's decision drawn for each image at the trained rate, trained on so.

    Every unit is used by as large a share of the images as in the method's network, whatever they show, and units are
    drawn independently of each other; where an image takes a fixed number of branches, by about as large a share. In
    training each pass draws anew; in use the draw follows from the image's pixels alone, so that two evaluations agree.
    Gates are gone, and their cost with them. A method that is no better than this control has gates that might as well
    be blind.

    It trains on for half of the budget at most, at 0.3 of the recipe's rate: a network that knows the routes of its
    gates has to learn all others. For a skipnet of 93.4 % the control had 92.8 % untrained and 93.6 % after 5
    epochs, 93.4 % at the whole rate (Fashion-MNIST, cifar_resnet20(width=0.5), calibration split, one seed).
    """

    examples: ClassVar[tuple[str, ...]] = ('random(of="lkam")', 'random(of="dynconv")')
    rule = Coin
    share = 0.5
    rate = 0.3

    of: str = option("skipnet(target=0.5)", "spec of the method whose gates are replaced, in quotes")

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """See `Control.build`; in front of it what the coins are drawn by."""
        return nn.Sequential(OrderedDict(seeds=Seeds(), network=super().build(new)))

    def settle(self, net: Net, usage: Usage) -> None:
        """The rates that were seen are the coins'."""
