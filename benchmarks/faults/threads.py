"""Networks that threads share: every method, deployed and not, with a trace and without; how many answers are wrong.

`python -m benchmarks.faults.threads` goes on where the last call stopped; every line of the results is one network in
one form, in a process of its own. A run is eight fresh threads that ask for batches of random sizes at random places.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

import dyncomp
from dyncomp.core import Net

RESULTS = Path(__file__).with_name("threads.jsonl")
THREADS, ASKS, IMAGES, MOST = 8, 5, 96, 24
NEAR = 1e-3
"""by how much logits may differ: batches of other sizes may take another form, which rounds otherwise"""


@dataclass
class Case:
    """One network in one form."""

    method: str
    deployed: bool
    record: bool
    runs: int


@dataclass
class Counts:
    """What came out of all answers."""

    right: int = 0
    wrong: int = 0
    raised: int = 0
    errors: list[str] = field(default_factory=list)


def network(case: Case) -> Net:
    """Its gates moved to where images differ, so that threads take different routes."""
    from benchmarks.divided import divided

    net = divided(case.method, "cifar_resnet14(width=0.5)", classes=10, in_channels=1, image_size=28)
    return dyncomp.deployed(net) if case.deployed else net


def answers(net: Net, images: Tensor, record: bool) -> Tensor:
    """Logits (B, Y)."""
    with torch.inference_mode():
        return net(images, record=record).logits.clone()


def run(net: Net, images: Tensor, wanted: Tensor, record: bool, seed: int) -> Counts:
    """Eight threads that begin together."""
    counts, lock, barrier = Counts(), threading.Lock(), threading.Barrier(THREADS)
    others: list[tuple[slice, Tensor]] = []

    def ask(who: int) -> None:
        torch.set_num_threads(1)
        draw = random.Random(seed * THREADS + who)
        barrier.wait()
        for _ in range(ASKS):
            count = draw.choice([1, 1, 2, 3, draw.randint(1, MOST)])
            first = draw.randint(0, IMAGES - count)
            some = slice(first, first + count)
            try:
                logits = answers(net, images[some], record)
            except Exception as error:
                with lock:
                    counts.raised += 1
                    counts.errors.append(repr(error)[:200])
                continue
            near = torch.allclose(logits, wanted[some], atol=NEAR)
            with lock:
                counts.right += near
                if not near:
                    others.append((some, logits))

    threads = [threading.Thread(target=ask, args=(who,)) for who in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for some, logits in others:  # a gate at its threshold may open in a batch of another size: in one thread, too?
        near = torch.allclose(logits, answers(net, images[some], record), atol=NEAR)
        counts.right += near
        counts.wrong += not near
    return counts


def child(case: Case) -> None:
    """All runs of a case; one line of JSON."""
    torch.set_num_threads(1)
    net = network(case)
    images = torch.randn(IMAGES, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    wanted = torch.cat([answers(net, image[None], record=case.record) for image in images])
    total = Counts()
    for seed in range(case.runs):
        one = run(net, images, wanted, case.record, seed)
        total.right, total.wrong, total.raised = (
            total.right + one.right,
            total.wrong + one.wrong,
            total.raised + one.raised,
        )
        total.errors = sorted({*total.errors, *one.errors})[:3]
    print(json.dumps({**asdict(case), **asdict(total)}))


def main() -> int:
    """Every case that has no line yet; exit status 1 where any answer was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--child", help="a case as JSON, for the process that runs it")
    given = parser.parse_args()
    if given.child:
        child(Case(**json.loads(given.child)))
        return 0
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    cases = [Case(m, d, r, given.runs) for d in (True, False) for r in (False, True) for m in dyncomp.list_methods()]
    known = [{name: line[name] for name in asdict(cases[0])} for line in lines]
    for case in cases:
        if asdict(case) in known:
            continue
        begin = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.faults.threads", "--child", json.dumps(asdict(case))]
        done = subprocess.run(command, capture_output=True, text=True)
        crash = {**asdict(case), "crashed": done.returncode, "errors": done.stderr.splitlines()[-1:]}
        line = json.loads(done.stdout.splitlines()[-1]) | {"crashed": 0} if done.returncode == 0 else crash
        lines.append(line)
        with RESULTS.open("a") as file:
            print(json.dumps(line), file=file)
        print(f"{time.perf_counter() - begin:.0f} s", line, flush=True)
    bad = [line for line in lines if line["crashed"] or line["wrong"] or line["raised"]]
    print(
        f"{len(lines)} cases, {sum(line.get('right', 0) for line in lines)} right answers, {len(bad)} cases with others"
    )
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
