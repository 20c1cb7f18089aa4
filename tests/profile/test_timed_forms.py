"""The forms that are timed give the network's answers, and say of themselves what they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dyncomp import build
from dyncomp.core import Net, measure_costs
from dyncomp.profile.forms import Form, NotCompiled, Runner, forms_of
from tests.handmade import gated_net

SPARSE, DENSE = Form(sparse=True, compiled=False), Form(sparse=False, compiled=False)
COMPILED = Form(sparse=True, compiled=True)


def names(decides: bool, compiled: bool) -> list[str]:
    return [form.name for form in forms_of(decides, compiled)]


def test_forms_by_name_the_deployed_one_first() -> None:
    assert names(True, False) == ["sparse", "dense"]
    assert names(True, True) == ["sparse", "dense", "sparse_compiled", "dense_compiled"]
    assert names(False, False) == ["sparse"]
    assert names(False, True) == ["sparse", "sparse_compiled"]
    assert forms_of(True, True)[0] == SPARSE


@pytest.mark.parametrize("form", [SPARSE, DENSE])
@torch.no_grad()
def test_a_form_answers_as_the_network_does(form: Form) -> None:
    net = build("skipnet", "cifar_resnet8", classes=5, image_size=16).double()
    runner, images = Runner(net, form), torch.randn(5, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(runner(images), net(images).logits, rtol=1e-9, atol=1e-9)
    assert runner.facts == {"form": form.name, "not_folded": None, "graph_breaks": None, "batch_norms": 0}


def test_a_form_runs_what_its_name_says() -> None:
    """A body that images skip runs in the dense form, and not in the sparse one."""
    net = gated_net(lambda x: torch.zeros(len(x)))
    for form, calls in ((SPARSE, 0), (DENSE, 1)):
        runner, ran = Runner(net, form), list[int]()
        body = next(iter(runner.net.sites.values())).unit_parts()[0]
        assert body is not None
        body.register_forward_hook(lambda module, inputs, output, ran=ran: ran.append(len(output)))
        runner(torch.rand(3, 2, 4, 4))
        assert ran == [3] * calls


class ReadsStatistics(nn.Module):
    """Cannot be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        assert self.norm.running_var is not None
        y: Tensor = self.linear(self.norm(self.conv(x)).mean((2, 3)) * self.norm.running_var)
        return y


def with_costs(model: nn.Module) -> Net:
    net = Net(model).eval()
    net.costs = measure_costs(net, torch.zeros(1, 2, 4, 4))
    return net


def test_a_network_that_cannot_be_folded_runs_unfolded_and_says_so() -> None:
    net, images = with_costs(ReadsStatistics()), torch.rand(3, 2, 4, 4)
    runner = Runner(net, SPARSE)
    assert torch.equal(runner(images), net(images).logits)
    assert runner.facts["batch_norms"] == 1
    assert "made ready for use, the network fails" in runner.facts["not_folded"]


class Breaks(nn.Module):
    """So many graph breaks."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.linear, self.count = nn.Linear(2, 2), count

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3))
        if self.count > 0:
            torch._dynamo.graph_break()
        x = x + 1
        if self.count > 1:
            torch._dynamo.graph_break()
        y: Tensor = self.linear(x)
        return y


Compile = Callable[..., Any]


@pytest.fixture
def by(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Compile by another backend."""
    torch.compiler.reset()
    return lambda backend: monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))


def test_graph_breaks_are_counted(by: Callable[[Any], None]) -> None:
    by("eager")
    found = []
    for count in (0, 1, 2):
        torch.compiler.reset()
        found.append(Runner(with_costs(Breaks(count)), COMPILED).facts["graph_breaks"])
    assert found == [0, 1, 2]


def test_what_hinders_compiling_is_named_in_one_line(by: Callable[[Any], None]) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("boom\nbang")

    by(broken)
    with pytest.raises(NotCompiled, match=r"^not compiled: RuntimeError: boom bang") as caught:
        Runner(gated_net(), COMPILED)
    assert "\n" not in str(caught.value)


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch._inductor.config as inductor

    torch.compiler.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    nowhere = str(tmp_path / "c++")
    broken = inductor.patch({"cpp.cxx": (nowhere,)})
    with broken, pytest.raises(NotCompiled, match=r"^not compiled: no C\+\+ compiler$"):
        Runner(gated_net(), COMPILED)


@pytest.mark.slow
@torch.inference_mode()
def test_a_compiled_form_answers_as_the_network_does() -> None:
    net = build("skipnet", "cifar_resnet8", classes=5, image_size=16)
    torch.compiler.reset()
    try:
        runner = Runner(net, COMPILED)
    except NotCompiled as error:
        assert str(error) == "not compiled: no C++ compiler"
        pytest.skip(str(error))
    for count in (8, 1, 3):
        images = torch.randn(count, 3, 16, 16)
        torch.testing.assert_close(runner(images), net(images).logits, rtol=1e-4, atol=1e-4)
    assert runner.facts["graph_breaks"] > 0  # where images are picked out
