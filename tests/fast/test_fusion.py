"""Runs of blocks in one go: the same as the blocks one by one, whoever asks, and as long as nobody asks for more."""

from __future__ import annotations

import copy
import io
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrize

from dyncomp import build
from dyncomp.core import Decision, Net, ResidualBlock, Trace, measure_costs
from dyncomp.core.counter import MacCounter
from dyncomp.core.decisions import random
from dyncomp.fast import codegen, deployed, disabled
from dyncomp.fast.fusion import Run, blocks
from dyncomp.fast.fusion.part import Filling
from dyncomp.fast.fusion.step_table import Table
from dyncomp.fast.layers.compaction import Compaction
from dyncomp.fast.layers.convolution import FusedSequential
from dyncomp.fast.layers.switched_filters import SwitchedFilters
from dyncomp.fast.tuning import by_last_ways, in_turn
from dyncomp.ops import Filtered, Gated, Mixed, Switch, SwitchDescription
from dyncomp.ops.experts import ExpertConv2d
from dyncomp.ops.gates import FeedForwardGate, Gate, GateDescription, Router, on_pooled
from dyncomp.ops.gumbel_gate import GumbelGate
from dyncomp.ops.planned import Follower
from dyncomp.ops.shrink import Shrink

pytestmark = pytest.mark.skipif(codegen.this_machine() is None, reason="no machine code for this machine")

SPECS = {
    "static": ("static", "cifar_resnet14(width=0.5)"),
    "zeros in the shortcut": ("static", "cifar_resnet14(width=0.5, shortcut='pad')"),
    "bottlenecks": ("convnet_aig", "resnet50"),
    "form residual": ("convnet_aig", "cifar_resnet14(width=0.5)"),
    "form output, recurrent": ("skipnet", "cifar_resnet14(width=0.5)"),
    "mixed": ("condconv(begin=1, experts=3)", "cifar_resnet14(width=0.5)"),
    "half mixed, by softmax": ("condconv(routing='softmax', temperature=2.0)", "cifar_resnet14(width=0.5)"),
    "planned": ("blockdrop(width=0.5)", "cifar_resnet14(width=0.5)"),
    "layers": ("static", "vgg11(width=0.25)"),
    "filters in blocks": ("lkam", "cifar_resnet14(width=0.5)"),
    "groups of filters": ("lkam(groups=4)", "cifar_resnet8"),
    "filters, layer by layer": ("lkam", "vgg11(width=0.25)"),
    "weighted filters": ("fbs", "cifar_resnet8"),
    "weighted filters, layer by layer": ("fbs(density=0.3)", "vgg11(width=0.25)"),
    "layers that mix": ("dynamic_conv", "cifar_resnet14(width=0.5)"),
    "exits": ("early_exit", "cifar_resnet14(width=0.5)"),
}


def features(images: int, seed: int = 0, side: int = 17) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(images, 3, side, side, generator=draw, dtype=torch.float64)
    return x.contiguous(memory_format=torch.channels_last)


def made(name: str) -> Net:
    """Ready for use; its gates, were they trained, might decide so."""
    spec, backbone = SPECS[name]
    net = build(spec, backbone, classes=5, in_channels=3, image_size=17, seed=0).double().eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(module.num_features, generator=draw, dtype=torch.float64) * 0.1)
            last = getattr(module, "head", None)
            if isinstance(module, Switch):
                module.linear.weight.normal_(std=3.0, generator=draw)
                module.linear.bias.zero_()
            if isinstance(last, (nn.Conv2d, nn.Linear)) and not isinstance(module, FeedForwardGate):
                last.weight.normal_(std=3.0, generator=draw)
                last.bias.zero_()
    return deployed(net)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each run that was asked in this test, whether it ran in one go."""
    seen, call = list[bool](), Run.__call__

    def noted(run: Run, x: Tensor) -> Tensor | None:
        y = call(run, x)
        seen.append(y is not None)
        return y

    monkeypatch.setattr(Run, "__call__", noted)
    return seen


def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code of our own wherever there is some, whatever a trial says."""
    for module in ("layers.residual_body", "layers.convolution"):
        monkeypatch.setattr(f"dyncomp.fast.{module}.code_pays", lambda key, trial: True)
    monkeypatch.setattr("dyncomp.fast.mixing.chooser.chosen", lambda key, able, trial: list(able().values())[-1])


def one_by_one(net: Net, x: Tensor) -> Tensor:
    with disabled():
        logits: Tensor = net(x, sparse=True, record=False).logits
    return logits


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, torch.inference_mode) for name in SPECS]
    + [(name, torch.no_grad) for name in SPECS if name != "bottlenecks"],
)
def test_a_run_is_its_blocks_one_by_one(
    name: str, mode: Callable[[], torch.no_grad], ran: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    always(monkeypatch)
    net = made(name)
    blocks = [module for module in net.modules() if type(module) is FusedSequential]
    assert blocks
    for images in (1, 6, 6, 1, 3):
        x = features(images, seed=images)
        before = x.clone()
        with mode():
            wanted = one_by_one(net, x)
            ran.clear()
            ours = net(x, sparse=True, record=False).logits
        torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-10)
        assert any(ran)
        assert torch.equal(x, before)


@pytest.mark.parametrize("name", ["form residual", "form output, recurrent", "planned", "filters in blocks"])
@torch.inference_mode()
def test_images_decide_both_ways_and_each_for_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch)
    with torch.inference_mode(False):
        net = made(name)
    x = features(6)
    used = torch.cat([decision.used for decision in net(x).trace.values()], dim=1)
    assert 0 < float(used.mean()) < 1
    together = net(x, sparse=True, record=False).logits
    alone = torch.cat([net(x[i : i + 1], sparse=True, record=False).logits for i in range(len(x))])
    torch.testing.assert_close(alone, together, rtol=1e-10, atol=1e-10)


@torch.inference_mode()
def test_whoever_asks_for_more_gets_the_blocks_one_by_one(ran: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch)
    with torch.inference_mode(False):
        net = made("form residual")
    x = features(2)
    net(x, sparse=True)  # with a record of what was decided
    with disabled():
        net(x, sparse=True, record=False)
    assert not any(ran)
    heard = list[nn.Module]()
    block = next(module for module in net.modules() if type(module) is FusedSequential)[0]
    handle = block.register_forward_hook(lambda module, inputs, output: heard.append(module))
    net(x, sparse=True, record=False)
    assert heard == [block]
    handle.remove()
    ran.clear()
    net(x, sparse=True, record=False)
    assert any(ran)


@torch.inference_mode()
def test_a_run_follows_parameters_and_can_be_copied(ran: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch)
    with torch.inference_mode(False):
        net = made("form output, recurrent")
    x = features(3)
    before = net(x, sparse=True, record=False).logits
    twin = copy.deepcopy(net)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    with torch.inference_mode(False), torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(0.9)
    ran.clear()
    changed = net(x, sparse=True, record=False).logits
    torch.testing.assert_close(changed, one_by_one(net, x), rtol=1e-10, atol=1e-10)
    assert any(ran)
    assert not torch.allclose(changed, before)
    torch.testing.assert_close(twin(x, sparse=True, record=False).logits, before, rtol=1e-12, atol=1e-12)
    file.seek(0)
    net.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(net(x, sparse=True, record=False).logits, before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SPECS)
@torch.inference_mode()
def test_the_code_that_is_timed_is_counted(name: str, ran: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch)
    with torch.inference_mode(False):
        net = made(name)
    for images in (1, 5):
        x = features(images)
        with disabled():
            priced = int(net(x, sparse=True).macs().sum())
        ran.clear()
        with MacCounter() as counter:
            net(x, sparse=True, record=False)
        assert any(ran)
        assert counter.total == priced
        assert counter.by_operator["dyncomp.convolution"] > priced / 2
        assert not counter.uncounted


@pytest.mark.parametrize("name", [name for name in SPECS if "filters" in name or "form" in name])
@torch.inference_mode()
def test_runs_follow_the_decisions_of_a_trace(name: str, ran: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do where executed MACs are counted by the decisions of an evaluation."""
    always(monkeypatch)
    with torch.inference_mode(False):
        net = made(name)
    x = features(5)
    with disabled():
        traces = [net(part, sparse=True).trace.lean() for part in (x[:3], x[3:])]
    ran.clear()
    net(x, sparse=True, record=False)
    wanted = list(ran)
    ran.clear()
    net(x, sparse=True, record=False, decisions=Trace.join(traces))
    assert ran == wanted
    assert any(ran)


@pytest.mark.parametrize("name", ["filters in blocks", "filters, layer by layer", "weighted filters"])
@torch.inference_mode()
def test_a_consumer_without_code_reads_the_used_filters_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch)
    with torch.inference_mode(False):
        net = made(name)
    x = features(5)
    wanted = one_by_one(net, x)
    monkeypatch.setattr(SwitchedFilters, "code_to_read", lambda self, image: None)
    with torch.inference_mode(False):
        net = copy.deepcopy(net)  # prepares its runs again
    with MacCounter() as counter:
        found = net(x, sparse=True, record=False).logits
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    assert counter.total == int(net(x, sparse=True).macs().sum())


@torch.inference_mode()
def test_an_op_without_code_reads_the_channels_of_each_image_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The op before it runs generated code, which compacts channels; a hook keeps this one to torch's operators."""
    with torch.inference_mode(False):
        net = made("filters, layer by layer")
    x = features(5)
    wanted = one_by_one(net, x)
    inner = next(op for op in net.sites.values() if isinstance(op, Filtered) and op.reads is not None)
    inner.producer.register_forward_hook(lambda *given: None)
    handed, sparse = list[object](), Filtered.sparse

    def noted(op: Filtered, x: Tensor, decision: Decision) -> Tensor:
        handed.append(op.tape.handed(op.site))
        return sparse(op, x, decision)

    monkeypatch.setattr(Filtered, "sparse", noted)
    with by_last_ways(), MacCounter() as counter:
        found = net(x, sparse=True, record=False).logits
    assert any(isinstance(each, Compaction) for each in handed)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    assert counter.total == int(net(x, sparse=True).macs().sum())


@torch.inference_mode()
def test_an_image_too_many_is_counted(ran: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: blocks run the last of their images twice."""
    always(monkeypatch)

    def follow(follower: Follower, rows: str, images: str, table: Table, x: Tensor) -> Filling:
        listed = follower.plan().of(follower.unit, x)
        if not isinstance(listed, Tensor):  # all images, or none
            return plainly(follower, rows, images, table, x)
        listed = torch.cat([listed, listed[-1:]])
        return ((rows, listed.data_ptr()), (images, len(listed))), listed

    x, plainly = features(5), blocks._follow
    for planted in (False, True):
        if planted:
            monkeypatch.setattr(blocks, "_follow", follow)
        with torch.inference_mode(False):
            net = made("planned")  # whose runs are prepared now
        decisions = forced_decisions(net, x)
        with MacCounter() as counter:
            net(x, sparse=True, record=False, decisions=decisions)
        assert any(ran)
        assert (counter.total > int(net(x, sparse=True, decisions=decisions).macs().sum())) == planted


def forced_decisions(net: Net, x: Tensor, seed: int = 2) -> dict[str, Decision]:
    """Random ones, another row for each image, that give no weights."""
    drawn = random(net, len(x), torch.Generator().manual_seed(seed))
    return {site: Decision(d.used, d.used, d.used) for site, d in drawn.items()}


@pytest.mark.parametrize(
    "name", ["form residual", "form output, recurrent", "filters in blocks", "filters, layer by layer"]
)
@torch.inference_mode()
def test_runs_follow_forced_decisions_in_some_passes(
    name: str, ran: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    always(monkeypatch)
    with torch.inference_mode(False):
        net = made(name)
    x = features(5)
    for seed in (None, 2, None, 3, 4):
        decisions = None if seed is None else forced_decisions(net, x, seed)
        with disabled():
            wanted = net(x, sparse=True, record=False, decisions=decisions).logits
        ran.clear()
        ours = net(x, sparse=True, record=False, decisions=decisions).logits
        torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-10)
        assert any(ran)


@pytest.mark.parametrize(
    ("name", "follows"), [("weighted filters", True), ("filters in blocks", False), ("mixed", False)]
)
@torch.inference_mode()
def test_layers_run_one_by_one_where_code_has_no_place_for_weights_that_are_forced(
    name: str, follows: bool, ran: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    always(monkeypatch)
    with torch.inference_mode(False):
        net = made(name)
    x = features(5)
    drawn = random(net, len(x), torch.Generator().manual_seed(2))
    decisions = {site: Decision(d.used, d.used * torch.rand_like(d.used), d.used) for site, d in drawn.items()}
    with disabled():
        wanted = net(x, sparse=True, record=False, decisions=decisions).logits
    ran.clear()
    ours = net(x, sparse=True, record=False, decisions=decisions).logits
    torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-10)
    assert all(ran) == follows


@torch.inference_mode()
def test_other_forms_in_turn_leave_nothing_behind() -> None:
    with torch.inference_mode(False):
        net = made("form residual")
    x = features(4)
    with in_turn():
        answers = [net(x, sparse=True, record=False).logits for _ in range(4)]
    runs = [
        run
        for module in net.modules()
        if type(module) is FusedSequential
        for some in module.fused.values()
        for run in some
    ]
    assert runs and not any(run._seen.tables for run in runs if run._seen)
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0], rtol=1e-10, atol=1e-10)


@torch.inference_mode()
def test_what_a_run_is_not_prepared_for_goes_one_by_one(ran: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch)
    monkeypatch.setattr("dyncomp.fast.fusion.run.BATCHES", 1)
    with torch.inference_mode(False):
        net = made("form output, recurrent")
    for images in (2, 3, 9, 1, 0, 2):
        x = features(images)
        ran.clear()
        ours = net(x, sparse=True, record=False).logits
        assert any(ran) is (images > 0)
        torch.testing.assert_close(ours, one_by_one(net, x), rtol=1e-10, atol=1e-10)


def block(*body: nn.Module, shortcut: nn.Module | None = None) -> ResidualBlock:
    return ResidualBlock(nn.Sequential(*body), shortcut or nn.Identity(), nn.ReLU())


def conv(stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(3, 3, 3, stride, padding=1)


def chain(*layers: nn.Module) -> Net:
    """A network that ends in as many answers as channels, ready for use."""
    torch.manual_seed(3)
    net = Net(nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten())).double().eval()
    net.costs = measure_costs(net, features(1))
    return deployed(net)


def mixed(*body: nn.Module) -> Mixed:
    return Mixed(block(*body), Router(3, 2, softmax=False, temperature=1.0), 2, "auto")


CHAINS = {
    "skipped before any ReLU": lambda: [Gated(block(conv(), nn.ReLU(), conv()), gate(), form="residual")],
    "kept before any ReLU": lambda: [Gated(block(conv(), nn.ReLU(), conv()), gate(), form="output")],
    "mixed": lambda: [mixed(conv(), nn.ReLU(), conv())],
    "mixed, ReLU at the end": lambda: [mixed(conv(), nn.ReLU(), conv(), nn.ReLU())],
    "mixed, ReLU first": lambda: [mixed(nn.ReLU(), conv(), nn.ReLU(), conv())],
    "a shrinking shortcut": lambda: [
        block(conv(), nn.ReLU(), conv()),
        block(conv(2), nn.ReLU(), conv(), shortcut=Shrink(2, 0, mean=True)),
    ],
}


def gate() -> GumbelGate:
    made = GumbelGate(3, 4, (0.0, 0.0))
    nn.init.normal_(made.head.weight, std=3.0)
    return made


@pytest.mark.parametrize("name", CHAINS)
def test_blocks_behind_no_relu_and_other_bodies_stay_what_they_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch)
    net = chain(*CHAINS[name]())
    for images in (1, 5):
        x = features(images, seed=images)
        with torch.inference_mode():
            ours = net(x, sparse=True, record=False).logits
            torch.testing.assert_close(ours, one_by_one(net, x), rtol=1e-10, atol=1e-10)


class Alternating(Gate):
    """Open for the first of three images and for the last."""

    def logits(self, x: Tensor) -> Tensor:
        return torch.tensor([[1.0], [-1.0], [1.0]])


def replace_the_gate(net: Net) -> None:
    for op in net.sites.values():
        op.gate = Alternating()


def replace_a_block(net: Net) -> None:
    blocks = next(module for module in net.modules() if type(module) is FusedSequential)
    blocks[-1] = nn.Identity()


def replace_a_parameter_for_a_while(net: Net) -> None:
    """As `functional_call` does, with a pass in between."""
    projection = next(module for module in net.modules() if isinstance(module, nn.Conv2d) and module.stride == (2, 2))
    weight, bias = projection.weight, projection.bias
    projection.weight, projection.bias = (nn.Parameter(2 * each, requires_grad=False) for each in (weight, bias))
    with torch.inference_mode():
        net(features(6), sparse=True, record=False)
    projection.weight, projection.bias = weight, bias
    [torch.randn(len(bias), dtype=torch.float64) for _ in range(50)]


@pytest.mark.parametrize("change", [replace_the_gate, replace_a_block, replace_a_parameter_for_a_while])
def test_what_is_replaced_after_a_pass_is_seen(change: Callable[[Net], None], monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch)
    net = made("form residual")
    x = features(3)
    with torch.inference_mode():
        net(x, sparse=True, record=False)
    change(net)
    with torch.inference_mode():
        ours = net(x, sparse=True, record=False).logits
        torch.testing.assert_close(ours, one_by_one(net, x), rtol=1e-10, atol=1e-10)


def test_a_shift_that_is_replaced_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch)
    net = made("mixed")
    x = features(2)
    layer = next(module for module in net.modules() if isinstance(module, ExpertConv2d))
    with torch.inference_mode():
        net(x, sparse=True, record=False)
    layer.shift = layer.shift + 1
    with torch.inference_mode():
        ours = net(x, sparse=True, record=False).logits
        torch.testing.assert_close(ours, one_by_one(net, x), rtol=1e-10, atol=1e-10)


def test_a_weight_made_anew_at_every_pass_is_left_to_the_layers(ran: list[bool]) -> None:
    net = made("static")
    body = next(module for module in net.modules() if isinstance(module, ResidualBlock)).body
    for layer in [layer for layer in body.modules() if isinstance(layer, nn.Conv2d)]:
        parametrize.register_parametrization(layer, "weight", nn.Identity())
    with torch.inference_mode():
        net(features(2), sparse=True, record=False)
    assert ran and not ran[0]


def test_a_fresh_network_compiles_whole() -> None:
    net = made("static")
    x = features(2)
    with torch.inference_mode():
        compiled = torch.compile(lambda x: net.model(x), fullgraph=True, backend="eager")(x)
        torch.testing.assert_close(compiled, one_by_one(net, x), rtol=1e-10, atol=1e-10)
    torch._dynamo.reset()


def test_without_code_of_our_own_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dyncomp.fast.fusion.program.able_to_make_code", lambda: False)
    compiled = codegen.compiled

    def but_pooling(program: codegen.Program) -> codegen.Code:
        assert not isinstance(program, codegen.Pooling)
        return compiled(program)

    monkeypatch.setattr(codegen, "compiled", but_pooling)
    net = made("zeros in the shortcut")
    with torch.inference_mode():
        net(features(2), sparse=True, record=False)


class Shut(Gate):
    """Never opens."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 1)
        nn.init.constant_(self.head.bias, -100.0)

    def description(self) -> GateDescription:
        return GateDescription((self.head,), (False,))

    def logits(self, x: Tensor) -> Tensor:
        return on_pooled(self.head, x)


@pytest.mark.parametrize("relu", [False, True])
@torch.inference_mode()
def test_what_is_skipped_is_activated_wherever_it_may_be_below_0(
    relu: bool, ran: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    always(monkeypatch)
    with torch.inference_mode(False):
        gated = Gated(block(conv(), nn.ReLU(), conv()), Shut(), "residual")
        net = chain(conv(), *([nn.ReLU()] if relu else []), nn.MaxPool2d(2), gated)
    x = features(3)
    wanted = one_by_one(net, x)
    ran.clear()
    torch.testing.assert_close(net(x, sparse=True, record=False).logits, wanted, rtol=1e-10, atol=1e-10)
    assert any(ran)
    assert bool((wanted >= 0).all())


def changed(net: Net, change: Callable[[nn.Module], None], ran: list[bool]) -> None:
    """After a pass, a change, and another pass: the same as the layers one by one."""
    x = features(3)
    net(x, sparse=True, record=False)
    change(net.model)
    wanted = one_by_one(net, x)
    ran.clear()
    torch.testing.assert_close(net(x, sparse=True, record=False).logits, wanted, rtol=1e-10, atol=1e-10)


def stem_of(model: nn.Module) -> nn.Module:
    return next(module for name, module in model.named_modules() if name.endswith("stem"))


def halved(model: nn.Module) -> None:
    stem_of(model).conv = nn.Conv2d(3, 8, 3, padding=1).double()


def shortened(model: nn.Module) -> None:
    blocks = next(module for module in model.modules() if isinstance(module, nn.Sequential) and len(module) == 2)
    del blocks[-1]


def bent(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, ResidualBlock):
            module.activation = nn.Tanh()


def without_bias(model: nn.Module) -> None:
    next(module for module in model.modules() if isinstance(module, nn.Conv2d)).bias = None


def answering_otherwise(model: nn.Module) -> None:
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    name, last = next((name, module) for name, module in linear if module.out_features == 5)
    model.set_submodule(name, nn.Linear(last.in_features, 5).double())


SOME = ("static", "form residual", "mixed")
CHANGES = [(name, change) for name in (*SOME, "filters in blocks") for change in (halved, bent, without_bias)]
CHANGES += [(name, shortened) for name in SOME]


@pytest.mark.parametrize(("name", "change"), CHANGES)
@torch.inference_mode()
def test_whatever_is_replaced_however_deep_is_seen(
    name: str, change: Callable[[nn.Module], None], ran: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    always(monkeypatch)
    with torch.inference_mode(False):
        net = made(name)
    changed(net, change, ran)
    assert any(ran) or change is bent


@pytest.mark.parametrize("name", ["static", "filters in blocks", "weighted filters, layer by layer"])
@torch.inference_mode()
def test_another_classifier_is_seen(name: str, ran: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch)
    with torch.inference_mode(False):
        net = made(name)
    changed(net, answering_otherwise, ran)


class Other(Switch):
    """In the place of a switch."""

    def __init__(self, switch: Switch) -> None:
        super().__init__()
        self.switch, self.units = switch, switch.units

    def pool(self, x: Tensor) -> Tensor:
        return self.switch.pool(x)

    def forward(self, pooled: Tensor) -> Decision:
        decision: Decision = self.switch(pooled)
        return decision

    def description(self) -> SwitchDescription | None:
        return self.switch.description()


@pytest.mark.parametrize("name", ["filters in blocks", "weighted filters, layer by layer"])
@torch.inference_mode()
def test_filters_run_in_one_go_under_another_switch(
    name: str, ran: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    always(monkeypatch)
    with torch.inference_mode(False):
        net = made(name)
        for op in net.sites.values():
            assert isinstance(op, Filtered)
            op.switch = Other(op.switch)
    x = features(3)
    wanted = one_by_one(net, x)
    ran.clear()
    torch.testing.assert_close(net(x, sparse=True, record=False).logits, wanted, rtol=1e-10, atol=1e-10)
    assert all(ran)
    assert all(isinstance(op.fused, SwitchedFilters) and op.fused.is_of(op) for op in net.sites.values())


@torch.inference_mode()
def test_a_layer_that_stands_twice_runs_twice(ran: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch)
    with torch.inference_mode(False):
        relu, tied = nn.ReLU(), block(conv(), nn.ReLU(), conv())
        layers = nn.Sequential(conv(), relu, conv(), relu)
        plain = Net(nn.Sequential(layers, nn.Sequential(tied, tied), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
        plain = plain.double().eval()
        plain.costs = measure_costs(plain, features(1))
        net = deployed(plain)
    x = features(2)
    ours = net(x, sparse=True, record=False).logits
    assert any(ran)
    torch.testing.assert_close(ours, plain(x, sparse=True, record=False).logits, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["static", "form residual", "filters in blocks"])
def test_threads_that_come_and_go_have_memory_of_their_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their numbers are given out again, and what a thread had is then gone."""
    always(monkeypatch)
    net, found = made(name), list[Tensor]()

    def use() -> None:
        with torch.inference_mode():
            found.extend(net(features(images), sparse=True, record=False).logits for images in (8, 1))

    for _ in range(4):
        worker = threading.Thread(target=use)
        worker.start()
        worker.join()
    with torch.inference_mode():
        wanted = [one_by_one(net, features(images)) for images in (8, 1)] * 4
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@torch.inference_mode()
def test_weights_of_another_type_are_left_to_torch(ran: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch)
    with torch.inference_mode(False):
        net = made("filters in blocks")
        next(module for module in net.modules() if isinstance(module, Filtered)).float()
    with pytest.raises(RuntimeError, match="dtype"):
        net(features(2), sparse=True, record=False)


@pytest.mark.parametrize("name", ["filters in blocks", "weighted filters"])
@torch.inference_mode()
def test_filters_alike_are_chosen_as_a_record_says(name: str, ran: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch)
    with torch.inference_mode(False):
        net = made(name)
        for module in net.modules():
            if isinstance(module, Switch):
                module.linear.weight.zero_()
                module.linear.bias.fill_(-1000.0)
    x = features(3)
    ours = net(x, sparse=True, record=False).logits
    assert any(ran)
    torch.testing.assert_close(ours, net(x, sparse=True).logits, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")  # torch's own, of what it loads for tangents
def test_tangents_go_through_the_layers(ran: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch)
    net, x = made("static"), features(2)
    ran.clear()  # of what making it ready asked
    with torch.no_grad(), forward_ad.dual_level():
        logits = net(forward_ad.make_dual(x, torch.ones_like(x)), sparse=True, record=False).logits
        assert forward_ad.unpack_dual(logits).tangent is not None
    assert not any(ran)
