"""Random networks under pages that fault: does generated code ever read or write beside its tensors, or answer wrongly?

    python -m benchmarks.faults.fuzz [--cases 2000] [--first-seed 0] [--records FILE]

Every buffer that generated code reads or writes, its inputs, weights and lists among them, ends where a page begins
that faults (in a third of the cases it begins where one ends), and is NaN or no index until it is written. A seed is a
network, the order of batches that it runs on, their layout and mode, and whether decisions are forced (`cases.py`);
answers are compared with those of the plain network's dense form in float64 under the same decisions. Seeds run in
child processes, 50 in each; a seed is printed before it runs, so that one that faults is known. Records of seeds that
ran are kept in a file, and those seeds left out the next time. Writes benchmarks/faults/results.md and ends with status
1 where a seed deviated, failed or faulted.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.faults.networks import TOGETHER

HERE = Path(__file__).parent
RESULTS = HERE / "results.md"
OUTCOMES = ("ok", "deviation", "failed", "fault", "hang")
PATIENCE_S = 300
"""A seed that takes longer hangs."""

Record = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--records", type=Path, default=HERE / "records.jsonl")
    parser.add_argument("--child", action="store_true", help="run the seeds in this process and print their records")
    given = parser.parse_args(arguments)
    seeds = range(given.first_seed, given.first_seed + given.cases)
    if given.child:
        for seed in seeds:
            _print_record(seed)
        return 0
    known = {record["seed"]: record for record in _read(given.records)}
    for record in _run([seed for seed in seeds if seed not in known]):
        known[record["seed"]] = record
        with given.records.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    table = results([known[seed] for seed in sorted(known)])
    RESULTS.write_text(table, encoding="utf-8")
    print(table)
    return int(any(record["outcome"] != "ok" for record in known.values()))


def _read(file: Path) -> list[Record]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def _run(seeds: list[int]) -> Iterator[Record]:
    """Seeds in child processes; one that ends its process is a fault, and the next goes on behind it."""
    while seeds:
        first, count = seeds[0], 1
        while seeds[count : count + 1] == [first + count] and (first + count) // TOGETHER == first // TOGETHER:
            count += 1
        done = 0
        for record in _child(first, count):
            done += 1
            print(f"  {record['outcome']}  {record['seconds']:.1f} s  {record['words']}", flush=True)
            yield record
        seeds = seeds[done:]


def _child(first: int, count: int) -> Iterator[Record]:
    command = [sys.executable, "-m", "benchmarks.faults.fuzz", "--child", f"--cases={count}", f"--first-seed={first}"]
    # threads that wait must not hold cores that others need
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=HERE.parent.parent)
    assert child.stdout is not None
    seed, running, begin = first, False, time.perf_counter()
    watch = threading.Timer(PATIENCE_S, child.kill)
    watch.start()
    for line in child.stdout:
        watch.cancel()
        watch = threading.Timer(PATIENCE_S, child.kill)
        watch.start()
        if line.startswith("seed "):
            seed, running, begin = int(line.split()[1]), True, time.perf_counter()
            print(line, end="", flush=True)
        elif line.startswith("{"):
            running = False
            yield json.loads(line)
    watch.cancel()
    status = child.wait()
    if running or status:
        seconds = time.perf_counter() - begin
        outcome = "hang" if seconds > PATIENCE_S else "fault"
        yield {"seed": seed, "outcome": outcome, "words": f"exit status {status}", "seconds": seconds}


def _print_record(seed: int) -> None:
    import torch

    from benchmarks.faults.cases import Deviation, case

    faulthandler.enable()
    torch.set_num_threads(1)
    print(f"seed {seed}", flush=True)
    begin = time.perf_counter()
    record: Record = {"seed": seed, "outcome": "ok", "words": ""}
    try:
        record |= asdict(case(seed))
    except Deviation as error:
        record |= {"outcome": "deviation", "words": str(error)}
    except Exception as error:  # whatever it is, it is no answer
        record |= {"outcome": "failed", "words": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    print(json.dumps(record | {"seconds": time.perf_counter() - begin}), flush=True)


def results(records: Sequence[Record]) -> str:
    """What came out, as a page."""
    outcomes = {
        name: sum(r["outcome"] == name for r in records) for name in ("ok", "deviation", "failed", "fault", "hang")
    }
    sums = {name: sum(r.get(name, 0) for r in records) for name in ("passes", "ran", "runs", "thresholds", "learned")}
    kinds = dict[str, int]()
    for record in records:
        kind = record["words"].replace("a chain", "chain").partition(" ")[0].partition("(")[0]
        kinds[kind] = kinds.get(kind, 0) + (record["outcome"] == "ok")
    seeds = [record["seed"] for record in records]
    lines = [
        "# Random networks under pages that fault",
        "",
        f"Made by `python -m benchmarks.faults.fuzz`: {len(records)} seeds from {min(seeds, default=0)} to "
        f"{max(seeds, default=0)}, {sum(r['seconds'] for r in records) / max(1, len(records)):.2f} s each in the mean.",
        "",
        "| outcome | seeds |",
        "| --- | ---: |",
        *(f"| {name} | {count} |" for name, count in outcomes.items()),
        "",
        f"{sums['passes']} passes were compared with the plain form; generated code ran in {sums['ran']} of them, "
        f"layers in one go in {sums['runs']}. Gradients by generated code were compared in {sums['learned']} seeds. "
        f"In float32 {sums['thresholds']} images took another way than in float64, by rounding at a threshold.",
        "",
        "| networks | seeds that ran |",
        "| --- | ---: |",
        *(f"| {kind} | {count} |" for kind, count in sorted(kinds.items()) if count),
        "",
    ]
    bad = [record for record in records if record["outcome"] != "ok"]
    if bad:
        lines += ["| seed | outcome | what |", "| ---: | --- | --- |"]
        lines += [f"| {record['seed']} | {record['outcome']} | {record['words'].replace('|', '/')} |" for record in bad]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
