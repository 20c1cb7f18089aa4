"""From timing records to the columns of the table: percentiles, paired speed-ups, verdicts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dyncomp.samples import Rounds, fastest_form, judged_speedup, name_of_form
from dyncomp.samples.forms import COMPILED, DENSE, SPARSE
from dyncomp.store.schema import TimingRecord


@dataclass(frozen=True)
class CellTiming:
    """One cell at one batch size, in the rounds of all networks that were timed beside it.

    `name` is that of its main form among them: the sparse one as it is, and for the static network, which has no other,
    the faster of that and compiled. `static` is the name of the static network's, None without one; `verdict` None
    where the record is older than verdicts; `error` is why there are no samples; `graph_breaks` and `not_compiled` say
    how the sparse form was compiled, or why not, None where nobody asked.
    """

    key: str
    name: str
    batch_size: int
    rounds: Rounds
    static: str | None
    verdict: str | None
    error: str | None
    graph_breaks: int | None
    not_compiled: str | None
    record: TimingRecord


def timings_of(keys: Iterable[str], timings: Sequence[TimingRecord], statics: Collection[str]) -> list[TimingRecord]:
    """The timing records that the figures of these cells come from."""
    used = {id(one.record) for key in keys for one in timed(key, timings, statics)}
    return [timing for timing in timings if id(timing) in used]


def timed(key: str, timings: Iterable[TimingRecord], statics: Collection[str]) -> list[CellTiming]:
    """The timings of a cell by batch size, the latest of each (`timings` has the latest last)."""
    latest: dict[int, CellTiming] = {}
    for timing in timings:
        if timing.get("form", "sparse") != "sparse":
            continue
        error = timing["errors"].get(key)
        if timing["samples_ms"].get(key) or error:
            latest[timing["batch_size"]] = _cell_timing(key, timing, statics, error)
    return [latest[size] for size in sorted(latest)]


def _cell_timing(key: str, timing: TimingRecord, statics: Collection[str], error: str | None) -> CellTiming:
    in_turns = timing["batches_per_round"], timing["distinct_rounds"]
    rounds = Rounds(timing["samples_ms"], *in_turns, timing["reference"], timing["beside_ms"])
    static = next((one for one in timing["cells"] if one in statics), None)
    name, compiled = fastest_form(rounds, key) if key in statics else key, name_of_form(key, SPARSE + COMPILED)
    form = timing["forms"].get(compiled)
    return CellTiming(
        key=key,
        name=name,
        batch_size=timing["batch_size"],
        rounds=rounds,
        static=None if static is None else fastest_form(rounds, static),
        verdict=timing["verdicts"].get(name),
        error=error,
        graph_breaks=form["graph_breaks"] if form else None,
        not_compiled=timing["not_compiled"].get(compiled),
        record=timing,
    )


def columns(timing: CellTiming) -> dict[str, Any]:
    """Percentiles, throughput, the realised speed-up, with 95 % intervals and verdicts; {} without samples.

    The speed-up is the median over rounds of static's time by the network's own on the same batches: `Rounds.ratios`.
    """
    import numpy as np

    samples = timing.rounds.samples_ms.get(timing.name)
    if not samples:
        return {}
    median = timing.rounds.median(timing.name)
    p90, p99 = (float(p) for p in np.percentile(samples, [90, 99]))
    speedup, speedup_verdict = judged_speedup(timing.rounds, timing.name, timing.static)
    return {
        "latency_ms_p50": median.middle,
        "latency_ms_p50_low": median.low,
        "latency_ms_p50_high": median.high,
        "latency_ms_p90": p90,
        "latency_ms_p99": p99,
        "images_per_s": timing.batch_size / (median.middle / 1000),
        "speedup_realised": speedup.middle,
        "speedup_realised_low": speedup.low,
        "speedup_realised_high": speedup.high,
        "rounds": timing.rounds.count(timing.name),
        "verdict": timing.verdict,
        "speedup_verdict": speedup_verdict,
        **_other_forms(timing),
    }


def _other_forms(timing: CellTiming) -> dict[str, Any]:
    """What the other forms took, in the same rounds; the main one's name."""
    found: dict[str, Any] = {"form": timing.name.removeprefix(timing.key).removeprefix(".") or SPARSE}
    for column, form in (("dense", DENSE), ("compiled", SPARSE + COMPILED)):
        name = name_of_form(timing.key, form)
        if timing.rounds.samples_ms.get(name):
            found[f"latency_ms_p50_{column}"] = timing.rounds.median(name).middle
            found[f"speedup_realised_{column}"] = timing.rounds.speedup(name, timing.static).middle
    return found | {"graph_breaks": timing.graph_breaks, "not_compiled": timing.not_compiled}
