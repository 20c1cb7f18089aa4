"""Decisions in a graph: a network that is exported leaves Python behind, and with it every `if` of the sparse form.

Two forms of a network fit into a graph: the dense one, gates as masks, and the routed one, in which what an image does
not use is not run (`Op.branched`). Ops that skip modules put conditional operators (`torch.cond`; `If` in ONNX and
OpenVINO) into it, for one image at a time; others gather the kernels or pixels that are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from dyncomp.core.context import during
from dyncomp.core.tape import Remembered, Tape

GraphForm = Literal["dense", "routed"]

_form: ContextVar[GraphForm | None] = ContextVar("form", default=None)
_one_route: ContextVar[bool] = ContextVar("one_route", default=False)


def in_graph(form: GraphForm) -> AbstractContextManager[None]:
    """Inside, passes in the dense form become a graph of that form; `routed` takes one image."""
    return during(_form, form)


def one_route() -> AbstractContextManager[None]:
    """Inside, the sparse form may be traced, by someone who wants the one route of the images given and no other."""
    return during(_one_route, True)


def graph_form() -> GraphForm | None:
    """The form that the graph of this pass is to have; None where no graph is made by `in_graph`."""
    return None if torch.compiler.is_dynamo_compiling() else _form.get()


def is_traced() -> bool:
    """Whether a graph is made that other images will go through: by `in_graph`, torch.export or the old tracer."""
    if torch.compiler.is_exporting():
        return True
    if torch.compiler.is_dynamo_compiling():
        return False
    return _form.get() is not None or torch._C._get_tracing_state() is not None


def freezes_routes() -> bool:
    """Whether the sparse form, run now, would leave these images' routes in a graph, unknown to who asked for it."""
    if torch.compiler.is_exporting():
        return torch.compiler.is_dynamo_compiling() or not _one_route.get()
    if torch.compiler.is_dynamo_compiling():  # a compiled pass reads its own decisions
        return False
    traced = torch._C._get_tracing_state() is not None
    traced = traced or (torch._C._len_torch_dispatch_stack() > 0 and get_proxy_mode() is not None)  # make_fx
    return traced and not _one_route.get()


def either(
    chosen: Tensor,
    parts: nn.Module,
    run: Callable[..., Tensor],
    otherwise: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    tape: Tape,
) -> Tensor:
    """`run(*inputs)` where `chosen` () holds, else `otherwise(*inputs)`, as one conditional operator of the graph.

    `parts` holds every module that either of them calls. Both give a tensor of one shape and type. All that a branch
    reads enters the operator by name: inputs, parameters and buffers, and what gates remembered on the tape.
    """
    state = {**dict(parts.named_parameters()), **dict(parts.named_buffers())}
    read = [*inputs, *tape.memory.values(), *state.values()]
    operands = list({id(tensor): tensor for tensor in read}.values())  # each once: they become names of arguments
    places = {id(tensor): place for place, tensor in enumerate(operands)}
    order = [places[id(tensor)] for tensor in read]
    branches = [_Branch(parts, body, [*state], len(inputs), order, tape) for body in (run, otherwise)]
    # the operator itself: `torch.cond` would have a compiler find out what the branches read, and compilers refuse
    # branches that touch Python objects such as the tape
    (y,) = torch.ops.higher_order.cond(chosen, branches[0].traced, branches[1].traced, tuple(operands))
    result: Tensor = y
    return result


class _Branch:
    """One side of a conditional operator: a function of tensors alone."""

    def __init__(
        self,
        parts: nn.Module,
        body: Callable[..., Tensor],
        state: Sequence[str],
        inputs: int,
        order: Sequence[int],
        tape: Tape,
    ) -> None:
        self.holder = _Holder(parts, body)
        self.state = state
        self.inputs = inputs
        self.order = order
        self.tape = tape
        self.before = tape.memory

    def traced(self, *operands: Tensor) -> tuple[Tensor]:
        """The body, while the operands stand in the place of all that it reads; called more than once in a trace."""
        given = tuple(operands[place] for place in self.order)
        kept = self.inputs + len(self.before)
        state = {f"parts.{name}": value for name, value in zip(self.state, given[kept:], strict=True)}
        memory = Remembered.of(dict(zip(self.before, given[self.inputs : kept], strict=True)), self.before.lost)
        entered, outside = dict(memory), self.tape.memory
        self.tape.memory = memory
        try:
            y: Tensor = functional_call(self.holder, state, given[: self.inputs])
        finally:
            lost = outside.lost | memory.lost | memory.changed(entered)
            self.tape.memory = Remembered.of(outside, lost)
        return (y.clone(memory_format=torch.contiguous_format),)  # an operator's result is no alias of what enters


class _Holder(nn.Module):
    """Calls a function while other tensors stand in the place of the parts' own."""

    def __init__(self, parts: nn.Module, body: Callable[..., Tensor]) -> None:
        super().__init__()
        self.parts = parts
        self.body = body

    def forward(self, *inputs: Any) -> Tensor:
        """What the function gives."""
        return self.body(*inputs)
