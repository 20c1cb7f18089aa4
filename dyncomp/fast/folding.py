"""Folding: normalisations put into the layers before them, layers that do nothing in evaluation left out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from dyncomp.core.modes import evaluating
from dyncomp.fast.dataflow.sole_readers import lone_readers
from dyncomp.ops.experts import ExpertConv2d, ExpertLayer, ExpertLinear

FOLDS = MappingProxyType(
    {nn.Linear: 2, ExpertLinear: 2, nn.Conv1d: 3, nn.Conv2d: 4, ExpertConv2d: 4, nn.Conv3d: 5},
)
"""layers that take a scale and a shift into their parameters, and the dimensions of an output (B, O, ...)"""

UNHEARD = (nn.Linear, nn.Conv1d, nn.Conv3d, ExpertLayer)
"""those among them that do not keep what a hook was given, or whose output an op around them hands on (see `Heard`)"""

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""normalisations that are a scale and a shift per channel in evaluation"""

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm

IDLE = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
"""layers that do nothing in evaluation"""


def batch_norms(model: nn.Module) -> list[str]:
    """The names of a module's batch normalisations: in a deployed one, those that could not be folded."""
    return [name for name, module in model.named_modules() if isinstance(module, NORMS)]


def fold_all(model: nn.Module, run: Callable[[], Any]) -> None:
    """Fold what can be, leave out what does nothing."""
    plain = [module for module in model.modules() if _is_plain(module)]
    layers = [module for module in plain if type(module) in FOLDS]
    norms = [module for module in plain if isinstance(module, NORMS) and _is_fixed(module)]
    with evaluating(model):
        found = lone_readers(model, layers, norms, run)
    gone: set[nn.Module] = {module for module in plain if type(module) in IDLE}
    for layer, norm, dimensions in found:
        if dimensions == {FOLDS[type(layer)]}:
            assert isinstance(norm, NORMS)  # it was among the readers
            _fold(layer, *_scale_and_shift(norm))
            _neutralise(norm)
            gone.add(norm)
            if isinstance(layer, UNHEARD):
                _keep_outputs(model)
    _leave_out(model, gone)


def _keep_outputs(model: nn.Module) -> None:
    """Let no activation overwrite what it reads."""
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]


def _is_plain(module: nn.Module) -> bool:
    """Whether nothing hangs on the module that runs beside it."""
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _is_fixed(norm: BatchNorm) -> bool:
    """Whether it is one of torch's own, and normalises by statistics that it has, not by those of the batch."""
    return type(norm) in NORMS and not norm.training and norm.running_mean is not None and norm.running_var is not None


@torch.no_grad()
def _scale_and_shift(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """What it does in evaluation, y = scale * x + shift, both (C,) float64."""
    assert norm.running_mean is not None and norm.running_var is not None  # _is_fixed said so
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


@torch.no_grad()
def _fold(layer: nn.Module, scale: Tensor, shift: Tensor) -> None:
    if isinstance(layer, ExpertLayer):
        layer.fold(scale, shift)
        return
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)  # a convolution's or a linear layer's
    if isinstance(bias, Tensor):
        shift = shift + scale * bias
    layer.weight = nn.Parameter((weight * scale.view(-1, *[1] * (weight.dim() - 1))).to(weight.dtype))
    layer.bias = nn.Parameter(shift.to(weight.dtype))


def _neutralise(norm: BatchNorm) -> None:
    """Make it the identity, exactly, for whoever still holds it beside the tree of modules."""
    assert norm.running_mean is not None and norm.running_var is not None  # _is_fixed said so
    norm.weight, norm.bias, norm.affine, norm.eps = None, None, False, 0.0  # type: ignore[assignment]
    norm.running_mean, norm.running_var = torch.zeros_like(norm.running_mean), torch.ones_like(norm.running_var)


def _leave_out(model: nn.Module, gone: Collection[nn.Module]) -> None:
    """Take modules that do nothing out of Sequentials, and put the identity where else they stand."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child not in gone:
                continue
            if type(parent).forward is nn.Sequential.forward:
                delattr(parent, name)  # `del parent[index]` would give the others new names
            else:
                setattr(parent, name, nn.Identity())
