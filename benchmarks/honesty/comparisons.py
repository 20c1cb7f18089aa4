"""What both honesty benchmarks do: time the same networks again and again, and write what came out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import forms
import torch

from dyncomp.data import Split, load
from dyncomp.profile import (
    LatencyRounds,
    Setting,
    Team,
    Timed,
    Until,
    allowed_processors,
    environment,
    measure_latency,
)
from dyncomp.registry import DATASETS
from dyncomp.samples import judged_speedup

RESULTS = Path(__file__).parent / "results"
BACKBONE, CHANNELS, SIZE = "cifar_resnet14", 1, 8


def made(spec: str) -> partial[forms.Run]:
    """What builds a network on the benchmarks' backbone."""
    return partial(forms.network, spec, BACKBONE, CHANNELS, SIZE)


def test_images() -> Split:
    """Those of `digits`."""
    return load(DATASETS.create("digits"), None, 0).test


def compare(timed: Sequence[Timed], batch_sizes: Sequence[int], seconds: float) -> Iterator[LatencyRounds]:
    """Time networks against the first of them in processes of their own, started for this comparison alone."""
    setting = Setting("cpu", torch.get_num_threads(), allowed_processors())
    with Team(timed, setting) as team:
        for size in batch_sizes:
            yield measure_latency(team, test_images(), size, 0, Until(seconds=seconds), timed[0].name)


def cell(measured: LatencyRounds, name: str, reference: str) -> dict[str, Any]:
    """One ratio with its interval and verdict, ready for JSON. Raises RuntimeError where a network failed."""
    if measured.errors:
        raise RuntimeError(f"a network could not be timed: {dict(measured.errors)}")
    ratio, verdict = judged_speedup(measured.rounds, name, reference)
    return {
        "network": name,
        "batch_size": measured.batch_size,
        "low": ratio.low,
        "ratio": ratio.middle,
        "high": ratio.high,
        "rounds": measured.rounds.count(name),
        "verdict": verdict,
        "others_load": measured.load.others,
    }


def write(name: str, text: str, facts: dict[str, Any]) -> None:
    """Print the Markdown text, and keep it and the figures behind it."""
    RESULTS.mkdir(exist_ok=True)
    known = {key: value for key, value in environment(torch.device("cpu")).items() if key != "argv"}
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    (RESULTS / f"{name}.json").write_text(json.dumps(facts | {"environment": known}, indent=1) + "\n", "utf-8")
    print(text)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


@contextmanager
def busy_machine(share: float) -> Iterator[None]:
    """A process of its own keeps one processor busy for a share of the time, in bursts of random length."""
    context = get_context("spawn")
    process = context.Process(target=forms.make_busy, args=(share,), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


class Clock:
    """Says when a benchmark must come to its end."""

    def __init__(self, minutes: float) -> None:
        self.begin = time.monotonic()
        self.most = 60 * minutes

    @property
    def minutes(self) -> float:
        """Since the beginning."""
        return (time.monotonic() - self.begin) / 60

    def enough_for_another(self, done: int) -> bool:
        """Whether one more of what took as long as the others on average fits in."""
        return not done or (time.monotonic() - self.begin) * (done + 1) / done < self.most
