"""What a benchmark is asked to do."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from dyncomp.errors import InvalidValue

BUDGETS = ("quick", "standard")


@dataclass(frozen=True)
class Config:
    """The options of `benchmark`, resolved: command line before config file before these defaults."""

    methods: str = ""
    backbone: str = ""
    dataset: str = "digits"
    budget: str = "quick"
    seeds: tuple[int, ...] = (0,)
    batch_sizes: tuple[int, ...] = (1, 64)
    device: str = "auto"
    data_dir: str = ""
    output: str = ""
    include_path: tuple[str, ...] = field(default=())
    force: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        for name, least in (("seeds", 0), ("batch_sizes", 1)):
            values = getattr(self, name)
            if not values or any(value < least for value in values):
                raise InvalidValue(
                    f"{name.replace('_', '-')} {list(values)}: give whole numbers of at least {least}"
                )
        if self.epochs is not None and not 0 < self.epochs < float("inf"):
            raise InvalidValue(f"budget {self.budget}: epochs must be above 0")

    @property
    def epochs(self) -> float | None:
        """The budget as a number of epochs; None for a named budget, which the data set translates."""
        if self.budget in BUDGETS:
            return None
        try:
            return float(self.budget)
        except ValueError:
            words = ", ".join(BUDGETS)
            raise InvalidValue(
                f"budget {self.budget!r} is neither one of {words} nor a number of epochs"
            ) from None

    def as_json(self) -> dict[str, Any]:
        """For the output folder's config.json."""
        return asdict(self)


def read_config(path: Path) -> dict[str, Any]:
    """The options in a TOML file, names with hyphen or underscore. Raises InvalidValue."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidValue(f"config file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidValue(f"config file {path} is not TOML: {error}") from error
    return _checked({key.replace("-", "_"): value for key, value in table.items()}, path)


def _checked(table: Mapping[str, Any], path: Path) -> dict[str, Any]:
    known = {f.name: f for f in fields(Config)}
    checked: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise InvalidValue(f"config file {path}: unknown key {key!r}; known: {', '.join(known)}")
        checked[key] = _fitted(key, value, known[key].default, path)
    return checked


def _fitted(key: str, value: Any, default: Any, path: Path) -> Any:
    if isinstance(default, tuple):
        values = tuple(value) if isinstance(value, list) else (value,)
        kind = str if key == "include_path" else int
        if all(type(v) is kind for v in values):
            return values
    elif isinstance(default, str):
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            return ",".join(value)
        if isinstance(value, str) or (key == "budget" and type(value) in (int, float)):
            return str(value)
    elif type(value) is type(default):
        return value
    raise InvalidValue(f"config file {path}: {key}={value!r} is not of the right type")


def joined(values: Sequence[str] | str) -> str:
    """Several specs as one text."""
    return values if isinstance(values, str) else ",".join(values)
