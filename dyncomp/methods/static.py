"""The plain backbone: the reference that every dynamic method is set against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from dyncomp.core import Backbone, Method
from dyncomp.ops.norm import with_norm
from dyncomp.registry import register_method
from dyncomp.spec import option


@register_method("static")
@dataclass(frozen=True)
class Static(Method):
    """The plain backbone, every operator for every image."""

    examples: ClassVar[tuple[str, ...]] = ('static(norm="group")',)

    norm: Literal["batch", "group"] = option("batch", "normalisation layers")

    def build(self, new: Callable[[], Backbone]) -> nn.Module:
        """The backbone as it is, or with the other normalisation."""
        return with_norm(new(), self.norm)
