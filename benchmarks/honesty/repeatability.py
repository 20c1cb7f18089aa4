"""Repeatability: the same comparison twice; how often do both runs agree on a ratio, within their intervals?

Two runs agree where their intervals overlap. Wanted: in at least 90 % of the cells. Both runs start their own
processes, one after the other.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from comparisons import Clock, cell, compare, made, table, write

from dyncomp.profile import Timed

METHODS = ("static", "condconv", "skipnet", "lkam", "early_exit")


def main() -> None:
    """Run it, print the table, keep the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=3, help="pairs of runs")
    parser.add_argument("--seconds", type=float, default=2.5, help="longest timing of one network at one batch size")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--minutes", type=float, default=8.0, help="no further pair of runs is begun after it")
    asked = parser.parse_args()
    clock = Clock(asked.minutes)
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = []
    done = 0
    while done < asked.repetitions and clock.enough_for_another(done):
        first, second = (_run(asked.batch_sizes, asked.seconds) for _ in range(2))
        pairs += zip(first, second, strict=True)
        done += 1
        print(f"{done} of {asked.repetitions}, {clock.minutes:.1f} minutes", flush=True)
    write("repeatability", _text(pairs), {"asked": vars(asked), "minutes": clock.minutes, "pairs": pairs})


def _run(batch_sizes: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    timed = [Timed(spec, made(spec)) for spec in METHODS]
    return [
        cell(measured, spec, METHODS[0]) for measured in compare(timed, batch_sizes, seconds) for spec in METHODS[1:]
    ]


def _text(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str:
    rows = []
    agreed = 0
    for first, second in pairs:
        overlap = first["low"] <= second["high"] and second["low"] <= first["high"]
        agreed += overlap
        ratios = [f"{one['ratio']:.3f} ({one['low']:.3f} to {one['high']:.3f})" for one in (first, second)]
        verdicts = " / ".join(one["verdict"].partition(":")[0] for one in (first, second))
        rows.append([first["network"], first["batch_size"], *ratios, "yes" if overlap else "no", verdicts])
    return (
        "# The same comparison twice\n\n"
        f"The runs agree in {agreed} of {len(pairs)} cells ({100 * agreed / len(pairs):.0f} %; wanted: at least "
        "90 %). The ratio is the static network's time by the method's, untrained networks.\n\n"
        f"{table(['method', 'batch', 'first run', 'second run', 'agree', 'verdicts'], rows)}"
    )


if __name__ == "__main__":
    main()
