"""What raw times say, and how surely: rounds, intervals, verdicts; for whoever measures and whoever reads records."""

from __future__ import annotations

from dyncomp.samples.intervals import Interval, median_interval, side_of
from dyncomp.samples.rounds import Rounds
from dyncomp.samples.verdicts import Load, is_invalid, verdict

__all__ = [
    "Interval",
    "Load",
    "Rounds",
    "is_invalid",
    "median_interval",
    "side_of",
    "verdict",
]
