"""What raw times and decisions say, and how surely: rounds, intervals, verdicts, routes; for benchmark and report."""

from __future__ import annotations

from dyncomp.samples.forms import fastest_form, is_compiled, is_dense, key_in, name_of_form
from dyncomp.samples.intervals import Z95, Interval, between_timings, median_interval, side_of, t95
from dyncomp.samples.rounds import Rounds
from dyncomp.samples.routes import ClassInformation, agreement, class_information, effective_number
from dyncomp.samples.verdicts import Load, in_words, is_invalid, judged_speedup, noise, verdict

__all__ = [
    "Z95",
    "ClassInformation",
    "Interval",
    "Load",
    "Rounds",
    "agreement",
    "between_timings",
    "class_information",
    "effective_number",
    "fastest_form",
    "in_words",
    "is_compiled",
    "is_dense",
    "is_invalid",
    "judged_speedup",
    "key_in",
    "median_interval",
    "name_of_form",
    "noise",
    "side_of",
    "t95",
    "verdict",
]
