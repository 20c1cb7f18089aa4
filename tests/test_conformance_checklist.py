"""The check list: what it says of a method that conforms, of one that does not, and of one whose code breaks."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest

import dyncomp.conformance
from dyncomp import include_path
from dyncomp.conformance import CHECKS, validate, validate_all
from dyncomp.conformance.checklist import FOUNDATIONS
from dyncomp.conformance.hints import ANYWHERE, HINTS, RAISED, hint_for
from dyncomp.errors import CannotAttach, DyncompError, InvalidValue, UnknownName

SKIPS = """
import sys
from dataclasses import dataclass

import torch
from torch import nn

import dyncomp
from dyncomp.errors import CannotAttach

class Gate(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.linear = nn.Linear(channels, 1)

    def forward(self, x):
        pooled = x.mean(dim=(2, 3))
        return self.linear(pooled - pooled.mean(dim=1, keepdim=True)).sigmoid()

@dyncomp.register_method("mine")
@dataclass(frozen=True)
class Mine(dyncomp.Method):
    "Skips the last block."

    def build(self, new):
        backbone = new()
        block = backbone.part(backbone.blocks[-1])
        backbone.swap(backbone.blocks[-1], dyncomp.Gated(block, Gate(block.in_channels)))
        return backbone
"""
BACK = "        backbone = new()\n"


def included(folder: Path, text: str = SKIPS) -> Path:
    """A file with the method `mine`, made known."""
    path = folder / "mine.py"
    path.write_text(dedent(text), encoding="utf-8")
    include_path(path)
    return path


def test_a_method_that_conforms_passes_every_check(tmp_path: Path) -> None:
    included(tmp_path)
    found = validate("mine")
    assert (found.spec, found.backbone, found.failed) == ("mine", "cifar_resnet8", ())
    assert [result.check for result in found.results] == [*FOUNDATIONS, *CHECKS]
    assert all(result.promise and not result.message and not result.hint for result in found.results)


def test_promises_are_short_sentences(tmp_path: Path) -> None:
    included(tmp_path)
    for result in validate("mine").results:
        assert re.fullmatch(r"[A-Z][^\n]{20,120}\.", result.promise), result.check


BREAKS = [
    # what is put in the place of what; the check that fails; what it says
    (BACK, BACK + "        raise ValueError('boom\\nbang')\n", "builds", r"mine\.py:\d+: ValueError: boom bang$"),
    (BACK, BACK + "        sys.exit(3)\n", "builds", r"mine\.py:\d+: SystemExit: 3$"),
    (BACK, BACK + "        new().part('nowhere')\n", "builds", r"mine\.py:\d+: AttributeError: .*nowhere"),
    ("x.mean(dim=(2, 3))", "x[3:].mean(dim=(2, 3))", "runs", r"\.py:\d+: \w+: "),
    ("self.linear(", "assert_(len(x) < 5) or self.linear(", "runs", r"mine\.py:\d+: NameError: .*assert_"),
]


@pytest.mark.parametrize(("old", "new", "check", "says"), BREAKS, ids=[f"{b[2]}-{i}" for i, b in enumerate(BREAKS)])
def test_what_the_code_raises_is_a_failed_check_with_its_line(
    old: str, new: str, check: str, says: str, tmp_path: Path
) -> None:
    text = SKIPS.replace(old, new)
    if check == "runs":  # not yet while costs are measured on one image
        text = text.replace("    def forward(self, x):\n", "    def forward(self, x):\n        few = len(x) == 1\n")
        text = text.replace(new, f"({old}) if few else {new}" if old.startswith("x.") else new)
        text = text.replace("assert_(len(x) < 5) or ", "(few or assert_) and ")
    included(tmp_path, text)
    found = validate("mine")
    (only,) = found.failed
    assert only.check == check == found.results[-1].check  # what stands on it is not tried
    assert re.search(says, only.message), only.message
    assert "\n" not in only.message
    assert only.hint == hint_for(check, only.message)


def test_the_line_named_is_the_last_one_of_the_methods_own_file(tmp_path: Path) -> None:
    path = included(tmp_path, SKIPS.replace("nn.Linear(channels, 1)", "nn.Linear(channels + 1, 1)"))
    (only,) = validate("mine").failed
    line = 1 + path.read_text().splitlines().index(
        "        return self.linear(pooled - pooled.mean(dim=1, keepdim=True)).sigmoid()"
    )
    assert only.message.startswith(f"{path}:{line}: RuntimeError: ")


def test_a_loss_that_raises_fails_its_check_alone(tmp_path: Path) -> None:
    included(tmp_path, SKIPS + "\n    def loss(self, output, labels):\n        return output.nothing\n")
    (only,) = validate("mine").failed
    assert only.check == "stages_train_what_they_claim"
    assert re.search(r"mine\.py:\d+: AttributeError: .*'nothing'", only.message)
    assert only.hint == RAISED


def test_noise_in_evaluation_is_found_with_a_hint(tmp_path: Path) -> None:
    included(tmp_path, SKIPS.replace(".sigmoid()", ".sigmoid().add(torch.randn(len(x), 1).to(x)).clamp(0.01, 0.99)"))
    found = {result.check: result for result in validate("mine").failed}
    assert "two evaluations" in found["evaluation_is_deterministic"].message
    assert "self.training" in found["evaluation_is_deterministic"].hint


def test_a_method_takes_the_smallest_backbone_that_has_a_place_for_it(tmp_path: Path) -> None:
    refusal = "        if backbone.name.startswith('cifar'): raise CannotAttach('mine: not this one')\n"
    included(tmp_path, SKIPS.replace("Gated(block, Gate(block.in_channels))", "Gated(block, Gate(block.in_channels))"))
    assert validate("mine", "cifar_resnet14").backbone == "cifar_resnet14"
    included(tmp_path, SKIPS.replace(BACK, BACK + refusal).replace("backbone.blocks[-1]", "last(backbone)") + LAST)
    found = validate("mine")
    assert not found.backbone.startswith("cifar")
    assert found.failed == ()
    with pytest.raises(CannotAttach, match="not this one"):
        validate("mine", "cifar_resnet8")


LAST = """

def last(backbone):
    from dyncomp.core import ResidualBlock
    found = [name for name in backbone.blocks if isinstance(backbone.part(name), ResidualBlock)]
    if not found:
        raise CannotAttach(f"mine: {backbone.name} has no residual block")
    return found[-1]
"""


def test_a_method_that_attaches_nowhere_is_told_so(tmp_path: Path) -> None:
    included(tmp_path, SKIPS.replace(BACK, "        raise CannotAttach('mine: never')\n" + BACK))
    found = validate("mine")
    (only,) = found.results
    assert (found.backbone, only.passed) == ("", False)
    assert "finds a place in none of the backbones cifar_resnet8, " in only.message
    assert "mobilenet_v1" in only.message
    assert only.message.endswith("(mine: never)")
    assert "`build` raises CannotAttach" in only.hint


def with_examples(examples: str) -> str:
    fields = f"    examples = {examples}\n    size: int = dyncomp.option(1, 'a number', ge=1)\n"
    return SKIPS.replace("    def build(self, new):\n", f"{fields}\n    def build(self, new):\n")


def test_examples_are_validated_after_what_is_given(tmp_path: Path) -> None:
    included(tmp_path, with_examples("('mine(size=2)', 'mine(size=3)')"))
    assert [found.spec for found in validate_all(["mine"])] == ["mine", "mine(size=2)", "mine(size=3)"]
    found = list(validate_all(["mine(size=3)", "mine(size=4)"]))
    assert [one.spec for one in found] == ["mine(size=3)", "mine(size=4)", "mine(size=2)"]
    assert not any(one.failed for one in found)


@pytest.mark.parametrize("example", ["mine(sise=2)", "mine(size=0)", "mine(", "nobody"])
def test_an_example_that_is_no_spec_is_a_failed_check(example: str, tmp_path: Path) -> None:
    included(tmp_path, with_examples(f"({example!r},)"))
    first, second = validate_all(["mine"])
    assert first.failed == ()
    (only,) = second.results
    assert f"holds {example!r}" in only.message
    assert "class variable `examples`" in only.hint


WRONG = [
    ("mine(size=0)", "", InvalidValue),
    ("mine(sise=1)", "", UnknownName),
    ("mien", "", UnknownName),
    ("mine", "cifar_resnt8", UnknownName),
    ("mine", "mobilenet_v1", DyncompError),
]


@pytest.mark.parametrize(("spec", "backbone", "error"), WRONG)
def test_bad_input_is_raised_before_a_check_is_run(
    spec: str, backbone: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = "        block = backbone.part"
    refusal = "        if backbone.name.startswith('mobile'): raise CannotAttach('mine: no place')\n"
    included(tmp_path, with_examples("()").replace(block, refusal + block))
    monkeypatch.setattr("dyncomp.conformance.checklist._results", lambda case, source: pytest.fail("a check was run"))
    with pytest.raises(error):
        next(validate_all([spec], backbone))


def test_every_check_has_hints_the_last_for_any_message() -> None:
    assert set(HINTS) == {*FOUNDATIONS, *CHECKS}
    for hints in HINTS.values():
        assert [part for part, _ in hints].index(ANYWHERE) == len(hints) - 1
        assert all(len(hint) > 50 for _, hint in hints)


def test_every_hint_is_for_something_that_a_check_says() -> None:
    folder = Path(dyncomp.conformance.__file__).parent
    said = "".join((folder / f"{name}.py").read_text() for name in ("case", "checks", "training", "checklist"))
    parts = [part for hints in HINTS.values() for part, _ in hints]
    assert [part for part in parts if part not in said] == []
