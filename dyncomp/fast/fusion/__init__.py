"""Runs of layers in one go: gates, switches, convolutions, one after the other, by machine code of our own."""

from dyncomp.fast.fusion.find import find_runs
from dyncomp.fast.fusion.run import Run

__all__ = ["Run", "find_runs"]
