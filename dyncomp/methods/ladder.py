"""ladder: a control, the plain backbone made narrower or shallower. Does a method beat a static net of equal cost?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

import torch
from torch import nn

from dyncomp.core import Backbone, BackboneFamily, Method
from dyncomp.core.counter import MacCounter
from dyncomp.core.initial import PLAIN_METHOD
from dyncomp.core.modes import evaluating
from dyncomp.core.outline import outlined
from dyncomp.errors import CannotAttach
from dyncomp.registry import register_method
from dyncomp.spec import option, spec_of

WITHIN = 0.2
"""share of the multiply-adds asked for by which a rung may cost more or less"""


@register_method("ladder")
@dataclass(frozen=True)
class Ladder(Method):
    """A rung of the static ladder: the network of the backbone's own family whose cost is nearest to a share of it.

    The family says how it scales (`BackboneFamily.scaled`). Several rungs make the curve of accuracy over multiply-adds
    that a network without any gates reaches, which is what a dynamic method has to beat.
    """

    examples: ClassVar[tuple[str, ...]] = ("ladder(macs=1.5)",)

    macs: float = option(0.5, "multiply-adds as a share of the backbone's", gt=0.0)
    by: Literal["width", "depth"] = option("width", "what is changed")

    @property
    def control_of(self) -> str:
        """See `Method.control_of`."""
        return PLAIN_METHOD

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """The rung. Raises CannotAttach where the family has none near that cost."""
        backbone = new()
        family, shape = backbone.family, backbone.image_shape
        rungs = family.scaled(self.by) if family is not None else ()
        if family is None or shape is None or not rungs:
            other = self._other(family)
            raise CannotAttach(
                f"ladder: {backbone.name} cannot be scaled by {self.by}{'' if other else ', nor by anything else'}; "
                f"give {f'{other} or ' if other else ''}a backbone whose family can be, such as cifar_resnet20"
            )
        classifier = backbone.part(backbone.classifier)
        assert isinstance(classifier, nn.Linear)

        def cost(rung: BackboneFamily) -> int:
            return cost_of(rung, classifier.out_features, shape)

        whole = cost(family)
        wanted = self.macs * whole
        rung = nearest(rungs, wanted, cost)
        if abs(cost(rung) - wanted) > WITHIN * wanted or cost(rung) == whole:
            other = self._other(family)
            raise CannotAttach(
                f"ladder: of {spec_of(family)}'s rungs by {self.by} the nearest to {self.macs:g} of its multiply-adds, "
                f"{spec_of(rung)}, has {cost(rung) / whole:.2f}; give another share{other and f', or {other}'}"
            )
        return rung.make(classifier.out_features, *shape[:2])

    def _other(self, family: BackboneFamily | None) -> str:
        """The option's other value, as an error advises it, where the family has rungs of that kind, else ""."""
        other: Literal["width", "depth"] = "depth" if self.by == "width" else "width"
        return f"by={other!r}" if family is not None and family.scaled(other) else ""


def nearest(rungs: Sequence[BackboneFamily], wanted: float, cost: Callable[[BackboneFamily], int]) -> BackboneFamily:
    """The rung whose cost is nearest to the one wanted; costs rise from rung to rung."""
    low, high = 0, len(rungs) - 1
    while low < high:  # the first that costs as much
        middle = (low + high) // 2
        low, high = (low, middle) if cost(rungs[middle]) >= wanted else (middle + 1, high)
    return min(rungs[max(0, low - 1) : low + 1], key=lambda rung: abs(cost(rung) - wanted))


@cache
def cost_of(family: BackboneFamily, classes: int, shape: tuple[int, int, int]) -> int:
    """Multiply-adds of a family's network for one image of that shape (C, H, W), counted without computing anything."""
    with outlined():
        rung, image = family.make(classes, *shape[:2]), torch.zeros(1, *shape)
    with evaluating(rung), MacCounter() as counter:
        rung(image)
    macs: int = counter.by_operator.total()
    return macs
