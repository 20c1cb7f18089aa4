"""What `benchmark` is asked: every way to say it, and one line for every wrong value."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dyncomp.bench import Config, read_config
from dyncomp.errors import DyncompError, InvalidValue, UnknownName


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("methods", ["condconv", "skipnet(target=0.4)"], "condconv,skipnet(target=0.4)"),
        ("methods", "condconv", "condconv"),
        ("dataset", ["digits", "shapes"], "digits,shapes"),
        ("seeds", "0,1, 2", (0, 1, 2)),
        ("seeds", 3, (3,)),
        ("seeds", [2, 1, 2], (2, 1)),
        ("batch_sizes", (1, 64, 1), (1, 64)),
        ("batch_sizes", "8", (8,)),
        ("budget", "standard", "standard"),
        ("budget", 3, "3"),
        ("budget", 3.0, "3"),
        ("budget", "3.00", "3"),
        ("budget", "0.5", "0.5"),
        ("budget", "1e2", "100"),
        ("output", Path("some/where"), "some/where"),
        ("data_dir", Path("data"), "data"),
        ("init", Path("net.safetensors"), "net.safetensors"),
        ("include_path", Path("a.py"), ("a.py",)),
        ("include_path", ["a.py", Path("b.py"), "a.py"], ("a.py", "b.py")),
        ("latency_width", "1.5", 1.5),
        ("latency_width", 2, 2.0),
        ("latency_seconds", "30", 30.0),
        ("latency_seconds", None, None),
        ("controls", "none", "none"),
        ("force", True, True),
    ],
)
def test_values_are_taken_in_every_natural_form(name: str, given: Any, expected: Any) -> None:
    assert getattr(Config(**{"methods": "static", name: given}), name) == expected


@pytest.mark.parametrize(("budget", "epochs"), [("quick", None), ("standard", None), ("3", 3.0), ("0.25", 0.25)])
def test_epochs(budget: str, epochs: float | None) -> None:
    assert Config(methods="static", budget=budget).epochs == epochs


WRONG = [
    *[("methods", value) for value in ("", "  ", ",", " , ,", [], ["", ""], 3, None, [1])],
    *[("backbone", value) for value in (3, None, [None])],
    *[("dataset", value) for value in (False, {"a": 1})],
    *[
        ("budget", value)
        for value in ("", "slow", "0", "-1", 0, -2.5, "nan", "inf", float("inf"), True, None, [3], "1e999")
    ],
    *[("seeds", value) for value in ("", "a", "1,,2", "1.5", [], [1.5], -1, "-1", True, None, [True], 2**63, ["x"])],
    *[("batch_sizes", value) for value in ("0", 0, [], "1,0", -4, "big", 10**9, 1.0)],
    *[("device", value) for value in (3, None)],
    *[("data_dir", value) for value in (3, None, ["a"])],
    *[("output", value) for value in (3, None)],
    *[("init", value) for value in (3, None, ["a"])],
    *[("controls", value) for value in ("", "all", "None", None, True, ["auto"])],
    *[("include_path", value) for value in (3, [3], [None])],
    *[("latency_width", value) for value in ("", "narrow", 0, -1, "nan", "inf", True, None, [3])],
    *[("latency_seconds", value) for value in ("", "long", 0, -1, "nan", "inf", True, [3])],
    *[("force", value) for value in ("yes", 1, None)],
    *[("dry_run", value) for value in ("no", 0)],
]


@pytest.mark.parametrize(("name", "given"), WRONG, ids=lambda value: str(value)[:20])
def test_every_wrong_value_is_one_line(name: str, given: Any) -> None:
    with pytest.raises(InvalidValue) as caught:
        Config(**{"methods": "static", name: given})
    text = str(caught.value)
    assert "\n" not in text
    assert name.replace("_", "-") in text or name == "methods"
    assert "give" in text or "not a text" in text


def test_all_of_it_goes_into_json() -> None:
    config = Config(methods="static", seeds=[0, 1], include_path=[Path("a.py")], output=Path("x"))  # type: ignore[arg-type]
    written = json.loads(json.dumps(config.as_record()))
    assert Config(**written) == config


def toml(folder: Path, text: str) -> Path:
    path = folder / "suite.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_file_says_the_same_as_the_command_line(tmp_path: Path) -> None:
    path = toml(
        tmp_path,
        """
        methods = ["condconv", "skipnet(target=[0.4, 0.6])"]
        backbone = "cifar_resnet14"
        budget = 5
        seeds = [0, 1]
        batch-sizes = "1,8"
        data_dir = "data"
        include-path = ["mine.py"]
        force = true
        """,
    )
    assert Config(**read_config(path)) == Config(
        methods="condconv,skipnet(target=[0.4, 0.6])",
        backbone="cifar_resnet14",
        budget="5",
        seeds=(0, 1),
        batch_sizes=(1, 8),
        data_dir="data",
        include_path=("mine.py",),
        force=True,
    )


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("methds = 'static'", UnknownName, "unknown option 'methds': did you mean methods"),
        ("[benchmark]\nmethods = 'static'", UnknownName, "unknown option 'benchmark'"),
        ("methods = ", InvalidValue, "is not TOML"),
        ("methods = 'a'\nmethods = 'b'", InvalidValue, "is not TOML"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(text: str, error: type[Exception], words: str, tmp_path: Path) -> None:
    path = toml(tmp_path, text)
    with pytest.raises(error, match=re.escape(words)) as caught:
        read_config(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["absent", "folder", "binary"])
def test_an_unreadable_file_is_one_line(what: str, tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    if what == "folder":
        path.mkdir()
    if what == "binary":
        path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DyncompError, match=re.escape(str(path))) as caught:
        read_config(path)
    assert "\n" not in str(caught.value)


def test_a_mark_at_the_beginning_of_a_file_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xef\xbb\xbfmethods = 'skipnet'\n")
    assert read_config(path) == {"methods": "skipnet"}
