"""What a benchmark is asked to do."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from dyncomp.errors import InvalidValue, UnknownName
from dyncomp.store.schema import OptionsRecord

BUDGETS = ("quick", "standard")
CONTROLS = ("auto", "none")
RECIPE = ("batch_size", "learning_rate", "momentum", "weight_decay", "warmup", "clip", "augment", "milestones")
"""hyperparameters of the training that a config file may set, for all networks of the run alike"""
MOST_JOBS = 64


@dataclass(frozen=True)
class Config:
    """The options of `benchmark`, resolved: command line before config file before these defaults.

    Every option takes what the command line takes, a text, and what is natural in Python: a list of specs, numbers,
    paths. Raises InvalidValue for anything else.
    """

    methods: str = ""
    backbone: str = ""
    dataset: str = "digits"
    budget: str = "quick"
    seeds: tuple[int, ...] = (0,)
    batch_sizes: tuple[int, ...] = (1, 64)
    device: str = "auto"
    data_dir: str = ""
    output: str = ""
    init: str = ""
    controls: str = "auto"
    recipe: Mapping[str, Any] = field(default_factory=dict)
    include_path: tuple[str, ...] = ()
    jobs: int | None = None
    latency_width: float = 3.0
    latency_seconds: float | None = None
    compile: bool = False
    fast: bool = True
    force: bool = False
    strict_macs: bool = False
    dry_run: bool = False
    log: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, fit in _FITS.items():
            object.__setattr__(self, name, fit(getattr(self, name), name.replace("_", "-")))
        if not self.methods.strip(" \t\r\n,"):
            raise InvalidValue(
                "no method is named; give --methods, such as condconv,skipnet (`dyncomp list methods` shows them all)"
            )

    @property
    def epochs(self) -> float | None:
        """The budget as a number of epochs; None for a named budget, which the data set translates."""
        return None if self.budget in BUDGETS else float(self.budget)

    def as_record(self) -> OptionsRecord:
        """For the output folder's config.json."""
        return cast(OptionsRecord, asdict(self))  # its keys are the fields


_GIVE = "give a TOML file of options, such as methods = 'skipnet' (`benchmark --help` names them)"


def read_config(path: Path) -> dict[str, Any]:
    """The options in a TOML file, names with hyphen or underscore. Raises InvalidValue, UnknownName."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin with a mark
    except OSError as error:
        raise InvalidValue(f"config file {path} cannot be read: {error.strerror}; {_GIVE}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidValue(f"config file {path} is not TOML: {' '.join(str(error).split())}; {_GIVE}") from error
    options, known = {}, [field.name for field in fields(Config)]
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            raise UnknownName.among("option", name, known, f"(in config file {path})")
        options[name] = value
    return options


def fit_option(name: str, value: Any) -> Any:
    """A value as the option of that name holds it. Raises InvalidValue."""
    return _FITS[name](value, name.replace("_", "-"))


def _text(value: Any, option: str) -> str:
    if not isinstance(value, str):
        raise InvalidValue(f"{option}={value!r} is not a text")
    return value


def _specs(value: Any, option: str) -> str:
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    if not isinstance(value, str):
        raise InvalidValue(f"{option}={value!r}: give specs as one text with commas between them, or a list of texts")
    return value


def _path(value: Any, option: str) -> str:
    if not isinstance(value, str | os.PathLike):
        raise InvalidValue(f"{option}={value!r}: give a path")
    return os.fspath(value)


def _paths(value: Any, option: str) -> tuple[str, ...]:
    several = value if isinstance(value, list | tuple) else [value]
    return tuple(dict.fromkeys(_path(item, option) for item in several))


def _names(value: Any, option: str) -> tuple[str, ...]:
    several = value.split(",") if isinstance(value, str) else value
    if not isinstance(several, list | tuple) or not all(isinstance(item, str) for item in several):
        raise InvalidValue(f"{option}={value!r}: give names as one text with commas between them, or a list of texts")
    return tuple(dict.fromkeys(item.strip() for item in several if item.strip()))


def _budget(value: Any, option: str) -> str:
    """A named budget, or epochs in their one spelling: 3, 3.0 and "3.00" are the same budget."""
    if value in BUDGETS:
        return str(value)
    epochs = _number(value)
    if not 0 < epochs < math.inf:
        raise InvalidValue(f"{option}={value!r}: give {', '.join(BUDGETS)}, or a number of epochs above 0")
    return repr(epochs).removesuffix(".0")


def _controls(value: Any, option: str) -> str:
    if value not in CONTROLS:
        raise InvalidValue(f"{option}={value!r}: give {' or '.join(CONTROLS)}")
    return str(value)


def _recipe(value: Any, option: str) -> dict[str, Any]:
    """Hyperparameters of the recipe in place of the tuned ones; `Recipe` checks the values."""
    if not isinstance(value, Mapping):
        raise InvalidValue(f"{option}={value!r}: give a table, such as [recipe] with learning_rate = 0.1 below it")
    for name in value:
        if name not in RECIPE:
            raise UnknownName.among("hyperparameter", str(name), list(RECIPE), "of the recipe")
    return {name: tuple(one) if isinstance(one, list) else one for name, one in value.items()}


def _percent(value: Any, option: str) -> float:
    number = _number(value)
    if not 0 < number < math.inf:
        raise InvalidValue(f"{option}={value!r}: give percent above 0, such as 3")
    return number


def _seconds(value: Any, option: str) -> float | None:
    number = None if value is None else _number(value)
    if number is not None and not 0 < number < math.inf:
        raise InvalidValue(f"{option}={value!r}: give seconds above 0, such as 10; or leave it out")
    return number


def _jobs(value: Any, option: str) -> int | None:
    if value is None:
        return None
    try:
        jobs = _integer(value)
    except ValueError:
        jobs = 0
    if not 1 <= jobs <= MOST_JOBS:
        raise InvalidValue(
            f"{option}={value!r}: give a whole number from 1 to {MOST_JOBS}; or leave it out, for what the cores allow"
        )
    return jobs


def _number(value: Any) -> float:
    """NaN for what is no number."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan


def _integers(least: int, most: int) -> Callable[[Any, str], tuple[int, ...]]:
    """Whole numbers in a range, each once: `"1,8"`, 8 or [1, 8]."""

    def fit(value: Any, option: str) -> tuple[int, ...]:
        several = value.split(",") if isinstance(value, str) else value
        several = several if isinstance(several, list | tuple) else [several]
        try:
            numbers = [_integer(item) for item in several]
        except ValueError:
            numbers = []
        if not numbers or not all(least <= number <= most for number in numbers):
            allowed = f"from {least} to {most}"
            raise InvalidValue(f"{option}={value!r}: give whole numbers {allowed}, commas between them, such as 1,8,64")
        return tuple(dict.fromkeys(numbers))

    return fit


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError
    return int(value)


def _flag(value: Any, option: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidValue(f"{option}={value!r}: give true or false")
    return value


_FITS: Mapping[str, Callable[[Any, str], Any]] = MappingProxyType(
    {
        "methods": _specs,
        "backbone": _specs,
        "dataset": _specs,
        "budget": _budget,
        "seeds": _integers(0, 2**63 - 1),
        "batch_sizes": _integers(1, 65536),
        "device": _text,
        "data_dir": _path,
        "output": _path,
        "init": _path,
        "controls": _controls,
        "recipe": _recipe,
        "include_path": _paths,
        "jobs": _jobs,
        "latency_width": _percent,
        "latency_seconds": _seconds,
        "compile": _flag,
        "fast": _flag,
        "force": _flag,
        "strict_macs": _flag,
        "dry_run": _flag,
        "log": _names,
    }
)
