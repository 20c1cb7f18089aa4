"""Whether a turn is handed over only when the own threads sleep, and what the kernel's accounts say."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from dyncomp.profile import allowed_processors, load, rest
from dyncomp.profile.load import Account, account, load_between


def test_sleeping_threads_are_not_waited_for() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert rest.wait_for_own_threads()
    finally:
        stop.set()
        thread.join()


def test_a_thread_that_runs_is_waited_for_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "_runs", lambda task: True)
    monkeypatch.setattr(rest, "LONGEST_S", 0.05)
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    begin = time.perf_counter()
    try:
        assert not rest.wait_for_own_threads()
    finally:
        stop.set()
        thread.join()
    assert time.perf_counter() - begin >= 0.05


SPINNING = """
import time
from pathlib import Path
import threading
from dyncomp.profile.rest import _runs
stop = []
def spin():
    while not stop:
        sum(range(1000))
thread = threading.Thread(target=spin)
thread.start()
seen = [_runs(Path(f"/proc/self/task/{thread.native_id}")) for _ in range(200)]
stop.append(1)
thread.join()
task = Path(f"/proc/self/task/{thread.native_id}")
while task.exists():  # `join` returns a little before the kernel has let go of the thread
    time.sleep(0.01)
print(any(seen), _runs(task))
"""


def test_the_kernel_tells_which_thread_runs() -> None:
    done = subprocess.run([sys.executable, "-c", SPINNING], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["True", "False"]  # one that has ended does not run


TEAM = """
import os
import torch
from dyncomp.profile.rest import wait_for_own_threads
torch.set_num_threads(2)
x, w = torch.randn(8, 16, 32, 32), torch.randn(16, 16, 3, 3)
first = torch.conv2d(x, w)
team = set(os.listdir("/proc/self/task"))
slept = wait_for_own_threads()
kept = team <= set(os.listdir("/proc/self/task"))
again = torch.conv2d(x, w)
print(slept, kept, torch.get_num_threads(), torch.equal(first, again))
"""


def test_the_team_that_is_sent_to_sleep_is_the_same_when_it_wakes() -> None:
    done = subprocess.run([sys.executable, "-c", TEAM], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["True", "True", "2", "True"]


STAT = """cpu  100 10 50 900 40 1 2 7 0 0
cpu0 60 5 30 400 20 1 1 3 0 0
cpu1 40 5 20 500 20 0 1 4 0 0
cpu2 7000 0 0 0 0 0 0 0 0 0
intr 1 2 3
"""


def test_work_is_all_but_idle_and_waiting_on_the_allowed_processors() -> None:
    assert load._worked(STAT, {0, 1}) == (60 + 5 + 30 + 1 + 1 + 3) + (40 + 5 + 20 + 0 + 1 + 4)
    assert load._worked(STAT, {2, 9}) == 7000


def test_others_are_what_we_did_not_do() -> None:
    found = load_between(Account(10.0, 100.0, 5.0), Account(20.0, 118.0, 17.0))
    assert (found.own, found.others) == (pytest.approx(1.2), pytest.approx(0.6))
    assert found.processors == len(allowed_processors())
    assert load_between(Account(10.0, 100.0, 5.0), Account(20.0, 104.0, 17.0)).others == 0  # ticks are coarse


@pytest.mark.parametrize(("begin", "end"), [(None, Account(9, 9, 9)), (Account(1, 1, 1), Account(1.1, 2, 1))])
def test_unknown_where_nothing_is_told_or_the_time_is_short(begin: Account | None, end: Account) -> None:
    found = load_between(begin, end)
    assert (found.own, found.others) == (None, None)


def test_own_work_is_seen_and_not_taken_for_that_of_others() -> None:
    before = account([])
    end = time.process_time() + 0.6
    while time.process_time() < end:
        pass
    after = account([2**22 - 1])  # a process that has ended meanwhile
    assert before is not None
    assert after is not None
    assert 0.5 <= after.own - before.own <= 5
    assert after.worked - before.worked >= 0.4
