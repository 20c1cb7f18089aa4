"""fixed and random: rules in the place of trained gates, what they begin with, and what they cost."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dyncomp import build, create_method
from dyncomp.core import Net, Source, Trace
from dyncomp.core.rules import Rule
from dyncomp.errors import CannotAttach, DyncompError
from dyncomp.methods._control import TRAINED, Control, rules_of, watched
from dyncomp.registry import METHODS

COUNT, BACKBONE = 400, "cifar_resnet14"
SMALL = {"classes": 6, "in_channels": 1, "image_size": 8}
ONE_BLOCK = ["skipnet", "skipnet(gate='ff1')", "convnet_aig", "laudnet"]
PARTS = ["lkam", "fbs", "dynconv"]
OTHERS = [
    "blockdrop(width=0.1)",
    "hydranet(branches=3, top=1, after=1)",
    "conditional_network(depth=2, children=2, hidden=4)",
]
GATED = [*ONE_BLOCK, *PARTS, *OTHERS]
UNGATED = ["static", "condconv", "dynamic_conv", "model_ensemble", "branch_ensemble", "snapshot_ensemble", "early_exit"]


def images() -> Tensor:
    """Images (B, C, H, W) of very different brightness, so that gates disagree about them."""
    draw = torch.Generator().manual_seed(0)
    noise, strength, level = (torch.randn(COUNT, *s, generator=draw) for s in ((1, 8, 8), (1, 1, 1), (1, 1, 1)))
    return (noise * 2 * strength + level).double()


def batches() -> list[tuple[Tensor, Tensor]]:
    labels = torch.arange(COUNT) % 6
    return list(zip(images().split(150), labels.split(150), strict=True))


@cache
def trained(of: str) -> Net:
    """The method's network with gates that decide differently from image to image."""
    net = build(of, BACKBONE, seed=1, **SMALL).double()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name not in net.origins:
                values = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
                parameter.copy_(values * (2.0 if parameter.dim() > 1 else 0.5))
    return net


def control(name: str, of: str) -> tuple[Control, Net]:
    """The control of that trained network as its training begins; a copy of its own."""
    return copy.deepcopy(_control(name, of))


@cache
def _control(name: str, of: str) -> tuple[Control, Net]:
    method = create_method(f'{name}(of="{of}")')
    assert isinstance(method, Control)
    net, sources = build(method, BACKBONE, **SMALL).double(), method.sources().items()
    given = {source: build(one.method, BACKBONE, seed=2, **SMALL).double() for source, one in sources}
    method.inherit(net, {**given, TRAINED: trained(of)}, batches)
    return method, net


@torch.no_grad()
def trace_of(net: Net) -> Trace:
    return net(images(), sparse=True).trace


def rates_of(net: Net) -> dict[str, Tensor]:
    """The share (R,) of the images that use each unit, of those that get there, by the name of its site alone."""
    trace, found = trace_of(net), {}
    for site, op in net.sites.items():
        reach = trace.reach(site)
        there = float(reach.sum()) if isinstance(reach, Tensor) else COUNT
        found[site.removeprefix("network.")] = op.wished(trace[site]).double().sum(0) / max(there, 1)
    return found


@pytest.mark.parametrize("of", GATED)
def test_seen_are_the_rates_and_the_mean_cost_of_the_trained_network(of: str) -> None:
    net = trained(of)
    seen = watched(net, batches)
    rates = list(rates_of(net).values())
    assert all(torch.allclose(a, b) for a, b in zip(seen.rates.values(), rates, strict=True))
    assert any(bool(((rate > 0.02) & (rate < 0.98)).any()) for rate in rates)  # or nothing here tests anything
    with torch.no_grad():
        assert seen.macs == pytest.approx(float(net(images()).macs().double().mean()))


@pytest.mark.parametrize("of", GATED)
def test_fixed_decides_alike_for_all_images_and_spends_what_the_method_does(of: str) -> None:
    _, net = control("fixed", of)
    routes = trace_of(net).routes()
    assert len(routes.unique(dim=0)) == 1
    inner = trained(of)
    assert inner.costs is not None
    assert net.costs is not None
    with torch.no_grad():
        wanted = min(float(inner(images()).macs().double().mean()), net.costs.full)  # gates may cost more than blocks
        spent = float(net(images()[:1]).macs())
    steps = [max(cost.units) for cost in net.costs.sites.values()]
    within = max(steps) if of not in PARTS else 0.02 * wanted
    assert abs(spent - wanted) <= within
    assert net.costs.overhead == 0


@pytest.mark.parametrize("of", GATED)
def test_fixed_keeps_what_is_used_more_often(of: str) -> None:
    """One threshold for all units of all sites: whatever is kept was used by more images than what is not."""
    _, net = control("fixed", of)
    kept = rates_of(net)
    pairs = [(rates_of(trained(of))[site], kept[site]) for site in kept]
    if not of.startswith(("hydranet", "conditional")):  # those keep a number of branches at each site
        pairs = [(torch.cat([rates for rates, _ in pairs]), torch.cat([flags for _, flags in pairs]))]
    for rates, flags in pairs:
        used, unused = rates[flags == 1], rates[flags == 0]
        assert not (len(used) and len(unused)) or float(used.min()) >= float(unused.max())


def test_fixed_keeps_the_most_frequent_decision_where_that_costs_the_same() -> None:
    net = trained("lkam(target=0.5)")
    method = create_method('fixed(of="lkam(target=0.5)")')
    assert isinstance(method, Control)
    made = build(method, BACKBONE, **SMALL).double()
    rules = rules_of(made)
    seen = watched(net, batches)
    for site, rule in rules.items():
        rule.rates.copy_(seen.rates[site])
    cost = float(made(images()[:1]).macs())  # of each unit's most frequent decision
    method.settle(made, type(seen)(seen.rates, seen.weights, cost * 1.004))
    assert all(torch.allclose(rule.rates, seen.rates[site]) for site, rule in rules.items())
    method.settle(made, type(seen)(seen.rates, seen.weights, cost * 0.9))
    assert float(made(images()[:1]).macs()) == pytest.approx(cost * 0.9, rel=0.02)


@pytest.mark.parametrize("of", [*ONE_BLOCK, *PARTS, OTHERS[0]])
def test_random_uses_every_unit_at_its_rate_whatever_the_image_shows(of: str) -> None:
    _, net = control("random", of)
    wanted, found = rates_of(trained(of)), rates_of(net)
    assert found.keys() == wanted.keys()
    for site, rates in wanted.items():
        spread = (rates * (1 - rates) / COUNT).sqrt()
        assert bool(((found[site] - rates).abs() <= 4.5 * spread + 1e-9).all()), site
    assert len(trace_of(net).routes().unique(dim=0)) > 1


@pytest.mark.parametrize("of", GATED)
@torch.no_grad()
def test_random_answers_alike_in_both_forms_and_alone(of: str) -> None:
    _, net = control("random", of)
    some = images()[:24]
    dense, sparse = (net(some, sparse=form) for form in (False, True))
    torch.testing.assert_close(dense.logits, sparse.logits, rtol=1e-9, atol=1e-9)
    alone = torch.cat([net(some[row : row + 1]).logits for row in range(24)])
    torch.testing.assert_close(alone, sparse.logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["fixed", "random"])
@pytest.mark.parametrize("of", GATED)
def test_weights_carry_over_and_gates_are_gone(of: str, name: str) -> None:
    method, net = control(name, of)
    theirs = {key.removeprefix("model."): value for key, value in trained(of).state_dict().items()}
    ours = {key.removeprefix("model.").removeprefix("network."): value for key, value in net.state_dict().items()}
    rules = {key for key in ours if key.endswith(("rule.rates", "rule.weights", "policy.rates"))}
    assert rules
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items() if key not in rules and key in theirs)
    own = {key for key in ours if key not in theirs}
    assert all(".rates" in key or ".weights" in key for key in own)
    assert len(theirs) > len(ours) - len(own)
    assert all(isinstance(rule, method.rule) for rule in net.modules() if isinstance(rule, Rule))
    assert len(rules_of(net)) == len([op for op in net.sites.values() if op.is_gate])


@pytest.mark.parametrize("of", ["fbs", "hydranet(branches=3, top=2, after=1)"])
def test_weights_of_units_begin_as_their_means_and_are_learnt(of: str) -> None:
    _, net = control("fixed", of)
    trace, parameters = trace_of(trained(of)), {id(p) for p in net.parameters()}
    for (site, rule), decision in zip(rules_of(net).items(), trace.values(), strict=True):
        assert rule.weights is not None, site
        assert id(rule.weights) in parameters
        used = decision.used.sum(0)
        mean = (decision.used * decision.weight).sum(0) / used.clamp_min(1)
        torch.testing.assert_close(rule.weights.detach()[used > 0], mean[used > 0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["fixed", "random"])
@pytest.mark.parametrize("of", GATED)
def test_it_is_trained_on_through_the_longest_stage_at_the_methods_expense(of: str, name: str) -> None:
    method, inner = create_method(f'{name}(of="{of}")'), create_method(of)
    longest = max(inner.stages(), key=lambda stage: stage.share)
    (stage,) = method.stages()
    share = {"fixed": 0.2, "random": 0.5}[name]
    assert (stage.share, stage.learning_rate, stage.adam) == (
        1.0,
        0.3,  # of the recipe's rate, also where the method fine-tunes at a lower one
        longest.adam and 0.3 * longest.adam,
    )
    sources = dict(method.sources())
    left = 1 - sum(one.counted for one in inner.sources().values())
    assert sources.pop(TRAINED) == Source(of, share=1.0, counted=pytest.approx(1 - min(share, left * longest.share)))
    assert {key: one.share for key, one in sources.items()} == {k: o.share for k, o in inner.sources().items()}
    assert method.control_of == str(inner)


@pytest.mark.parametrize("of", ["skipnet(target=0.3)", "lkam", "dynconv"])
def test_the_loss_is_without_what_is_about_gates(of: str) -> None:
    method, net = control("fixed", of)
    output, labels = net.train()(images()[:6]), torch.arange(6)
    (stage,) = method.stages()
    wanted = F.cross_entropy(output.logits.float(), labels)
    torch.testing.assert_close(stage.loss(output, labels, 1.0), wanted)


@pytest.mark.parametrize("name", ["fixed", "random"])
@pytest.mark.parametrize("of", UNGATED)
def test_a_method_without_gates_is_refused_in_one_line(of: str, name: str) -> None:
    with pytest.raises(CannotAttach, match=f"^{name}: {of} has no gates that a control could replace; give") as caught:
        build(f'{name}(of="{of}")', "cifar_resnet8", **SMALL)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["fixed", "random"])
@pytest.mark.parametrize(
    ("of", "said"),
    [
        ("fixed", "of='fixed' is a control itself; give the method that has gates"),
        ("random(of='skipnet')", "is a control itself; give the method that has gates"),
        ("skipnot", "of: unknown method 'skipnot'"),
        ("skipnet(targt=0.5)", "of: .*targt"),
        ("skipnet, lkam", "of: .* 2 specs"),
    ],
)
def test_what_is_wrong_inside_is_said_in_one_line(of: str, said: str, name: str) -> None:
    with pytest.raises(DyncompError, match=f"^{name}: .*{said}") as caught:
        create_method(f'{name}(of="{of}")')
    assert "\n" not in str(caught.value)


def test_methods_are_no_controls() -> None:
    controls = {name: create_method(name).control_of for name in METHODS.names()}
    assert {name for name, of in controls.items() if of} == {"fixed", "random", "ladder"}
    assert controls["fixed"] == controls["random"] == "skipnet(target=0.5)"
