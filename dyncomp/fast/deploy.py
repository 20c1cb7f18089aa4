"""Networks made ready for use: normalisations folded, kernels in the fast layout, layers in their fastest form."""

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
from dyncomp.core.decisions import all_on
from dyncomp.core.hooks import Listeners
from dyncomp.core.inplace import makes_new
from dyncomp.core.net import Net
from dyncomp.core.op import Op
from dyncomp.fast import silent
from dyncomp.fast.answers import answers_in_float32, check_runs, check_same, widened
from dyncomp.fast.behaviour import runs_as
from dyncomp.fast.dataflow.sole_inputs import lone_inputs
from dyncomp.fast.folding import fold_all
from dyncomp.fast.parameters.tracked import track
from dyncomp.fast.switch import has_generator
from dyncomp.fast.tuning import in_turn
from dyncomp.ops.exits import Exit
from dyncomp.ops.filtered import Filtered
from dyncomp.ops.gated import Gated
from dyncomp.ops.mixed import Mixed


def deployed(net: Net) -> Net:
    """A copy of the network for use: the same decisions, prices and, but for rounding, logits, in less time.

    Every BatchNorm that alone reads a convolution or a linear layer is folded into it, layers that do nothing in
    evaluation are left out, kernels lie channels-last, nothing learns; on a processor, convolutions run by machine code
    that is made for their shapes wherever a trial finds that faster than torch's (`ready.py`). In inference mode,
    blocks that images skip overwrite features that nobody else reads, unless the network has a hook, which may keep
    them. Layers that are replaced, hooks, and parameters that change are seen, whether torch's operators and optimizers
    write them or somebody by `.data` or numpy, of a parameter or a view that one of its methods made. Not seen: writing
    through storages, raw pointers, or `.data` of a view by a function (`torch.flatten(p)`); nor, perhaps, what is set
    on a layer by hand, a stride, a router's temperature, a `forward` of its own. Sites keep their names; parameters do
    not. The network given stays as it is. Raises RuntimeError where it does not know its costs, and with them its
    images, and CannotDeploy where the copy answers otherwise: the network runs layers by another way than calling them.
    In bfloat16 and float16 it is folded and compared in float32.
    """
    plain = _copied(net)
    narrow = widened(plain)
    image = _image(net, like=next(plain.parameters()))
    with in_turn():
        before = answers_in_float32(lambda: _in_both_forms(plain, image), narrow)
        fold_all(plain.model, lambda: _answers(plain, image, sparse=False))
        ready = Net(_fast(plain.model)).eval()  # anew: ops may look at layers that are no longer there
        check_same(before, lambda: _in_both_forms(ready, image))
        _reuse_memory(ready, image)
        with torch.inference_mode():  # the mode of use, in which memory is overwritten
            check_same(before, lambda: _in_both_forms(ready, image))
    if narrow is not None:
        ready = copy.deepcopy(ready.to(narrow))  # without the code that was made for float32
        check_runs(lambda: _in_both_forms(ready, image.to(narrow)), narrow)
    ready.costs = net.costs
    names = ready.state_dict().keys()
    ready.origins = {name: origin for name, origin in net.origins.items() if name in names}
    ready.card = None if net.card is None else replace(net.card, deployed=True)
    return ready


def plainly_folded(net: Net) -> Net:
    """A copy with every BatchNorm folded as in `deployed`, whose layers stay torch's own: for graphs and other engines.

    In evaluation mode, kernels in the usual layout, nothing learns. Raises RuntimeError and CannotDeploy as `deployed`.
    """
    plain = _copied(net)
    image = _image(net, like=next(plain.parameters()))
    before = _answers(plain, image, sparse=False)
    fold_all(plain.model, lambda: _answers(plain, image, sparse=False))
    convert_conv2d_weight_memory_format(plain.model.requires_grad_(False), torch.contiguous_format)
    ready = Net(plain.model).eval()  # anew: ops may look at layers that are no longer there
    check_same(before, lambda: _answers(ready, image, sparse=False))
    ready.costs = net.costs
    return ready


def _copied(net: Net) -> Net:
    if net.costs is None:
        raise RuntimeError("no costs yet: set net.costs = measure_costs(net, images[:1]) first")
    return Net(copy.deepcopy(net.model)).eval()


def _image(net: Net, like: Tensor) -> Tensor:
    """An image (1, C, H, W) of the size that the network is for, always the same one."""
    assert net.costs is not None  # `_copied` said so
    return torch.rand(1, *net.costs.image_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(
        like
    )


def _in_both_forms(net: Net, image: Tensor) -> list[tuple[Tensor, dict[str, Tensor]]]:
    return [_answers(net, image, sparse) for sparse in (False, True)]


@torch.no_grad()
def _answers(net: Net, image: Tensor, sparse: bool) -> tuple[Tensor, dict[str, Tensor]]:
    output = net(image, sparse=sparse, decisions=all_on(net, 1))
    return output.logits, dict(output.said)


def folded(model: nn.Module, *example: Any) -> nn.Module:
    """The same as `deployed` for any module: a copy in evaluation mode. `example` is what it is called with.

    What is folded is what one run on the example shows to be safe. A module that on other inputs reads elsewhere what
    only a normalisation read in this run is not for this. Raises CannotDeploy as `deployed` does.
    """
    ready = copy.deepcopy(model).eval()
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
    """Whether a model has fused forms, as what `deployed` and `folded` give: then it may hold code of this machine."""
    return any(getattr(part, "fused", None) is not None for part in model.modules())


def _reuse_memory(net: Net, image: Tensor) -> None:
    """Tell the blocks that images skip whether they may overwrite what enters: in no form and no layout is it shared.

    All passes are watched as one, so that what a module keeps from one to the next is shared too.
    """
    blocks = [(module, getattr(module, "block", None)) for module in net.modules()]
    places = {module: block for module, block in blocks if isinstance(block, ResidualBlock)}
    images = [image.contiguous(memory_format=layout) for layout in (torch.contiguous_format, torch.channels_last)]
    given = [*images, *net.parameters(), *net.buffers()]
    alone = lone_inputs([*places], lambda: [_in_both_forms(net, x) for x in images], given)
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
        if isinstance(op, Filtered):  # kernels that are cut for each image lie pair of channels by pair
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
