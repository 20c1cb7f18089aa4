"""The energy that a machine's own counters say was spent while something ran.

CPU: the running averages of power limits (RAPL), as Linux shows them below /sys/class/powercap: each processor package,
and its memory where it has a counter of its own. GPU: NVML's counter of the whole board. Either counts all that was
drawn in the time, what the idle machine draws and what other programs do included; so it is an upper bound on what the
work itself took, and comparable only between measurements of the same machine, equally loaded.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

POWERCAP = Path("/sys/class/powercap")
SECONDS = 2.0
"""how long a measurement lasts at least: counters move in steps of up to a tenth of a second"""
INCLUDES = "all that was drawn meanwhile, idle power and other programs included"


class NoCounter(Exception):
    """This machine has no counter that can be read; the text says why."""


@dataclass(frozen=True)
class Energy:
    """What `passes` passes over `images` images each took: `joules` in `seconds`, by the counter `source`."""

    joules: float
    seconds: float
    passes: int
    images: int
    source: str

    @property
    def joules_per_image(self) -> float:
        """All energy of the time, by the images that were answered in it."""
        return self.joules / (self.passes * self.images)


class Counter(ABC):
    """A counter of energy; `source` names it."""

    source: str

    @abstractmethod
    def start(self) -> None:
        """Note where the counter stands."""

    @abstractmethod
    def joules(self) -> float:
        """What was spent since `start`."""


def counter_for(device: torch.device) -> Counter:
    """The counter of the device's energy. Raises NoCounter."""
    return Board(device) if device.type == "cuda" else Packages(POWERCAP)


def measure_energy(work: Callable[[], object], images: int, counter: Counter) -> Energy:
    """Repeat `work()`, a pass over `images` images that ends when its results are there, for at least `SECONDS`."""
    work()  # warm
    counter.start()
    begin = time.perf_counter()
    passes = 0
    while not passes or time.perf_counter() - begin < SECONDS:
        work()
        passes += 1
    joules, took = counter.joules(), time.perf_counter() - begin
    return Energy(joules, took, passes, images, counter.source)


@dataclass(frozen=True)
class _Zone:
    """A counter in microjoules that begins again at 0 beyond `largest`."""

    name: str
    file: Path
    largest: int

    def read(self) -> int:
        return int(self.file.read_text())


@final
class Packages(Counter):
    """The sum over all processor packages, and over memory where it is counted beside them."""

    def __init__(self, folder: Path) -> None:
        self.zones = _zones(folder)
        names = ", ".join(zone.name for zone in self.zones)
        self.source = f"RAPL ({names}): {INCLUDES}"
        self.begin: list[int] = []

    def start(self) -> None:
        """Note where every zone stands."""
        self.begin = [zone.read() for zone in self.zones]

    def joules(self) -> float:
        """What was spent since `start`; a zone may have begun again at 0 once."""
        now = [zone.read() for zone in self.zones]
        spent = [
            after - before if after >= before else after - before + zone.largest + 1
            for zone, before, after in zip(self.zones, self.begin, now, strict=True)
        ]
        return sum(spent) / 1e6


def _zones(folder: Path) -> list[_Zone]:
    """Packages and their memory, each once. Raises NoCounter.

    A package's other parts (cores, graphics) are counted in it, the platform (psys) counts the packages again, and the
    folders called intel-rapl-mmio show the same counters a second time.
    """
    if not folder.is_dir():
        raise NoCounter(f"no counter of the processor's energy ({folder} is not there)")
    zones = []
    for place in sorted(folder.glob("intel-rapl:*")):
        try:
            name = (place / "name").read_text().strip()
            if not name.startswith(("package", "dram")):
                continue
            zone = _Zone(name, place / "energy_uj", int((place / "max_energy_range_uj").read_text()))
            zone.read()
        except PermissionError as error:
            raise NoCounter(f"{error.filename} may be read by the administrator only") from None
        except (OSError, ValueError):
            continue  # a zone without a counter
        zones.append(zone)
    if not any(zone.name.startswith("package") for zone in zones):
        raise NoCounter(f"no counter of the processor's energy (no package below {folder})")
    return zones


@final
class Board(Counter):
    """A GPU's board, by NVML's counter; needs the package nvidia-ml-py."""

    def __init__(self, device: torch.device) -> None:
        try:
            import pynvml
        except ImportError:
            raise NoCounter(
                "a GPU's energy is read by nvidia-ml-py, which is not installed: pip install nvidia-ml-py"
            ) from None
        self._nvml: Any = pynvml
        self.source = f"NVML (board): {INCLUDES}"
        try:
            pynvml.nvmlInit()
            uuid = str(torch.cuda.get_device_properties(device).uuid)  # the number of a device may be masked
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")
            self._read()
        except pynvml.NVMLError as error:
            raise NoCounter(f"this GPU's energy cannot be read: {error}") from None
        self.begin = 0

    def _read(self) -> int:
        """Millijoules since the driver was loaded."""
        return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))

    def start(self) -> None:
        """Note where the counter stands."""
        self.begin = self._read()

    def joules(self) -> float:
        """What was spent since `start`."""
        return (self._read() - self.begin) / 1e3
