"""Answers that cannot be measured are named: which images, what is wrong, what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dyncomp.core import Net, measure_costs
from dyncomp.errors import BadAnswer
from dyncomp.profile import evaluate
from dyncomp.profile.sanity import check_module, check_network, is_out_of_memory, tensors_in
from tests.handmade import SIDE, bright_or_dark, gated_net

IMAGES = torch.rand(6, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


class Rule(nn.Module):
    """Answers by a function of (images, the number of the call)."""

    def __init__(self, rule: Callable[[Tensor, int], Any]) -> None:
        super().__init__()
        self.rule, self.calls = rule, 0
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        return self.rule(x, self.calls)


def logits(x: Tensor, classes: int = 2) -> Tensor:
    return x.mean((1, 2, 3))[:, None] * torch.arange(1, classes + 1)


def fails(x: Tensor, call: int) -> Tensor:
    raise ValueError("no\nroute")


def sometimes_nan(x: Tensor, call: int) -> Tensor:
    found = logits(x)
    found[2, 1] = torch.nan
    found[4] = torch.inf
    return found


def changes(x: Tensor, call: int) -> Tensor:
    found = logits(x)
    found[1] += call
    return found


BAD: dict[str, tuple[Callable[[Tensor, int], Any], str]] = {
    "classes": (lambda x, call: logits(x, 3), r"test images: logits of shape \(6, 3\), not \(6, 2\); "),
    "images": (lambda x, call: logits(x[:-1]), r"logits of shape \(5, 2\), not \(6, 2\); "),
    "dimensions": (lambda x, call: logits(x)[..., None], r"logits of shape \(6, 2, 1\), not \(6, 2\); "),
    "no tensor": (lambda x, call: "cat", "the network fails on test images|the answer is a str"),
    "integers": (lambda x, call: logits(x).round().long(), "an answer of torch.int64; "),
    "raises": (fails, "the network fails on test images: ValueError: no route; mend"),
    "nan": (sometimes_nan, "2 of 6 images get NaN or infinite values; "),
    "by chance": (lambda x, call: logits(x) + torch.rand(6, 2), "6 of 6 images get another answer when asked again; "),
    "by memory": (changes, "1 of 6 images get another answer when asked again; "),
}


@pytest.mark.parametrize("name", BAD)
def test_a_network_that_cannot_be_measured_is_named(name: str) -> None:
    rule, words = BAD[name]
    with pytest.raises(BadAnswer, match=words) as caught:
        check_network(Net(Rule(rule)).eval(), IMAGES, 2, "test images")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in BAD if name not in ("classes", "dimensions")])
def test_so_is_any_module(name: str) -> None:
    rule, _ = BAD[name]
    with pytest.raises(BadAnswer, match="test images"):
        check_module(Rule(rule).eval(), IMAGES, "test images")


GOOD: list[Callable[[Tensor, int], Any]] = [
    lambda x, call: logits(x),
    lambda x, call: logits(x) * (1 + 1e-6 * call),  # rounding
]


@pytest.mark.parametrize("rule", GOOD)
def test_good_answers_pass(rule: Callable[[Tensor, int], Any]) -> None:
    check_network(Net(Rule(rule)).eval(), IMAGES, 2, "test images")
    check_network(gated_net(), IMAGES, 2, "test images")


def test_any_nest_of_tensors_is_an_answer() -> None:
    check_module(Rule(lambda x, call: {"a": [logits(x)], "b": (x, {"c": x})}).eval(), IMAGES, "here")
    check_module(gated_net(), IMAGES, "here")
    assert [t.dim() for t in tensors_in({"a": [torch.zeros(2)], "b": (torch.zeros(1, 1), 3)})] == [1, 2]


@pytest.mark.parametrize("answer", [None, {}, [3]])
def test_an_answer_without_a_tensor_is_none(answer: object) -> None:
    with pytest.raises(BadAnswer, match="without a tensor"):
        check_module(Rule(lambda x, call: answer).eval(), IMAGES, "here")


def test_evaluation_says_which_images_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dyncomp.profile.evaluation.BATCH_SIZE", 3)
    split = bright_or_dark([False] * 4 + [True] + [False] * 4)

    def dark_only(x: Tensor, call: int) -> Tensor:
        if bool((x > 0.5).any()):
            raise MemoryError("no room")
        return logits(x)

    def priced(rule: Callable[[Tensor, int], Any]) -> Net:
        net = Net(Rule(rule)).eval()
        net.costs = measure_costs(net, torch.zeros(1, 2, SIDE, SIDE))
        return net

    with pytest.raises(BadAnswer, match="the network fails on images 3 to 5: MemoryError: no room; give smaller"):
        evaluate(priced(dark_only), split)
    with pytest.raises(BadAnswer, match="images 3 to 5: 1 of 3 images get NaN"):
        evaluate(priced(lambda x, call: logits(x) / (1 - x.amax((1, 2, 3)))[:, None]), split)


def test_an_exhausted_machine_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("shapes differ"))
