"""Deployed networks: BatchNorms folded, kernels stored channels-last, layers in their fastest form."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.utils._pytree import tree_map_only

from dyncomp.core.backbone import ResidualBlock
from dyncomp.core.copying import copied
from dyncomp.core.decisions import all_on
from dyncomp.core.hooks import Listeners
from dyncomp.core.inplace import makes_new
from dyncomp.core.net import Net
from dyncomp.core.op import Op
from dyncomp.fast import silent
from dyncomp.fast.answers import answers_in_float32, check_runs, check_same, widened
from dyncomp.fast.availability import has_generator
from dyncomp.fast.behaviour import runs_as
from dyncomp.fast.dataflow.sole_inputs import sole_inputs
from dyncomp.fast.folding import fold_all
from dyncomp.fast.parameters.tracked import track
from dyncomp.fast.tuning import in_turn
from dyncomp.ops.exits import Exit
from dyncomp.ops.filtered import Filtered
from dyncomp.ops.gated import Gated
from dyncomp.ops.mixed import Mixed


@torch.inference_mode(False)  # a copy made in that mode could not be watched for changes
def deployed(net: Net) -> Net:
    """Return a faster copy for inference, with the same decisions, prices and, up to rounding, logits.

    Every BatchNorm that is the only reader of the output of a convolution or linear layer is folded into that layer,
    layers that do nothing in evaluation are removed, kernels are stored channels-last, and no parameter requires a
    gradient. On a CPU, convolutions run as code generated for their shapes wherever a trial finds it faster than
    torch's operators (`generated_layers.py`). In inference mode, blocks that images skip overwrite features that
    nothing else reads, unless the network has a forward hook, which may keep features.

    The copy detects replaced layers, hooks, and changed parameters, whether torch's operators and optimizers wrote
    them, or user code through `.data` or numpy of a parameter or of a view that a method of the parameter made. It does
    not detect writes through storages, raw pointers, or `.data` of a view that a function made (`torch.flatten(p)`),
    and may not detect attributes that were set on a layer by hand: a stride, a router's temperature, a `forward`.

    Sites keep their names, parameters do not; `net` itself is unchanged. A network in bfloat16 or float16 is folded and
    compared in float32. Raises RuntimeError where `net.costs` is not set, which also gives the image size, and
    CannotDeploy where the copy gives other outputs, because the network runs layers by other means than calling them.
    """
    plain = _copied(net)
    narrow = widened(plain)
    image = _image(net, like=next(plain.parameters()))
    with in_turn():
        before = answers_in_float32(lambda: _in_both_forms(plain, image), narrow)
        fold_all(plain.model, lambda: _answers(plain, image, sparse=False))
        ready = Net(_fast(plain.model)).eval()  # a new Net: the old one's ops may refer to removed layers
        check_same(before, lambda: _in_both_forms(ready, image))
        _reuse_memory(ready, image)
        with torch.inference_mode():  # deployed networks run in this mode, and overwrite memory only in it
            check_same(before, lambda: _in_both_forms(ready, image))
    if narrow is not None:
        ready = copy.deepcopy(ready.to(narrow))  # a deep copy drops the code generated for float32
        check_runs(lambda: _in_both_forms(ready, image.to(narrow)), narrow)
    ready.costs = net.costs
    names = ready.state_dict().keys()
    ready.origins = {name: origin for name, origin in net.origins.items() if name in names}
    ready.card = None if net.card is None else replace(net.card, deployed=True)
    return ready


@torch.inference_mode(False)  # a copy made in that mode could not be watched for changes
def plainly_folded(net: Net) -> Net:
    """Return a copy folded as in `deployed` whose layers stay torch's own: for exported graphs and other engines.

    The copy is in evaluation mode, its kernels are contiguous (not channels-last), and no parameter requires a
    gradient. Raises RuntimeError and CannotDeploy as `deployed` does.
    """
    plain = _copied(net)
    image = _image(net, like=next(plain.parameters()))
    before = _answers(plain, image, sparse=False)
    fold_all(plain.model, lambda: _answers(plain, image, sparse=False))
    convert_conv2d_weight_memory_format(plain.model.requires_grad_(False), torch.contiguous_format)
    ready = Net(plain.model).eval()  # a new Net: the old one's ops may refer to removed layers
    check_same(before, lambda: _answers(ready, image, sparse=False))
    ready.costs = net.costs
    return ready


def _copied(net: Net) -> Net:
    if net.costs is None:
        raise RuntimeError("no costs yet: set net.costs = measure_costs(net, images[:1]) first")
    return Net(copied(net.model)).eval()


def _image(net: Net, like: Tensor) -> Tensor:
    """An image (1, C, H, W) of the network's image size from a fixed seed, in the dtype and on the device of `like`."""
    assert net.costs is not None  # checked by `_copied`
    return torch.rand(1, *net.costs.image_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(
        like
    )


def _in_both_forms(net: Net, image: Tensor) -> list[tuple[Tensor, dict[str, Tensor]]]:
    return [_answers(net, image, sparse) for sparse in (False, True)]


@torch.no_grad()
def _answers(net: Net, image: Tensor, sparse: bool) -> tuple[Tensor, dict[str, Tensor]]:
    output = net(image, sparse=sparse, decisions=all_on(net, 1))
    return output.logits, dict(output.said)


@torch.inference_mode(False)  # a copy made in that mode could not be watched for changes
def folded(model: nn.Module, *example: Any) -> nn.Module:
    """As `deployed`, for any module: a copy in evaluation mode; `example` holds the arguments of one call.

    A single run on `example` decides which layers are safe to fold. A module is unsuitable if, on other inputs, another
    layer reads a tensor that only a normalisation read in that run. Raises CannotDeploy as `deployed` does.
    """
    ready = copied(model).eval()
    narrow = widened(ready)
    wide = tree_map_only(Tensor, lambda x: x.float() if x.dtype == narrow else x, example)
    with torch.no_grad():
        before = answers_in_float32(lambda: ready(*wide), narrow)
        fold_all(ready, lambda: ready(*wide))
        ready = _fast(ready)
        check_same(before, lambda: ready(*wide))
        if narrow is not None:
            ready = copy.deepcopy(ready.to(narrow))
            check_runs(lambda: ready(*example), narrow)
    return ready


def is_deployed(model: nn.Module) -> bool:
    """Whether a model has fused forms, as results of `deployed` and `folded` do; it may hold code for this machine."""
    return any(getattr(part, "fused", None) is not None for part in model.modules())


def _reuse_memory(net: Net, image: Tensor) -> None:
    """Tell the blocks that images skip whether they may overwrite their input, and which hooks forbid it.

    A block may do so if nothing reads its input after the block, in neither form and neither memory layout. All passes
    are observed as one, so that a tensor that a module keeps from one pass to the next counts as read.
    """
    blocks = [(module, getattr(module, "block", None)) for module in net.modules()]
    places = {module: block for module, block in blocks if isinstance(block, ResidualBlock)}
    images = [image.contiguous(memory_format=layout) for layout in (torch.contiguous_format, torch.channels_last)]
    given = [*images, *net.parameters(), *net.buffers()]
    alone = sole_inputs([*places], lambda: [_in_both_forms(net, x) for x in images], given)
    listeners = Listeners(net.modules())
    for module in net.modules():
        if isinstance(module, ResidualBlock):
            module.listeners = listeners
    for place, block in places.items():
        block.reads_alone = block.reads_alone is not False and place in alone


def _fast(model: nn.Module) -> nn.Module:
    for block in model.modules():
        if isinstance(block, ResidualBlock):
            block.makes_residual, block.reads_alone = makes_new(block.body), None
    fast: nn.Module = convert_conv2d_weight_memory_format(model.requires_grad_(False), torch.channels_last)
    for op in fast.modules():
        if isinstance(op, Filtered):  # kernels cut per image: taps of a channel pair stay together
            for conv in (op.producer, op.consumer):
                if isinstance(conv, nn.Conv2d):
                    conv.weight.data = conv.weight.detach().contiguous()
    for op in fast.modules():
        for kind, form in _SILENT.items():
            if isinstance(op, kind) and runs_as(op, kind):
                op.fused = form
    if has_generator():
        from dyncomp.fast.generated_layers import with_generated_code  # needs llvmlite

        fast = with_generated_code(fast)
    track(fast)
    return fast


_SILENT: Mapping[type[Op], Any] = MappingProxyType(
    {Gated: silent.gated, Mixed: silent.mixed, Exit: silent.exit_or_stay}
)
