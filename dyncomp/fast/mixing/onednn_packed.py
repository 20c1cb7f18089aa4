"""Kernels mixed in oneDNN's own layout, so that no call has to reorder its kernel.

oneDNN reorders a plain kernel at every call, which for a batch of kernels costs up to as much as the convolutions. A
reorder only moves numbers (and adds zeros), so mixing reordered experts gives the reordered mixture. Reordered experts
are cached copies, made when a network is first used without gradients and remade when the parameter has changed.
"""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from dyncomp.core.counter import active_counters, report, uncounted
from dyncomp.fast.mixing import onednn
from dyncomp.fast.mixing.tiled_products import Gradients, Images
from dyncomp.fast.mixing.tiles import mix, mixed
from dyncomp.fast.parameters.copies import copied
from dyncomp.ops.kernels import Geometry, convolve
from dyncomp.ops.mixture import Mixing
from dyncomp.ops.rows import empty_like_layout, is_channels_last

_OPERATORS = ("_reorder_convolution_weight", "_convolution_pointwise", "data_ptr", "_nbytes")


@dataclass(frozen=True)
class Packed(Images):
    """x (B, C, H, W) channels-last in float32, one convolution call per image, (B, O, H', W'); without gradients."""

    def forward(self, x: Tensor, mixing: Mixing, limit: int) -> Tensor:
        """One convolution per image, whose kernel is first written into the memory of an opaque kernel."""
        layout = _Layout(mixing.shape, tuple(x.shape[1:]), self.geometry, torch.get_num_threads())
        experts, slot = _experts(mixing.experts, layout), _slot(layout)
        numbers = experts.shape[1]
        if x.shape[0] == 1:
            mixing.overhead(_mix, mixing, mixing.weight, experts, slot.memory[None])
            return slot.convolve(x, None if mixing.bias is None else mixing.bias[0])
        biases = iter([None] * len(x) if mixing.bias is None else mixing.bias.unbind())
        y, few = None, max(1, limit // (4 * numbers))
        for images, weight in zip(torch.split(x, few), torch.split(mixing.weight, few), strict=True):
            kernels = mixing.overhead(_mixed, mixing, weight, experts)  # (images, numbers)
            for image, kernel in zip(torch.split(images, 1), kernels.unbind(), strict=True):
                slot.memory.copy_(kernel)
                part = slot.convolve(image, next(biases))  # (1, O, H', W')
                if y is None:
                    y = empty_like_layout(x, (len(x), *part.shape[1:]))
                    rest = iter(torch.split(y, 1))
                next(rest).copy_(part)
        assert y is not None  # there is at least one image
        return y

    def backward(self, x: Tensor, grad: Tensor, gradients: Gradients, limit: int) -> None:
        """Raise RuntimeError: packed kernels have no gradient."""
        raise RuntimeError("packed kernels have no gradient: another form is for training")


def _mix(mixing: Mixing, weight: Tensor, experts: Tensor, out: Tensor) -> None:
    """See `tiles.mix`; the zeros that oneDNN adds to packed experts are no multiply-adds."""
    if not active_counters():
        mix(weight, experts, out)
        return
    with uncounted():
        mix(weight, experts, out)
    report("aten.mm", weight.numel() * mixing.shape.numel())


def _mixed(mixing: Mixing, weight: Tensor, experts: Tensor) -> Tensor:
    """See `tiles.mixed`, and `_mix`."""
    if not active_counters():
        return mixed(weight, experts)
    with uncounted():
        kernels = mixed(weight, experts)
    report("aten.mm", weight.numel() * mixing.shape.numel())
    return kernels


def can_pack(x: Tensor, experts: Tensor) -> bool:
    """Whether packed experts can be used for features x at present."""
    return onednn.serves_copies(x, experts) and is_channels_last(x) and _works()


@dataclass(frozen=True)
class _Layout:
    """What determines oneDNN's layout of a kernel."""

    kernel: tuple[int, ...]
    image: tuple[int, ...]
    geometry: Geometry
    threads: int

    def pack(self, kernel: Tensor) -> Tensor:
        """The kernel as an opaque tensor of oneDNN."""
        g = self.geometry
        packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
            kernel.view(self.kernel), g.padding, g.stride, g.dilation, g.groups, (1, *self.image)
        )
        return packed


class _Slot:
    """An opaque kernel and its memory, into which other kernels of the same layout are written."""

    def __init__(self, layout: _Layout, kernel: Tensor) -> None:
        self.geometry = layout.geometry
        self.kernel = layout.pack(kernel)
        size = torch.ops.mkldnn._nbytes(self.kernel)
        raw = (ctypes.c_char * size).from_address(torch.ops.mkldnn.data_ptr(self.kernel))
        self.memory = torch.frombuffer(raw, dtype=kernel.dtype)  # valid as long as `kernel` lives

    def convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve x (1, C, H, W) with the kernel that is in the memory now, and add the bias (O,)."""
        g = self.geometry
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.kernel, bias, g.padding, g.stride, g.dilation, g.groups, "none", [], ""
        )
        return y


class _Slots(threading.local):
    """The slots of one thread: threads that run networks concurrently do not share slots."""

    def __init__(self) -> None:
        self.by_layout: dict[_Layout, _Slot] = {}


_slots = _Slots()


def _experts(parameter: Tensor, layout: _Layout) -> Tensor:
    """The experts (K, O, N) packed, (K, n)."""

    def packed(experts: Tensor) -> Tensor:
        slots = [_Slot(layout, expert) for expert in experts]  # kept alive until their memory is copied
        return torch.stack([slot.memory for slot in slots])

    return copied(parameter, layout, packed)


def _slot(layout: _Layout) -> _Slot:
    if layout not in _slots.by_layout:
        with uncounted(), torch.inference_mode(False), torch.no_grad():
            _slots.by_layout[layout] = _Slot(layout, torch.zeros(layout.kernel))
    return _slots.by_layout[layout]


@cache
def _works() -> bool:
    """Whether this version of torch lets packed kernels be read and written; tried, as this is no public interface."""
    if not torch._C._has_mkldnn:
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS):
        return False
    try:
        with uncounted(), torch.inference_mode(False), torch.no_grad():
            geometry, draw = Geometry((1, 1), (1, 1), (1, 1), 1), torch.Generator().manual_seed(0)
            x = torch.randn(3, 5, 8, 8, generator=draw).contiguous(memory_format=torch.channels_last)
            experts, weight = torch.randn(2, 6, 45, generator=draw), torch.rand(3, 2, generator=draw)
            mixing = Mixing(weight, experts, torch.Size((6, 5, 3, 3)))
            ours, kernels = Packed(geometry).forward(x, mixing, limit=1 << 12), mixing.whole()
            plain = [convolve(x[i : i + 1], kernels[i], None, geometry) for i in range(3)]
            return torch.allclose(ours, torch.cat(plain), rtol=1e-4, atol=1e-4)
    except (RuntimeError, TypeError):
        return False
