"""Memory against jobs and chains whose memory is known."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dyncomp.profile.activations import activation_bytes
from dyncomp.profile.apart import NotMeasured, rise_bytes_apart
from dyncomp.profile.peak import MIB, Work, rise_bytes
from tests.handmade import SIDE, bright_or_dark, gated_net
from tests.profile.memory_jobs import allocates

JOBS = "tests.profile.memory_jobs:"
SLACK = 3 * MIB  # the kernel counts pages in batches, and Python takes some itself


@pytest.mark.parametrize(
    ("arguments", "rise"),
    [
        ({"mib": 64}, 64),
        ({"mib": 32, "loaded_mib": 48}, 32),  # what is loaded is not counted
        ({"mib": 32, "warm_mib": 96}, 32),  # nor what a warm-up has given back
        ({"mib": 32, "kept_mib": 24}, 56),  # but what it keeps
        ({"mib": 0}, 0),
    ],
    ids=str,
)
def test_the_rise_of_resident_memory(arguments: dict[str, int], rise: int) -> None:
    assert rise_bytes_apart(f"{JOBS}allocates", arguments) == pytest.approx(rise * MIB, abs=SLACK)


@pytest.mark.parametrize("threads", [1, 2])
def test_operators_run_in_a_process_of_their_own(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert rise_bytes_apart(f"{JOBS}convolves", {"threads": threads}) > 0
    finally:
        torch.set_num_threads(before)


FAILS = {
    "fails": "ValueError: no network",
    "is_killed": "its process ended: killed by signal 9, perhaps for want of memory",
    "leaves": "its process ended: exit status 3",
    "absent": "AttributeError: module 'tests.profile.memory_jobs' has no attribute 'absent'",
}


@pytest.mark.parametrize("name", FAILS)
def test_a_job_that_fails_says_why_and_the_next_one_runs(name: str) -> None:
    with pytest.raises(NotMeasured) as caught:
        rise_bytes_apart(JOBS + name, {})
    assert str(caught.value) == FAILS[name]
    assert rise_bytes_apart(f"{JOBS}allocates", {"mib": 16}) == pytest.approx(16 * MIB, abs=SLACK)


def test_an_absent_module_is_said() -> None:
    with pytest.raises(NotMeasured, match="ModuleNotFoundError: No module named 'nowhere'"):
        rise_bytes_apart("nowhere:job", {})


def is_alive(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks a process up in /proc")
def test_a_job_that_hangs_is_ended(tmp_path: Path) -> None:
    rise_bytes_apart(f"{JOBS}allocates", {"mib": 1})  # the process that others are copied from is there
    with pytest.raises(NotMeasured, match="no answer for 5 s; its process was ended"):
        rise_bytes_apart(f"{JOBS}hangs", {"path": str(tmp_path / "pid")}, patience_s=5)
    process = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 20
    while is_alive(process) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_alive(process)


def test_where_the_peak_cannot_be_reset_the_warm_up_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, whose peak so far may be higher still."""
    monkeypatch.setattr("dyncomp.profile.peak._RESET_PEAK", "not a number")
    work = allocates(8, warm_mib=512)
    assert rise_bytes(work) > 500 * MIB


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_allocators_peak_on_a_gpu() -> None:
    weights = torch.ones(MIB, device="cuda")
    work = Work(lambda: None, lambda: torch.ones(16 * MIB // 4, device="cuda") + 1, "cuda")
    assert rise_bytes(work) == 32 * MIB
    del weights


# Activations: float32, a batch of 2.

MAP = 4 * 2 * 8 * 8  # bytes of a channel of (2, C, 8, 8)
IMAGES = torch.rand(2, 3, 8, 8)


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Residual(nn.Module):
    """The input stays while two convolutions run."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = conv(channels, channels), conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = self.second(y)
        return x + y


CHAINS: dict[str, tuple[nn.Module, int]] = {
    "one": (conv(3, 5), 5 * MAP),
    "two": (nn.Sequential(conv(3, 5), conv(5, 7)), (5 + 7) * MAP),
    "the widest pair": (nn.Sequential(conv(3, 2), conv(2, 9), conv(9, 6), conv(6, 4)), (9 + 6) * MAP),
    "in place": (nn.Sequential(conv(3, 5), nn.ReLU(inplace=True), conv(5, 7)), (5 + 7) * MAP),
    "views of what was there": (nn.Sequential(nn.Flatten(), nn.Unflatten(1, (3, 8, 8)), conv(3, 5)), 5 * MAP),
    "views of what was made": (nn.Sequential(conv(3, 5), nn.Flatten(), nn.Unflatten(1, (5, 8, 8))), 5 * MAP),
    "a residual block": (nn.Sequential(conv(3, 5), Residual(5)), 3 * 5 * MAP),
}


@pytest.mark.parametrize("name", CHAINS)
def test_activations_of_a_chain(name: str) -> None:
    net, peak = CHAINS[name]
    net.eval()
    before = IMAGES.clone()
    assert activation_bytes(lambda: net(IMAGES)) == peak
    assert activation_bytes(lambda: net(IMAGES)) == peak  # a second time the weights are no news either
    assert torch.equal(IMAGES, before)


def test_skipped_blocks_have_no_activations() -> None:
    net = gated_net()
    dark, bright = (next(iter(bright_or_dark([one] * 8).batches(8))).images for one in (False, True))
    skipped, ran = (activation_bytes(lambda x=x: net(x, sparse=True, record=False)) for x in (dark, bright))
    assert ran - skipped >= 4 * 8 * 2 * SIDE * SIDE - 4 * 8 * 8
    assert skipped < ran
