"""Whether a network made ready for use is still the same network."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from dyncomp.conformance.case import Case, Forced, NotConforming, equal
from dyncomp.core import Net, count_executed_macs, measure_costs
from dyncomp.errors import CannotDeploy
from dyncomp.fast import by_last_ways, deployed, in_turn

WAYS = ("its own decisions", "random decisions")


@torch.no_grad()
def deployment_changes_nothing(case: Case) -> None:
    """Made ready for use, normalisations folded, the network decides, costs and answers as before."""
    net, images = stirred(case.net), case.images()
    try:
        ready = deployed(net)
    except CannotDeploy as error:
        raise NotConforming(str(error)) from error
    if list(ready.sites) != list(net.sites) or ready.parents != net.parents:
        raise NotConforming(f"deployed, the sites are {list(ready.sites)}, before {list(net.sites)}")
    if measure_costs(ready, images[:1]) != net.costs:
        raise NotConforming("deployed, its units and gates cost otherwise")
    for way in WAYS:
        if way in case.ways:
            _same(net, ready, images, case.ways[way], way)
    _same_in_use(ready, images)


def _same(net: Net, ready: Net, images: Tensor, forced: Forced, way: str) -> None:
    with in_turn():
        for form in ("dense", "sparse"):
            before = net(images, sparse=form == "sparse", decisions=forced)
            after = ready(images, sparse=form == "sparse", decisions=forced)
            if not torch.equal(before.trace.routes(), after.trace.routes()):
                raise NotConforming(f"deployed, it decides otherwise in the {form} form under {way}")
            equal(after.logits, before.logits, f"deployed, it answers otherwise in the {form} form under {way}")
        priced, ran = int(after.macs().sum()), count_executed_macs(ready, images, forced)
    if priced != ran:
        raise NotConforming(f"deployed, priced {priced} MACs, executed {ran}, under {way}")


def _same_in_use(ready: Net, images: Tensor) -> None:
    """In the mode, the layout and the forms of use no record is asked for, and generated code runs several layers."""
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), by_last_ways():
        for some in (images, images[:1]):
            kept = some.clone()
            recorded, silent = ready(some), ready(some, record=False)
            equal(silent.logits, recorded.logits, "deployed, it answers otherwise in use, when no trace is recorded")
            priced, ran = int(recorded.macs().sum()), count_executed_macs(ready, some)
            if priced != ran:
                raise NotConforming(f"deployed, priced {priced} MACs, executed {ran}, in use")
            if not torch.equal(some, kept):
                raise NotConforming("deployed, it changes the images in place")


@torch.no_grad()
def stirred(net: Net) -> Net:
    """A copy whose batch norms have statistics and parameters such that none is near the identity."""
    other, draw = copy.deepcopy(net), torch.Generator().manual_seed(0)
    for layer in other.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (*layer.parameters(), layer.running_mean, layer.running_var):
                if tensor is not None:
                    tensor.mul_(torch.rand(tensor.shape, generator=draw, dtype=tensor.dtype) + 0.5)
                    tensor.add_(torch.rand(tensor.shape, generator=draw, dtype=tensor.dtype) / 4)
    return other
