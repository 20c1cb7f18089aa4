"""A run of blocks prepared for batches like one: the steps of its code, and what they are given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dyncomp.core import native
from dyncomp.core.bodies import BodyCode
from dyncomp.core.gate_code import GateCode
from dyncomp.core.gated import Gated
from dyncomp.core.gates import Gate
from dyncomp.core.loaded import Loaded
from dyncomp.core.native import Argument, GateArgument
from dyncomp.core.planned import Follower
from dyncomp.core.rows import in_use
from dyncomp.core.run_block import Block, Place, block_of, given_always
from dyncomp.core.scratch import scratch
from dyncomp.core.trace import Tape
from dyncomp.core.words import Given, Words


class RunTable:
    """The steps; features pass through maps 0, 1, ..., a new one wherever a block may not write over what it reads."""

    def __init__(self, blocks: Sequence[Block], x: Tensor) -> None:
        self.blocks, words, self._maps = tuple(blocks), Words(), list[BodyCode]()
        for index, block in enumerate(blocks):
            self._add(words, index, block)
        self._table = words.table()
        self._followers = [(index, b.place) for index, b in enumerate(blocks) if isinstance(b.place, Follower)]
        self._overruled = [(f"overruled {index}", gate) for index, gate in _that_may_be_overruled(blocks)]
        gates = [block.gate.plan for block in blocks if block.gate is not None]
        self._state = max((gate.state for gate in gates), default=0)
        between = max(loaded.output.numel() for block in blocks for loaded in block.body.chain[:-1])
        self._scratch = [("between 0", x.dtype, between), ("between 1", x.dtype, between)]
        if gates:
            self._scratch += [("sums", x.dtype, max(gate.scratch for gate in gates))]
            self._scratch += [("open", torch.int64, 1), ("rows", torch.int64, 1)]
            self._scratch += [("shares", x.dtype, max(gate.layers[-1].outputs for gate in gates))]
        self._mixing = max(block.mixing for block in blocks)

    @staticmethod
    def of(places: Sequence[Place], x: Tensor) -> RunTable | None:
        """For features like x; None where some block has no code that pays."""
        blocks, like = list[Block](), x
        for place in places:
            block = Block.of(place, like)
            if block is None:
                return None
            blocks.append(block)
            like = block.body.new(x).fill_(1)  # numbers that are as fast as others
        states = {block.gate.plan.state for block in blocks if block.gate is not None} - {0}
        return RunTable(blocks, x) if len(states) < 2 else None

    def run(self, x: Tensor) -> Tensor:
        """What the blocks make of x (B, C, H, W); x itself where nobody else reads it, and all is done in place."""
        table = self._table
        maps = [self._first(x), *(body.new(x) for body in self._maps)]
        for index, map_ in enumerate(maps):
            table.fill(f"map {index}", map_.data_ptr())
        for purpose, dtype, count in self._scratch:
            table.fill(purpose, scratch(purpose, x, count * len(x), dtype).data_ptr())
        table.fill("images", len(x))
        threads = torch.get_num_threads()
        table.fill("mixing", scratch("direct", x, threads * self._mixing).data_ptr())
        kept = [self._plan(index, follower, len(x)) for index, follower in self._followers]
        kept += [self._overrule(slot, gate, x.dtype) for slot, gate in self._overruled]
        remembered = self._recall(x)
        table.run(threads)
        for tape, key, value in remembered:
            tape.remember(key, value)
        del kept  # what the code was given lived until here
        return maps[-1]

    def _first(self, x: Tensor) -> Tensor:
        """The first map: x, unless it is written over and somebody else reads it, too."""
        if _makes_map(0, self.blocks[0]):
            return x
        return x if in_use() and block_of(self.blocks[0].place).reads_alone is True else x.clone()

    def _plan(self, index: int, follower: Follower, images: int) -> Tensor | None:
        """Fill in which images run a block in this pass, and give back what has to live as long."""
        rows = follower.rows()
        some = rows.contiguous() if isinstance(rows, Tensor) else None
        self._table.fill(f"rows {index}", 0 if some is None else some.data_ptr())
        self._table.fill(f"images {index}", images * bool(rows) if some is None else len(some))
        return some

    def _overrule(self, slot: str, gate: Gate, dtype: torch.dtype) -> Tensor | None:
        """Fill in what a gate opens by in this pass, and give back what has to live as long."""
        numbers = gate.overruled()
        if numbers is not None:
            numbers = numbers.to(dtype).contiguous()
        self._table.fill(slot, 0 if numbers is None else numbers.data_ptr())
        return numbers

    def _recall(self, x: Tensor) -> list[tuple[Tape, str, Tensor]]:
        """The states of recurrent gates, which the code moves on."""
        if not self._state:
            return []
        tape = next(block.place.tape for block in self.blocks if isinstance(block.place, Gated))
        like = x.new_empty(len(x), self._state)
        found = [(tape, key, tape.recall(key, like)) for key in ("hidden", "memory")]
        for _, key, value in found:
            self._table.fill(key, value.data_ptr())
        return found

    def _add(self, words: Words, index: int, block: Block) -> None:
        source = f"map {len(self._maps)}"
        if _makes_map(index, block):
            self._maps.append(block.body)
        target = f"map {len(self._maps)}"
        gate = None
        if block.gate is not None:
            gate = words.step(block.gate.code, self._given_gate(index, block.gate, len(block.body.chain), source))
        if block.shortcut is not None:
            given = {**block.shortcut.given(), Argument.X: source, Argument.Y: target, Argument.IMAGES: "images"}
            words.step(block.shortcut.code, given)
        at = [words.step(loaded.code, given) for loaded, given in self._bodies(index, block, source, target)]
        if gate is not None and isinstance(block.place, Gated):
            words.point(gate + GateArgument.COUNT, at[0] + Argument.IMAGES)  # those of the others at equal distances
        # behind the first block and new shortcuts: what else is skipped comes out of a ReLU, and twice ReLU is ReLU
        skips = isinstance(block.place, (Gated, Follower)) and block.place.form == "residual"
        if skips and (block.shortcut is not None or index == 0):
            plan, output = block.body.chain[-1].plan, block.body.chain[-1].output
            code = native.activation_for(plan.number, plan.machine)
            words.step(code, {0: target, 1: "images", 2: output.numel()})

    def _bodies(self, index: int, block: Block, source: str, target: str) -> Iterator[tuple[Loaded, Given]]:
        rows: int | str = "rows" if isinstance(block.place, Gated) else 0
        images = "images"
        if isinstance(block.place, Follower):
            rows, images = f"rows {index}", f"images {index}"
        last = len(block.body.chain) - 1
        for turn, (loaded, relu) in enumerate(zip(block.body.chain, block.body.relus, strict=True)):
            given = given_always(loaded) | {Argument.IMAGES: images, Argument.RELU: int(relu)}
            given |= {Argument.X: f"between {(turn - 1) % 2}"} if turn else {Argument.X: source, Argument.ROWS_X: rows}
            if turn < last:
                yield loaded, given | {Argument.Y: f"between {turn % 2}"}
                continue
            given |= {Argument.Y: target, Argument.RESIDUAL: source if block.shortcut is None else target}
            yield loaded, given | {Argument.ROWS_Y: rows, Argument.ROWS_RESIDUAL: rows}

    def _given_gate(self, index: int, gate: GateCode, calls: int, source: str) -> Given:
        return {
            GateArgument.X: source,
            GateArgument.IMAGES: "images",
            GateArgument.WEIGHTS: gate.weights.data_ptr(),
            GateArgument.SCRATCH: "sums",
            GateArgument.OPEN: "open",
            GateArgument.ROWS: "rows",
            GateArgument.COUNTS: calls,
            GateArgument.COUNT_STEP: len(Argument),
            GateArgument.OVERRULED: f"overruled {index}",
            GateArgument.HIDDEN: "hidden",
            GateArgument.MEMORY: "memory",
            GateArgument.SHARES: "shares",
        }


def _makes_map(index: int, block: Block) -> bool:
    """Whether it writes into new memory: features of another size, or all images, and what is read stays as it is."""
    return block.shortcut is not None or (index == 0 and block.runs_all)


def _that_may_be_overruled(blocks: Sequence[Block]) -> Iterator[tuple[int, Gate]]:
    for index, block in enumerate(blocks):
        gate = block.place.gate if isinstance(block.place, Gated) else None
        if isinstance(gate, Gate) and type(gate).overruled is not Gate.overruled:
            yield index, gate
