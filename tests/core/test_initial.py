"""What a training begins with: the sources of methods, and the plain backbone's weights taken over."""

from __future__ import annotations

import pytest
import torch

from dyncomp import build, create_method
from dyncomp.core import Method, Net, Source, adopt, pretrained
from dyncomp.core.decisions import all_on
from dyncomp.core.initial import PLAIN
from dyncomp.errors import InvalidValue
from dyncomp.ops import Voter
from dyncomp.registry import METHODS

BEGUN = [entry.name for entry in METHODS.entries() if hasattr(create_method(entry.name), "pretraining")]


def network(method: str | Method, backbone: str = "cifar_resnet8", seed: int = 0) -> Net:
    return build(method, backbone, classes=3, in_channels=1, image_size=8, seed=seed).double()


def trained(backbone: str = "cifar_resnet8") -> Net:
    """A plain backbone whose weights, scales and statistics are all its own."""
    plain = network("static", backbone, seed=5)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in plain.state_dict().values():
            if value.is_floating_point() and value.dim() == 1:
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return plain


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("method", ["static", "skipnet", "blockdrop", "dynconv", "early_exit", "lkam"])
@torch.no_grad()
def test_with_everything_on_it_answers_as_the_plain_backbone(method: str) -> None:
    net, plain = network(method), trained()
    adopt(net, plain)
    answer = net(images(), decisions=all_on(net, 4)).logits
    torch.testing.assert_close(answer, plain(images()).logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "method", ["model_ensemble", 'model_ensemble(combine="majority", cascade=True)', "branch_ensemble"]
)
@torch.no_grad()
def test_of_an_ensemble_the_first_member_begins_so_and_the_others_differ(method: str) -> None:
    net, plain = network(method), trained()
    adopt(net, plain)
    members = [module for module in net.modules() if isinstance(module, Voter)]
    trunk = net.model.trunk if method == "branch_ensemble" else torch.nn.Identity()
    first, second, third = (voter.member(trunk(images())) for voter in members)
    torch.testing.assert_close(first, plain(images()).logits)
    assert min(float((a - b).abs().max()) for a, b in ((first, second), (second, third), (third, first))) > 1e-3


@pytest.mark.parametrize("method", ["skipnet", "fbs", "hydranet", "conditional_network(implicit=1)"])
def test_only_what_came_from_the_backbone_is_copied(method: str) -> None:
    net, fresh, plain = network(method), network(method), trained()
    adopt(net, plain)
    theirs = {origin: plain.state_dict()[name] for name, origin in plain.origins.items()}
    before = fresh.state_dict()
    assert 0 < len(net.origins) < len(before)
    for name, value in net.state_dict().items():
        origin = net.origins.get(name)
        assert torch.equal(value, before[name] if origin is None else theirs[origin]), name


def test_the_plain_backbone_stays_as_it_is_and_shares_nothing() -> None:
    net, plain, same = network("skipnet"), trained(), trained().state_dict()
    adopt(net, plain)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert all(torch.equal(value, same[name]) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("other", ["cifar_resnet14(width=0.5)", "mobilenet_v1(width=0.25)"])
def test_another_backbone_is_refused_in_one_line_and_nothing_is_copied(other: str) -> None:
    net, before = network("skipnet"), network("skipnet").state_dict()
    with pytest.raises(InvalidValue, match=r"has no .* of shape .*static on the same backbone and data set$") as caught:
        adopt(net, network("static", other))
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_methods_that_begin_from_the_plain_backbone() -> None:
    assert {"skipnet", "blockdrop", "convnet_aig", "dynconv", "early_exit"} <= set(BEGUN)
    assert {"fbs", "hydranet", "laudnet", "lkam"} <= set(BEGUN)
    assert not {"static", "condconv", "model_ensemble"} & set(BEGUN)


@pytest.mark.parametrize("name", BEGUN)
def test_its_share_of_the_budget_trains_and_is_counted(name: str) -> None:
    method = create_method(f"{name}(pretraining=0.25)")
    assert method.sources() == {PLAIN: Source("static", share=0.25, counted=0.25)}
    net, plain = network(method), trained()
    batches = [(images(6), torch.arange(6) % 3)]
    method.inherit(net, {PLAIN: plain}, lambda: batches)
    wanted = network(method)
    adopt(wanted, plain)
    copied = {key: value for key, value in wanted.state_dict().items() if key in net.origins}
    assert all(torch.equal(net.state_dict()[key], value) for key, value in copied.items())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5])
def test_no_share_is_no_source(share: float) -> None:
    wanted = {PLAIN: Source("static", share=share, counted=share)} if share else {}
    assert pretrained(share) == wanted
    assert create_method(f"skipnet(pretraining={share})").sources() == wanted


@pytest.mark.parametrize("name", ["static", "condconv", "skipnet"])
def test_without_sources_nothing_is_taken(name: str) -> None:
    net, before = network(name), network(name).state_dict()
    create_method(name).inherit(net, {}, list)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", METHODS.names())
def test_sources_are_methods_and_spend_no_more_than_there_is(name: str) -> None:
    sources = create_method(name).sources()
    assert 0 <= sum(one.counted for one in sources.values()) < 1
    for source in sources.values():
        assert 0 < source.share <= 1
        assert isinstance(create_method(source.method), Method)
