"""Which OpenMP runtime torch computes with: generated code runs on its threads, timed processes put them to sleep."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch


def openmp_libraries() -> Iterator[str]:
    """Paths of the OpenMP libraries in this process, torch's own first; none outside Linux."""
    if sys.platform != "linux" or "OpenMP" not in torch.__config__.parallel_info():
        return
    lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    loaded = {line.split(maxsplit=5)[5] for line in lines if "omp" in line and ".so" in line}
    home = str(Path(torch.__file__).resolve().parent.parent)
    yield from sorted(loaded, key=lambda path: (not path.startswith(f"{home}/torch"), path))
