"""A run of blocks prepared for batches like one: the steps of its code, and what they are given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dyncomp.core import native
from dyncomp.core.backbone import ResidualBlock, in_place
from dyncomp.core.bodies import BodyCode
from dyncomp.core.gate_code import GateCode
from dyncomp.core.gated import Gated
from dyncomp.core.gates import Gate, Products
from dyncomp.core.loaded import Loaded
from dyncomp.core.native import Argument, GateArgument
from dyncomp.core.planned import Follower
from dyncomp.core.ready import ReadyConv2d
from dyncomp.core.rows import in_use
from dyncomp.core.scratch import scratch
from dyncomp.core.shrink import Shrink
from dyncomp.core.trace import Tape
from dyncomp.core.watched import Parameters
from dyncomp.core.words import Given, Words

Place = Gated | Follower | ResidualBlock


@dataclass(frozen=True)
class Block:
    """A block of a run and its code; the shortcut's, and what it is given always, is None where it is the identity."""

    place: Place
    body: BodyCode
    shortcut: tuple[native.Code, Given] | None
    gate: GateCode | None
    products: Products | None

    @staticmethod
    def of(place: Place, x: Tensor) -> Block | None:
        """On features like x; None where there is no code that pays."""
        block, shortcut = block_of(place), _shortcut(place, x)
        if block.ready is None or (shortcut is None and type(block.shortcut) is not nn.Identity):
            return None
        images = len(x) if isinstance(place, ResidualBlock) else max(1, len(x) // 2)
        body = block.ready.code(x, x if shortcut is None else block.shortcut(x), images, block.body)
        if body is None or any(loaded.plan.shape.groups > 1 for loaded in body.chain):
            return None
        if not isinstance(place, Gated):
            return Block(place, body, shortcut, None, None)
        products = place.gate.products() if isinstance(place.gate, Gate) else None
        gate = None if products is None else GateCode.of(products, x)
        return None if gate is None else Block(place, body, shortcut, gate, products)

    def modules(self) -> Iterator[nn.Module]:
        """Those whose parameters the code has."""
        ready, projection = block_of(self.place).ready, projection_of(self.place)
        assert ready is not None  # `of` asked
        yield from ready.convolutions
        if projection is not None:
            yield projection
        if self.products is not None:
            yield from self.products.layers
            if self.products.cell is not None:
                yield self.products.cell


def block_of(place: Place) -> ResidualBlock:
    """The block that stands there."""
    return place if isinstance(place, ResidualBlock) else place.block


def projection_of(place: Place) -> ReadyConv2d | None:
    """The convolution that its shortcut is; None where it is anything else."""
    layers = [layer for layer in block_of(place).shortcut.modules() if type(layer) is not nn.Sequential]
    return layers[0] if len(layers) == 1 and type(layers[0]) is ReadyConv2d else None


def _shortcut(place: Place, x: Tensor) -> tuple[native.Code, Given] | None:
    """The code of a shortcut that is not the identity, on features like x; None where there is none."""
    shortcut, projection = block_of(place).shortcut, projection_of(place)
    if projection is not None:
        loaded = projection.loaded(x.shape[1:])
        return None if loaded is None or loaded.plan.shape.groups > 1 else (loaded.code, _convolution(loaded))
    here = native.this_machine()
    if type(shortcut) is not Shrink or here is None:
        return None
    channels, height, width = x.shape[1:]
    window = shortcut.stride if shortcut.mean else 1
    sizes = channels, channels + shortcut.extra, (height, width), window, shortcut.stride
    return native.shrinking_for(native.Shrinking(*sizes, native.Number(x.dtype), here)), {}


class RunTable:
    """The steps; features pass through maps 0, 1, ..., a new one wherever a block may not write over what it reads."""

    def __init__(self, blocks: Sequence[Block], x: Tensor) -> None:
        self.blocks, words, self._maps = tuple(blocks), Words(), list[BodyCode]()
        for index, block in enumerate(blocks):
            self._add(words, index, block)
        self._table = words.table()
        self._parameters = Parameters(module for block in blocks for module in block.modules())
        self._followers = [(index, b.place) for index, b in enumerate(blocks) if isinstance(b.place, Follower)]
        self._overruled = [(f"overruled {index}", gate) for index, gate in _that_may_be_overruled(blocks)]
        gates = [block.gate.plan for block in blocks if block.gate is not None]
        self._state = max((gate.state for gate in gates), default=0)
        between = max(loaded.output.numel() for block in blocks for loaded in block.body.chain[:-1])
        self._scratch = [("between 0", x.dtype, between), ("between 1", x.dtype, between)]
        if gates:
            self._scratch += [("sums", x.dtype, max(gate.scratch for gate in gates))]
            self._scratch += [("open", torch.int64, 1), ("rows", torch.int64, 1)]

    @staticmethod
    def of(places: Sequence[Place], x: Tensor) -> RunTable | None:
        """For features like x; None where some block has no code that pays."""
        blocks, like = list[Block](), x
        for place in places:
            block = Block.of(place, like)
            if block is None:
                return None
            blocks.append(block)
            like = block.body.new(x)
        states = {block.gate.plan.state for block in blocks if block.gate is not None} - {0}
        return RunTable(blocks, x) if len(states) < 2 else None

    def is_current(self) -> bool:
        """Whether it has all parameters as they are now."""
        return self._parameters.are_the_same()

    def run(self, x: Tensor) -> Tensor:
        """What the blocks make of x (B, C, H, W); x itself where nobody else reads it, and all is done in place."""
        table = self._table
        maps = [self._first(x), *(body.new(x) for body in self._maps)]
        for index, map_ in enumerate(maps):
            table.fill(f"map {index}", map_.data_ptr())
        for purpose, dtype, count in self._scratch:
            table.fill(purpose, scratch(purpose, x, count * len(x), dtype).data_ptr())
        table.fill("images", len(x))
        kept = [self._plan(index, follower, len(x)) for index, follower in self._followers]
        kept += [self._overrule(slot, gate, x.dtype) for slot, gate in self._overruled]
        remembered = self._recall(x)
        table.run(torch.get_num_threads())
        for tape, key, value in remembered:
            tape.remember(key, value)
        del kept  # what the code was given lived until here
        return maps[-1]

    def _first(self, x: Tensor) -> Tensor:
        first = self.blocks[0]
        if _makes_map(0, first) or isinstance(first.place, ResidualBlock):
            return x
        into = x if in_use() and first.place.block.reads_alone is True else x.clone()
        # what later blocks read comes out of a ReLU
        return in_place(first.place.block.activation, into) if first.place.form == "residual" else into

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
        fresh = (x.new_zeros(len(x), self._state) for _ in range(2))
        found = [(tape, key, tape.recall(key, like)) for key, like in zip(("hidden", "memory"), fresh, strict=True)]
        for _, key, value in found:
            self._table.fill(key, value.data_ptr())
        return found

    def _add(self, words: Words, index: int, block: Block) -> None:
        source = f"map {len(self._maps)}"
        if _makes_map(index, block):
            self._maps.append(block.body)
        target = f"map {len(self._maps)}"
        if block.shortcut is not None:
            code, given = block.shortcut
            words.step(code, {**given, Argument.X: source, Argument.Y: target, Argument.IMAGES: "images"})
        gate = None
        if block.gate is not None:
            gate = words.step(block.gate.code, self._given_gate(index, block.gate, len(block.body.chain), source))
        at = [words.step(loaded.code, given) for loaded, given in self._bodys(index, block, source, target)]
        if gate is not None:
            words.point(gate + GateArgument.COUNT, at[0] + Argument.IMAGES)  # those of the others at equal distances
        if block.shortcut is not None and not isinstance(block.place, ResidualBlock) and block.place.form == "residual":
            plan, output = block.body.chain[-1].plan, block.body.chain[-1].output
            code = native.activation_for(plan.number, plan.machine)
            words.step(code, {0: target, 1: "images", 2: output.numel()})

    def _bodys(self, index: int, block: Block, source: str, target: str) -> Iterator[tuple[Loaded, Given]]:
        rows: int | str = 0 if block.gate is None else "rows"
        images = "images"
        if isinstance(block.place, Follower):
            rows, images = f"rows {index}", f"images {index}"
        last = len(block.body.chain) - 1
        for turn, (loaded, relu) in enumerate(zip(block.body.chain, block.body.relus, strict=True)):
            given = _convolution(loaded) | {Argument.IMAGES: images, Argument.RELU: int(relu)}
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
        }


def _convolution(loaded: Loaded) -> dict[int, int | str]:
    return {Argument.WEIGHTS: loaded.weights.data_ptr(), Argument.BIAS: loaded.bias.data_ptr()}


def _makes_map(index: int, block: Block) -> bool:
    """Whether it writes into new memory: features of another size, or all images, and what is read stays as it is."""
    return block.shortcut is not None or (index == 0 and isinstance(block.place, ResidualBlock))


def _that_may_be_overruled(blocks: Sequence[Block]) -> Iterator[tuple[int, Gate]]:
    for index, block in enumerate(blocks):
        gate = block.place.gate if isinstance(block.place, Gated) else None
        if isinstance(gate, Gate) and type(gate).overruled is not Gate.overruled:
            yield index, gate
