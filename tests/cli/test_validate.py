"""`dyncomp validate`: every form of a target, what is printed, the exit status, and one line for bad input."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from dyncomp.cli import dyncomp_main
from dyncomp.cli.validate import in_words
from dyncomp.conformance import CHECKS, CheckList, Result
from dyncomp.registry import METHODS
from tests.plugins import NUMBERS, install

HEAD = """
from dataclasses import dataclass

from dyncomp import Gated, Method, option, register_backbone, register_method
from dyncomp.core import BackboneFamily
from dyncomp.errors import CannotAttach

"""
METHOD = """
@register_method("{name}")
@dataclass(frozen=True)
class {cls}(Method):
    "A method of a test."

    share: float = option(0.5, "a share", gt=0.0, le=1.0)

    def build(self, new):
        return new()
"""
PROMISES = 2 + len(CHECKS)


@pytest.fixture(autouse=True)
def _empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Validated:
    """Calls the verb; gives the exit status and what came out."""
    return Validated(monkeypatch, capsys)


class Validated:
    """Calls the verb; gives the exit status and what came out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["dyncomp", "validate", *arguments])
        with pytest.raises(SystemExit) as caught:
            dyncomp_main()
        assert isinstance(caught.value.code, int)
        return caught.value.code, *self.capsys.readouterr()


def write(name: str = "mine.py", *texts: str) -> Path:
    path = Path(name)
    path.write_text(HEAD + "".join(texts or (METHOD.format(name="mine", cls="Mine"),)), encoding="utf-8")
    return path


def heads(out: str) -> list[str]:
    """The lines that name a spec and its backbone."""
    return [line for line in out.splitlines() if line and line[0] not in " 0123456789" and not line.startswith("all ")]


@pytest.mark.parametrize("target", ["static", " static ", 'static(norm="batch")'])
def test_a_name_or_a_spec(target: str, validated: Validated) -> None:
    status, out, err = validated(target)
    assert (status, err) == (0, "")
    assert heads(out)[0] == f"{target.strip()} on cifar_resnet8"
    assert out.count("✗") == 0
    assert out.count("✓") == PROMISES * len(heads(out))
    assert out.splitlines()[-1] == f"all {out.count('✓')} checks hold"


def test_a_sweep_is_several(validated: Validated) -> None:
    write()
    status, out, _ = validated("mine(share=[0.2,0.3])", "--include-path", "mine.py", "--backbone", "cifar-resnet14")
    assert status == 0
    assert heads(out) == ["mine(share=0.2) on cifar-resnet14", "mine(share=0.3) on cifar-resnet14"]


@pytest.mark.parametrize("name", ["mine.py", "./mine.py", "sub/mine.py"])
def test_a_file_stands_for_all_its_methods(name: str, validated: Validated) -> None:
    Path("sub").mkdir()
    write(name, *(METHOD.format(name=name, cls=name.title()) for name in ("mine", "yours")))
    status, out, err = validated(name)
    assert (status, err) == (0, "")
    assert heads(out) == ["mine on cifar_resnet8", "yours on cifar_resnet8"]


def test_examples_are_validated_too(validated: Validated) -> None:
    write(
        "mine.py",
        METHOD.format(name="mine", cls="Mine").replace("    share", "    examples = ('mine(share=0.9)',)\n    share"),
    )
    assert heads(validated("mine.py")[1]) == ["mine on cifar_resnet8", "mine(share=0.9) on cifar_resnet8"]


def test_a_method_without_a_default_is_tried_by_its_examples(validated: Validated) -> None:
    text = METHOD.format(name="mine", cls="Mine").replace(
        "    share", "    examples = ('mine(size=2)',)\n    size: int\n    share"
    )
    write("mine.py", text)
    assert heads(validated("mine.py")[1]) == ["mine(size=2) on cifar_resnet8"]
    write("mine.py", text.replace("    examples = ('mine(size=2)',)\n", ""))
    assert validated("mine.py") == (2, "", "error: mine: size has no default; give size=\n")


@pytest.mark.parametrize("installed", [True, False])
def test_an_entry_point(installed: bool, validated: Validated, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package, name = f"pack_{next(NUMBERS)}", f"packed_{next(NUMBERS)}"
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / package).mkdir()
    write(f"{package}/plugs.py", METHOD.format(name=name, cls="Packed"))
    if installed:
        install(tmp_path, package, {name: f"{package}.plugs:Packed"}, group="dyncomp.methods")
        monkeypatch.setattr(METHODS, "_scanned", False)
        monkeypatch.setattr(METHODS, "_entries", {})
        assert validated(name)[0] == 0
    status, out, err = validated(f"{package}.plugs:Packed")
    assert (status, err) == (0, "")
    assert heads(out) == [f"{name} on cifar_resnet8"]


NOISY = """
import torch

class Noise(torch.nn.Module):
    def forward(self, x):
        return torch.rand(len(x), 1).to(x)

@register_method("noisy")
@dataclass(frozen=True)
class NoisyMethod(Method):
    "Skips by chance, also in evaluation."

    def build(self, new):
        backbone = new()
        block = backbone.part(backbone.blocks[-1])
        backbone.swap(backbone.blocks[-1], Gated(block, Noise()))
        return backbone
"""


def test_a_failure_is_status_1_and_says_what_and_how_to_mend_it(validated: Validated) -> None:
    write("noisy.py", NOISY)
    status, out, err = validated("noisy.py")
    said = " ".join(out.split())
    assert (status, err) == (1, "")
    assert "✗ In evaluation neither chance, nor an earlier batch" in said
    assert "[evaluation_is_deterministic] failed: two evaluations of the same images differ" in said
    assert "mend: Noise, dropout and sampling belong to training: ask `self.training` before you draw." in said
    assert out.splitlines()[-1] == f"{out.count('✗')} of {PROMISES} checks failed"
    assert "✓ The network is built" in said


def test_an_exception_is_a_failed_check_and_no_traceback(validated: Validated) -> None:
    path = write("mine.py", METHOD.format(name="mine", cls="Mine").replace("return new()", "return new().blocks[99]"))
    status, out, err = validated("mine.py")
    line = 1 + path.read_text().splitlines().index("        return new().blocks[99]")
    assert (status, err) == (1, "")
    assert f"failed: mine.py:{line}: IndexError: tuple index out of range" in " ".join(out.split())
    assert "Traceback" not in out
    assert out.splitlines()[-1] == "1 of 1 checks failed"


def test_a_method_for_no_backbone_is_told_so(validated: Validated) -> None:
    write(
        "mine.py", METHOD.format(name="mine", cls="Mine").replace("return new()", "raise CannotAttach('mine: never')")
    )
    status, out, err = validated("mine.py")
    assert (status, err) == (1, "")
    assert "the method finds a place in none of the backbones cifar_resnet8, " in " ".join(out.split())
    assert heads(out) == ["mine"]


FAILED = Result("price_equals_executed", "Prices are right.", False, "4 is not 5", "look there")


def test_the_same_failure_is_said_once() -> None:
    again = Result("costs_add_up", "Costs add up.", False, "4 is not 5", "look elsewhere")
    text = "\n".join(in_words(CheckList("mine", "cifar_resnet8", (FAILED, again))))
    assert text.count("4 is not 5") == 1
    assert "look elsewhere" not in text
    assert "failed: as under price_equals_executed; mend that first" in text


@pytest.mark.parametrize(("encoding", "marks"), [("ascii", "ok FAILED"), ("latin-1", "ok FAILED"), ("utf-8", "✓ ✗")])
def test_marks_are_what_the_output_can_show(encoding: str, marks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", stream := io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    text = "\n".join(in_words(CheckList("mine", "x", (Result("a", "A holds.", True), FAILED))))
    passed, failed = marks.split()
    assert [line.split()[0] for line in text.splitlines()[1:3]] == [passed, failed]
    stream.write(text)
    stream.flush()


BACKBONE = """
@register_backbone("mine")
@dataclass(frozen=True)
class Mine(BackboneFamily):
    "A backbone of a test."

    def build(self, classes, in_channels, image_size):
        raise NotImplementedError
"""
UNFIT = METHOD.format(name="mine", cls="Mine").replace("return new()", "raise CannotAttach('mine: not here')")
BAD: list[tuple[tuple[str, ...], str, str]] = [
    # arguments, the text of mine.py, words of the one line
    (("skipnett",), "", "unknown method 'skipnett': did you mean skipnet? `dyncomp list methods` shows them all"),
    (("skipnet(targett=0.5)",), "", "unknown hyperparameter of skipnet 'targett': did you mean target"),
    (("skipnet(target=2)",), "", "skipnet: target=2.0 is above 1.0"),
    (("skipnet(target=0.5",), "", "unbalanced parentheses"),
    (("skipnet,,static",), "", "a name is missing"),
    (("",), "", "nothing is named"),
    ((), "", "Missing argument 'TARGET'"),
    (("skipnet", "static"), "", "unexpected extra argument"),
    (("skipnet", "--bogus"), "", "No such option: --bogus"),
    (
        ("cifar_resnet8",),
        "",
        "cifar_resnet8 is a backbone, not a method; give a method, and cifar_resnet8 by --backbone",
    ),
    (("mobilenet_v1(width=0.5)",), "", "mobilenet_v1 is a backbone, not a method"),
    (("digits",), "", "digits is a dataset, not a method"),
    (("skipnet", "--backbone", "cifar_resnt8"), "", "unknown backbone 'cifar_resnt8': did you mean cifar_resnet"),
    (("skipnet", "--backbone", "cifar_resnet8(widht=2)"), "", "did you mean width"),
    (("skipnet", "--backbone", "mobilenet_v1"), "", "skipnet: mobilenet_v1 has no residual block"),
    (("skipnet", "--backbone", "skipnet"), "", "unknown backbone 'skipnet'"),
    (("skipnet", "--include-path", "absent.py"), "", "absent.py: no such file or folder"),
    (("absent.py",), "", "absent.py: no such file or folder"),
    (("absent/mine.py",), "", "absent/mine.py: no such file or folder"),
    (("./",), "", "is a folder; give one of its files"),
    (("mine.py",), "x = 1\n", "mine.py registers nothing; put one of @register_method"),
    (("mine.py",), "def (:\n", "SyntaxError: "),
    (("mine.py",), HEAD + BACKBONE, "mine.py registers no method, only backbone mine"),
    (
        ("mine.py",),
        HEAD + "import nothing_of_this_name\n" + METHOD.format(name="mine", cls="Mine"),
        "ModuleNotFoundError",
    ),
    (("mine.py",), HEAD + METHOD.format(name="skipnet", cls="Mine"), "'skipnet' is registered at two places"),
    (
        ("mine.py",),
        HEAD + METHOD.format(name="mine", cls="Mine").replace("(frozen=True)", ""),
        "needs @dataclass(frozen",
    ),
    (("mine.py", "--backbone", "cifar_resnet8"), HEAD + UNFIT, "mine: not here"),
    (("mine.py(share=0.3)",), HEAD + UNFIT, "a file takes no hyperparameters; give --include-path mine.py and a spec"),
    (("mine.txt",), "", "'mine.txt' is no target; give a name or spec"),
    (("no_such_package.plugs:Thing",), "", "No module named 'no_such_package'; install the package, or give the file"),
    (("dyncomp.methods.absent:Thing",), "", "No module named 'dyncomp.methods.absent'"),
    (("dyncomp.methods.skipnet:Absent",), "", "has no attribute 'Absent'; give a class of that module"),
    (("dyncomp.ops:Gated",), "", "dyncomp.ops:Gated registers no method; decorate the class by @register_method"),
    (("dyncomp.errors:__all__",), "", "registers no method"),
    (("dyncomp.backbones.mobilenet_v1:MobileNetV1",), "", "registers no method"),
    (("dyncomp.core:",), "", "is no target; give"),
    ((":Thing",), "", "is no target; give"),
]


@pytest.mark.parametrize(("arguments", "text", "words"), BAD, ids=[f"{i}-{' '.join(b[0])}" for i, b in enumerate(BAD)])
def test_bad_input_is_one_line_and_status_2(
    arguments: tuple[str, ...], text: str, words: str, validated: Validated
) -> None:
    if text:
        Path("mine.py").write_text(text)
    status, out, err = validated(*arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments", [["skipnett"], ["cifar_resnet8"], ["skipnet", "--backbone", "nothing"], ["absent.py"], ["a.b"]]
)
def test_a_slip_is_answered_without_torch(arguments: list[str]) -> None:
    script = f"""
import sys
from dyncomp.cli import dyncomp_main
sys.argv = ["dyncomp", "validate", *{arguments!r}]
try:
    dyncomp_main()
except SystemExit as error:
    assert "torch" not in sys.modules
    sys.exit(error.code)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
