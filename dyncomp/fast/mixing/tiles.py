"""Kernels mixed tile by tile into memory that stays in cache, and used at once.

The mixed kernels of a batch are B * |W| numbers. Written to fresh memory as a whole they cost more than the convolution
itself: pages are faulted in, and every number travels to memory and back. A tile holds the kernels of a few images, or,
for all images, the kernel rows of a few output channels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dyncomp.fast.mixing import onednn
from dyncomp.fast.scratch import scratch
from dyncomp.fast.tuning import chosen, power_of_two
from dyncomp.ops.mixture import Mixing

_FEW = 8  # least images per tile: for fewer, mixing reads all experts for too little work
_WIDE, _CUTS = 1 << 16, 16  # numbers, parts: a product with a short side runs on one thread unless its long side is cut


def mixed_kernels(mixing: Mixing, images: slice, outputs: slice) -> Tensor:
    """The mixed kernels of some images, reduced to the rows of some outputs, (b, o, N), in a scratch buffer."""
    weight, rows = mixing.weight[images], mixing.experts[:, outputs]
    flat: Tensor = mixing.overhead(mixed, weight, rows.flatten(1))
    return flat.view(len(weight), *rows.shape[1:])


def tiles(mixing: Mixing, limit: int, split: bool) -> Iterator[tuple[slice, slice]]:
    """Slices of images and of outputs, tile by tile, of about `limit` bytes; outputs are divided only if `split`."""
    count, outputs = mixing.weight.shape[0], mixing.experts.shape[1]
    row = mixing.experts.shape[2] * mixing.experts.element_size()
    images = max(1, min(count, max(_FEW if split else 1, limit // (outputs * row))))
    wide = min(outputs, max(1, limit // (images * row))) if split else outputs
    for first in range(0, outputs, wide):  # the outer loop, so that these rows of the experts stay in cache
        for image in range(0, count, images):
            yield slice(image, min(image + images, count)), slice(first, min(first + wide, outputs))


def mixed(weight: Tensor, experts: Tensor) -> Tensor:
    """`weight` (b, K) times `experts` (K, n), (b, n), in memory that the next call may overwrite."""
    if len(weight) > 1 and experts.is_contiguous() and onednn.multiplies(weight, experts):
        key = ("mixing", power_of_two(len(weight)), *experts.shape, torch.get_num_threads())
        way = chosen(
            key,
            lambda: {"in place": _mixed_in_place, "by oneDNN": _mixed_by_onednn},
            lambda way: way(weight, experts),
        )
        return way(weight, experts)
    return _mixed_in_place(weight, experts)


def _mixed_in_place(weight: Tensor, experts: Tensor) -> Tensor:
    flat = scratch("kernels", experts, len(weight) * experts.shape[1]).view(len(weight), -1)
    mix(weight, experts, flat)
    return flat


def _mixed_by_onednn(weight: Tensor, experts: Tensor) -> Tensor:
    return onednn.linear(weight, experts.t())


def mix(weight: Tensor, experts: Tensor, out: Tensor) -> None:
    """Write `weight` (b, K) times `experts` (K, n) into `out` (b, n)."""
    if weight.shape[0] > 1 or not _worth_cutting(experts):
        torch.mm(weight, experts, out=out)
    else:
        torch.bmm(weight.expand(_CUTS, 1, -1), _cut(experts), out=out.view(_CUTS, 1, -1))


def scalar_products(kernels: Tensor, experts: Tensor) -> Tensor:
    """The scalar products of each of `kernels` (b, n) with each of `experts` (K, n), (b, K)."""
    if not _worth_cutting(experts):
        return torch.mm(kernels, experts.t())
    return torch.bmm(_cut(kernels), _cut(experts).transpose(1, 2)).sum(0)


def _worth_cutting(experts: Tensor) -> bool:
    numbers = experts.shape[1]
    return numbers >= _WIDE and numbers % _CUTS == 0 and torch.get_num_threads() > 1


def _cut(rows: Tensor) -> Tensor:
    return rows.view(rows.shape[0], _CUTS, -1).transpose(0, 1)  # (cuts, rows, n / cuts)
