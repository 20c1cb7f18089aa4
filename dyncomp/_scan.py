"""What a plugin file registers, read from its text: nothing is imported, so listing stays fast."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import MISSING, dataclass, field

from dyncomp._literal import parse_without_warnings
from dyncomp._options import Bounds, Option

__all__ = ["Found", "Scan", "first_line", "scan"]

_CONTRACTS = {"ABC", "BackboneFamily", "Configurable", "Control", "Dataset", "Method", "object"}
_NO_FIELD = ("ClassVar", "KW_ONLY", "InitVar")


@dataclass(frozen=True)
class Found:
    """One registration; `options` is None where only running the file tells them."""

    decorator: str
    name: str
    paper: str
    class_name: str
    line: int
    summary: str
    options: tuple[Option, ...] | None


@dataclass(frozen=True)
class Scan:
    """What the text registers; `opaque`: there is more, which only running it tells."""

    found: tuple[Found, ...]
    opaque: bool


@dataclass(frozen=True)
class _Module:
    classes: dict[str, ast.ClassDef]
    constants: dict[str, ast.expr]
    decorators: dict[str, str] = field(default_factory=dict)  # as written here -> its own name


def scan(source: bytes, decorators: Collection[str]) -> Scan:
    """What a file's text registers by any of `decorators`. Raises SyntaxError, ValueError."""
    tree: ast.Module = parse_without_warnings(source)
    module = _Module(_classes(tree), _constants(tree), _names_of(tree, decorators))
    calls = {id(call) for call in ast.walk(tree) if _decorator(call, module)}
    found = []
    for node in module.classes.values():
        for call in node.decorator_list:
            if entry := _read(call, node, module):
                found.append(entry)
                calls.discard(id(call))
    return Scan(tuple(found), opaque=bool(calls))


def first_line(docstring: str | None) -> str:
    """A docstring's first line."""
    return (docstring or "").strip().split("\n")[0].strip()


def _classes(tree: ast.Module) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    """The names that the module binds once, to what; a name bound twice is no constant."""
    stored = Counter(
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
    )
    constants: dict[str, ast.expr] = {}
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(name)], value=value) if stored[name] == 1:
                constants[name] = _Resolve(constants).visit(value)
            case ast.AnnAssign(target=ast.Name(name), value=ast.expr() as value) if stored[name] == 1:
                constants[name] = _Resolve(constants).visit(value)
    return constants


def _names_of(tree: ast.Module, decorators: Collection[str]) -> dict[str, str]:
    names = {name: name for name in decorators}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names |= {a.asname: a.name for a in node.names if a.asname and a.name in decorators}
    return names


class _Resolve(ast.NodeTransformer):
    """Puts the module's constants in the place of their names."""

    def __init__(self, constants: dict[str, ast.expr]) -> None:
        self.constants = constants

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.constants.get(node.id, node)


def _decorator(node: ast.AST, module: _Module) -> str:
    """Which decorator a call is of, or "" for any other node."""
    return module.decorators.get(_last_name(node.func), "") if isinstance(node, ast.Call) else ""


def _last_name(node: ast.expr) -> str:
    """`c` of `a.b.c`, of `c` and of `c[...]`."""
    if isinstance(node, ast.Subscript):
        return _last_name(node.value)
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _read(call: ast.expr, node: ast.ClassDef, module: _Module) -> Found | None:
    """The registration that a decorator makes; None when it is another one, or not a literal."""
    decorator = _decorator(call, module)
    if not decorator or not isinstance(call, ast.Call):
        return None
    arguments = _arguments(call, ("name", "paper"), module)
    if arguments is None or not isinstance(arguments.get("name"), str):
        return None
    return Found(
        decorator=decorator,
        name=str(arguments["name"]),
        paper=str(arguments.get("paper", "")),
        class_name=node.name,
        line=call.lineno,
        summary=first_line(ast.get_docstring(node)),
        options=_options(node, module),
    )


def _arguments(call: ast.Call, positional: tuple[str, ...], module: _Module) -> dict[str, object] | None:
    """A call's arguments by name; None when one of them is no literal."""
    if len(call.args) > len(positional):
        return None
    given = dict(zip(positional, call.args, strict=False))
    given |= {keyword.arg or "**": keyword.value for keyword in call.keywords}
    try:
        return {key: _literal(value, module) for key, value in given.items()}
    except ValueError:
        return None


def _literal(node: ast.expr, module: _Module) -> object:
    """Raises ValueError for an expression that would have to be run."""
    try:
        value: object = ast.literal_eval(_Resolve(module.constants).visit(node))
    except (TypeError, RecursionError, MemoryError) as error:
        raise ValueError(str(error)) from None
    return value


def _options(node: ast.ClassDef, module: _Module) -> tuple[Option, ...] | None:
    """The fields of a dataclass, inherited ones first; None where the text does not tell."""
    if not any(_is_dataclass(decorator) for decorator in node.decorator_list):
        return None
    options: dict[str, Option] = {}
    for name in map(_last_name, reversed(node.bases)):
        if name in _CONTRACTS:
            continue
        inherited = _options(module.classes[name], module) if name in module.classes else None
        if inherited is None:
            return None
        options |= {option.name: option for option in inherited}
    try:
        return tuple((options | {o.name: o for o in _own_options(node, module)}).values())
    except ValueError:
        return None


def _is_dataclass(decorator: ast.expr) -> bool:
    call = decorator.func if isinstance(decorator, ast.Call) else decorator
    return _last_name(call) == "dataclass"


def _own_options(node: ast.ClassDef, module: _Module) -> Iterator[Option]:
    for statement in node.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(name), annotation=annotation, value=value):
                text = _annotation(annotation, module)
                if "ClassVar" in text:
                    continue
                if any(word in text for word in _NO_FIELD):
                    raise ValueError(f"{name} is a field of its own kind")
                yield _option(name, text, value, module)


def _annotation(node: ast.expr, module: _Module) -> str:
    """An annotation as text, the module's own names for types replaced by what they stand for."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        node = ast.parse(node.value, mode="eval").body
    return ast.unparse(_Resolve(module.constants).visit(node)).replace("typing.", "")


def _option(name: str, type: str, value: ast.expr | None, module: _Module) -> Option:
    if value is None:
        return Option(name, type, MISSING)
    if not isinstance(value, ast.Call):
        return Option(name, type, _literal(value, module))
    given = _arguments(value, ("default", "help"), module)
    if _last_name(value.func) != "option" or given is None or "default" not in given:
        raise ValueError(f"{name} is computed")
    limits = {key: limit for key, limit in given.items() if key in ("ge", "gt", "le", "lt")}
    make: Callable[..., Bounds] = Bounds
    return Option(name, type, given["default"], str(given.get("help", "")), make(**limits))
