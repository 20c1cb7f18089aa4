"""The command line: `benchmark`, and `dyncomp` with its verbs."""

from dyncomp.cli.main import benchmark_main, dyncomp_main

__all__ = ["benchmark_main", "dyncomp_main"]
