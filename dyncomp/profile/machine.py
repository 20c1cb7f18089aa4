"""On what a number was measured."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from dyncomp.fast import available
from dyncomp.store.schema import EnvironmentRecord


def environment(device: torch.device) -> EnvironmentRecord:
    """Versions, processor, cores, threads and device, ready for JSON."""
    return {
        "python": platform.python_version(),
        "dyncomp": _version("dyncomp"),
        "torch": _version("torch"),
        "torchvision": _version("torchvision"),
        "numpy": _version("numpy"),
        "scikit-learn": _version("scikit-learn"),
        "pandas": _version("pandas"),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "fast_path": str(available()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "argv": sys.argv[1:],
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
