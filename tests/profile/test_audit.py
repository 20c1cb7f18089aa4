"""Time by operator: which kind each is, whose time it is, and that an operator without a known cost is not lost."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dyncomp import build
from dyncomp.core import Net, execute_and_count
from dyncomp.core.operators import kind_of
from dyncomp.profile import audit_operators
from dyncomp.profile.audit import by_operator
from tests.handmade import bright_or_dark, gated_net

IMAGES = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@dataclass
class Event:
    """What the profiler says of one call, as far as it is asked; `own` is in microseconds."""

    name: str
    own: float
    parts: tuple[Event, ...] = ()
    device: float = 0.0
    cpu_parent: Event | None = None
    device_type: Any = field(default_factory=lambda: SimpleNamespace(name="CPU"))

    def __post_init__(self) -> None:
        self.id = id(self)
        self.cpu_children = list(self.parts)
        self.self_cpu_time_total, self.self_device_time_total = self.own, self.device
        self.cpu_time_total = self.own + sum(part.cpu_time_total for part in self.parts)
        for part in self.parts:
            part.cpu_parent = self


def flat(*events: Event) -> list[Event]:
    return [event for top in events for event in (top, *flat(*top.parts))]


def found(
    events: list[Event], uncounted: tuple[str, ...] = (), cuda: bool = False
) -> dict[str, tuple[str, int, float]]:
    judged = by_operator(events, uncounted, cuda)  # type: ignore[arg-type]
    return {o.name: (o.kind, o.calls, round(1000 * o.ms)) for o in judged}


def test_a_library_s_parts_and_wrappers_belong_to_the_operator_that_is_priced() -> None:
    inner = Event("aten::_convolution", 2, (Event("aten::mkldnn_convolution", 90, (Event("aten::empty", 1),)),))
    conv = Event("aten::conv2d", 4, (Event("aten::convolution", 3, (inner,)),))
    assert found(flat(conv, conv_again())) == {"aten.convolution": ("priced", 2, 4 + 3 + 2 + 90 + 1 + 10)}


def conv_again() -> Event:
    return Event("aten::convolution", 10)


def test_kinds_by_hand() -> None:
    events = flat(
        Event("aten::linear", 1, (Event("aten::t", 2), Event("aten::addmm", 20))),
        Event("aten::batch_norm", 1, (Event("aten::native_batch_norm", 30, (Event("aten::empty", 1),)),)),
        Event("aten::fft_fft2", 5, (Event("aten::_fft_c2c", 50, (Event("aten::mul", 7),)),)),
        Event("somebody::rotate", 8),
        Event("aten::contiguous", 3),
    )
    assert found(events, ("aten._fft_c2c",)) == {
        "aten.addmm": ("priced", 1, 21),
        "aten.t": ("free", 1, 2),
        "aten.batch_norm": ("free", 1, 32),
        "aten._fft_c2c": ("unknown", 1, 62),
        "somebody.rotate": ("unknown", 1, 8),
        "aten.contiguous": ("free", 1, 3),  # a wrapper that found nothing to do
    }


def test_on_a_gpu_it_is_the_kernels_time() -> None:
    kernel = Event("void kernel<4>", 99, device=50, device_type=SimpleNamespace(name="CUDA"))
    call = Event("cudaLaunchKernel", 9)
    conv = Event("aten::convolution", 30, (Event("aten::cudnn_convolution", 20, (call,), device=50),))
    assert found([*flat(conv), kernel], cuda=True) == {"aten.convolution": ("priced", 1, 50)}


def test_shares_add_up_and_free_operators_are_told() -> None:
    net = build("skipnet", "cifar_resnet8", classes=4, in_channels=1, image_size=8).eval()
    record = audit_operators(net, [IMAGES, IMAGES], ()).as_record()
    assert sum(record["shares"].values()) == pytest.approx(1)
    assert record["shares"]["unknown"] == 0
    assert 0 < record["operators_ms"] < record["wall_ms"] * 1.05
    names = {kind: {entry["operator"]: entry["calls"] for entry in record["top"][kind]} for kind in record["top"]}
    convolutions = sum(isinstance(module, nn.Conv2d) for module in net.modules())
    assert 0 < names["priced"]["aten.convolution"] <= 2 * convolutions
    assert "aten.batch_norm" in names["free"]


class _Spectrum(nn.Module):
    """Does its work in an operator that has no formula."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(torch.fft.fft2(x).abs().flatten(1))
        return y


def test_an_operator_without_a_cost_has_its_calls_and_its_share() -> None:
    net = Net(_Spectrum()).eval()
    ran = execute_and_count(net, IMAGES).uncounted
    assert set(ran) == {"aten._fft_r2c"} or set(ran) == {"aten._fft_c2c"}
    record = audit_operators(net, [IMAGES] * 3, ran).as_record()
    (entry,) = record["top"]["unknown"]
    assert entry["operator"] in ran
    assert entry["calls"] == 3
    assert 0 < entry["share"] == record["shares"]["unknown"] < 1


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten.convolution", "priced"),
        ("aten.addmm", "priced"),
        ("aten.relu_", "free"),
        ("aten.index_select", "free"),
        ("aten._fft_c2c", None),
        ("aten.conv2d", None),
        ("nobody.knows", None),
        ("aten.no_such_operator", None),
        ("DataLoader", None),
    ],
)
def test_kind_of_a_name(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind


def test_a_network_that_skips_everything_is_still_audited() -> None:
    images = next(bright_or_dark([False] * 4).batches(4)).images
    record = audit_operators(gated_net(), [images], ()).as_record()
    assert [entry["operator"] for entry in record["top"]["priced"]] == ["aten.addmm"]
