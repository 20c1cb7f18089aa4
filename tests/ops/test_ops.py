"""Every op on a small network: both forms alike, priced as executed, whatever is decided."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dyncomp.core import Backbone, Decision, Net, ResidualBlock, count_executed_macs, measure_costs, price
from dyncomp.core.decisions import all_on, least, random
from dyncomp.ops import Certainty, Exit, Gated, Masked, Planned, Routed, Switch, Voter, with_switches
from tests.small import CLASSES, SIDE, C, LinearGate, conv, gated, images, mixed, network, residual


class Scores(nn.Module):
    """Pooled features -> U scores."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.linear = nn.Linear(C, units, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.linear(x.mean(dim=(2, 3))).mul(30)
        return scores


class Halves(Switch):
    """Each unit on for about half of the images; the strongest always."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.units = units
        self.linear = nn.Linear(inputs, units)

    def forward(self, pooled: Tensor) -> Decision:
        scores = self.linear(pooled)
        used = (scores > scores.mean(dim=1, keepdim=True)).to(scores)
        return self.forced(used, scores.sigmoid())

    def least(self) -> Tensor:
        return torch.eye(self.units)[0]

    def forced(self, used: Tensor, weight: Tensor) -> Decision:
        strongest = torch.zeros_like(used).scatter(1, weight.argmax(1, keepdim=True), 1.0)
        used = torch.where(used.sum(1, keepdim=True) > 0, used, strongest)
        return Decision(used, used * weight, weight)


def head() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(C, CLASSES))


def block() -> nn.Module:
    return nn.Sequential(conv(), nn.BatchNorm2d(C), nn.ReLU())


def planned() -> list[nn.Module]:
    chain = nn.Sequential(residual(block()), conv(), residual(block()))
    return [Planned(Backbone(nn.Sequential(chain, head()), ["0.0", "0.2"], "1.2", "chain"), ["0.0", "0.2"], Policy())]


def masked(stride: int) -> list[nn.Module]:
    body = nn.Sequential(
        nn.Conv2d(C, C, 1, bias=False),
        nn.Conv2d(C, C, 3, stride, 1, groups=C),
        nn.ReLU(),
        nn.Conv2d(C, C, 3, 1, 1, bias=False),
        nn.BatchNorm2d(C),
    )
    shortcut = nn.Conv2d(C, C, 1, stride)
    masker = nn.Sequential(nn.Conv2d(C, 1, 3, stride, 1), nn.Sigmoid())
    return [Masked(ResidualBlock(body, shortcut, nn.ReLU()), masker, (SIDE, SIDE)), head()]


class Policy(nn.Module):
    """Pooled images -> the probability of each of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = Scores(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x).sigmoid()


def filtered(groups: int, depthwise: bool = False) -> list[nn.Module]:
    def switch(producer: nn.Conv2d) -> Switch:
        return Halves(producer.in_channels, producer.out_channels // groups)

    between = [nn.Conv2d(C, C, 3, 2, 1, groups=C)] if depthwise else []
    layers = [conv(), nn.BatchNorm2d(C), nn.ReLU(), *between, conv(1), nn.ReLU(), conv(), nn.BatchNorm2d(C)]
    return [conv(), nn.ReLU(), *with_switches([nn.ReLU(), *layers], switch), head()]


def routed(most: int, branch: Callable[[], nn.Module] = block) -> list[nn.Module]:
    return [Routed([branch() for _ in range(3)], Scores(3), most, soft=True), head()]


def exits(threshold: float = 0.3) -> list[nn.Module]:
    inner = Exit(head(), nn.Sequential(block(), head()), Certainty("entropy"), -1.36)
    return [Exit(head(), nn.Sequential(block(), inner), Certainty("confidence"), threshold)]


def cascade() -> list[nn.Module]:
    def member(number: int) -> Voter:
        return Voter(nn.Sequential(block(), head()), number, "average")

    rest = Exit(member(2), member(3), Certainty("confidence"), 0.32, head_is_gate=False)
    return [Exit(member(1), rest, Certainty("confidence"), 0.35, head_is_gate=False)]


def mixed_exit() -> list[nn.Module]:
    rest = nn.Sequential(gated(nn.Sequential(*filtered(1)[:-1])), mixed(conv()), *routed(1))
    return [Exit(head(), rest, Certainty("confidence"), 0.3)]


OPS: dict[str, Callable[[], list[nn.Module]]] = {
    "gated residual": lambda: [Gated(residual(block()), LinearGate(), form="residual"), head()],
    "planned": planned,
    "filtered": lambda: filtered(1),
    "filtered in groups": lambda: filtered(2),
    "filtered depthwise": lambda: filtered(1, depthwise=True),
    "masked": lambda: masked(1),
    "masked with a stride": lambda: masked(2),
    "routed to one": lambda: routed(1),
    "routed to two": lambda: routed(2),
    "routed in a tree": lambda: routed(1, lambda: nn.Sequential(conv(), routed(1)[0])),
    "exits": exits,
    "cascade": cascade,
    "all of them nested": mixed_exit,
}


@pytest.fixture(params=OPS, scope="module")
def net(request: pytest.FixtureRequest) -> Net:
    torch.manual_seed(0)
    net = Net(nn.Sequential(*OPS[request.param]())).double().eval()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2.0)
    net.costs = measure_costs(net, images(1))
    return net


@pytest.fixture(params=["own", "all on", "least", *[f"random {seed}" for seed in range(4)]])
def decisions(request: pytest.FixtureRequest, net: Net) -> dict[str, Decision] | None:
    count = len(images())
    if request.param.startswith("random"):
        return random(net, count, torch.Generator().manual_seed(int(request.param[-1])))
    return {"own": None, "all on": all_on(net, count), "least": least(net, count)}[request.param]


@torch.no_grad()
def test_forms_are_equal_and_priced_as_executed(net: Net, decisions: dict[str, Decision] | None) -> None:
    dense, sparse = net(images(), sparse=False, decisions=decisions), net(images(), sparse=True, decisions=decisions)
    torch.testing.assert_close(sparse.logits, dense.logits, rtol=0, atol=1e-11)
    assert net.costs is not None
    assert int(price(net.costs, sparse.trace).sum()) == count_executed_macs(net, images(), decisions)
    assert torch.equal(price(net.costs, sparse.trace), price(net.costs, dense.trace))


def row(decision: Decision, i: int) -> Decision:
    return decision.map(lambda value: value[i : i + 1])


@torch.no_grad()
def test_images_alone_cost_what_they_cost_together(net: Net, decisions: dict[str, Decision] | None) -> None:
    together = net(images(), decisions=decisions)
    for i in range(len(images())):
        own = None if decisions is None else {site: row(decision, i) for site, decision in decisions.items()}
        alone = net(images()[i : i + 1], decisions=own)
        torch.testing.assert_close(alone.logits[0], together.logits[i], rtol=0, atol=1e-11)
        assert int(alone.macs()) == int(together.macs()[i]) == count_executed_macs(net, images()[i : i + 1], own)


def test_a_switched_pair_of_convolutions_costs_its_formula() -> None:
    net = network(lambda: filtered(1)[:-1])
    first, second = net.sites.values()
    given = random(net, 7, torch.Generator().manual_seed(3))
    used = [given[site].used.sum(1) for site in net.sites]  # filters per image
    pixels = SIDE * SIDE
    always = pixels * C * C * 9 + C * CLASSES + (C * C) * 2  # the first convolution, the classifier, two switches
    expected = always + pixels * (C * used[0] * 9 + used[0] * used[1] + used[1] * C * 9)
    assert second.reads is first
    assert torch.equal(net(images(), decisions=given).macs(), expected)


def test_cascade_averages_the_members_asked() -> None:
    torch.manual_seed(0)
    net = Net(nn.Sequential(*cascade())).double().eval()
    voters = [module.member for module in net.modules() if isinstance(module, Voter)]
    chances = [member(images()).softmax(1) for member in voters]
    for asked in (1, 2, 3):
        stays = torch.ones(7, 1, dtype=torch.float64)
        given = {site: Decision(*[stays * (asked > k + 1)] * 3) for k, site in enumerate(net.sites)}
        mean = sum(chances[:asked]) / asked
        torch.testing.assert_close(net(images(), decisions=given).logits.softmax(1), mean, rtol=0, atol=1e-12)


def test_routed_weighs_all_branches_in_soft_training_and_the_best_in_use() -> None:
    torch.manual_seed(0)
    net = Net(nn.Sequential(*routed(2))).double()
    (site,) = net.sites
    soft = net.train()(images()).trace[site]
    torch.testing.assert_close(soft.weight.sum(1), torch.ones(7, dtype=torch.float64))
    assert bool((soft.weight > 0).all())
    hard = net.eval()(images()).trace[site]
    assert bool((hard.used.sum(1) == 2).all())
    assert bool(((hard.weight > 0) == (hard.used > 0)).all())
    torch.testing.assert_close(hard.weight.sum(1), torch.ones(7, dtype=torch.float64))
