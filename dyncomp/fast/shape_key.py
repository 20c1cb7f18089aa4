"""What an input is like, as far as it decides which of equal forms is fastest."""

from __future__ import annotations

import torch
from torch import Tensor

from dyncomp.fast.tuning import power_of_two
from dyncomp.ops.rows import is_channels_last


def shape_key(x: Tensor) -> tuple[object, ...]:
    """What decides which equal form is fastest: shape, type, device, layout, threads.

    Batches count as the next power of two, so that the many sizes of packed batches are not each tried anew.
    """
    device = x.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)  # meta has none
    return (
        power_of_two(len(x)),
        *x.shape[1:],
        x.dtype,
        device,
        is_channels_last(x),
        autocast,
        torch.get_num_threads(),
        torch._C._get_mkldnn_enabled(),
    )
