"""Early exits: ours against the plain backbone, and against a package that does nothing else, earlyon.

    python -m benchmarks.ops.early_exit [--batches 1,8,64] [--rate 0.5] [--seconds 4]

A CIFAR ResNet-38 with exits behind its first two stages and pooled linear heads, in both. Which image leaves where is
drawn, for both alike; each image leaves at each exit with the chance `--rate`. earlyon (0.3) sends a batch out at an
exit when all of its images would leave there, and else carries all of them on. `static` is the plain backbone ready for
use; ours is made ready likewise, and is told its decisions from outside, which costs it a little.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import median

import torch
from torch import Tensor

from benchmarks.ops._common import Options, Way, begin, conditions, end, table, take_turns
from benchmarks.ops._forced import ByLot, floats, images, ready

try:
    from earlyon.models.cifar_resnet_ee import cifar_resnet_ee
except ImportError:  # a peer, not a need
    cifar_resnet_ee = None

DEPTH, SIZE, STAGES, DRAWS = 38, 32, (6, 12), 8
FIRES, NEVER = 0.0, 2.0  # thresholds that every confidence is above, or none


class Peer:
    """earlyon's network, channels-last, its exits told by their thresholds."""

    def __init__(self) -> None:
        self.model = cifar_resnet_ee(num_classes=10, depth=DEPTH).eval().to(memory_format=torch.channels_last)
        self.model.config.enabled_exits = [True, True, False]  # the third exit is behind the last block
        self.model.config.temperatures = dict.fromkeys(self.model.config.temperatures, 1.0)

    def draw(self, stays: Sequence[Tensor]) -> None:
        """For each exit which images, (B, 1), would go on."""
        fires = [FIRES if not bool(one.any()) else NEVER for one in stays]
        self.model.config.confidence_thresholds = [*fires, NEVER]

    def run(self, x: Tensor) -> Tensor:
        """Logits (B, Y)."""
        if len(x) == 1:
            return self.model(x, mode="inference").prediction  # type: ignore[no-any-return]
        return self.model.forward_inference_batched(x).predictions  # type: ignore[no-any-return]


class Compared:
    """The plain network, ours, and the peer's where it is installed."""

    def __init__(self) -> None:
        backbone = f"cifar_resnet{DEPTH}"
        self.ours = ByLot(f"early_exit(after={STAGES}, head='linear')", backbone, SIZE)
        self.static = ready("static", backbone, SIZE)
        self.peer = Peer() if cifar_resnet_ee is not None else None

    def row(self, batch: int, rate: float, seconds: float) -> list[str]:
        """Each draw's median times in turns, added up over the draws."""
        x = images(batch, SIZE)
        ways: dict[str, Way] = {
            "static": lambda: self.static(x, sparse=True, record=False),
            "ours": lambda: self.ours.run(x),
        }
        if self.peer is not None:
            ways["earlyon"] = partial(self.peer.run, x)
        taken, macs = dict.fromkeys(ways, 0.0), 0.0
        for seed in range(DRAWS):
            self._draw(batch, rate, seed)
            macs += self.ours.macs(x)
            with torch.inference_mode():
                for name, times in take_turns(ways, seconds / DRAWS, rounds=5).items():
                    taken[name] += median(times)
        assert self.static.costs is not None  # a deployed network knows them
        return row_of(batch, taken, self.static.costs.full * batch * DRAWS / macs)

    def _draw(self, batch: int, rate: float, seed: int) -> None:
        self.ours.draw(batch, rate, seed)
        if self.peer is not None:
            self.peer.draw([decision.used for decision in self.ours.forced.values()])


def row_of(batch: int, taken: Mapping[str, float], by_macs: float) -> list[str]:
    """A row of the table, from milliseconds over all draws."""
    faster = {name: taken["static"] / taken[name] for name in taken}
    peer = f"{faster['earlyon']:.2f}" if "earlyon" in faster else "not installed"
    numbers = (taken["static"] / DRAWS, by_macs, faster["ours"], faster["ours"] / by_macs)
    return [str(batch), *(f"{number:.2f}" for number in numbers), peer]


def options_from(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What is asked for."""
    parser = Options(__doc__, seconds=4.0)
    parser.add_argument("--batches", type=floats, default=[1, 8, 64])
    parser.add_argument("--rate", type=float, default=0.5, help="chance to leave at an exit")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure, print, and write the section of the results."""
    options = options_from()
    begin(options)
    compared = Compared()
    rows = [compared.row(int(batch), options.rate, options.seconds) for batch in options.batches]
    head = ["batch", "static, ms", "faster by MACs", "ours, by the clock", "efficiency", "earlyon, by the clock"]
    text = (
        f"Times over {DRAWS} draws in interleaved rounds, each image leaves at each exit with chance {options.rate}; "
        f"{conditions(options)}.\n\n{table(head, rows)}"
    )
    print(text)
    end("Early exits", text, options)


if __name__ == "__main__":
    main()
