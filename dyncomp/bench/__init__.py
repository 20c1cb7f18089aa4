"""The main job: plans the cells of a comparison, trains and measures each, times them together, writes the report.

What needs torch is loaded when it is first asked for, so that a wrong option is answered at once.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dyncomp.bench.config import Config, fit_option, read_config
from dyncomp.bench.names import check_names

if TYPE_CHECKING:
    from dyncomp.bench.events import Event
    from dyncomp.bench.exporting import export_checkpoint
    from dyncomp.bench.profiled import Profile
    from dyncomp.bench.profiling import profile_checkpoint, profile_model
    from dyncomp.bench.runner import Outcome, benchmark, run

_HOMES = MappingProxyType(
    {
        "Event": "dyncomp.bench.events",
        "Outcome": "dyncomp.bench.runner",
        "Profile": "dyncomp.bench.profiled",
        "benchmark": "dyncomp.bench.runner",
        "export_checkpoint": "dyncomp.bench.exporting",
        "profile_checkpoint": "dyncomp.bench.profiling",
        "profile_model": "dyncomp.bench.profiling",
        "run": "dyncomp.bench.runner",
    }
)

__all__ = [
    "Config",
    "Event",
    "Outcome",
    "Profile",
    "benchmark",
    "check_names",
    "export_checkpoint",
    "fit_option",
    "profile_checkpoint",
    "profile_model",
    "read_config",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dyncomp.bench' has no attribute {name!r}")
