"""Energy from a made-up machine: packages, memory, what must not count twice, counters that begin again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from dyncomp.profile import energy
from dyncomp.profile.energy import NoCounter, Packages, counter_for, measure_energy

LARGEST = 262_143_328_850


def zone(folder: Path, name: str, value: int, place: str) -> Path:
    (at := folder / place).mkdir(parents=True)
    (at / "name").write_text(f"{name}\n")
    (at / "max_energy_range_uj").write_text(f"{LARGEST}\n")
    (file := at / "energy_uj").write_text(f"{value}\n")
    return file


def add(file: Path, joules: float) -> None:
    """The counter moves on, and begins again beyond its largest value."""
    file.write_text(f"{(int(file.read_text()) + round(joules * 1e6)) % (LARGEST + 1)}\n")


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, Path]:
    """Two packages; the first one's counter is about to begin again."""
    return {
        "package-0": zone(tmp_path, "package-0", LARGEST - 999_999, "intel-rapl:0"),
        "core": zone(tmp_path, "core", 5, "intel-rapl:0:0"),
        "dram": zone(tmp_path, "dram", 7, "intel-rapl:0:1"),
        "package-1": zone(tmp_path, "package-1", 11, "intel-rapl:1"),
        "psys": zone(tmp_path, "psys", 13, "intel-rapl:2"),
        "again": zone(tmp_path, "package-0", 17, "intel-rapl-mmio:0"),
    }


def test_packages_and_memory_count_once_over_the_turn_of_a_counter(machine: dict[str, Path], tmp_path: Path) -> None:
    counter = Packages(tmp_path)
    assert counter.source.startswith("RAPL (package-0, dram, package-1): all that was drawn meanwhile")
    counter.start()
    for file in machine.values():
        add(file, 3)
    assert counter.joules() == pytest.approx(3 * 3)
    assert int(machine["package-0"].read_text()) < 3_000_000  # it did begin again
    counter.start()
    add(machine["package-1"], 0.5)
    assert counter.joules() == pytest.approx(0.5)


@pytest.mark.parametrize("seconds", [0.05, 0.0])
def test_energy_per_image(
    seconds: float, machine: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "SECONDS", seconds)
    calls: list[int] = []

    def work() -> None:
        calls.append(1)
        add(machine["package-1"], 2)

    found = measure_energy(work, 4, Packages(tmp_path))
    assert found.passes == len(calls) - 1  # the first one warms up and is not counted
    assert found.joules == pytest.approx(2 * found.passes)
    assert found.joules_per_image == pytest.approx(2 / 4)
    assert found.seconds >= seconds
    assert found.passes > 1 if seconds else found.passes == 1


def test_a_zone_without_a_counter_is_left_out(machine: dict[str, Path], tmp_path: Path) -> None:
    machine["dram"].unlink()
    assert [zone.name for zone in Packages(tmp_path).zones] == ["package-0", "package-1"]


@pytest.mark.parametrize("left", [(), ("psys", "core")])
def test_no_package_is_no_counter(left: tuple[str, ...], machine: dict[str, Path], tmp_path: Path) -> None:
    for name, file in machine.items():
        if name not in left:
            file.unlink()
    with pytest.raises(NoCounter, match="no package below"):
        Packages(tmp_path)
    with pytest.raises(NoCounter, match="is not there"):
        Packages(tmp_path / "absent")


def test_a_counter_for_the_administrator_only(
    machine: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever runs the tests may be the administrator, so the refusal is made."""
    read = Path.read_text

    def refused(path: Path) -> str:
        if path == machine["package-0"]:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(NoCounter, match=r"intel-rapl:0/energy_uj may be read by the administrator only"):
        Packages(tmp_path)


def test_the_cpu_has_the_counter_below_sys(
    machine: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    assert isinstance(counter_for(torch.device("cpu")), Packages)


class NVMLError(Exception):
    pass


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[int]]:
    """Puts a GPU in that has a counter, in millijoules; asks for it by this id."""
    readings = [1000]

    def handle(uuid: str) -> str:
        if uuid != "GPU-abc":
            raise NVMLError("Not Found")
        return uuid

    def put(uuid: str) -> list[int]:
        fake = ModuleType("pynvml")
        fake.NVMLError = NVMLError  # type: ignore[attr-defined]
        fake.nvmlInit = lambda: None  # type: ignore[attr-defined]
        fake.nvmlDeviceGetHandleByUUID = handle  # type: ignore[attr-defined]
        fake.nvmlDeviceGetTotalEnergyConsumption = lambda handle: readings[-1]  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=uuid))
        return readings

    return put


def test_a_board(board: Callable[[str], list[int]]) -> None:
    readings = board("abc")
    counter = counter_for(torch.device("cuda"))
    counter.start()
    readings.append(3500)
    assert counter.joules() == pytest.approx(2.5)
    assert counter.source.startswith("NVML (board): all that was drawn")


def test_a_board_without_a_counter(board: Callable[[str], list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    board("another")
    with pytest.raises(NoCounter, match="this GPU's energy cannot be read: Not Found"):
        counter_for(torch.device("cuda"))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NoCounter, match="pip install nvidia-ml-py"):
        counter_for(torch.device("cuda"))
