"""Checks that an op runs as the class that a fused form was written for: a subclass may override anything."""

from __future__ import annotations

from functools import cache
from types import FunctionType

from dyncomp.core.op import Op

DECLARED = frozenset(
    {"unit_parts", "least", "always", "forced", "wished", "follow", "dense", "branched", "attach", "__init__"}
)
"""methods that a fused form does not replace: properties that an op declares, and its other forms"""


def runs_as(op: object, kind: type[Op]) -> bool:
    """Whether `op` is of that kind, and overrides nothing that takes part in the sparse form of `kind`."""
    return isinstance(op, kind) and "forward" not in vars(op) and _class_runs_as(type(op), kind)


@cache
def _class_runs_as(own: type[Op], kind: type[Op]) -> bool:
    members = (member for base in (kind, Op) for member in vars(base).items())
    methods = (name for name, value in members if isinstance(value, FunctionType | property))
    return all(getattr(own, name) is getattr(kind, name) for name in methods if name not in DECLARED)
