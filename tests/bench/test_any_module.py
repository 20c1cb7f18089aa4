"""Any torch module as people bring it: its right figures, or one line, and never a traceback or the user's blame."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import dyncomp
from dyncomp.bench import Profile, profiling
from tests.bench import profile_modules
from tests.bench.profile_modules import CLASSES

SHAPE = (3, 8, 8)
CONV = 8 * 3 * 9 * 6 * 6
"""MACs of the convolution of `Views`"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "SECONDS", 0.0)


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory takes seconds, and is another test's matter."""
    none = dict.fromkeys(("activation_mib", "memory_mib_inference", "memory_mib_training", "memory_error"))
    monkeypatch.setattr("dyncomp.bench.modules.figures_of", lambda *given: {"params_mib": 1.0, **none})


def measured(model: Any, shape: tuple[int, int, int] = SHAPE, sizes: tuple[int, ...] = (2,)) -> Profile:
    """The figures of a module, without an error."""
    found = dyncomp.profile_model(model, shape, sizes, "cpu")
    assert found.errors == ()
    assert found.macs is not None
    assert all(one.ms_p50 for one in found.latency)
    return found


class Asks(nn.Module):
    """Does with its images what it is told, and ends with a linear layer on channel means."""

    def __init__(
        self, do: Callable[[Tensor], Tensor] = lambda x: x, end: Callable[[Tensor], Any] = lambda y: y
    ) -> None:
        super().__init__()
        self.do, self.end = do, end
        self.linear = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Any:
        return self.end(self.linear(self.do(x).mean((2, 3))))


LINEAR = 3 * CLASSES


# work that no counter sees


class Threads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(192, 10) for _ in range(3)).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with ThreadPoolExecutor(3) as pool:
            return sum(pool.map(lambda part: part(x.flatten(1)), self.parts))  # type: ignore[return-value]


@pytest.mark.usefixtures("no_memory")
def test_work_in_threads_is_told_and_nothing_else_claimed() -> None:
    found = measured(Threads())
    assert "in other threads: no counter is there, so their MACs are missing" in str(found)
    assert "every operator that ran has a known cost" not in str(found)


@pytest.mark.usefixtures("no_memory")
def test_work_outside_torch_is_told() -> None:
    found = measured(Asks(lambda x: torch.from_numpy(x.numpy() * 2)))
    assert "handed to numpy or by DLPack: what is computed there is not known" in str(found)
    assert "every operator that ran has a known cost" not in str(found)


@pytest.mark.usefixtures("no_memory")
def test_of_a_network_that_does_not_run_nothing_is_claimed() -> None:
    found = dyncomp.profile_model(profile_modules.Never(), SHAPE, (1,), "cpu")
    assert "every operator that ran has a known cost" not in str(found)
    assert "not counted  –\n" in str(found)  # noqa: RUF001


# layouts


class Views(nn.Module):
    """LeNet's way: a view of features, which asks for the contiguous layout."""

    def __init__(self, view: Callable[[Tensor], Tensor] = lambda x: x.view(-1, 8 * 36)) -> None:
        super().__init__()
        self.conv, self.linear, self.view = nn.Conv2d(3, 8, 3), nn.Linear(8 * 36, CLASSES), view

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(self.view(self.conv(x).relu()).flatten(1))
        return y


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "flat": lambda x: x.view(-1, 8 * 36),
    "by the number of images": lambda x: x.view(x.size(0), -1),
    "of groups": lambda x: x.view(len(x), 4, 72).mul(2),
    "of rows": lambda x: x.view(-1, 6).mul(2).view(len(x), -1),
    "of channels": lambda x: x.view(len(x) * 8, -1).view(len(x), -1),
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.usefixtures("no_memory")
def test_a_network_that_fails_on_channels_last_has_its_own_layout(name: str) -> None:
    found = measured(Views(VIEWS[name]))
    assert found.macs == CONV + 8 * 36 * CLASSES
    assert any("measured on contiguous images, since it fails on channels-last" in text for text in found.warnings)


# copies


def pruned(kind: str) -> nn.Module:
    net = profile_modules.make()
    conv = net[0]
    if kind == "by size":
        prune.l1_unstructured(conv, "weight", 0.5)
    elif kind == "whole filters":
        prune.ln_structured(conv, "weight", 0.5, n=2, dim=0)
    elif kind == "twice":
        prune.random_unstructured(conv, "weight", 0.5)
        prune.random_unstructured(conv, "weight", 0.5)
    elif kind == "weight norm":
        nn.utils.parametrizations.weight_norm(conv)
    else:
        nn.utils.spectral_norm(conv)
    return net


@pytest.mark.parametrize("kind", ["by size", "whole filters", "twice", "weight norm", "spectral norm"])
@pytest.mark.usefixtures("no_memory")
def test_weights_that_hooks_make_are_copied(kind: str) -> None:
    net = pruned(kind)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found = measured(net)
    assert float(found.macs or 0) >= 8 * 3 * 9 * 64 + 8 * CLASSES
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())


class HasA(Asks):
    def __init__(self, thing: Any) -> None:
        super().__init__()
        self.thing = thing


THINGS: dict[str, Callable[[], Any]] = {
    "a lock": threading.Lock,
    "a pool": lambda: ThreadPoolExecutor(1),
    "a generator": lambda: (number for number in range(3)),
    "an open file": lambda: open(__file__, "rb"),  # noqa: SIM115
    "a thread": lambda: threading.Thread(),
}


@pytest.mark.parametrize("name", THINGS)
def test_what_cannot_be_copied_is_measured_as_it_is_and_not_trained(name: str) -> None:
    thing = THINGS[name]()
    net = HasA(thing).train()
    before = net.linear.weight.clone()
    found = measured(net)
    assert found.macs == LINEAR
    assert any(warning.startswith("not copied (") for warning in found.warnings)
    assert any("cannot be copied, and training would change it" in warning for warning in found.warnings)
    assert torch.equal(net.linear.weight, before)
    assert net.training
    if hasattr(thing, "close"):
        thing.close()


# names and makers


@pytest.mark.parametrize(
    "maker",
    [
        functools.partial(Asks, lambda x: x + 1),
        functools.partial(functools.partial(Asks)),
        lambda: Asks(),
        type("Local", (Asks,), {}),
        SimpleNamespace(make=Asks).make,
        Asks().__class__,
    ],
)
@pytest.mark.usefixtures("no_memory")
def test_whoever_makes_it_the_figures_are_its_own(maker: Any) -> None:
    found = measured(maker)
    assert found.macs == LINEAR


def test_a_function_that_hides_behind_another_one_s_name_is_measured_here() -> None:
    def make() -> nn.Module:
        return Asks()

    make.__module__, make.__qualname__ = "tests.bench.profile_modules", "make"
    found = measured(make)
    assert found.macs == LINEAR
    assert "in the program's own process" in found.memory["memory_of"]


# parameters


class Means(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


BARE: dict[str, Callable[[], nn.Module]] = {
    "nothing": Means,
    "a pool": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "buffers": lambda: nn.Sequential(nn.BatchNorm2d(3, affine=False), Means()),
    "identity": lambda: nn.Sequential(nn.Identity(), nn.Flatten()),
    "parameters that do not learn": lambda: Asks().requires_grad_(False),
}


@pytest.mark.parametrize("name", BARE)
def test_a_network_without_parameters_has_figures(name: str) -> None:
    found = measured(BARE[name]())
    assert found.macs == (LINEAR if "learn" in name else 0)
    assert found.params == (LINEAR + CLASSES if "learn" in name else 0)


LAZY: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES)), 192 * CLASSES),
    "conv": (lambda: nn.Sequential(nn.LazyConv2d(8, 3), Means()), CONV),
    "norm": (lambda: nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), Means()), CONV),
    "transposed": (lambda: nn.Sequential(nn.LazyConvTranspose2d(4, 2), Means()), 3 * 4 * 4 * 64),
    "both": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.LazyLinear(CLASSES)), CONV + 288 * CLASSES),
}


@pytest.mark.parametrize("name", LAZY)
@pytest.mark.usefixtures("no_memory")
def test_lazy_layers_get_their_shapes(name: str) -> None:
    make, macs = LAZY[name]
    assert measured(make).macs == macs


# types


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float32])
@pytest.mark.usefixtures("no_memory")
def test_images_take_the_type_of_the_network(dtype: torch.dtype) -> None:
    assert measured(profile_modules.make().to(dtype)).macs == 8 * 3 * 9 * 64 + 8 * CLASSES


# answers


@dataclass
class Answer:
    logits: Tensor
    extra: Any = None


@dataclass(slots=True)
class Slotted:
    logits: Tensor


Named = namedtuple("Named", "logits loss")

ANSWERS: dict[str, Callable[[Tensor], Any]] = {
    "a dataclass": lambda y: Answer(y),
    "slots": lambda y: Slotted(y),
    "a namespace": lambda y: SimpleNamespace(logits=y, name="x"),
    "logits and a scalar": lambda y: (y, y.sum()),
    "logits and a number": lambda y: (y, 3.0),
    "logits and classes": lambda y: {"logits": y, "class": y.argmax(1)},
    "named": lambda y: Named(y, y.mean()),
    "nested": lambda y: OrderedDict(main=[y, (y, {"aux": y})]),
    "with None": lambda y: (y, None),
}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.usefixtures("no_memory")
def test_answers_of_many_kinds(name: str) -> None:
    assert measured(Asks(end=ANSWERS[name])).macs == LINEAR


# images that are written into

WRITES: dict[str, Callable[[Tensor], Tensor]] = {
    "minus": lambda x: x.sub_(0.5),
    "times": lambda x: x.mul_(2),
    "a part": lambda x: x[:, 0].zero_() is None or x,  # type: ignore[func-returns-value]
    "relu": lambda x: torch.relu_(x),
    "clamp": lambda x: x.clamp_(-1, 1),
}


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.usefixtures("no_memory")
def test_a_network_that_writes_into_its_images_is_given_copies(name: str) -> None:
    found = measured(Asks(WRITES[name]))
    assert found.macs == LINEAR
    assert any("writes into its images" in warning for warning in found.warnings)


# what training asks for


def test_a_network_that_cannot_be_trained_on_such_a_batch_has_all_other_figures() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4), nn.Flatten())  # one value per channel in a batch of 1
    found = measured(net, sizes=(1,))
    assert found.memory["memory_mib_training"] is None
    assert any(text.startswith("memory not measured, training: ValueError") for text in found.warnings)


# work that is done once a batch


class Hidden(nn.Module):
    """Makes its weights once for all images."""

    def __init__(self, once: Callable[[nn.Parameter, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.once = nn.Parameter(torch.ones(3, 3)), once

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.mean((2, 3)), self.once(self.weight, x))


HIDDEN: dict[str, tuple[Callable[[nn.Parameter, Tensor], Tensor], int]] = {
    "weights": (lambda w, x: w @ w, 27),
    "weights, twice": (lambda w, x: w @ w @ w, 54),
    "of the first image": (lambda w, x: w @ x[0, :, :3, 0], 27),
    "of the mean image": (lambda w, x: w @ x.mean((0, 3))[:, :3], 27),
    "of pairs of images": (lambda w, x: w + (x.flatten(1) @ x.flatten(1).t()).mean(), 192),
}


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.usefixtures("no_memory")
def test_what_is_done_once_a_batch_is_not_divided_by_it(name: str) -> None:
    once, macs = HIDDEN[name]
    found = measured(Hidden(once))
    assert found.macs == 9 + macs
    assert any(text.startswith("MACs of an image depend on its batch") for text in found.warnings)
