"""From raw latency samples to percentiles and paired speed-ups."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RESAMPLES = 2000


@dataclass(frozen=True)
class Timed:
    """One cell at one batch size: milliseconds per batch, one per round.

    `static_ms` are the static network's in the same rounds, on the same images; None where it
    was not timed beside.
    """

    batch_size: int
    samples_ms: Sequence[float]
    static_ms: Sequence[float] | None
    is_static: bool
    error: str | None = None


def timed(key: str, timings: Iterable[Mapping[str, Any]], statics: Collection[str]) -> list[Timed]:
    """The timings of a cell by batch size, the latest of each (`timings` has the latest last)."""
    latest: dict[int, Timed] = {}
    for timing in timings:
        if timing.get("form", "sparse") != "sparse":
            continue
        samples = timing.get("samples_ms", {}).get(key)
        error = timing.get("errors", {}).get(key)
        if samples or error:
            size = int(timing["batch_size"])
            static = _static_of(timing, statics)
            static_ms = timing["samples_ms"].get(static) if static else None
            latest[size] = Timed(size, samples or (), static_ms, key == static, error)
    return [latest[size] for size in sorted(latest)]


def _static_of(timing: Mapping[str, Any], statics: Collection[str]) -> str | None:
    return next((key for key in timing["cells"] if key in statics), None)


def columns(timing: Timed) -> dict[str, float]:
    """Percentiles, throughput, the realised speed-up with its 95 % interval; {} without samples.

    The speed-up is the median over rounds of static's time by the network's own in the same round.
    """
    import numpy as np

    if not timing.samples_ms:
        return {}
    p50, p90, p99 = (float(p) for p in np.percentile(timing.samples_ms, [50, 90, 99]))
    low, middle, high = _speedup(timing)
    return {
        "latency_ms_p50": p50,
        "latency_ms_p90": p90,
        "latency_ms_p99": p99,
        "images_per_s": timing.batch_size / (p50 / 1000),
        "speedup_realised": middle,
        "speedup_realised_low": low,
        "speedup_realised_high": high,
        "rounds": len(timing.samples_ms),
    }


def _speedup(timing: Timed) -> tuple[float, float, float]:
    if timing.is_static:
        return 1.0, 1.0, 1.0
    pairs = zip(timing.static_ms or (), timing.samples_ms, strict=False)
    ratios = [static / own for static, own in pairs if static and own]
    return median_interval(ratios)


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Low, median, high: a 95 % percentile bootstrap over the rounds (Efron 1979), seeded.

    The bounds are NaN for fewer than two values, all three for none.
    """
    import numpy as np

    if not values:
        return float("nan"), float("nan"), float("nan")
    middle = float(np.median(values))
    if len(values) < 2:
        return float("nan"), middle, float("nan")
    drawn = np.random.default_rng(0).choice(np.asarray(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(low), middle, float(high)
