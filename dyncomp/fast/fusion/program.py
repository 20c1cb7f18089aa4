"""A run prepared for one kind of batch: its steps and their arguments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from dyncomp.core.backbone import ResidualBlock
from dyncomp.core.tape import Tape
from dyncomp.fast.fusion.blocks import Block
from dyncomp.fast.fusion.candidates import LayerGroup, Place, block_of, filters_of
from dyncomp.fast.fusion.filtered_blocks import FilteredBlock, FilteredLayers
from dyncomp.fast.fusion.layers import Classifier, Convolution, Pool
from dyncomp.fast.fusion.mixed_layers import MixedLayers, mixed_layers_of
from dyncomp.fast.fusion.part import Need, Part, Position
from dyncomp.fast.fusion.step_table import Table, TableBuilder
from dyncomp.fast.layers.convolution import TunedConv2d
from dyncomp.fast.memory import for_code
from dyncomp.fast.mixing.generated import able_to_make_code
from dyncomp.fast.scratch import replaced
from dyncomp.ops.filtered import Filtered
from dyncomp.ops.gated import Gated


class RunTable:
    """The steps of a run. Features pass through maps, with a new map wherever a part may not overwrite its input.

    The first map is the input, the last the output; maps in between take turns in two buffers.
    """

    def __init__(self, parts: Sequence[Part], place: Place) -> None:
        self._parts = tuple(parts)  # they own what the code reads
        self._first_place, builder = place, TableBuilder()
        makers = [index for index, part in enumerate(parts) if part.makes_map(first=index == 0)]
        self._last = parts[makers[-1]] if makers else None
        source, nonnegative, needs = "input", False, list[Need]()
        for index, part in enumerate(parts):
            target = source
            if index in makers:
                target = "output" if index == makers[-1] else f"map {makers.index(index) % 2}"
                needs += [] if target == "output" else [Need(target, part.output.numel())]
            part.add(builder, Position(index, source, target, nonnegative))
            source, nonnegative = target, part.makes_nonnegative(nonnegative)
        self._tables = builder.tables()
        self._keeps_input = parts[0].makes_map(first=True)
        self._changes = [change for index, part in enumerate(parts) for change in part.changes(index)]
        self._forceable = [one for index, part in enumerate(parts) for one in part.forceable(index)]
        self._needs = _most([*needs, *(need for part in parts for need in part.needs())])
        self._recurrent = next((part for part in parts if isinstance(part, Block) and part.state), None)

    @staticmethod
    def of(places: Sequence[Place], x: Tensor) -> RunTable | None:
        """For features like x; None where a part has no code that pays off."""
        if not able_to_make_code():
            return None
        parts, like = list[Part](), x
        for place in places:
            part = part_of(place, like)
            if part is None:
                return None
            parts.append(part)
            like = part.new(x).fill_(1)  # ordinary numbers, since arithmetic on arbitrary memory may be slow
        states = {part.state for part in parts if isinstance(part, Block)} - {0}
        return RunTable(parts, places[0]) if len(states) < 2 else None

    def run(self, x: Tensor, threads: int) -> Tensor:
        """The layers' output for x; it is x itself where nothing else reads x and all parts work in place."""
        table: Table = self._tables.own
        if not self._keeps_input:
            block = block_of(self._first_place)  # type: ignore[arg-type]  # only blocks overwrite their input
            if not (block.reads_alone is True and block.may_overwrite):
                x = for_code(x.clone())  # something else reads it
        y = x if self._last is None else self._last.new(x)
        asked = [change(table, x) for change in self._changes]  # the tensors live until the code has run
        forced = self._force(table, x)
        remembered = None if self._recurrent is None else self._recall(x, self._recurrent)
        # from here on no user code runs in this thread until the code has used the table
        images, held = x.shape[0], replaced()
        if table.filled != (images, threads, held):  # else the buffers of the last pass fit and are still allocated
            for need in self._needs:
                need.fill(table, x, threads)
            table.fill("images", images)
            table.filled = images, threads, replaced()
        table.fill("input", x.data_ptr())
        table.fill("output", y.data_ptr())
        if remembered is not None:
            table.fill("hidden", remembered[1].data_ptr())
            table.fill("memory", remembered[2].data_ptr())
        for filling, _ in asked:
            for slot, value in filling:
                table.fill(slot, value)
        table.run(threads)
        del forced
        if remembered is not None:
            tape, hidden, memory = remembered
            tape.remember("hidden", hidden)
            tape.remember("memory", memory)
        return y

    def _force(self, table: Table, x: Tensor) -> list[Sequence[Tensor]]:
        """Make the code follow the decisions that are forced in this pass, or its own where none is forced."""
        if not self._forceable:
            return []
        forced = bool(self._forceable[0].op.tape.forced)
        if not forced and not table.forced:
            return []
        table.forced = forced
        return [one.fill(table, x) for one in self._forceable]

    @staticmethod
    def _recall(x: Tensor, recurrent: Block) -> tuple[Tape, Tensor, Tensor]:
        """The pass's tape, and the state of recurrent gates (hidden, memory), which the code updates in place.

        Raises ValueError where the state on the tape does not fit the images.
        """
        gated = recurrent.place
        assert isinstance(gated, Gated)  # other blocks' gates have no state
        tape, like = gated.tape, x.new_empty(x.shape[0], recurrent.state)
        hidden, memory = tape.recall("hidden", like), tape.recall("memory", like)
        for state in (hidden, memory):
            if state.shape != like.shape or state.dtype != like.dtype or not state.is_contiguous():
                raise ValueError(f"a gate's state {tuple(state.shape)} where the images need {tuple(like.shape)}")
        return tape, for_code(hidden), for_code(memory)


def part_of(place: Place, x: Tensor) -> Part | None:
    """The part for a place, on features like x; None where there is no code that pays off."""
    if isinstance(place, LayerGroup):
        first, last = place.layers[0], place.layers[-1]
        if isinstance(first, TunedConv2d):
            return Convolution.of(first, isinstance(last, nn.ReLU), x)
        assert isinstance(last, nn.Linear)  # by construction in `candidates._from`
        return Classifier.of(last, x)
    if isinstance(place, nn.MaxPool2d):
        return Pool.of(place, x.shape[1:], x.dtype)
    if isinstance(place, Filtered):
        return FilteredLayers.of(place, x)
    if isinstance(place, ResidualBlock) and filters_of(place) is not None:
        return FilteredBlock.of(place, x)
    if isinstance(place, ResidualBlock) and mixed_layers_of(place.body):
        return MixedLayers.of(place, x)
    return Block.of(place, x)


def _most(needs: Iterable[Need]) -> list[Need]:
    """The largest need of each slot."""
    found = dict[str, Need]()
    for need in needs:
        known = found.get(need.slot)
        if known is None or known.numbers < need.numbers:
            found[need.slot] = need
    return [need for need in found.values() if need.numbers]
