"""Decisions in the graph of an exported network, which cannot hold the Python control flow of the sparse form.

A network has two graph forms: dense, with gates as masks, and routed (`Op.branched`), in which unused units do not run.
In the routed form, ops that skip modules use conditional operators (`torch.cond`; `If` in ONNX and OpenVINO), for one
image at a time; other ops gather the used kernels or pixels.
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
    """Within the context, dense passes are traced as a graph of that form; `routed` takes one image."""
    return during(_form, form)


def one_route() -> AbstractContextManager[None]:
    """Within the context, the sparse form may be traced; the graph then holds the routes of the given images only."""
    return during(_one_route, True)


def graph_form() -> GraphForm | None:
    """The graph form of this pass; None outside `in_graph`, and in torch.compile."""
    return None if torch.compiler.is_dynamo_compiling() else _form.get()


def is_traced() -> bool:
    """Whether this pass is traced for use on other images: within `in_graph`, by torch.export or by torch.jit.trace."""
    if torch.compiler.is_exporting():
        return True
    if torch.compiler.is_dynamo_compiling():
        return False
    return _form.get() is not None or torch._C._get_tracing_state() is not None


def freezes_routes() -> bool:
    """Whether a tracer is active in which a sparse pass would fix the routes of its images, outside `one_route`."""
    if torch.compiler.is_exporting():
        return torch.compiler.is_dynamo_compiling() or not _one_route.get()
    if torch.compiler.is_dynamo_compiling():  # a compiled pass computes its own decisions
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
    """`run(*inputs)` if `chosen` () is true, else `otherwise(*inputs)`, as one conditional operator of the graph.

    `parts` holds every module that the two functions call. Both return a tensor of the same shape and dtype. All
    tensors that a branch reads are operands: inputs, parameters, buffers, and values that gates remembered on the tape.
    """
    state = {**dict(parts.named_parameters()), **dict(parts.named_buffers())}
    read = [*inputs, *tape.memory.values(), *state.values()]
    operands = list({id(tensor): tensor for tensor in read}.values())  # without duplicates: each is an argument
    places = {id(tensor): place for place, tensor in enumerate(operands)}
    order = [places[id(tensor)] for tensor in read]
    branches = [_Branch(parts, body, [*state], len(inputs), order, tape) for body in (run, otherwise)]
    # the operator itself: `torch.cond` would trace the branches by Dynamo, which refuses branches that access Python
    # objects such as the tape
    (y,) = torch.ops.higher_order.cond(chosen, branches[0].traced, branches[1].traced, tuple(operands))
    result: Tensor = y
    return result


class _Branch:
    """One branch of a conditional operator, as a function of tensors alone."""

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
        """Call the body with the operands in place of the tensors that it reads; called several times in a trace."""
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
        return (y.clone(memory_format=torch.contiguous_format),)  # outputs must not alias operands


class _Holder(nn.Module):
    """Calls a function of modules, so that `functional_call` can replace their parameters and buffers."""

    def __init__(self, parts: nn.Module, body: Callable[..., Tensor]) -> None:
        super().__init__()
        self.parts = parts
        self.body = body

    def forward(self, *inputs: Any) -> Tensor:
        """The function's output."""
        return self.body(*inputs)
