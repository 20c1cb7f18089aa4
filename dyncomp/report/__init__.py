"""What came out, from the records alone: table, words, plots and one offline page; no torch."""

from __future__ import annotations

from dyncomp.report.formats import formats_of, write_results
from dyncomp.report.notebook import read_results, show
from dyncomp.report.page import write_report
from dyncomp.report.table import summary
from dyncomp.report.words import Sentence, results, words
from dyncomp.samples import is_invalid

__all__ = [
    "Sentence",
    "formats_of",
    "is_invalid",
    "read_results",
    "results",
    "show",
    "summary",
    "words",
    "write_report",
    "write_results",
]
