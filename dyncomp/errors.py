"""What can go wrong for a reason that the user can mend.

DyncompError
├── UnknownName        a method, backbone, data set or hyperparameter that nobody registered
├── InvalidSpec        a spec that does not follow the grammar `name(key=value, ...)`
├── InvalidValue       a value of the wrong type or out of range
├── NameCollision      two places register the same name
├── BrokenPlugin       a plugin that cannot be loaded
├── CannotAttach       a method that finds nothing to attach to in this backbone
├── CannotDeploy       a network that would answer otherwise, were its layers folded for use
├── CannotExport       a network that a format cannot hold, or a format that is not installed
├── DataNotFound       a data set whose files are nowhere to be found
├── UnpricedOperators  a network whose MACs are not all known, where that was forbidden
├── OutputError        an output folder that is not ours, or cannot be written
├── DeviceNotAvailable a device that this machine does not have
└── BadAnswer          a network whose answers cannot be measured

Every message is one line: what was given, what is allowed, what to do. The command line prints it
and exits with status 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BadAnswer",
    "BrokenPlugin",
    "CannotAttach",
    "CannotDeploy",
    "CannotExport",
    "DataNotFound",
    "DeviceNotAvailable",
    "DyncompError",
    "InvalidSpec",
    "InvalidValue",
    "NameCollision",
    "OutputError",
    "UnknownName",
    "UnpricedOperators",
    "in_one_line",
    "shortened",
]


class DyncompError(Exception):
    """Base of every error that a user can mend; its text is one line."""


class UnknownName(DyncompError):
    """A name that nobody registered, or a hyperparameter that its owner does not have."""

    @classmethod
    def among(cls, kind: str, given: str, known: Iterable[str], where: str) -> UnknownName:
        """The error for `given`, with the nearest of `known` and the place that lists them all."""
        known = sorted(known)
        near = difflib.get_close_matches(given, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}."
        return cls(f"unknown {kind} {given!r}: {hint} {where}")


class InvalidSpec(DyncompError):
    """A text that does not follow the grammar `name` or `name(key=value, ...)`."""


class InvalidValue(DyncompError):
    """A value of the wrong type or out of its range."""


class NameCollision(DyncompError):
    """Two places register the same name; the message names both."""


class BrokenPlugin(DyncompError):
    """A plugin that cannot be loaded; the message carries its own error."""


class CannotAttach(DyncompError):
    """A method that finds nothing to attach to in the given backbone."""


class CannotDeploy(DyncompError):
    """A network that does not run its layers as they stand, so that it cannot be made ready for use."""


class CannotExport(DyncompError):
    """A network that a graph or a format cannot hold as asked for, or a format that is not installed."""


class DataNotFound(DyncompError):
    """A data set whose files were not found; the message says where it looked and how to get it."""


class OutputError(DyncompError):
    """An output folder that holds something else, or cannot be written."""


class UnpricedOperators(DyncompError):
    """A network that runs operators without a known cost, where that was forbidden."""


class DeviceNotAvailable(DyncompError):
    """A device that this machine does not have."""


class BadAnswer(DyncompError):
    """A network that fails on a batch, or whose answers have the wrong shape, are no numbers, or are not repeatable."""


def in_one_line(error: BaseException, most: int = 300) -> str:
    """An exception's kind and text on one line, shortened to `most` characters."""
    return shortened(f"{type(error).__name__}: {error}", most).rstrip(": ")


def shortened(text: str, most: int = 300) -> str:
    """The text on one line; behind `most` characters it ends in dots."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]}..."
