"""In which precision a network can be trained here."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dyncomp.core import Net
from dyncomp.core.dispatch import DispatchMode
from dyncomp.core.modes import evaluating


def trains_in_bfloat16(net: Net, image: Tensor) -> bool:
    """Whether to train with bfloat16 autocast: the processor multiplies it natively, and its gradients are right.

    On CPUs the gradient of a strided convolution that sees a single pixel is wrong in bfloat16 (seen with torch 2.14:
    infinite or NaN in most calls), so a network that has one, for this image (1, C, H, W), trains in float32.
    """
    if image.is_cuda:
        return bool(torch.cuda.is_bf16_supported())
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return False
    with evaluating(net), _Watch() as watch:
        net(image, sparse=False, record=False)
    return not watch.seen


class _Watch(DispatchMode):
    """Notes whether a convolution strides over a map of one pixel."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.convolution.default:
            x, kernel, stride = args[0], args[1], args[3]
            pixel = tuple(x.shape[-2:]) == (1, 1) and tuple(kernel.shape[-2:]) != (1, 1)
            self.seen = self.seen or (pixel and max(stride) > 1)
        return func(*args, **(kwargs or {}))
