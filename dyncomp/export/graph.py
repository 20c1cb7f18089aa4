"""A network as one graph of torch's operators, which every format starts from."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dyncomp.core import Net
from dyncomp.core.graphs import GraphForm, in_graph
from dyncomp.errors import CannotDeploy, CannotExport, DyncompError
from dyncomp.export.text import one_line
from dyncomp.fast import is_deployed, plainly_folded


@dataclass(frozen=True)
class Graph:
    """`program` maps images (B, C, H, W) to logits (B, Y); with `one_image`, B is 1, else any number from 1.

    `routes` says what keeps the routes of a routed form: see `Op.kept_by`.
    """

    program: ExportedProgram
    form: GraphForm
    one_image: bool
    routes: tuple[str, ...] = ()


def graph_of(net: Net, routed: bool) -> Graph:
    """The network's graph: in the dense form, right for every image and batch, or with routes kept.

    The network given stays as it is. Raises CannotExport where it has no such form, or torch.export cannot take it.
    """
    _check(net, routed)
    form: GraphForm = "routed" if routed else "dense"
    one_image = routed and any(op.takes_one_image for op in net.sites.values())
    answers = _Answers(_folded(net), form).eval()
    assert net.costs is not None  # _check said so
    like = next(net.parameters())
    images = torch.zeros(1 if one_image else 2, *net.costs.image_shape, dtype=like.dtype, device=like.device)
    shapes = None if one_image else {"images": {0: Dim("batch", min=1)}}
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(answers, (images,), dynamic_shapes=shapes, strict=False)
    except DyncompError:
        raise
    except Exception as error:  # whatever an op of a plugin does that a graph cannot hold
        raise CannotExport(
            f"torch.export cannot take the {form} form ({one_line(error)}); the op has to do without Python's `if` on "
            "tensors and without a fixed number of images"
        ) from error
    routes = {op.kept_by for op in net.sites.values()} if routed else set[str]()
    return Graph(program, form, one_image, tuple(sorted(routes)))


def _check(net: Net, routed: bool) -> None:
    if net.costs is None:
        raise CannotExport("the network does not know its images; set net.costs = measure_costs(net, images[:1]) first")
    narrow = {value.dtype for value in net.state_dict().values()} & {torch.bfloat16, torch.float16}
    if narrow:
        types = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in narrow))
        raise CannotExport(
            f"the network is in {types}, and formats hold float32 or float64; export net.float(), or save that by "
            "dyncomp.save and export the file"
        )
    if is_deployed(net):
        raise CannotExport("the network runs code of this machine; export the one that `deployed` was given")
    if routed and not net.sites:
        raise CannotExport("the network decides nothing, so there is no route to keep; export it --dense")


def _folded(net: Net) -> Net:
    try:
        plain = plainly_folded(net).model
    except CannotDeploy:  # it runs layers by another way than calling them: then they stay as they are
        plain = copy.deepcopy(net.model).requires_grad_(False)
    _unshare(plain, set())
    return Net(plain).eval()


def _unshare(module: nn.Module, met: set[nn.Module]) -> None:
    """Give each place a module of its own where several hold the same one; parameters stay shared.

    torch.export (2.14) wraps modules in stand-ins where one is held twice, and loses those inside branches.
    """
    for name, child in list(module._modules.items()):
        if child is None:
            continue
        if child in met:
            child = copy.copy(child)
            for kind in ("_parameters", "_buffers", "_modules"):
                child.__dict__[kind] = dict(child.__dict__[kind])
            module._modules[name] = child
        met.add(child)
        _unshare(child, met)


class _Answers(nn.Module):
    """A network with tensors alone going in and out."""

    def __init__(self, net: Net, form: GraphForm) -> None:
        super().__init__()
        self.net = net
        self.form = form

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, Y)."""
        with in_graph(self.form):
            logits: Tensor = self.net(images, sparse=False, record=False).logits
        return logits


@contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters print and warn of, the whole graph where one failed; what came out is checked."""
    with warnings.catch_warnings(), redirect_stderr(StringIO()):
        for kind in (UserWarning, DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", kind)
        yield
