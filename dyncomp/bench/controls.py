"""The controls that a run adds by itself: what each method, and the plain backbone, has to be better than."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from dyncomp.bench.names import GATE_CONTROLS, LADDER
from dyncomp.core import Method
from dyncomp.registry import METHODS
from dyncomp.spec import Spec, spec_of

RUNGS: Mapping[str, Mapping[str, Sequence[float]]] = MappingProxyType(
    {
        "quick": {"width": (0.25, 0.4, 0.55, 0.75, 1.5)},
        "": {"width": (0.25, 0.4, 0.55, 0.75, 1.25, 1.5), "depth": (0.3, 0.65, 1.35)},
    }
)
"""by budget, the named ones and any other: rungs as shares of the backbone's multiply-adds, by what is changed.

A family that has none near one of them does without.
"""
LEAST_RUNGS = 5
"""static networks of other costs that make a curve"""


def controls_of(methods: Sequence[Method], budget: str) -> Iterator[Method]:
    """The controls of all that are none themselves; some of them find no gates to replace, or no rung."""
    for method in methods:
        for name in GATE_CONTROLS if not method.control_of else ():
            yield METHODS.create(Spec(name, {"of": spec_of(method)}))
    for by, shares in RUNGS.get(budget, RUNGS[""]).items():
        for share in shares:
            yield METHODS.create(Spec(LADDER, {"macs": share, "by": by}))
