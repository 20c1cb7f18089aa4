"""What images skip, blocks, filters, branches, exits, members: speed-up by the clock, as a share of that by MACs.

    python -m benchmarks.ops.skipping [--only SPEC] [--seconds 3] [--least] [--compile] [--rates 0.25,0.5,0.75]

`static` is the plain backbone made ready for use: channels-last, normalisations folded, inference mode, convolutions in
the fastest form that we have; with `--compile` the better of that and torch.compile's form of it. `torch's static` is
the same by torch's own convolutions alone, the fastest that there is elsewhere. Ours is made ready likewise, and is
never compiled; which image skips which block is drawn at the rate asked for, and what the gates say is thrown away, but
they run, and their time and their multiply-adds count. Efficiency = (static / ours by the clock) / (static / ours by
multiply-adds); 1 is what arithmetic allows. Eight draws take turns, each against static in the same round.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from benchmarks.ops._common import (
    Options,
    Way,
    begin,
    conditions,
    end,
    ratio,
    table,
    take_turns,
    verdict,
)
from benchmarks.ops._forced import ByLot, floats, images, ready
from dyncomp.fast import disabled

DRAWS = 8


@dataclass(frozen=True)
class Case:
    """A method on a backbone, images of `size` pixels, the batches, and the efficiency that is asked of each.

    `rates` are the shares that are skipped; None where images choose a branch, and skip the others.
    """

    spec: str
    backbone: str
    size: int
    goals: Mapping[int, float]
    rates: Sequence[float | None] = (0.25, 0.5, 0.75)


SMALL = {1: 0.85, 16: 0.8, 64: 0.9, 128: 0.9}
CASES = (
    *(Case(spec, "cifar_resnet38", 32, SMALL) for spec in ("blockdrop", "convnet_aig", "skipnet")),
    *(Case(spec, "cifar_resnet110", 32, SMALL) for spec in ("blockdrop", "convnet_aig", "skipnet")),
    Case("convnet_aig", "resnet50", 224, {1: 0.95, 8: 0.95, 32: 0.95}, (0.5,)),
    Case("lkam", "vgg11", 32, {1: 0.8, 32: 0.5}, (0.5,)),
    Case("lkam", "vgg11", 224, {1: 0.8, 32: 0.5}, (0.5,)),
    Case("early_exit", "cifar_resnet38", 32, {64: 0.9}, (0.5,)),
    Case("model_ensemble(cascade=True)", "cifar_resnet38", 32, {64: 0.9}, (0.5,)),
    Case("conditional_network", "cifar_resnet38", 32, {64: 0.9}, (None,)),
    Case("hydranet(top=1)", "cifar_resnet38", 32, {64: 0.9}, (None,)),
)


@dataclass(frozen=True)
class Measured:
    """One row: times as ratios to static, by the clock and by multiply-adds, means over the draws."""

    static_ms: float
    torch_ms: float
    faster: float
    than_torch: float
    by_macs: float

    @property
    def efficiency(self) -> float:
        """Realised share of what arithmetic allows."""
        return self.faster / self.by_macs

    @property
    def against_torch(self) -> float:
        """The same against torch's static form."""
        return self.than_torch / self.by_macs


class Compared:
    """A network that skips by lot beside its plain backbone."""

    def __init__(self, case: Case) -> None:
        self.size = case.size
        self.ours = ByLot(case.spec, case.backbone, case.size)
        self.static = ready("static", case.backbone, case.size)

    def measure(
        self, batch: int, rate: float | None, seconds: float, least: bool = False, compiled: bool = False
    ) -> Measured:
        """Time both in turns, draw by draw."""
        x = images(batch, self.size)
        assert self.static.costs is not None  # a deployed network knows them
        full = float(self.static.costs.full * batch)
        ways = {
            "static": self._fastest_static(x, compiled),
            "torch": lambda: self._by_torch(x),
            "ours": lambda: self.ours.run(x),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        macs, share = 0.0, seconds / DRAWS
        shortest = dict.fromkeys(ways, 0.0)
        for seed in range(DRAWS):
            self.ours.draw(batch, rate or 0.0, seed)
            macs += self.ours.macs(x)
            with torch.inference_mode():
                drawn = take_turns(ways, share, rounds=3)
            for name in times:
                times[name] += drawn[name]
                shortest[name] += min(drawn[name])
        static, other = (
            shortest[name] / shortest["ours"] if least else ratio(times, name, "ours") for name in ("static", "torch")
        )
        return Measured(min(times["static"]), min(times["torch"]), static, other, full * DRAWS / macs)

    def _by_torch(self, x: Tensor) -> Tensor:
        with disabled():
            logits: Tensor = self.static(x, sparse=True, record=False).logits
        return logits

    def _fastest_static(self, x: Tensor, compiled: bool) -> Way:
        def eager() -> Tensor:
            logits: Tensor = self.static(x, sparse=True, record=False).logits
            return logits

        if not compiled:
            return eager
        torch._dynamo.reset()  # each shape is compiled for itself
        forms = {"eager": eager, "compiled": torch.compile(eager, dynamic=False)}
        with torch.inference_mode():
            times = take_turns(forms, seconds=1.0)
        best = min(forms, key=lambda name: median(times[name]))
        print("static:", ", ".join(f"{name} {median(times[name]):.2f} ms" for name in forms), flush=True)
        return forms[best]


def report(options: argparse.Namespace) -> str:
    """A table, and a line per goal."""
    rows, lines = list[Sequence[str]](), []
    for case in CASES:
        if options.only and options.only not in f"{case.spec} {case.backbone}":
            continue
        compared = Compared(case)
        for batch, goal in case.goals.items():
            if options.batches and batch not in options.batches:
                continue
            for rate in options.rates or case.rates:
                got = compared.measure(batch, rate, options.seconds, options.least, options.compile)
                skipped = "all but one" if rate is None else f"{rate:.0%}"
                name = f"{case.spec}, {case.backbone} at {case.size}, batch {batch}, {skipped} skipped"
                values = got.torch_ms, got.static_ms, got.by_macs, got.faster, got.efficiency, got.against_torch
                numbers = [f"{value:.2f}" for value in values]
                rows.append([case.spec, f"{case.backbone} at {case.size}", str(batch), skipped, *numbers])
                lines.append(verdict(f"efficiency, {name}", got.efficiency, goal, at_most=False))
                print(" ".join(rows[-1]), flush=True)
    head = ["method", "backbone", "batch", "skipped", "torch's static, ms", "static, ms"]
    head += ["faster by MACs", "by the clock", "efficiency", "against torch's"]
    return table(head, rows) + "\n\n" + "\n".join(lines)


def options_from(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What is asked for."""
    parser = Options(__doc__, seconds=4.0)
    parser.add_argument("--only", default="", help="only cases with this in 'METHOD BACKBONE'")
    parser.add_argument("--rates", type=floats, default=[], help="shares that are skipped, in place of each case's own")
    parser.add_argument("--batches", type=floats, default=[], help="only these batches")
    parser.add_argument("--least", action="store_true", help="ratios of the shortest times: for a busy machine")
    parser.add_argument("--compile", action="store_true", help="static is the better of eager and torch.compile")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure, print, and write the section of the results."""
    options = options_from()
    begin(options)
    kind = "shortest times of each draw" if options.least else "medians over interleaved rounds"
    text = f"Ratios are {kind}; {conditions(options)}.\n\n{report(options)}"
    print(text)
    end("Skipping", text, options)


if __name__ == "__main__":
    main()
