"""Where a plugin's code lies, and how it is read and run."""

from __future__ import annotations

import ast
import hashlib
import io
import linecache
import os
import sys
import tokenize
import traceback
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

from dyncomp.errors import BrokenPlugin, DyncompError

__all__ = ["Source", "hash_of_code", "loose_source", "module_path", "seen_code", "show", "source_of"]

_IMPORTING: ContextVar[Source | None] = ContextVar("dyncomp_importing", default=None)


@dataclass(frozen=True)
class Source:
    """A module of plugins: its file, if any, its name, and where it is from in words."""

    file: Path | None
    module: str
    origin: str
    loose: bool = False  # no package: found by its file only
    by_hand: bool = False  # a decorator ran outside of our imports

    def read(self) -> bytes:
        """The file's bytes. Raises BrokenPlugin."""
        try:
            return self.file.read_bytes() if self.file else b""
        except OSError as error:
            raise BrokenPlugin(f"{self.origin}: {error.strerror}") from None

    def run(self) -> ModuleType:
        """The imported module. Raises BrokenPlugin with the module's own error."""
        token = _IMPORTING.set(self)
        try:
            return self._run_file() if self.loose else import_module(self.module)
        except DyncompError:
            raise
        except (Exception, SystemExit) as error:
            raise BrokenPlugin(self.describe(error)) from error
        finally:
            _IMPORTING.reset(token)

    def describe(self, error: BaseException) -> str:
        """An error in this file on one line, with the line where it arose."""
        line = error.lineno if isinstance(error, SyntaxError) else self._line(error)
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        place = show(self.file) if self.file else self.module
        text = f"{type(error).__name__}: {message}".strip().rstrip(":")
        return " ".join(f"{place}{f':{line}' if line else ''}: {text}".split())

    def _line(self, error: BaseException) -> int | None:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame.lineno for frame in frames if self.file and frame.filename == str(self.file)]
        return own[-1] if own else None

    def _run_file(self) -> ModuleType:
        if self.module in sys.modules:
            return sys.modules[self.module]
        loader = SourceFileLoader(self.module, str(self.file))
        spec = spec_from_loader(self.module, loader)
        module = module_from_spec(spec or ModuleSpec(self.module, loader))
        sys.modules[self.module] = module  # dataclasses look their module up while it runs
        try:
            # not through the loader: it would leave a __pycache__ in the user's folder
            code = loader.source_to_code(self.read(), str(self.file))
            exec(code, vars(module))
        except BaseException:
            del sys.modules[self.module]
            raise
        return module


def loose_source(path: Path) -> Source:
    """The source of a file of no package; path and text determine the module's private name."""
    file = path.resolve()
    source = Source(file, "", str(path), loose=True)
    digest = hashlib.sha256(str(file).encode() + b"\0" + source.read()).hexdigest()[:12]
    stem = "".join(letter if letter.isalnum() else "_" for letter in path.stem)
    return replace(source, module=f"dyncomp_plugin_{stem}_{digest}")


def source_of(cls: type, line: int) -> Source:
    """The source of a class that was registered by running its code."""
    module = sys.modules.get(cls.__module__)
    name = getattr(module, "__file__", None)
    file = Path(name).resolve() if name else None
    importing = _IMPORTING.get()
    if importing:
        return replace(importing, file=file, module=cls.__module__)
    place = f"{show(file) if file else cls.__module__}:{line}"
    return Source(file, cls.__module__, f"registered in {place}", by_hand=True)


def seen_code(source: Source, cls: type | None = None) -> bytes:
    """The text of the plugin's file, or of the notebook's cell with `cls`.

    Code that cannot be seen (typed into an interpreter) is something new each time: it never equals what an old record
    was made with.
    """
    seen = source.read() if source.file and source.file.is_file() else _cell(cls)
    return seen or os.urandom(16)


def hash_of_code(seen: bytes) -> str:
    """16 hex digits of the SHA-256 of the code in a text.

    Comments, docstrings and the modules of this package that names are imported from do not count: they change no
    result.
    """
    return hashlib.sha256(_code_alone(seen)).hexdigest()[:16]


def _code_alone(text: bytes) -> bytes:
    """A file without comments, texts that stand alone, and empty lines; its imports from this package as one line.

    A file that is no Python stays as it is. Cut out of the text, not printed from the tree: how a tree is printed
    changes from one version of Python to the next.
    """
    try:
        tree = ast.parse(text)
        tokens = list(tokenize.tokenize(io.BytesIO(text).readline))
    except (SyntaxError, ValueError, tokenize.TokenError):
        return text
    cuts = [(token.start, token.end) for token in tokens if token.type == tokenize.COMMENT]
    lines, names = text.decode(tokens[0].string).splitlines(), list[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "dyncomp":
            names += [f"{alias.name} as {alias.asname or alias.name}" for alias in node.names]
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            continue
        cuts.append((_place(lines, node.lineno, node.col_offset), _place(lines, node.end_lineno, node.end_col_offset)))
    for (first, begin), (last, end) in sorted(cuts, reverse=True):
        lines[first - 1 : last] = [lines[first - 1][:begin] + lines[last - 1][end:]]
    kept = [line.rstrip() for line in lines]
    return "\n".join([*sorted(names), *(line for line in kept if line)]).encode()


def _place(lines: Sequence[str], line: int | None, offset: int | None) -> tuple[int, int]:
    """Line and column in characters of a tree's place, which counts bytes."""
    assert line is not None and offset is not None  # a parsed tree has them
    return line, len(lines[line - 1].encode()[:offset].decode())


def module_path(name: str) -> Path | None:
    """The file of a module, or the folder of a package without one; nothing is imported."""
    top, *rest = name.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin else None
    for folder in spec.submodule_search_locations or ():
        place = Path(folder, *rest)
        for candidate in (place / "__init__.py", place.with_suffix(".py"), place):
            if candidate.exists():
                return candidate
    return None


def show(path: Path) -> str:
    """A path as an error shows it: from the working directory on where it lies below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _cell(cls: type | None) -> bytes:
    """The text that defines a class without a file, as an interactive shell keeps it."""
    codes = (getattr(value, "__code__", None) for value in vars(cls).values()) if cls else ()
    names = dict.fromkeys(code.co_filename for code in codes if code)
    lines = (linecache.getlines(name) for name in names if not Path(name).exists())  # not @dataclass's own
    return "".join(line for cell in lines for line in cell).encode()
