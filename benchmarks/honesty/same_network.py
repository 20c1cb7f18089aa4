"""A/A: the same network under two names, and the same again with slow-downs planted, beside a neighbour of each load.

A difference is declared by the tool's own rule (`dyncomp.samples.side_of`). Wanted: at least 90 % of the ratios are
VALID on a quiet machine and beside a neighbour on 30 % of a processor, 60 % beside one that takes a processor to
itself; and of those that are VALID, a difference is declared for the same network in at most 5 %, for one that is 10 %
slower in at least 95 %, for 5 % in at least 80 %. The loads take turns, and after every few comparisons the processes
are started anew, because what differs from process to process counts as error too. What was compared is kept as it
comes; the same command goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import forms
from comparisons import RESULTS, Clock, busy_machine, cell, compare, made, table, write

from dyncomp.profile import Timed
from dyncomp.samples import is_invalid, side_of

PLANTED = {"the same": 0.0, "5 % slower": 0.05, "10 % slower": 0.10}
DECLARED = {"the same": "at most 5 %", "5 % slower": "at least 80 %", "10 % slower": "at least 95 %"}
LOADS = {0.0: "90 %", 0.3: "90 %", 1.0: "60 %"}
"""share of one processor that a neighbour keeps busy, and how many ratios are wanted VALID beside it"""
PER_START = 5
"""comparisons that the same processes make"""
NAME = "same_network"

Compared = dict[str, Any]


def main() -> None:
    """Run it, print the table, keep the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--comparisons", type=int, default=100, help="beside a neighbour of each load")
    parser.add_argument("--seconds", type=float, default=2.5, help="timing of one network, four times as long at most")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=60.0, help="no further comparison is begun after it")
    asked = parser.parse_args()
    setting = {"seconds": asked.seconds, "batch_size": asked.batch_size, "per_start": PER_START}
    cells, before = _kept(setting)
    clock, started = Clock(asked.minutes), 0
    while True:
        load = min(LOADS, key=lambda load: _done(cells, load))
        several = min(PER_START, asked.comparisons - _done(cells, load))
        if several <= 0 or not clock.enough_for_another(started):
            break
        cells += _compared(load, [asked.batch_size] * several, asked.seconds)
        started += 1
        facts = {"asked": setting, "minutes": before + clock.minutes, "cells": cells}
        write(NAME, _text(cells, setting), facts)
        print(f"{clock.minutes:.1f} minutes", flush=True)


def _kept(setting: Mapping[str, Any]) -> tuple[list[Compared], float]:
    """What was compared before with the same setting, and the minutes that it took."""
    path = RESULTS / f"{NAME}.json"
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return (known["cells"], known["minutes"]) if known.get("asked") == setting else ([], 0.0)


def _done(cells: Sequence[Compared], load: float) -> int:
    return sum(one["load"] == load for one in cells) // len(PLANTED)


def _compared(load: float, batch_sizes: Sequence[int], seconds: float) -> list[Compared]:
    static = made("static")
    slower = {name: partial(forms.slowed, static, share) if share else static for name, share in PLANTED.items()}
    timed = [Timed("first", static), *(Timed(name, make) for name, make in slower.items())]
    with busy_machine(load) if load else nullcontext():
        measured = list(compare(timed, batch_sizes, seconds))
    return [{"load": load, **cell(one, name, "first")} for one in measured for name in PLANTED]


def _text(cells: Sequence[Compared], setting: Mapping[str, Any]) -> str:
    rows = []
    for load, valid_wanted in LOADS.items():
        for name, declared_wanted in DECLARED.items():
            own = [one for one in cells if one["network"] == name and one["load"] == load]
            if not own:
                continue
            valid = [one for one in own if not is_invalid(one["verdict"])]
            sides = [side_of(one["low"], one["high"]) for one in valid]
            middle = sorted(one["ratio"] for one in own)[len(own) // 2]
            width = sum(one["high"] - one["low"] for one in own) / len(own)
            declared = sum(side != "same" for side in sides) if name == "the same" else sides.count("slower")
            shares = [f"{_share(len(valid), len(own))}, at least {valid_wanted}"]
            shares.append(f"{_share(declared, len(valid))}, {declared_wanted}")
            rows.append([f"{load:.0%}", name, f"{middle:.3f}", f"{width:.3f}", *shares])
    head = ["neighbour", "second network", "median ratio", "mean width", "VALID, wanted", "declared of these, wanted"]
    return (
        "# The same network under two names\n\n"
        f"Batch of {setting['batch_size']}, {setting['seconds']:g} s per network, up to four times as long while a "
        "ratio is not known well enough. The ratio is the first network's time by the second's; the neighbour is a "
        "process that keeps one processor busy for that share of the time. `python benchmarks/honesty/same_network.py`"
        f"\n\n{table(head, rows)}"
    )


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole}" + (f" ({part / whole:.0%})" if whole else "")


if __name__ == "__main__":
    main()
