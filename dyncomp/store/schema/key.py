"""How a key of a record is described: what it says, in which unit, in which records it stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

Part = Mapping[str, Any]
"""a record, or the part of one that has the key"""


@dataclass(frozen=True)
class When:
    """In which records a key stands: in words, and as a rule.

    `holds` is asked with the part that has the key: the key must be there where it says yes, and nowhere else. It is
    None where the record alone does not tell; then the key may be there or not.
    """

    words: str
    holds: Callable[[Part], bool] | None


def beside(key: str, words: str) -> When:
    """Wherever that other key stands, which is written together with it."""
    return When(words, lambda part: key in part)


ALWAYS = When("always", lambda part: True)
FINISHED = When("the cell is `ok`", lambda part: part.get("status") == "ok")


class _Absent:
    """What `Key.before` says of records that have always had a key, and of those that stay without one."""

    def __init__(self, words: str) -> None:
        self.words = words

    def __repr__(self) -> str:
        return self.words


NEVER_ABSENT: Final = _Absent("every version has written the key")
LEFT_OUT: Final = _Absent("older records stay without the key")


@dataclass(frozen=True)
class Key:
    """What one key of a record says; its type is the one that `Annotated` joins this to.

    `before` is about records from before the key was written, which are valid without it: a stand-in that they are read
    with, a value or a function of the part that lacks the key, or `LEFT_OUT` where there is none.
    """

    meaning: str
    unit: str = ""
    when: When = ALWAYS
    before: object = NEVER_ABSENT

    def stand_in(self, part: Part) -> object:
        """What a part from before the key is read with; `LEFT_OUT` or `NEVER_ABSENT` where there is nothing."""
        return self.before(part) if callable(self.before) else self.before
