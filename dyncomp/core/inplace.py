"""Overwriting of features: the mode that allows it, activations in place, and layers whose output is a new tensor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MAKERS = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
"""layers whose output in evaluation is always a new tensor"""


def in_use() -> bool:
    """Whether memory may be reused: in inference mode, where no autograd graph holds it; never under a compiler."""
    return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()


def in_place(activation: nn.Module, x: Tensor) -> Tensor:
    """The activation of x; it may overwrite x."""
    if type(activation) is nn.ReLU:
        return x.relu_()
    output: Tensor = activation(x)
    return output


def makes_new(module: nn.Module) -> bool:
    """Whether the module's output is known to be a new tensor that it does not store, by the type of its last layer.

    A subclass of one of torch's layers counts only if it declares `makes_new_output`, a subclass of Sequential, which
    runs its layers in order, only if it declares `is_chain`.
    """
    while isinstance(module, nn.Sequential) and len(module):
        if type(module) is not nn.Sequential and not getattr(type(module), "is_chain", False):
            break
        module = module[-1]
    known = type(module) in MAKERS or getattr(type(module), "makes_new_output", False)
    return known and not (module._forward_hooks or "forward" in vars(module))
