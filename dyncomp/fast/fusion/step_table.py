"""A table of steps for code that runs them one after the other, and of what each is given."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dyncomp.fast import codegen as native
from dyncomp.fast.codegen import StepWord
from dyncomp.fast.memory import kept

Words64 = np.ndarray[Any, np.dtype[np.int64]]

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

    def tables(self) -> Tables:
        """The table, complete: one for each thread."""
        ahead = len(StepWord) * len(self._steps)
        words = np.array([0] * ahead + self._numbers, dtype=np.int64)
        inside = [(word + ahead, to + ahead) for word, to in self._inside]
        for index, (code, start) in enumerate(self._steps):
            words[len(StepWord) * index + StepWord.CODE] = code
            inside.append((len(StepWord) * index + StepWord.GIVEN, start + ahead))
        slots = {slot: np.array(at) + ahead for slot, at in self._slots.items()}
        return Tables(words, np.array(inside), len(self._steps), slots)


class Table:
    """A thread's own words, so many steps first, and where each slot's are.

    `inside`: words that are addresses of other words, and which. `filled` says what memory was given out last; `forced`
    whether code followed forced decisions in the pass before.
    """

    def __init__(self, words: Words64, inside: Words64, steps: int, slots: Mapping[str, Words64]) -> None:
        own: Words64 = kept(torch.from_numpy(words.copy())).numpy()
        own[inside[:, 0]] = own.ctypes.data + own.itemsize * inside[:, 1]
        self._words, self._slots = own, slots
        self._known: dict[str, int] = {}
        self._given = native.in_sequence().packed(steps, int(own.ctypes.data))
        self.filled: tuple[int, ...] = ()
        self.forced = False

    def fill(self, slot: str, value: int) -> None:
        """What a slot is in this pass, where there is one of that name."""
        if self._known.get(slot) != value and slot in self._slots:
            self._words[self._slots[slot]] = self._known[slot] = value

    def run(self, threads: int) -> None:
        """All steps."""
        native.in_sequence().call(threads, self._given)


class Tables(threading.local):
    """A table for each thread that asks: what one thread fills in, another does not see."""

    def __init__(self, words: Words64, inside: Words64, steps: int, slots: Mapping[str, Words64]) -> None:
        self.own = Table(words, inside, steps, slots)  # once in every thread, of the same words
