"""Bad input: one line that helps, exit status 2, nothing written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dyncomp.cli import benchmark_main, dyncomp_main


@pytest.fixture(autouse=True)
def _empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory and cache."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DYNCOMP_DATA", raising=False)


def fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """The one line that `benchmark` answers with."""
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    with pytest.raises(SystemExit) as caught:
        benchmark_main()
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert "Traceback" not in err
    assert list(Path().iterdir()) == []
    return err


def asked(methods: str = "condconv", *more: str) -> tuple[str, ...]:
    return ("--methods", methods, "--backbone", "cifar_resnet8", "--budget", "0.5", "--output", "out", *more)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (asked("skipnett"), "unknown method 'skipnett': did you mean skipnet? `dyncomp list methods` shows them all"),
        (asked("cond-conf"), "did you mean condconv"),
        (asked("skipnet(targett=0.5)"), "unknown hyperparameter of skipnet 'targett': did you mean target"),
        (
            asked("skipnet", "--backbone", "cifar_resnt14"),
            "unknown backbone 'cifar_resnt14': did you mean cifar_resnet",
        ),
        (asked("skipnet", "--backbone", "cifar_resnet14(widht=2)"), "did you mean width"),
        (asked("skipnet", "--dataset", "digit"), "unknown dataset 'digit': did you mean digits?"),
        (asked("skipnet", "--dataset", "digits(sise=8)"), "did you mean size?"),
        (asked("skipnet", "--log", "tensorbord"), "unknown reporter 'tensorbord': did you mean tensorboard?"),
        (asked("skipnet(target=1.5)"), "skipnet: target=1.5 is above 1.0"),
        (asked("condconv(experts=0)"), "condconv: experts=0 is below 1"),
        (asked("condconv(experts=2.5)"), "condconv: experts=2.5 is not an integer"),
        (asked("condconv(experts='many')"), 'experts="many" is not an integer'),
        (asked('condconv(routing="tanh")'), "one of 'sigmoid', 'softmax'"),
        (asked("condconv(experts=)"), "experts"),
        (asked("condconv(experts=4"), "unbalanced parentheses"),
        (asked("condconv(experts=__import__('os'))"), "experts"),
        (asked("condconv(begin=99)"), "begin=99, but cifar_resnet8 has 3 blocks"),
        (asked("skipnet", "--backbone", "mobilenet_v1"), "skipnet: mobilenet_v1 has no residual block"),
        (asked(""), "no method is named; give --methods"),
        (asked(","), "no method is named; give --methods"),
        ((), "no method is named; give --methods, such as condconv,skipnet"),
        (asked("condconv,,skipnet"), "a name is missing"),
        (asked("condconv", "--budget", "soon"), "budget='soon': give quick, standard, or a number of epochs above 0"),
        (asked("condconv", "--budget", "0"), "budget='0'"),
        (
            asked("condconv", "--budget", "0.001"),
            "static: a budget of 0.001 epochs on 1079 images leaves 0 steps of 64",
        ),
        (asked("fbs", "--budget", "0.2"), "fbs: a budget of 0.2 epochs on 1079 images leaves 1 steps of 64"),
        (asked("condconv", "--seeds", "a,b"), "seeds='a,b': give whole numbers"),
        (asked("condconv", "--seeds", "-1"), "seeds='-1'"),
        (asked("condconv", "--batch-sizes", "0"), "batch-sizes='0': give whole numbers from 1"),
        (asked("condconv", "--batch-sizes", "1,,2"), "batch-sizes='1,,2'"),
        (asked("condconv", "--config", "absent.toml"), "config file absent.toml cannot be read: No such file"),
        (asked("condconv", "--include-path", "absent.py"), "absent.py: no such file or folder"),
        (asked("condconv", "--data-dir", "absent"), "--data-dir=absent is not a folder"),
        (asked("condconv", "--init", "absent"), "init='absent' is no file; give a checkpoint"),
        (asked("all(x=1)"), "unknown method 'all'"),
        (asked("all,skipnett"), "did you mean skipnet?"),
        (asked("condconv", "--dataset", "imagenet"), "imagenet"),
        (asked("condconv", "--device", "abacus"), "device 'abacus' is not available on this machine"),
        (asked("condconv", "--bogus", "1"), "No such option: --bogus"),
        (asked("condconv", "--methods"), "'--methods' requires an argument"),
        (("condconv",), "unexpected extra argument"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, tuple) else "",
)
def test_one_line(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert words in fails(capsys, monkeypatch, *arguments)


def test_data_not_found_says_where_it_looked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    line = fails(capsys, monkeypatch, *asked("condconv", "--dataset", "imagenet", "--data-dir", str(tmp_path / "data")))
    assert str(tmp_path / "data") in line
    assert str(tmp_path / "cache" / "dyncomp") in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has one")
def test_cuda_without_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    line = fails(capsys, monkeypatch, *asked("condconv", "--device", "cuda"))
    assert "device 'cuda' is not available on this machine; give one of: auto, cpu" in line


def test_an_output_folder_of_something_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    line = fails(capsys, monkeypatch, *asked("condconv", "--output", str(tmp_path)))
    assert "holds something else" in line
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_output_below_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    fails(capsys, monkeypatch, *asked("condconv", "--output", str(tmp_path / "file" / "out")))
    assert (tmp_path / "file").read_text() == "x"


def test_no_write_permission(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(self: Path, *arguments: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    line = fails(capsys, monkeypatch, *asked("condconv", "--output", str(tmp_path / "out")))
    assert "Permission denied" in line
    assert "--output" in line


def test_a_plugin_with_a_syntax_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("x = 1\ndef broken(:\n")
    line = fails(capsys, monkeypatch, *asked("condconv", "--include-path", str(tmp_path / "mine.py")))
    assert "mine.py:2: SyntaxError" in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("methds = 'condconv'", "unknown option 'methds': did you mean methods"),
        ("seeds = ['a']", "seeds=['a']"),
        ("methods = 'condconvv'", "did you mean condconv"),
        ("methods =", "is not TOML"),
    ],
)
def test_a_wrong_config_file(
    text: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "suite.toml").write_text(text)
    assert words in fails(capsys, monkeypatch, "--output", "out", "--config", str(tmp_path / "suite.toml"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "things"], "did you mean|known: backbones, datasets, methods"),
        (["report", "absent"], "holds no results of dyncomp"),
        (["report"], "Missing argument"),
        (["dance"], "No such command 'dance'"),
        (["list", "--bogus"], "No such option: --bogus"),
    ],
)
def test_other_verbs(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["dyncomp", *arguments])
    with pytest.raises(SystemExit) as caught:
        dyncomp_main()
    err = capsys.readouterr().err
    assert caught.value.code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert re.search(words, err)


SAID_EARLY = """
import sys
from dyncomp.cli import benchmark_main
sys.argv = ["benchmark", *{arguments!r}]
try:
    benchmark_main()
except SystemExit as error:
    assert "torch" not in sys.modules
    sys.exit(error.code)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--methods", "skipnett"],
        ["--methods", "condconv", "--budget", "soon"],
        ["--methods", "condconv", "--init", "absent"],
    ],
)
def test_a_slip_is_answered_without_torch(arguments: list[str]) -> None:
    script = SAID_EARLY.format(arguments=arguments)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
