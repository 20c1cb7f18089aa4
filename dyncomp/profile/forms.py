"""The forms in which networks are timed: sparse and dense, run as they are or compiled, batch norms folded in all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import convert_conv2d_weight_memory_format

from dyncomp.core import Net
from dyncomp.errors import CannotDeploy
from dyncomp.fast import batch_norms, deployed
from dyncomp.samples.forms import COMPILED, DENSE, SPARSE
from dyncomp.store.schema import FormRecord

FEW = 8
"""images of the first pass of a form that is compiled for any batch size: 0 and 1 would be taken for constants"""


@dataclass(frozen=True)
class Form:
    """One form; `name` is what records call it."""

    sparse: bool
    compiled: bool

    @property
    def name(self) -> str:
        """`sparse`, `dense`, and either with `_compiled` behind it."""
        return (SPARSE if self.sparse else DENSE) + (COMPILED if self.compiled else "")


def forms_of(decides: bool, compiled: bool) -> list[Form]:
    """The forms of a network, the deployed one first; one that decides nothing has no other than it, but compiled."""
    ways = (False, True) if compiled else (False,)
    return [Form(sparse, way) for way in ways for sparse in ((True, False) if decides else (True,))]


def as_timed(net: Net) -> tuple[Net, str | None]:
    """The network made ready for use; where that cannot be, itself in the layout that is fast, and why."""
    try:
        return deployed(net), None
    except CannotDeploy as error:
        plain: Net = convert_conv2d_weight_memory_format(net.eval(), torch.channels_last)
        return plain, str(error)


class NotCompiled(Exception):
    """torch.compile could not make a form; the message says why, in one line."""


class Runner:
    """A network in one of its forms, ready to be timed: called with images (B, C, H, W), it runs a pass.

    `facts` are for the record: the form; `batch_norms`, those that could not be folded; `not_folded`, why the network
    runs unfolded, if it does; `graph_breaks`, how many graphs beyond one its first pass was compiled into, None where
    nothing is compiled.
    Compiling happens at the first pass, and again for what is new to it: warm up on all that will come.
    """

    def __init__(self, net: Net, form: Form) -> None:
        """Raises NotCompiled."""
        self.form = form
        self.net, not_folded = as_timed(net)
        self.facts: FormRecord = {
            "form": form.name,
            "graph_breaks": None,
            "not_folded": not_folded,
            "batch_norms": len(batch_norms(self.net)),
        }
        self._pass: Callable[[Tensor], Any] = self._plain
        if form.compiled:
            self._compile()

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (B, Y). Raises NotCompiled, and whatever the network raises."""
        if not self.form.compiled:
            return self._plain(images)
        try:
            logits: Tensor = self._pass(images)
        except Exception as error:
            raise NotCompiled(_reason(error)) from error
        return logits

    def _plain(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images, sparse=self.form.sparse, record=False).logits
        return logits

    def _compile(self) -> None:
        """Sub-batches vary in size where images take routes of their own; elsewhere each batch size has its own."""
        import torch._inductor.config as inductor  # slow to import: only where something is compiled
        from torch._dynamo.utils import counters

        inductor.compile_threads = 1  # else helpers that compile would idle beside what is timed
        varies = self.form.sparse and bool(self.net.sites)
        self._pass = torch.compile(self._plain, dynamic=varies)
        before = counters["stats"]["unique_graphs"]
        assert self.net.costs is not None  # `deployed` said so
        shape = (FEW if varies else 1, *self.net.costs.image_shape)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(next(self.net.parameters()))
        with torch.inference_mode():
            self(images.contiguous(memory_format=torch.channels_last))
        self.facts["graph_breaks"] = max(0, counters["stats"]["unique_graphs"] - before - 1)


def _reason(error: BaseException) -> str:
    """Why a form was not compiled; by name, as the errors of torch.compile are no part of torch's interface."""
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None:  # the error and its causes
        chain.append(one)
        one = one.__cause__ or getattr(one, "inner_exception", None)
    if any(type(each).__name__ == "InvalidCxxCompiler" for each in chain):
        return "not compiled: no C++ compiler"
    cause = chain[-1]
    return f"not compiled: {type(cause).__name__}: {' '.join(str(cause).split())[:200]}"
