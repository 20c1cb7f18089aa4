"""The lock under which all that is made once is made: code, choices between forms, runs prepared for a batch."""

from __future__ import annotations

import os
import threading

making = threading.RLock()
"""One for all, since making one thing makes others. A fork waits until it is free: no child process finds it held by a
thread that the child does not have."""

os.register_at_fork(before=making.acquire, after_in_parent=making.release, after_in_child=making.release)
