"""Does every method answer on every backbone, bit for bit, as it did before a change of the code?

    python -m benchmarks.faults.equality write FILE       before the change
    python -m benchmarks.faults.equality compare FILE     after it; status 1 where anything differs

FILE is JSON lines, one per method, backbone and set of decisions (the network's own, all on, the least allowed, random
ones): hashes of the logits of the dense and of the sparse form and of every decision, the priced MACs of each image,
and the executed MACs by operator. The networks are those of the conformance suite: float64, fixed seeds, nothing
deployed, so that no generated code takes part. Hashes hold on one machine with one version of torch and one number of
threads: FILE is not meant to be committed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dyncomp.conformance import Case, examples
from dyncomp.conformance.case import Pass
from dyncomp.core import Output, price
from dyncomp.errors import CannotAttach
from dyncomp.registry import METHODS

Fingerprint = dict[str, Any]


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    if len(arguments) != 2 or arguments[0] not in {"write", "compare"}:
        print("give `write FILE` or `compare FILE`", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    path = Path(arguments[1])
    return write(path) if arguments[0] == "write" else compare(path)


def write(path: Path) -> int:
    """Write the fingerprints of all cases, as they come."""
    with path.open("x", encoding="utf-8") as lines:
        for fingerprint in fingerprints():
            lines.write(json.dumps(fingerprint) + "\n")
            lines.flush()
    print(f"{len(path.read_text(encoding='utf-8').splitlines())} fingerprints in {path}")
    return 0


def compare(path: Path) -> int:
    """Print each case that differs from its line in the file, or is in one of the two alone."""
    before = {_name(one): one for one in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    total, differing = len(before), 0
    for after in fingerprints():
        was = before.pop(_name(after), {})
        keys = sorted(key for key in was.keys() | after.keys() if was.get(key) != after.get(key))
        if keys:
            differing += 1
            print(f"{_name(after)}: {', '.join(keys) if was else 'new'}", flush=True)
    for name in before:
        print(f"{name}: gone")
    print(f"{total - differing - len(before)} of {total} equal")
    return 1 if differing or before else 0


def fingerprints() -> Iterator[Fingerprint]:
    """One for each method, backbone and set of decisions; methods that a backbone refuses are left out."""
    for method, backbone in examples():
        case = Case(METHODS.create(method), backbone)
        try:
            passes = case.passes
        except CannotAttach:
            continue
        for decisions, one in passes.items():
            yield {"method": method, "backbone": backbone, "decisions": decisions, **_of_pass(one)}


def _of_pass(one: Pass) -> Fingerprint:
    """Hashes and counts of the batch in both forms, and of its images one by one."""
    return {
        "dense": _of_output(one.dense),
        "sparse": _of_output(one.sparse),
        "alone": [_of_output(output) for output in one.alone],
        "executed": dict(sorted(one.ran.by_operator.items())),
        "executed_alone": [executed.macs for executed in one.ran_alone],
        "uncounted": dict(sorted(one.ran.uncounted.items())),
    }


def _of_output(output: Output) -> Fingerprint:
    parts = {site: (d.used, d.weight, d.probability) for site, d in output.trace.items()}
    return {
        "logits": _hash(output.logits),
        "decisions": {site: [_hash(part) for part in decision] for site, decision in parts.items()},
        "priced": None if output.costs is None else price(output.costs, output.trace).tolist(),
    }


def _hash(tensor: Tensor) -> str:
    """Of type, shape and bytes."""
    content = tensor.detach().contiguous()
    head = f"{content.dtype} {tuple(content.shape)}".encode()
    return hashlib.sha256(head + content.numpy().tobytes()).hexdigest()[:16]


def _name(fingerprint: Fingerprint) -> str:
    return ", ".join(fingerprint[key] for key in ("method", "backbone", "decisions"))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
