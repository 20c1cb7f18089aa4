"""A table of steps that generated code runs one after the other, and of the arguments of each step."""

from __future__ import annotations

import ctypes
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dyncomp.core.counter import active_counters
from dyncomp.fast import codegen
from dyncomp.fast.codegen import SequenceArgument, StepWord
from dyncomp.fast.memory import for_code

Int64Array = np.ndarray[Any, np.dtype[np.int64]]

Given = Mapping[int, int | str]
"""Arguments by index: numbers and addresses, or the name of a slot for a value that is known only in a pass."""


class TableBuilder:
    """A step table under construction."""

    def __init__(self) -> None:
        self._steps: list[tuple[codegen.Code, int]] = []
        self._numbers: list[int] = []
        self._slots: defaultdict[str, list[int]] = defaultdict(list)
        self._inside: list[tuple[int, int]] = []

    def step(self, code: codegen.Code, given: Given) -> int:
        """Append a step; returns the index of the word with its first argument."""
        start = len(self._numbers)
        self._numbers += [0] * code.parameters
        for index, value in given.items():
            if isinstance(value, str):
                self._slots[value].append(start + index)
            else:
                self._numbers[start + index] = value
        self._steps.append((code, start))
        return start

    def point(self, word: int, to: int) -> None:
        """Make `word` hold the address of the word `to` of the same table."""
        self._inside.append((word, to))

    def tables(self) -> Tables:
        """The finished table, with a copy for each thread."""
        ahead = len(StepWord) * len(self._steps)
        words = np.array([0] * ahead + self._numbers, dtype=np.int64)
        inside = [(word + ahead, to + ahead) for word, to in self._inside]
        for index, (code, start) in enumerate(self._steps):
            words[len(StepWord) * index + StepWord.CODE] = code.address
            inside.append((len(StepWord) * index + StepWord.GIVEN, start + ahead))
        slots = {slot: np.array(at) + ahead for slot, at in self._slots.items()}
        return Tables(words, np.array(inside), [(code, start + ahead) for code, start in self._steps], slots)


Steps = Sequence[tuple[codegen.Code, int]]
"""The code of each step, and the index of the word with its first argument."""


class Table:
    """The step table of one thread: its steps come first; `slots` gives the indices of each slot's words.

    `inside`: pairs of a word and the word whose address it holds. `filled`: the batch and the scratch memory that were
    filled in last; `forced`: whether the code followed forced decisions in the pass before.
    """

    def __init__(self, words: Int64Array, inside: Int64Array, steps: Steps, slots: Mapping[str, Int64Array]) -> None:
        own: Int64Array = for_code(torch.from_numpy(words.copy())).numpy()
        own[inside[:, 0]] = own.ctypes.data + own.itemsize * inside[:, 1]
        self._words, self._slots = own, slots
        self._known: dict[str, int] = {}
        self._steps = steps
        self._sequence = codegen.compiled(codegen.Sequence())
        given = {SequenceArgument.STEPS: len(steps), SequenceArgument.TABLE: int(own.ctypes.data)}
        self._given = self._sequence.packed(given)
        self.filled: tuple[int, ...] = ()
        self.forced = False

    def fill(self, slot: str, value: int) -> None:
        """Set a slot's value for this pass; ignored where the table has no slot of that name."""
        if self._known.get(slot) != value and slot in self._slots:
            self._words[self._slots[slot]] = self._known[slot] = value

    def run(self, threads: int) -> None:
        """Run all steps on `threads` threads; one by one while MACs are counted, so that each reports its own."""
        if not active_counters():
            self._sequence.call(threads, self._given)
            return
        for index, (code, start) in enumerate(self._steps):
            first = self._words.ctypes.data + self._words.itemsize * start
            given = (ctypes.c_int64 * code.parameters).from_address(first)
            code.call(threads, given, calls=int(index == 0))  # the sequence is one call


class Tables(threading.local):
    """A table for each thread that asks: values that one thread fills in are not seen by another."""

    def __init__(self, words: Int64Array, inside: Int64Array, steps: Steps, slots: Mapping[str, Int64Array]) -> None:
        self.own = Table(words, inside, steps, slots)  # runs once per thread, with the same words
