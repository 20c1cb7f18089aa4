"""Residual blocks as parts of a run: gated, planned, with mixed kernels, or static."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dyncomp.core.backbone import ResidualBlock
from dyncomp.fast import codegen
from dyncomp.fast.codegen import ActivationArgument, Argument, GateArgument
from dyncomp.fast.fusion.candidates import block_of
from dyncomp.fast.fusion.gate_code import GateCode
from dyncomp.fast.fusion.mixed_body import ROUTERS, mixed_body
from dyncomp.fast.fusion.part import (
    Change,
    Filling,
    Forceable,
    Need,
    Part,
    Position,
    constant_arguments,
    double_buffer,
    fits,
    mixing,
)
from dyncomp.fast.fusion.shortcut import Shortcut
from dyncomp.fast.fusion.step_table import Given, Table, TableBuilder
from dyncomp.fast.layers.compiled import CompiledConvolution
from dyncomp.fast.layers.residual_body import BodyCode, GeneratedBody
from dyncomp.fast.memory import for_code
from dyncomp.ops.gated import Gated
from dyncomp.ops.gates import Gate, GateDescription
from dyncomp.ops.mixed import Mixed
from dyncomp.ops.planned import Follower
from dyncomp.ops.skipping import SkipForm


@dataclass(frozen=True, eq=False)
class Block(Part):
    """A block of a run as generated code; `shortcut` is None for the identity, `gate` for a block without one."""

    place: Gated | Follower | Mixed | ResidualBlock
    body: BodyCode
    shortcut: Shortcut | None
    gate: GateCode | None

    @staticmethod
    def of(place: Gated | Follower | Mixed | ResidualBlock, x: Tensor) -> Block | None:
        """For features like x; None where there is no code that pays off."""
        body, shortcut = _body(place, x), Shortcut.of(place, x)
        if body is None or (shortcut is None and type(block_of(place).shortcut) is not nn.Identity):
            return None
        if body.chain[-1].output != (x.shape[1:] if shortcut is None else shortcut.output):
            return None
        description: GateDescription | None = None
        if isinstance(place, Mixed) and isinstance(place.router, ROUTERS):
            description = place.router.description()
        elif isinstance(place, Gated) and isinstance(place.gate, Gate):
            description = place.gate.description()
        gate = None if description is None else GateCode.of(description, x)
        if gate is None and isinstance(place, (Gated, Mixed)):
            return None
        return Block(place, body, shortcut, gate)

    @property
    def output(self) -> torch.Size:  # type: ignore[override]
        """See `Part.output`."""
        return self.body.chain[-1].output

    @property
    def state(self) -> int:
        """Numbers per image that a recurrent gate keeps; 0 without one."""
        return 0 if self.gate is None else self.gate.plan.state

    def makes_map(self, first: bool) -> bool:
        """See `Part.makes_map`: for another shape, or first in the run where all images run the body."""
        return self.shortcut is not None or (first and isinstance(self.place, (ResidualBlock, Mixed)))

    @property
    def _form(self) -> SkipForm | None:
        """What images that skip the body pass through (see `SkipForm`); None where no image skips it."""
        return self.place.form if isinstance(self.place, (Gated, Follower)) else None

    def makes_nonnegative(self, nonnegative: bool) -> bool:
        """See `Part.makes_nonnegative`."""
        return self._form != "output" or (nonnegative and self.shortcut is None)

    def needs(self) -> Iterable[Need]:
        """See `Part.needs`."""
        yield from double_buffer(*(compiled.output.numel() for compiled in self.body.chain[:-1]))
        shortcut = None if self.shortcut is None else self.shortcut.compiled
        yield from (mixing(compiled) for compiled in (*self.body.chain, shortcut) if compiled is not None)
        yield from () if self.gate is None else self.gate.needs()

    def changes(self, index: int) -> Iterable[Change]:
        """See `Part.changes`: which images run a planned block."""
        if isinstance(self.place, Follower):
            yield partial(_follow, self.place, f"rows {index}", f"images {index}")

    def forceable(self, index: int) -> Iterable[Forceable]:
        """See `Part.forceable`."""
        if isinstance(self.place, Gated):
            yield Forceable(self.place, f"forced {index}")

    def add(self, builder: TableBuilder, at: Position) -> None:
        """See `Part.add`."""
        gate = None
        if self.gate is not None:
            given = {**self.gate.given(at.source), GateArgument.FORCED: f"forced {at.index}"}
            given |= {GateArgument.COUNTS: len(self.body.chain), GateArgument.COUNT_STEP: len(Argument)}
            gate = builder.step(self.gate.code, given)
        if self.shortcut is not None:
            self.shortcut.add(builder, at)
        first, *_ = [builder.step(compiled.code, given) for compiled, given in self._steps(at)]
        if gate is not None and isinstance(self.place, Gated):
            builder.point(gate + GateArgument.COUNT, first + Argument.IMAGES)  # other counts at distance COUNT_STEP
        # images that skip the body need the ReLU; for all others it is a second one, which changes nothing
        if self._form == "residual" and (self.shortcut is not None or not at.nonnegative):
            plan = self.body.chain[-1].plan
            given = {
                ActivationArgument.Y: at.target,
                ActivationArgument.IMAGES: "images",
                ActivationArgument.NUMBERS: self.output.numel(),
            }
            builder.step(codegen.compiled(codegen.Activation(plan.number, plan.machine)), given)

    def _steps(self, at: Position) -> Iterator[tuple[CompiledConvolution, Given]]:
        rows: int | str = "rows" if isinstance(self.place, Gated) else 0
        images = "images"
        if isinstance(self.place, Follower):
            rows, images = f"rows {at.index}", f"images {at.index}"
        last = len(self.body.chain) - 1
        for turn, (compiled, relu) in enumerate(zip(self.body.chain, self.body.relus, strict=True)):
            given = constant_arguments(compiled) | {Argument.IMAGES: images, Argument.RELU: int(relu)}
            given |= {Argument.X: f"between {(turn - 1) % 2}" if turn else at.source}
            given |= {Argument.ROWS_X: 0 if turn else rows}
            if turn < last:
                yield compiled, given | {Argument.Y: f"between {turn % 2}"}
                continue
            given |= {Argument.Y: at.target, Argument.RESIDUAL: at.source if self.shortcut is None else at.target}
            yield compiled, given | {Argument.ROWS_Y: rows, Argument.ROWS_RESIDUAL: rows}


def _follow(follower: Follower, rows: str, images: str, table: Table, x: Tensor) -> Filling:
    """The slot values of a planned block: its rows and their number; and the tensor that holds the rows."""
    asked = follower.plan().of(follower.unit, x)
    if isinstance(asked, Tensor):
        some = for_code(asked.contiguous())
        return ((rows, some.data_ptr()), (images, some.shape[0])), some
    return ((rows, 0), (images, x.shape[0] if asked else 0)), None


def _body(place: Gated | Follower | Mixed | ResidualBlock, x: Tensor) -> BodyCode | None:
    block = block_of(place)
    if isinstance(place, Mixed):
        return mixed_body(block, x)
    if not isinstance(block.fused, GeneratedBody):
        return None
    images = len(x) if isinstance(place, ResidualBlock) else max(1, len(x) // 2)
    body = block.fused.form(x, block.shortcut(x), images, block.body)
    return body if body is not None and all(fits(compiled, x) for compiled in body.chain) else None
