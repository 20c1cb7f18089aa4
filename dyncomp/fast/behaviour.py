"""Checks that an op runs as the class that a fused form was written for: a subclass may override anything."""

from __future__ import annotations

from types import FunctionType

from dyncomp.core.op import Op

DECLARED = frozenset({"unit_parts", "least", "always", "forced", "wished", "follow", "dense", "branched", "attach"})
"""methods that a fused form does not replace: properties that an op declares, and its other forms"""


def runs_as(op: object, kind: type[Op]) -> bool:
    """Whether `op` is an instance of `kind` and overrides nothing that takes part in the sparse form of `kind`."""
    if not isinstance(op, kind) or "forward" in vars(op):
        return False
    behaviour = {name for base in (kind, Op) for name, value in vars(base).items() if _is_behaviour(name, value)}
    return all(getattr(type(op), name) is getattr(kind, name) for name in behaviour)


def _is_behaviour(name: str, value: object) -> bool:
    return isinstance(value, FunctionType | property) and name not in DECLARED
