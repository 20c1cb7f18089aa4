"""Other counters' figures: against formulas, by which operators they differ, and that their failures are theirs."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from dyncomp import build, count_executed_macs
from dyncomp.core import Net
from dyncomp.profile import opinions, second_opinions
from dyncomp.profile.opinions import differences
from tests.handmade import ALWAYS_MACS, BODY_MACS, gated_net, is_bright

IMAGE = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def net_of(spec: str, backbone: str = "cifar_resnet8") -> Net:
    return build(spec, backbone, classes=4, in_channels=1, image_size=8).eval()


@pytest.mark.parametrize(("grey", "ran"), [(0.9, True), (0.1, False)])
def test_all_three_follow_the_images_route(grey: float, ran: bool) -> None:
    told = second_opinions(gated_net(is_bright), torch.full((1, 2, 4, 4), grey))
    macs = ALWAYS_MACS + ran * BODY_MACS
    assert (told["macs"], told["flops"]) == (macs, 2 * macs)
    assert told["torch"]["macs"] == told["fvcore"]["macs"] == macs
    assert told["fvcore"]["by_operator"] == ({"conv": BODY_MACS} if ran else {}) | {"linear": ALWAYS_MACS}


@pytest.mark.parametrize("spec", ["static", "skipnet", "condconv", "dynconv", "early_exit"])
def test_torch_agrees_and_fvcore_differs_by_what_we_call_free(spec: str) -> None:
    net = net_of(spec)
    told = second_opinions(net, IMAGE)
    assert told["macs"] == count_executed_macs(net, IMAGE) == told["torch"]["macs"]
    assert told["torch"]["differences"] == {}
    fvcore = told["fvcore"]
    counted = fvcore["by_operator"]
    assert counted["batch_norm"] > 0
    assert sum(counted.values()) == fvcore["macs"]
    assert fvcore["flops"] == 2 * fvcore["macs"]
    apart = fvcore["differences"]
    if apart:
        assert sum(apart.values()) == fvcore["macs"] - told["macs"]


def test_fvcore_loses_a_policy_that_only_decides() -> None:
    """BlockDrop's policy is a network of its own whose answer reaches the output through control flow alone."""
    net = net_of("blockdrop")
    assert net.costs is not None
    told = second_opinions(net, IMAGE)
    lost = told["fvcore"]["differences"]
    assert -lost["convolutions"] - lost["matrix products"] == net.costs.overhead
    assert told["torch"]["macs"] == told["macs"]


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        ({"conv": 1000, "linear": 100}, {}),
        ({"conv": 1000, "linear": 100, "batch_norm": 11}, {}),  # 1 %
        ({"conv": 1000, "linear": 100, "batch_norm": 12}, {"batch_norm": 12}),
        ({"conv": 500, "matmul": 60, "bmm": 40, "pool": 1}, {"convolutions": -500, "pool": 1}),
    ],
)
def test_differences_by_hand(theirs: dict[str, int], expected: dict[str, int]) -> None:
    ours = {"aten.convolution": 1000, "aten.addmm": 70, "aten.mm": 30}
    assert differences(ours, theirs) == expected


class _Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            raise RuntimeError("not\nthrough here")
        y: Tensor = self.linear(x.flatten(1))
        return y


def test_a_counter_that_fails_is_one_line_and_the_other_stands() -> None:
    told = second_opinions(Net(_Untraceable()).eval(), IMAGE)
    assert told["fvcore"] == {"error": "could not count: RuntimeError: not through here"}
    assert told["torch"]["macs"] == told["macs"] == 128


def test_the_network_is_as_before_and_nothing_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    net = net_of("skipnet").train()
    hooks = [len(module._forward_hooks) for module in net.modules()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second_opinions(net, IMAGE)
    assert all(module.training for module in net.modules())
    assert [len(module._forward_hooks) for module in net.modules()] == hooks
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_without_fvcore_its_place_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(net: Net, image: Tensor) -> dict[str, object]:
        raise ModuleNotFoundError("No module named 'fvcore'")

    monkeypatch.setattr(opinions, "by_fvcore", missing)
    assert second_opinions(net_of("static"), IMAGE)["fvcore"] == {
        "error": "could not count: ModuleNotFoundError: No module named 'fvcore'"
    }
