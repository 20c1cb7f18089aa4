"""Sends the results of an output folder to an experiment tracker; each tracker is a plugin.

A reporter is a class with `requires`, the module that it cannot do without, and `write`; see `Reporter`. Others than
these are found by the entry points of the group `dyncomp.reporters`.
"""

from dyncomp.reporters.runs import Reporter, Run, Runs, runs_of
from dyncomp.reporters.sending import check_reporters, log_results

__all__ = ["Reporter", "Run", "Runs", "check_reporters", "log_results", "runs_of"]
