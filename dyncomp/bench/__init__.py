"""The main job: plans the cells of a comparison, trains and measures each, times them together, writes the report."""

from dyncomp.bench.config import Config
from dyncomp.bench.events import Event
from dyncomp.bench.run import benchmark, run

__all__ = ["Config", "Event", "benchmark", "run"]
