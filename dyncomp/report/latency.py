"""From timing records to the columns of the table: percentiles, paired speed-ups, verdicts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dyncomp.samples import Rounds


@dataclass(frozen=True)
class CellTiming:
    """One cell at one batch size, in the rounds of all networks that were timed beside it.

    `static` is the key of the static network among them, None without one; `verdict` None where the record is older
    than verdicts; `error` is why there are no samples.
    """

    key: str
    batch_size: int
    rounds: Rounds
    static: str | None
    verdict: str | None
    error: str | None


def timed(key: str, timings: Iterable[Mapping[str, Any]], statics: Collection[str]) -> list[CellTiming]:
    """The timings of a cell by batch size, the latest of each (`timings` has the latest last)."""
    latest: dict[int, CellTiming] = {}
    for timing in timings:
        if timing.get("form", "sparse") != "sparse":
            continue
        samples = timing.get("samples_ms", {})
        error = timing.get("errors", {}).get(key)
        if samples.get(key) or error:
            static = next((one for one in timing["cells"] if one in statics), None)
            rounds = Rounds(samples, timing.get("batches_per_round", 1), timing.get("distinct_rounds", 0))
            judged = timing.get("verdicts", {}).get(key)
            size = int(timing["batch_size"])
            latest[size] = CellTiming(key, size, rounds, static, judged, error)
    return [latest[size] for size in sorted(latest)]


def columns(timing: CellTiming) -> dict[str, Any]:
    """Percentiles, throughput, the realised speed-up, both with 95 % intervals, the verdict; {} without samples.

    The speed-up is the median over rounds of static's time by the network's own on the same batches.
    """
    import numpy as np

    samples = timing.rounds.samples_ms.get(timing.key)
    if not samples:
        return {}
    median = timing.rounds.median(timing.key)
    p90, p99 = (float(p) for p in np.percentile(samples, [90, 99]))
    low, middle, high = timing.rounds.speedup(timing.key, timing.static)
    return {
        "latency_ms_p50": median.middle,
        "latency_ms_p50_low": median.low,
        "latency_ms_p50_high": median.high,
        "latency_ms_p90": p90,
        "latency_ms_p99": p99,
        "images_per_s": timing.batch_size / (median.middle / 1000),
        "speedup_realised": middle,
        "speedup_realised_low": low,
        "speedup_realised_high": high,
        "rounds": timing.rounds.count(timing.key),
        "verdict": timing.verdict,
    }
