"""dyncomp: conditional computation for convolutional networks, tried, measured and decided.

Every public name is loaded when it is first asked for, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyncomp._build import build, create_method
    from dyncomp._checkpoint import load, save
    from dyncomp.bench import Profile, benchmark, profile_checkpoint, profile_model
    from dyncomp.core import (
        Card,
        Costs,
        Decision,
        Method,
        Net,
        Output,
        Prediction,
        Stage,
        Trace,
        count_executed_macs,
        measure_costs,
        price,
    )
    from dyncomp.errors import DyncompError
    from dyncomp.fast import deployed
    from dyncomp.ops import Gated, Mixed
    from dyncomp.profile import keep_freed_memory
    from dyncomp.registry import include_path, register_backbone, register_dataset, register_method
    from dyncomp.report import read_results, show
    from dyncomp.spec import option

from dyncomp._version import __version__

_HOMES = MappingProxyType(
    {
        "Card": "dyncomp.core",
        "Costs": "dyncomp.core",
        "Decision": "dyncomp.core",
        "DyncompError": "dyncomp.errors",
        "Gated": "dyncomp.ops",
        "Method": "dyncomp.core",
        "Mixed": "dyncomp.ops",
        "Net": "dyncomp.core",
        "Output": "dyncomp.core",
        "Prediction": "dyncomp.core",
        "Profile": "dyncomp.bench",
        "Stage": "dyncomp.core",
        "Trace": "dyncomp.core",
        "benchmark": "dyncomp.bench",
        "build": "dyncomp._build",
        "count_executed_macs": "dyncomp.core",
        "create_method": "dyncomp._build",
        "deployed": "dyncomp.fast",
        "include_path": "dyncomp.registry",
        "keep_freed_memory": "dyncomp.profile",
        "load": "dyncomp._checkpoint",
        "measure_costs": "dyncomp.core",
        "option": "dyncomp.spec",
        "price": "dyncomp.core",
        "profile_checkpoint": "dyncomp.bench",
        "profile_model": "dyncomp.bench",
        "read_results": "dyncomp.report",
        "register_backbone": "dyncomp.registry",
        "register_dataset": "dyncomp.registry",
        "register_method": "dyncomp.registry",
        "save": "dyncomp._checkpoint",
        "show": "dyncomp.report",
    }
)

__all__ = [
    "Card",
    "Costs",
    "Decision",
    "DyncompError",
    "Gated",
    "Method",
    "Mixed",
    "Net",
    "Output",
    "Prediction",
    "Profile",
    "Stage",
    "Trace",
    "__version__",
    "benchmark",
    "build",
    "count_executed_macs",
    "create_method",
    "deployed",
    "include_path",
    "keep_freed_memory",
    "list_backbones",
    "list_datasets",
    "list_methods",
    "load",
    "measure_costs",
    "option",
    "price",
    "profile_checkpoint",
    "profile_model",
    "read_results",
    "register_backbone",
    "register_dataset",
    "register_method",
    "save",
    "show",
]


def list_methods() -> list[str]:
    """Names of all methods that are found."""
    return _names("METHODS")


def list_backbones() -> list[str]:
    """Names of all backbones that are found; a name such as cifar_resnet{depth} stands for a family."""
    return _names("BACKBONES")


def list_datasets() -> list[str]:
    """Names of all data sets that are found."""
    return _names("DATASETS")


def _names(registry: str) -> list[str]:
    names: list[str] = getattr(importlib.import_module("dyncomp.registry"), registry).names()
    return names


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dyncomp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
