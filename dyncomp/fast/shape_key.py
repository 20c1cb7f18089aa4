"""The properties of an input that decide which of several equal forms is fastest."""

from __future__ import annotations

import torch
from torch import Tensor

from dyncomp.fast.tuning import power_of_two
from dyncomp.ops.rows import is_channels_last


def shape_key(x: Tensor) -> tuple[object, ...]:
    """The autotuner's key of an input: shape, dtype, device, layout, autocast, number of threads, oneDNN on or off.

    The batch size is rounded up to a power of two, so that the many sizes of packed batches do not each need a trial.
    """
    device = x.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)  # meta: no autocast
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
