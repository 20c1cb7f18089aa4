"""How numbers are written for people; a number that is missing is written as a dash."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

MISSING = "\N{EN DASH}"
MACS_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def missing(value: Any) -> bool:
    """True for None, NaN and pandas' missing integer."""
    if value is None or isinstance(value, str):
        return value is None
    try:
        return math.isnan(value)
    except TypeError:  # pandas' missing integer is neither a number nor NaN
        return True


def fixed(value: Any, digits: int, unit: str = "") -> str:
    """`value` with so many decimals; never a minus zero."""
    if missing(value):
        return MISSING
    return f"{round(float(value), digits) + 0.0:.{digits}f}{unit}"


def plain(value: Any) -> str:
    """Texts as they are, numbers without superfluous zeros: `3`, `0.45`."""
    if missing(value) or isinstance(value, str):
        return MISSING if missing(value) else value
    return f"{float(value):.10g}"


def percent(value: Any) -> str:
    """`98.1 %`, of a value in percent."""
    return fixed(value, 1, " %")


def points(value: float) -> str:
    """Signed percentage points; zero has no sign."""
    text = fixed(value, 1)
    return text if text.startswith("-") or text == "0.0" else f"+{text}"


def ratio(value: Any) -> str:
    """`1.92x`."""
    return fixed(value, 2, "x")


def significant(value: Any, digits: int = 3) -> str:
    """So many significant digits, without an exponent."""
    if missing(value):
        return MISSING
    number = float(value)
    if number == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(number))))
    return f"{number:,.{decimals}f}".replace(",", "\N{NO-BREAK SPACE}")


def macs_unit(largest: float) -> tuple[float, str]:
    """The scale and its name (`M MACs`) in which numbers up to `largest` read well."""
    scale, letter = next((unit for unit in MACS_UNITS if largest >= unit[0]), MACS_UNITS[-1])
    return scale, f"{letter} MACs".strip()


def macs(value: Any) -> str:
    """`1.23 M` multiply-adds."""
    if missing(value):
        return MISSING
    scale, unit = macs_unit(float(value))
    return f"{significant(float(value) / scale)} {unit.removesuffix('MACs').strip()}".strip()


def both(value: Any) -> str:
    """`1.23 M MACs (2.46 M FLOPs)`: the two conventions, of a number of multiply-adds."""
    if missing(value):
        return MISSING
    return f"{macs(value)} MACs ({macs(2 * float(value))} FLOPs)"


def listed(items: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
