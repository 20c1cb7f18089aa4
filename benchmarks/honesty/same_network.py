"""A/A: the same network under two names on a busy machine; and the same again with slow-downs planted.

A difference is declared by the tool's own rule (`dyncomp.samples.side_of`). Wanted, of the ratios that are VALID: for
the same network in at most 5 %, for one that is 10 % slower in at least 95 %, for 5 % in at least 80 %. After every
few comparisons the processes are started anew, because what differs from process to process counts as error too.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import forms
from comparisons import Clock, busy_machine, cell, compare, made, table, write

from dyncomp.profile import Timed
from dyncomp.samples import is_invalid, side_of

PLANTED = {"the same": 0.0, "5 % slower": 0.05, "10 % slower": 0.10}
WANTED = {"the same": "at most 5 %", "5 % slower": "at least 80 %", "10 % slower": "at least 95 %"}
PER_START = 5
"""comparisons that the same processes make"""


def main() -> None:
    """Run it, print the table, keep the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--comparisons", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=4.0, help="longest timing of one network of a comparison")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--load", type=float, default=0.3, help="share of one processor that a neighbour keeps busy")
    parser.add_argument("--minutes", type=float, default=15.0, help="no further comparison is begun after it")
    asked = parser.parse_args()
    clock = Clock(asked.minutes)
    cells: list[dict[str, Any]] = []
    done = 0
    with busy_machine(asked.load):
        while done < asked.comparisons and clock.enough_for_another(done):
            several = min(PER_START, asked.comparisons - done)
            cells += _compared([asked.batch_size] * several, asked.seconds)
            done += several
            print(f"{done} of {asked.comparisons}, {clock.minutes:.1f} minutes", flush=True)
    write("same_network", _text(cells, done, asked), {"asked": vars(asked), "minutes": clock.minutes, "cells": cells})


def _compared(batch_sizes: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    static = made("static")
    slower = {name: partial(forms.slowed, static, share) if share else static for name, share in PLANTED.items()}
    timed = [Timed("first", static), *(Timed(name, make) for name, make in slower.items())]
    return [cell(one, name, "first") for one in compare(timed, batch_sizes, seconds) for name in PLANTED]


def _text(cells: Sequence[Mapping[str, Any]], done: int, asked: argparse.Namespace) -> str:
    rows = []
    for name, wanted in WANTED.items():
        own = [one for one in cells if one["network"] == name]
        valid = [one for one in own if not is_invalid(one["verdict"])]
        sides = [side_of(one["low"], one["high"]) for one in valid]
        middle = sorted(one["ratio"] for one in own)[len(own) // 2]
        width = sum(one["high"] - one["low"] for one in own) / len(own)
        different = sum(side != "same" for side in sides) if name == "the same" else sides.count("slower")
        share = f"{different} of {len(valid)}" + (f" ({different / len(valid):.0%})" if valid else "")
        rows.append([name, f"{middle:.3f}", f"{width:.3f}", f"{len(valid)} of {done}", share, wanted])
    head = ["second network", "median ratio", "mean width", "VALID", "declared different, of these", "wanted"]
    return (
        "# The same network under two names\n\n"
        f"{done} comparisons, batch of {asked.batch_size}, at most {asked.seconds:g} s per network, a neighbour keeps "
        f"{asked.load:.0%} of one processor busy. The ratio is the first network's time by the second's.\n\n"
        f"{table(head, rows)}"
    )


if __name__ == "__main__":
    main()
