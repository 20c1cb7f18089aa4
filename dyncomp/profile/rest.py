"""Whether the other threads of this process sleep: only then may another process be timed."""

from __future__ import annotations

import threading
import time
from ctypes import CDLL, c_uint, c_void_p, cast
from functools import cache
from pathlib import Path

from dyncomp.core.openmp import openmp_libraries

LONGEST_S = 0.1
LOOK_S = 0.0002
BLIND_S = 0.02
TASKS = Path("/proc/self/task")


def wait_for_own_threads() -> bool:
    """Wait until every thread but the calling one sleeps; whether they do.

    After a parallel region the threads of an OpenMP team spin for some milliseconds, in case another region follows.
    A smaller spin count (GOMP_SPINCOUNT, OMP_WAIT_POLICY=passive) would end that, and slow the timed network, which
    lives on finding its team awake. So the network is timed as it runs in use, and the turn is handed over only when
    the team has given up and sleeps in the kernel. GNU's runtime gives up at once where it has more threads than there
    are processors: a last, empty region with one more spares the wait, which at batch 1 is several times the turn. The
    team's own threads stay; the one more ends with the next region. Where the kernel does not tell which threads run,
    we wait longer than teams spin.
    """
    if (runtime := _gnu_openmp()) is not None:
        runtime.GOMP_parallel(_address_of_free(), None, runtime.omp_get_num_procs() + 1, 0)
    if not TASKS.is_dir():
        time.sleep(BLIND_S)
        return True
    end = time.perf_counter() + LONGEST_S
    me = str(threading.get_native_id())
    while any(_runs(task) for task in TASKS.iterdir() if task.name != me):
        if time.perf_counter() > end:
            return False
        time.sleep(LOOK_S)
    return True


@cache
def _gnu_openmp() -> CDLL | None:
    """The runtime that torch computes with, where it is GNU's."""
    path = next(openmp_libraries(), "")
    if not Path(path).name.startswith("libgomp"):
        return None
    runtime = CDLL(path)
    runtime.GOMP_parallel.argtypes = [c_void_p, c_void_p, c_uint, c_uint]
    runtime.GOMP_parallel.restype = None
    return runtime


@cache
def _address_of_free() -> int | None:
    """A function of one pointer that does nothing when it is given none: what the threads of an empty region run."""
    return cast(CDLL(None).free, c_void_p).value


def _runs(task: Path) -> bool:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0] == "R"
    except OSError:  # it has ended
        return False
