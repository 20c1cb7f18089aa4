"""Rules in the place of gates: constant decisions, coins of the right rate, and the same answer in every form."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from dyncomp import build
from dyncomp.core import Net, Op
from dyncomp.core.decisions import all_on
from dyncomp.core.rules import Coin, Constant, Rule, Seeds
from dyncomp.errors import CannotAttach
from dyncomp.ops import Gated
from tests.small import conv, gated, images, mixed, network

MANY = 4000
NO_GATES = ["condconv", "model_ensemble(cascade=True)", "frame_gate"]


def ruled(rule: type[Rule], rates: Sequence[float], nested: bool = False) -> Net:
    """Gates by a rule, one behind another, or the second inside the body of the first."""

    def gates() -> list[nn.Module]:
        blocks = [gated(conv(1)) for _ in rates]
        if nested:
            blocks = [gated(nn.Sequential(conv(1), blocks[1])), *blocks[2:]]
        for op in nn.Sequential(*blocks).modules():
            if isinstance(op, Gated):
                op.follow(rule)
        return [Seeds(), *blocks]

    net = network(gates)
    for one, rate in zip(rules(net), rates, strict=True):
        one.rates.fill_(rate)
    return net


def rules(net: Net) -> list[Rule]:
    return [module for module in net.modules() if isinstance(module, Rule)]


def used(net: Net, x: Tensor, **how: bool) -> Tensor:
    """(B, sites)"""
    with torch.no_grad():
        return torch.cat([decision.used for decision in net(x, **how).trace.values()], dim=1)


@pytest.mark.parametrize("sparse", [True, False])
def test_a_constant_decides_by_half_and_alike_for_all(sparse: bool) -> None:
    net = ruled(Constant, [0.0, 0.49, 0.5, 0.51, 1.0])
    assert used(net, images(6), sparse=sparse).tolist() == [[0, 0, 0, 1, 1]] * 6
    assert used(net.train(), images(6)).tolist() == [[0, 0, 0, 1, 1]] * 6


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_coin_is_used_by_its_rate_of_the_images(seed: int, training: bool) -> None:
    rates = torch.tensor([0.05, 0.3, 0.5, 0.8, 0.95], dtype=torch.float64)
    net = ruled(Coin, rates.tolist()).train(training)
    torch.manual_seed(seed)
    seen = used(net, images(MANY, seed))
    deviations = (seen.mean(0) - rates) / (rates * (1 - rates) / MANY).sqrt()
    assert float(deviations.abs().max()) < 4
    together = torch.corrcoef(seen.T) - torch.eye(5)
    assert float(together.abs().max()) < 4 / MANY**0.5  # drawn independently of each other


@pytest.mark.parametrize("training", [True, False])
def test_a_coin_of_0_or_1_never_falls_otherwise(training: bool) -> None:
    net = ruled(Coin, [0.0, 1.0]).train(training)
    assert used(net, images(500)).tolist() == [[0, 1]] * 500


@pytest.mark.parametrize("units", [1, 7])
@pytest.mark.parametrize("training", [True, False])
def test_scores_are_above_a_half_where_the_unit_is_used(units: int, training: bool) -> None:
    torch.manual_seed(0)
    for rule in (Coin(units).train(training), Constant(units).train(training)):
        rule.rates.copy_(torch.rand(units))
        torch.manual_seed(1)
        scores = rule.scores(torch.randn(50, 3))
        torch.manual_seed(1)
        assert torch.equal(rule(torch.randn(50, 3)), (scores > 0.5).float())
        assert scores.shape == (50, units)
        assert 0 <= float(scores.min()) <= float(scores.max()) <= 1


@pytest.mark.parametrize("nested", [False, True])
@torch.no_grad()
def test_coins_fall_alike_in_both_forms_in_any_batch_and_at_every_call(nested: bool) -> None:
    net, x = ruled(Coin, [0.6, 0.5, 0.4], nested), images(40)
    whole = net(x, sparse=True)
    routes = whole.trace.routes()
    assert len(routes.unique(dim=0)) > 3
    torch.manual_seed(5)
    for other in (net(x, sparse=True), net(x, sparse=False)):
        assert torch.equal(other.trace.routes(), routes)
        torch.testing.assert_close(other.logits, whole.logits, rtol=0, atol=1e-11)
    order = torch.randperm(40)
    assert torch.equal(net(x[order], sparse=True).trace.routes(), routes[order])
    for row in range(40):
        alone = net(x[row : row + 1], sparse=True)
        assert torch.equal(alone.trace.routes()[0], routes[row])
        torch.testing.assert_close(alone.logits[0], whole.logits[row], rtol=0, atol=1e-11)


def test_in_training_each_pass_draws_anew_and_in_use_the_callers_random_state_stays() -> None:
    net, x = ruled(Coin, [0.5] * 3), images(20)
    torch.manual_seed(0)
    first, second = (used(net.train(), x) for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(used(net, x), first)
    before = torch.get_rng_state()
    used(net.eval(), x)
    assert torch.equal(torch.get_rng_state(), before)


def test_images_and_sites_have_draws_of_their_own() -> None:
    net = ruled(Coin, [0.5] * 8)
    x = images(200)
    x[1::2] = x[::2]
    x[1::2, 0, 2, 2] += 0.01  # one pixel differs
    seen = used(net, x)
    assert len(seen.unique(dim=0)) > 80
    assert not torch.equal(seen[::2], seen[1::2])
    assert torch.equal(used(net, x), seen)


def test_what_is_forced_goes_before_a_rule() -> None:
    net = ruled(Coin, [0.5] * 3)
    trace = net(images(7), decisions=all_on(net, 7)).trace
    assert trace.routes().tolist() == [[1, 1, 1]] * 7


def test_rates_are_kept_with_the_weights_and_are_not_learnt() -> None:
    net = ruled(Constant, [0.2, 0.9])
    assert [value.tolist() for name, value in net.state_dict().items() if name.endswith("rule.rates")] == [[0.2], [0.9]]
    assert not [name for name, _ in net.named_parameters() if "rates" in name]
    weighted = Constant(3, weighted=True)
    assert [(name, value.tolist()) for name, value in weighted.named_parameters()] == [("weights", [1.0] * 3)]


def test_the_gate_is_thrown_away_and_costs_nothing() -> None:
    before = network(lambda: [gated(conv(1))])
    after = ruled(Constant, [1.0])
    assert before.costs is not None
    assert after.costs is not None
    assert after.costs.overhead == 0 < before.costs.overhead
    assert sum(p.numel() for p in after.parameters()) < sum(p.numel() for p in before.parameters())


@pytest.mark.parametrize("method", NO_GATES)
def test_ops_without_gates_say_so_in_one_line(method: str) -> None:
    net = build(method, "cifar_resnet8", classes=3, image_size=8)
    assert net.sites
    for op in net.sites.values():
        assert not op.is_gate
        with pytest.raises(CannotAttach, match="has no gate that a rule could take the place of; give") as caught:
            op.follow(Constant)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "method", ["skipnet", "blockdrop", "fbs", "lkam", "dynconv", "hydranet", "conditional_network(depth=1)"]
)
def test_ops_with_gates_follow_a_rule_about_what_they_wish(method: str) -> None:
    net = build(method, "cifar_resnet8", classes=6, image_size=8)
    output = net(torch.randn(4, 3, 8, 8), sparse=False)
    for site, op in net.sites.items():
        assert op.is_gate
        rule = op.follow(Constant)
        assert op.wished(output.trace[site]).shape == (4, rule.units)
        assert any(module is rule for module in op.modules())


def test_a_mixture_is_no_gate() -> None:
    assert [op.is_gate for op in mixed(conv()).modules() if isinstance(op, Op)] == [False]
