"""When memory may be overwritten: the mode that allows it, and layers that do it or whose output is safe for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MAKERS = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
"""layers whose output is a tensor of its own in evaluation, whatever comes in"""


def in_use() -> bool:
    """Whether memory may be used again: in inference mode, where no graph keeps it; a compiler decides by itself."""
    return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()


def in_place(activation: nn.Module, x: Tensor) -> Tensor:
    """The activation of x, which may be overwritten."""
    if type(activation) is nn.ReLU:
        return x.relu_()
    output: Tensor = activation(x)
    return output


def makes_new(module: nn.Module) -> bool:
    """Whether a module's output is always a new tensor that it does not keep, as far as the last layer shows it.

    Subclasses of torch's layers may do anything, unless they say so: `makes_new_output` (a layer), `is_chain` (a
    Sequential that runs its layers in order).
    """
    while isinstance(module, nn.Sequential) and _is_chain(module) and len(module):
        module = module[-1]
    known = type(module) in MAKERS or getattr(type(module), "makes_new_output", False)
    return known and not (module._forward_hooks or "forward" in vars(module))


def _is_chain(module: nn.Sequential) -> bool:
    return type(module) is nn.Sequential or bool(getattr(type(module), "is_chain", False))
