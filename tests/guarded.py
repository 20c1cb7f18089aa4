"""Memory between pages that fault: whoever reads or writes a number too far dies on the spot, and not silently."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from dyncomp.fast import scratch
from dyncomp.fast.memory import Allocate

NOT_AN_INDEX = 1 << 61
"""What integers are before they are written: as an index it leads far out of any memory."""

_PAGE = mmap.PAGESIZE
_NOTHING, _READ_AND_WRITE = 0, mmap.PROT_READ | mmap.PROT_WRITE
_OWN = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def before_a_fault(
    shape: Sequence[int], dtype: torch.dtype, device: torch.device, memory_format: torch.memory_format
) -> Tensor:
    """Memory that ends where a page begins that faults. For `allocated_by`."""
    return _allocated(shape, dtype, memory_format, at_the_end=True)


def behind_a_fault(
    shape: Sequence[int], dtype: torch.dtype, device: torch.device, memory_format: torch.memory_format
) -> Tensor:
    """Memory that begins where a page ends that faults. For `allocated_by`."""
    return _allocated(shape, dtype, memory_format, at_the_end=False)


def _allocated(
    shape: Sequence[int], dtype: torch.dtype, memory_format: torch.memory_format, at_the_end: bool
) -> Tensor:
    size = prod(shape) * dtype.itemsize
    if not size:
        return torch.empty(shape, dtype=dtype, device="cpu", memory_format=memory_format)
    room = -(-size // _PAGE) * _PAGE
    start = _libc.mmap(None, room + 2 * _PAGE, _NOTHING, _OWN, -1, 0)
    if start in (None, ctypes.c_void_p(-1).value) or _libc.mprotect(start + _PAGE, room, _READ_AND_WRITE):
        raise MemoryError(f"no memory between pages that fault: error {ctypes.get_errno()}")
    memory = (ctypes.c_char * size).from_address(start + _PAGE + (room - size if at_the_end else 0))
    weakref.finalize(memory, _libc.munmap, start, room + 2 * _PAGE).atexit = False
    flat = torch.frombuffer(memory, dtype=dtype)  # it holds on to `memory` as long as anyone sees its numbers
    flat.fill_(torch.nan if dtype.is_floating_point else NOT_AN_INDEX)
    if memory_format is torch.channels_last:
        images, channels, height, width = shape
        return flat.view(images, height, width, channels).permute(0, 3, 1, 2)
    return flat.view(tuple(shape))


def guarded(tensor: Tensor, allocate: Allocate = before_a_fault) -> Tensor:
    """A copy of the tensor between such pages, as it lies: channels-last or plain."""
    plain = tensor.is_contiguous() or tensor.dim() != 4
    layout = torch.contiguous_format if plain else torch.channels_last
    return allocate(tensor.shape, tensor.dtype, tensor.device, layout).copy_(tensor)


def guard_parameters(module: nn.Module, allocate: Allocate = before_a_fault) -> None:
    """Move a module's parameters and buffers between such pages."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.numel() and tensor.dtype in (torch.float32, torch.float64):
            tensor.data = guarded(tensor.detach(), allocate)


def forget_scratch() -> None:
    """Let go of the memory that this thread uses again and again: what the next pass gets is no larger than it asks."""
    scratch._held.flat.clear()
    scratch._held.replaced = next(scratch._replacements)
