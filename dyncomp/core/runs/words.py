"""A table of steps for code that runs them one after the other, and of what each is given."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from dyncomp.core import native
from dyncomp.core.native import StepWord

Given = Mapping[int, int | str]
"""Numbers and addresses by their place; the name of a slot for what is known only at a pass."""


class Words:
    """The table while it grows."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, int]] = []
        self._numbers: list[int] = []
        self._slots: defaultdict[str, list[int]] = defaultdict(list)
        self._inside: list[tuple[int, int]] = []

    def step(self, code: native.Code, given: Given) -> int:
        """Another step, and where in the table what it is given begins."""
        start = len(self._numbers)
        self._numbers += [0] * code.parameters
        for index, value in given.items():
            if isinstance(value, str):
                self._slots[value].append(start + index)
            else:
                self._numbers[start + index] = value
        self._steps.append((code.address, start))
        return start

    def point(self, word: int, to: int) -> None:
        """Give a word the address of another word of the table."""
        self._inside.append((word, to))

    def table(self) -> Table:
        """The table, complete."""
        ahead = len(StepWord) * len(self._steps)
        words = np.array([0] * ahead + self._numbers, dtype=np.int64)

        def address(word: int) -> int:
            return int(words.ctypes.data + words.itemsize * (ahead + word))

        for index, (code, start) in enumerate(self._steps):
            words[len(StepWord) * index :][: len(StepWord)] = code, address(start)
        for word, target in self._inside:
            words[ahead + word] = address(target)
        return Table(words, len(self._steps), {slot: np.array(at) + ahead for slot, at in self._slots.items()})


class Table:
    """A table of words, so many steps first, and where each slot's are."""

    def __init__(self, words: np.ndarray[Any, Any], steps: int, slots: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self._words, self._slots = words, slots
        self._known: dict[str, int] = {}
        self._given = steps, int(words.ctypes.data)

    def fill(self, slot: str, value: int) -> None:
        """What a slot is in this pass, where there is one of that name."""
        if self._known.get(slot) != value and slot in self._slots:
            self._words[self._slots[slot]] = self._known[slot] = value

    def run(self, threads: int) -> None:
        """All steps."""
        native.in_sequence().run(threads, *self._given)
