"""Runs of layers in one go: gates, switches, convolutions, one after the other, by machine code of our own."""

from dyncomp.core.runs.find import find_runs
from dyncomp.core.runs.run import Run

__all__ = ["Run", "find_runs"]
