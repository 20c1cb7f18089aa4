"""The console scripts as they are installed: the commands, with an end that does not take torch apart."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from dyncomp.cli.main import benchmark_main, dyncomp_main


def benchmark() -> NoReturn:
    """The script `benchmark`."""
    _run(benchmark_main)


def dyncomp() -> NoReturn:
    """The script `dyncomp`."""
    _run(dyncomp_main)


def _run(main: Callable[[], None]) -> NoReturn:
    """Run a command and end with its status.

    What is registered for the end is called, and all that was written leaves the buffers; the interpreter's own end is
    left out, which frees modules and libraries for one to four seconds, all of which the system takes back anyway.
    """
    status: object = 0
    try:
        main()
    except SystemExit as ended:
        status = ended.code
    atexit._run_exitfuncs()  # multiprocessing's among them, which ends processes that are left
    if isinstance(status, str):
        print(status, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))
