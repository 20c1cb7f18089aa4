"""What the benchmarks of single operations share: times of ways that take turns, their ratios, and one file of tables.

Run each as a module from the root of the repository: `python -m benchmarks.ops.condconv`.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dyncomp.profile import keep_freed_memory

Way = Callable[[], Any]


class Options(argparse.ArgumentParser):
    """The options that all benchmarks of operations have."""

    def __init__(self, doc: str | None, seconds: float) -> None:
        super().__init__(description=(doc or "").partition("\n")[0])
        self.add_argument("--seconds", type=float, default=seconds, help="time for each row")
        self.add_argument("--usual-memory", action="store_true", help="leave the allocator as a user's program has it")
        self.add_argument("--dry", action="store_true", help="write no file")


def begin(options: argparse.Namespace) -> None:
    """What every benchmark of operations starts with: its seed, and memory that is kept, as in timed processes.

    Without it all ways fault their pages in anew at some sizes and not at others: convolutions of 1 MB took seven times
    as long, static ones too, and ratios were those of page faults.
    """
    torch.manual_seed(0)
    if not options.usual_memory:
        keep_freed_memory()


def conditions(options: argparse.Namespace) -> str:
    """Under what a table was made, for the line above it."""
    memory = "the allocator as it is" if options.usual_memory else "freed memory kept"
    return f"{torch.get_num_threads()} threads, {memory}, torch {torch.__version__}"


def take_turns(ways: Mapping[str, Way], seconds: float, rounds: int = 7) -> dict[str, list[float]]:
    """Milliseconds of each way, round by round; which one begins changes, so that drift hits all alike.

    At least `rounds` rounds, then on until `seconds` are over. Before that every way runs twice.
    """
    for run in ways.values():
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in ways}
    order = deque(ways)
    gc.collect()
    gc.disable()
    end = time.perf_counter() + seconds
    try:
        while len(times[order[0]]) < rounds or time.perf_counter() < end:
            for name in order:
                times[name].append(_milliseconds(ways[name]))
            order.rotate(-1)
    finally:
        gc.enable()
    return times


TURN_MS = 4.0
"""a turn lasts so long at least: what is short runs several times, as in use, and not after another's leftovers only"""


def _milliseconds(run: Way) -> float:
    """Of a pass, the mean over a turn."""
    _wait()
    begin, passes, spent = time.perf_counter_ns(), 0, 0.0
    while not passes or spent < TURN_MS:
        run()
        _wait()
        passes, spent = passes + 1, (time.perf_counter_ns() - begin) / 1e6
    return spent / passes


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(times: Mapping[str, Sequence[float]], of: str, to: str, least: bool = False) -> float:
    """How many times as long `of` takes as `to`: median over the rounds, or of the shortest times (`least`).

    On a machine that others use too, the shortest times are the ones that nobody disturbed.
    """
    if least:
        return min(times[of]) / min(times[to])
    return statistics.median(a / b for a, b in zip(times[of], times[to], strict=True))


def geometric_mean(values: Iterable[float]) -> float:
    """Geometric mean of at least one positive number."""
    return statistics.geometric_mean(values)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """The kind of machine, never its name: `2-core-avx512`, or a GPU's model."""
    if torch.cuda.is_available():
        return "-".join(torch.cuda.get_device_name().lower().split())
    return f"{cores()}-core-{torch.backends.cpu.get_cpu_capability().lower()}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def verdict(name: str, value: float, bound: float, at_most: bool) -> str:
    """A line that says what was asked, what came out, and whether that is enough."""
    reached = value <= bound if at_most else value >= bound
    asked = f"{'at most' if at_most else 'at least'} {bound:.2f}x"
    return f"* {name}: **{value:.2f}x** ({asked}: {'reached' if reached else 'missed'})"


def write_section(title: str, text: str, folder: Path = Path(__file__).parent) -> Path:
    """Put a section into `results-<machine>.md`, in place of the one of the same title that is there."""
    path = folder / f"results-{machine()}.md"
    old = path.read_text(encoding="utf-8") if path.exists() else f"# Operations on {machine()}\n"
    head, *sections = old.rstrip().split("\n## ")
    kept = {section.partition("\n")[0]: section for section in sections}
    kept[title] = f"{title}\n\n{text.strip()}"
    joined = "\n\n## ".join([head.rstrip(), *(section.rstrip() for section in kept.values())])
    path.write_text(joined + "\n", encoding="utf-8")
    return path


def end(title: str, text: str, options: argparse.Namespace) -> None:
    """What every benchmark of operations ends with: its section of the results, unless the run is a dry one."""
    if not options.dry:
        print(write_section(f"{title}, allocator as it is" if options.usual_memory else title, text))
