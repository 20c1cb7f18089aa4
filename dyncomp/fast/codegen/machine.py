"""The processor for which code is generated, and torch's own threads, on which the code runs."""

from __future__ import annotations

import ctypes
import os
import threading
from dataclasses import dataclass
from functools import cache

import torch
from llvmlite import binding

from dyncomp.core.openmp import openmp_libraries

_THREADS = ("GOMP_parallel", "GOMP_barrier", "omp_get_thread_num", "omp_get_num_threads")
_MATHS = ("exp", "expf", "tanh", "tanhf")


@dataclass(frozen=True)
class Machine:
    """A processor: bytes and number of its vector registers, and its name and features in LLVM's notation."""

    vector_bytes: int
    registers: int
    name: str
    features: str
    has_compress: bool
    """whether one instruction compacts selected lanes of a vector (vector compress)"""


@cache
def this_machine() -> Machine | None:
    """The processor of this process; None where its vectors or torch's OpenMP library are not supported.

    Supported vectors are those of AVX-512F, AVX2 with FMA, and NEON.
    """
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    try:
        features = binding.get_host_cpu_features()
    except RuntimeError:  # LLVM does not know this processor
        return None
    if features.get("avx512f"):
        vectors = 64, 32  # bytes and number of the registers
    elif features.get("avx2") and features.get("fma"):
        vectors = 32, 16
    elif features.get("neon"):
        vectors = 16, 32
    else:
        return None
    if threads() is None:
        return None
    has_compress = all(features.get(name) for name in ("avx512f", "avx512vl"))
    return Machine(*vectors, binding.get_host_cpu_name(), features.flatten(), has_compress)


class _Team(threading.local):
    """OpenMP's worker threads of a thread: `kept` if there may be some, `lost` if a fork left them in the parent."""

    kept = False
    lost = False

    def forked(self) -> None:
        """Use one thread in a forked child if there were workers: it lacks them, and torch would wait for them."""
        self.lost = self.kept
        if self.lost:
            torch.set_num_threads(1)


_team = _Team()
os.register_at_fork(after_in_child=_team.forked)


@dataclass(frozen=True)
class Threads:
    """The OpenMP threads of torch's own operators: a second set of threads would compete with them for the cores."""

    openmp: ctypes.CDLL

    def run(self, address: int, arguments: ctypes.Array[ctypes.c_int64], count: int) -> None:
        """Call the function at `address` on `count` threads in parallel, each with the same arguments.

        In the child of a fork, a thread that ran code on several threads before the fork uses one thread: OpenMP would
        wait forever for workers that the child does not have. torch's own operators use one thread there, too.
        """
        if count > 1:
            if _team.lost:
                count = 1
            _team.kept = True
        self.openmp.GOMP_parallel(address, arguments, count, 0)


@cache
def threads() -> Threads | None:
    """The threads of torch's OpenMP library; None where no loaded library has the entry points of GNU OpenMP."""
    for path in openmp_libraries():
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
