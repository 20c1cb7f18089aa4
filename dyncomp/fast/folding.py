"""Folding: normalisations merged into the layers before them, layers that do nothing in evaluation removed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from dyncomp.core.modes import evaluating
from dyncomp.fast.dataflow.sole_readers import sole_readers
from dyncomp.ops.experts import ExpertConv2d, ExpertLayer, ExpertLinear

FOLDS = MappingProxyType(
    {nn.Linear: 2, ExpertLinear: 2, nn.Conv1d: 3, nn.Conv2d: 4, ExpertConv2d: 4, nn.Conv3d: 5},
)
"""layer types that can take a scale and a shift into their parameters, and the rank of their output (B, O, ...)"""

UNPROTECTED = (nn.Linear, nn.Conv1d, nn.Conv3d, ExpertLayer)
"""types of `FOLDS` whose output may be overwritten although a hook was given it, or an op around them returns it (see
`Heard`)"""

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""normalisations that are a scale and a shift per channel in evaluation"""

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm

NO_OPS = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
"""layers that do nothing in evaluation"""


def batch_norms(model: nn.Module) -> list[str]:
    """The names of a module's batch normalisations; in a deployed module, of those that could not be folded."""
    return [name for name, module in model.named_modules() if isinstance(module, NORMS)]


def fold_all(model: nn.Module, run: Callable[[], Any]) -> None:
    """Fold normalisations and remove layers that do nothing, in place; `run` runs the model on example input."""
    plain = [
        module
        for module in model.modules()
        if not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
    ]
    layers = [module for module in plain if type(module) in FOLDS]
    norms = [module for module in plain if isinstance(module, NORMS) and _is_fixed(module)]
    with evaluating(model):
        found = sole_readers(model, layers, norms, run)
    gone: set[nn.Module] = {module for module in plain if type(module) in NO_OPS}
    for layer, norm, dimensions in found:
        if dimensions == {FOLDS[type(layer)]}:
            assert isinstance(norm, NORMS)  # `norms` are the readers
            _fold(layer, *_scale_and_shift(norm))
            _neutralise(norm)
            gone.add(norm)
            if isinstance(layer, UNPROTECTED):
                _keep_outputs(model)
    _leave_out(model, gone)


def _keep_outputs(model: nn.Module) -> None:
    """Switch off in-place activations, so that none overwrites an output that a hook was given."""
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]


def _is_fixed(norm: BatchNorm) -> bool:
    """Whether a normalisation is of one of torch's own classes and uses running statistics, not those of the batch."""
    return type(norm) in NORMS and not norm.training and norm.running_mean is not None and norm.running_var is not None


@torch.no_grad()
def _scale_and_shift(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """The scale and shift, both (C,) float64, of a normalisation in evaluation: y = scale * x + shift."""
    assert norm.running_mean is not None and norm.running_var is not None  # checked by `_is_fixed`
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
    assert isinstance(weight, Tensor)  # of a convolution or a linear layer
    if isinstance(bias, Tensor):
        shift = shift + scale * bias
    layer.weight = nn.Parameter((weight * scale.view(-1, *[1] * (weight.dim() - 1))).to(weight.dtype))
    layer.bias = nn.Parameter(shift.to(weight.dtype))


def _neutralise(norm: BatchNorm) -> None:
    """Make a normalisation exactly the identity, for code that still holds it outside the module tree."""
    assert norm.running_mean is not None and norm.running_var is not None  # checked by `_is_fixed`
    norm.weight, norm.bias, norm.affine, norm.eps = None, None, False, 0.0  # type: ignore[assignment]
    norm.running_mean, norm.running_var = torch.zeros_like(norm.running_mean), torch.ones_like(norm.running_var)


def _leave_out(model: nn.Module, gone: Collection[nn.Module]) -> None:
    """Remove no-op modules from Sequentials, and replace them by nn.Identity in other parents."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child not in gone:
                continue
            if type(parent).forward is nn.Sequential.forward:
                delattr(parent, name)  # `del parent[index]` would rename the others
            else:
                setattr(parent, name, nn.Identity())
