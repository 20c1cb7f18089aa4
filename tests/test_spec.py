"""The spec grammar: what is read, what is refused and with which words."""

from __future__ import annotations

import contextlib
from random import Random
from typing import Any

import pytest

from dyncomp.errors import InvalidSpec
from dyncomp.spec import Spec, parse_spec, parse_specs

READ = [
    ("skipnet", [("skipnet", {})]),
    ("  skipnet ( ) ", [("skipnet", {})]),
    ("mobilenet-v1", [("mobilenet_v1", {})]),
    ("condconv,skipnet", [("condconv", {}), ("skipnet", {})]),
    ("a(x=1), b(y=2)", [("a", {"x": 1}), ("b", {"y": 2})]),
    ("a(begin-block=3)", [("a", {"begin_block": 3})]),
    ("a(x=-1.5e-3)", [("a", {"x": -0.0015})]),
    ("a(x=+2)", [("a", {"x": 2})]),
    ("a(x=True, y=None)", [("a", {"x": True, "y": None})]),
    ("a(x='it, (is', y=\"1)\")", [("a", {"x": "it, (is", "y": "1)"})]),
    (r'a(x="say \"hi\", b(")', [("a", {"x": 'say "hi", b('})]),
    ("a(x=(0.3, 0.5))", [("a", {"x": (0.3, 0.5)})]),
    ("a(x=((1, 2), ('b',)))", [("a", {"x": ((1, 2), ("b",))})]),
    ("a(x=(\n  1,\n  2))", [("a", {"x": (1, 2)})]),
    ("a(x=[0.3, 0.5])", [("a", {"x": 0.3}), ("a", {"x": 0.5})]),
    ("a(x=[7])", [("a", {"x": 7})]),
    ("a(x=[(1, 2), (3,)])", [("a", {"x": (1, 2)}), ("a", {"x": (3,)})]),
    (
        'distill(teacher="model_ensemble(members=3)")',
        [("distill", {"teacher": "model_ensemble(members=3)"})],
    ),
]


@pytest.mark.parametrize(("text", "wanted"), READ)
def test_read(text: str, wanted: list[tuple[str, dict[str, Any]]]) -> None:
    specs = parse_specs(text)
    assert [(spec.name, dict(spec.options)) for spec in specs] == wanted
    values = [type(value) for spec in specs for value in spec.options.values()]
    assert values == [type(value) for _, options in wanted for value in options.values()]


def test_sweeps_are_the_product_in_the_order_written() -> None:
    specs = parse_specs('b,a(y=[1, 2], keep=0, x=["u", "v"])')
    assert [str(spec) for spec in specs] == [
        "b",
        'a(y=1, keep=0, x="u")',
        'a(y=1, keep=0, x="v")',
        'a(y=2, keep=0, x="u")',
        'a(y=2, keep=0, x="v")',
    ]


REFUSED = [
    ("", "nothing is named"),
    ("  ", "nothing is named"),
    (",", "nothing is named"),
    (" , ,", "nothing is named"),
    ("a,", "one comma between two"),
    (",a", "one comma between two"),
    ("a,,b", "one comma between two"),
    ("a(", "parentheses"),
    ("a)", "parentheses"),
    ("a(x=1", "parentheses"),
    ("a(x=1))", "parentheses"),
    ("a(x=(1]", "parentheses"),
    ("a(x=[1)", "parentheses"),
    ("a(x=1)(y=2)", "parentheses"),
    ("a(x=1)b", "write name or name(key=value, ...)"),
    ("a b", "write name or name(key=value, ...)"),
    ("x=1", "write name or name(key=value, ...)"),
    ("(x=1)", "write name or name(key=value, ...)"),
    ("1a", "write name or name(key=value, ...)"),
    ("é", "write name or name(key=value, ...)"),
    ("a(0.5)", "write a(key=0.5)"),
    ('a("rnn")', 'write a(key="rnn")'),
    ("a(gate=rnn)", 'put it in quotes: gate="rnn"'),
    ("a(net=resnet-18)", 'put it in quotes: net="resnet-18"'),
    ("a(x=true)", "write x=True"),
    ("a(x=none)", "write x=None"),
    ("a(x=)", "x= has no value"),
    ("a(x=1,)", "between two commas"),
    ("a(x=1,,y=2)", "between two commas"),
    ("a(,)", "between two commas"),
    ("a(x=1, x=2)", "x is given twice"),
    ("a(be-gin=1, be_gin=2)", "be_gin is given twice"),
    ("a(x=[])", "at least one value"),
    ("a(x=1+1)", "not a literal"),
    ("a(x==1)", "not a literal"),
    ("a(x=f'{1}')", "not a literal"),
    ("a(x=__import__('os').getcwd())", "not a literal"),
    ("a(x=[i for i in (1, 2)])", "not a literal"),
    ("a(x=1e999)", "no value of an option"),
    ("a(x=2j)", "no value of an option"),
    ("a(x=b'u')", "no value of an option"),
    ("a(x={1: 2})", "no value of an option"),
    ("a(x={1, 2})", "no value of an option"),
    ("a(x=(1, [2]))", "no value of an option"),
    ("a(x=[[1]])", "no value of an option"),
    ("a(x='u)", "quote is not closed"),
    ("a(x=\"u')", "quote is not closed"),
    ("a(x='\x00')", "not a literal"),
    ("a(x=" + "(" * 5000 + ")" * 5000 + ")", "not a literal"),
    ("a(x=" + "-" * 50_000 + "1)", "not a literal"),
    ("a(x=" + "9" * 5000 + ")", "not a literal"),
]


@pytest.mark.parametrize(("text", "words"), REFUSED)
def test_refused_on_one_line(text: str, words: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse_specs(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("text", ["a,b", "a(x=[1, 2])"])
def test_one_spec_is_one(text: str) -> None:
    with pytest.raises(InvalidSpec, match="is 2 specs"):
        parse_spec(text)


LETTERS = "aZ09_ \t\n,=()[]{}\"'\\#éß漢\x00\u2028"


def a_value(chance: Random, depth: int = 2) -> Any:
    """Any value that an option can have."""
    plain: list[Any] = [
        None,
        chance.random() < 0.5,
        chance.randint(-(10**20), 10**20),
        chance.uniform(-1, 1) * 10.0 ** chance.randint(-300, 300),
        "".join(chance.choices(LETTERS, k=chance.randint(0, 8))),
    ]
    if depth and chance.random() < 0.3:
        return tuple(a_value(chance, depth - 1) for _ in range(chance.randint(0, 3)))
    return chance.choice(plain)


@pytest.mark.parametrize("seed", range(200))
def test_text_of_a_spec_reads_back(seed: int) -> None:
    chance = Random(seed)
    spec = Spec("a_b2", {f"k_{i}": a_value(chance) for i in range(chance.randint(0, 4))})
    again = parse_spec(str(spec))
    assert again == spec
    assert hash(again) == hash(spec)
    assert str(again) == str(spec)
    assert "\n" not in str(spec)


@pytest.mark.parametrize("seed", range(200))
def test_any_text_is_read_or_refused(seed: int) -> None:
    chance = Random(seed)
    text = 'a(x=1, y=("u", 2)),b' if seed % 2 else "".join(chance.choices(LETTERS, k=12))
    letters = list(text)
    for _ in range(chance.randint(0, 3)):
        letters[chance.randrange(len(letters))] = chance.choice(LETTERS)
    specs: list[Spec] = []
    with contextlib.suppress(InvalidSpec):
        specs = parse_specs("".join(letters))
    assert [parse_spec(str(spec)) for spec in specs] == specs


def test_spec_keeps_its_own_options() -> None:
    options = {"x": 1}
    spec = Spec("a", options)
    options["x"] = 2
    assert spec == Spec("a", {"x": 1})
