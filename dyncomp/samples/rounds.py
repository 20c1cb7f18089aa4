"""Raw times, round by round: every network has run the same batches in the same round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dyncomp.samples.intervals import RESAMPLES, Interval, median_interval

CUT = 1.5
"""A pass may take this many times what a good pass on the same batch takes; what is beyond is an interruption.

A good pass is the lower quartile of those on the batch. The shortest would be a bad measure: where a clock or a
neighbour makes most passes longer than `CUT` times the shortest, most are cut, and the ratio becomes that of two
extreme values, with an interval of no width. The median is one too: beside a busy neighbour, half are interrupted.
Whoever is interrupted takes several times as long, and one such pass outweighs all others of its round: on a busy
machine half of the rounds then say nothing about the ratio. A pass on a batch that did not come again is left as it is.
Medians, percentiles and verdicts are of all that was measured.
"""


@dataclass(frozen=True)
class Rounds:
    """`samples_ms[name]` are milliseconds of single batches, `per_round` of them in each round, in order.

    Round r has run the same batches as round r + `distinct`; 0 where that is not known. `beside_ms[name]` are those of
    `reference` on the same batches, in a turn next to the network's own; without them its turn of the round counts.
    """

    samples_ms: Mapping[str, Sequence[float]]
    per_round: int = 1
    distinct: int = 0
    reference: str | None = None
    beside_ms: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def count(self, name: str) -> int:
        """How many rounds a network has run."""
        return len(self.samples_ms.get(name, ())) // self.per_round

    def split(self, name: str) -> list[Sequence[float]]:
        """Its samples, a row per round."""
        return self._rows(self.samples_ms.get(name, ()))

    def _rows(self, samples: Sequence[float]) -> list[Sequence[float]]:
        count = len(samples) // self.per_round
        return [samples[at * self.per_round : (at + 1) * self.per_round] for at in range(count)]

    def totals(self, name: str) -> list[float]:
        """Milliseconds of each round, all of its batches together."""
        return [math.fsum(row) for row in self.split(name)]

    def ratios(self, name: str, reference: str) -> list[float]:
        """Per round, the reference's time by the network's own on the same batches, interruptions cut (`CUT`)."""
        own, theirs = self.samples_ms.get(name, ()), self.samples_ms.get(reference, ())
        if reference == self.reference:
            theirs = self.beside_ms.get(name, theirs)
        pairs = zip(self._uninterrupted(theirs), self._uninterrupted(own), strict=False)
        return [their_ms / own_ms for their_ms, own_ms in pairs if their_ms and own_ms]

    def _uninterrupted(self, samples: Sequence[float]) -> list[float]:
        """Totals of rounds, of a pass no more than `CUT` times the lower quartile on the same batch."""
        rows = self._rows(samples)
        if not self.distinct:
            return [math.fsum(row) for row in rows]
        import numpy as np

        passes = np.array(rows, dtype=float).reshape(-1, self.per_round)  # (R, K)
        for turn in range(self.distinct):
            alike = passes[turn :: self.distinct]
            if len(alike):
                np.minimum(alike, CUT * np.percentile(alike, 25, axis=0), out=alike)
        return [math.fsum(row) for row in passes]

    def median(self, name: str, resamples: int = RESAMPLES) -> Interval:
        """The median time of a batch, with its interval."""
        return median_interval(self.split(name), resamples)

    def speedup(self, name: str, reference: str | None, resamples: int = RESAMPLES) -> Interval:
        """The median over rounds of `ratios`, with its interval; 1 for itself."""
        if name == reference:
            return Interval(1.0, 1.0, 1.0)
        ratios = self.ratios(name, reference) if reference is not None else []
        return median_interval(ratios, resamples)

    def relative(self, name: str) -> list[float]:
        """Each round's time by the usual time of its batches: what is left are the machine's whims, not the images'.

        A network whose time depends on the image differs from round to round by right. The usual time is the median of
        the rounds on the same batches; because it is drawn to them, the deviations are widened to what they would be
        from a median of others. Where too few batches have come again, the median of all rounds stands in.
        """
        import numpy as np

        totals = np.asarray(self.totals(name))
        if not totals.size:
            return []
        if not self.distinct or len(totals) < 2 * self.distinct:
            return list(totals / np.median(totals))
        found = np.empty_like(totals)
        for turn in range(self.distinct):
            alike = totals[turn :: self.distinct]
            found[turn :: self.distinct] = 1 + (alike / np.median(alike) - 1) * math.sqrt(len(alike) / (len(alike) - 1))
        return [float(value) for value in found]
