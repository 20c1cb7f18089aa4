"""Runs: consecutive layers (gates, switches, convolutions) that generated code executes in one call."""

from dyncomp.fast.fusion.find import find_runs
from dyncomp.fast.fusion.run import Run

__all__ = ["Run", "find_runs"]
