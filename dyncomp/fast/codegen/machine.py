"""What machine code can be made for here, and how it runs on torch's own threads."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from llvmlite import binding

_THREADS = ("GOMP_parallel", "GOMP_barrier", "omp_get_thread_num", "omp_get_num_threads")
_MATHS = ("exp", "expf", "tanh", "tanhf")


@dataclass(frozen=True)
class Machine:
    """A processor's vectors, in bytes and number, and its name and features as LLVM writes them."""

    vector_bytes: int
    registers: int
    name: str
    features: str
    closes_gaps: bool
    """whether one instruction moves chosen lanes of a vector together"""


@cache
def this_machine() -> Machine | None:
    """This one; None where its vectors or the library of torch's threads are not known."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    try:
        features = binding.get_host_cpu_features()
    except RuntimeError:  # LLVM does not know this processor
        return None
    vectors = _vectors(features)
    if vectors is None or threads() is None:
        return None
    closes_gaps = all(features.get(name) for name in ("avx512f", "avx512vl"))
    return Machine(*vectors, binding.get_host_cpu_name(), features.flatten(), closes_gaps)


def _vectors(features: dict[str, bool]) -> tuple[int, int] | None:
    """Bytes of a vector, and how many there are."""
    if features.get("avx512f"):
        return 64, 32
    if features.get("avx2") and features.get("fma"):
        return 32, 16
    if features.get("neon"):
        return 16, 32
    return None


class _Team(threading.local):
    """The other threads that OpenMP keeps for a thread: whether there may be some, or a fork has left them behind."""

    kept = False
    lost = False

    def forked(self) -> None:
        """In a child process, which has nothing but the thread that forked: torch would wait there for the others."""
        self.lost = self.kept
        if self.lost:
            torch.set_num_threads(1)


_team = _Team()
os.register_at_fork(after_in_child=_team.forked)


@dataclass(frozen=True)
class Threads:
    """The threads that torch's own operators run on: others would fight with them for the cores."""

    openmp: ctypes.CDLL

    def run(self, address: int, arguments: ctypes.Array[ctypes.c_int64], count: int) -> None:
        """Call the function at that address on `count` threads at once, each with the same arguments.

        In the child of a fork, the thread that forked goes on alone if it ran such code on several threads before:
        OpenMP would wait for those for ever. So it does in torch's own operators, which have one thread from then on.
        """
        if count > 1:
            if _team.lost:
                count = 1
            _team.kept = True
        self.openmp.GOMP_parallel(address, arguments, count, 0)


@cache
def threads() -> Threads | None:
    """Those of the OpenMP library that torch brought along; None where it is another."""
    for path in _libraries():
        try:
            library = ctypes.CDLL(path)
            functions = {name: getattr(library, name) for name in _THREADS}
            functions |= {name: getattr(ctypes.CDLL("libm.so.6"), name) for name in _MATHS}
        except (OSError, AttributeError):
            continue
        for name, function in functions.items():
            binding.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)
        library.GOMP_parallel.restype = None
        library.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        return Threads(library)
    return None


def _libraries() -> Iterator[str]:
    """OpenMP libraries in this process, torch's own first."""
    if sys.platform != "linux" or "OpenMP" not in torch.__config__.parallel_info():
        return
    lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    loaded = {line.split(maxsplit=5)[5] for line in lines if "omp" in line and ".so" in line}
    home = str(Path(torch.__file__).resolve().parent.parent)
    yield from sorted(loaded, key=lambda path: (not path.startswith(f"{home}/torch"), path))
