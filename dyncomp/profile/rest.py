"""Whether the other threads of this process sleep: only then may another process be timed."""

from __future__ import annotations

import threading
import time
from pathlib import Path

LONGEST_S = 0.1
LOOK_S = 0.0002
BLIND_S = 0.02
TASKS = Path("/proc/self/task")


def wait_for_own_threads() -> bool:
    """Wait until every thread but the calling one sleeps; whether they do.

    After a parallel region the threads of an OpenMP team spin for some milliseconds, in case another region follows.
    A smaller spin count (GOMP_SPINCOUNT, OMP_WAIT_POLICY=passive) would end that, and slow the timed network, which
    lives on finding its team awake. So the network is timed as it runs in use, and the turn is handed over only when
    the team has given up and sleeps in the kernel. Where the kernel does not tell, we wait longer than teams spin.
    """
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


def _runs(task: Path) -> bool:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0] == "R"
    except OSError:  # it has ended
        return False
