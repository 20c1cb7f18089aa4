"""The lock for objects that are created once and shared by threads: code, choices of forms, prepared runs."""

from __future__ import annotations

import os
import threading

making = threading.RLock()
"""A single lock, since the creation of one object creates others. `os.fork` acquires it first, so that no child process
starts with a lock held by a thread that does not exist there."""

os.register_at_fork(before=making.acquire, after_in_parent=making.release, after_in_child=making.release)
