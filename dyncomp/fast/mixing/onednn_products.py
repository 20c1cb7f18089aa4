"""A matrix product by oneDNN for each image, kernels mixed tile by tile: the fast way for 1x1 convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dyncomp.fast.mixing import onednn
from dyncomp.fast.mixing.tiled_products import Gradients, Pixels
from dyncomp.fast.mixing.tiles import mixed
from dyncomp.fast.parameters.copies import copied
from dyncomp.ops.mixture import Mixing

_SEVERAL = 16
"""least images per tile, where the batch has as many: for fewer, mixing reads the experts for too little work"""


@dataclass(frozen=True)
class Matrices(Pixels):
    """x (B, P, C) by kernels (B, O, C), one matrix product by oneDNN per image, (B, P, O); without gradients."""

    def forward(self, x: Tensor, mixing: Mixing, limit: int) -> Tensor:
        """One product per image, tile by tile."""
        y = x.new_empty(*x.shape[:2], mixing.experts.shape[1])
        for outputs, experts in self._blocks(mixing.experts, limit):
            part = y[:, :, outputs]  # (B, P, o)
            biases = iter([None] * len(x) if mixing.bias is None else mixing.bias[:, outputs].unbind())
            several = max(1, limit // (experts.shape[1] * experts.element_size()))
            tiles = zip(*(torch.split(whole, several) for whole in (mixing.weight, x, part)), strict=True)
            for weight, images, results in tiles:
                kernels = mixing.overhead(mixed, weight, experts).view(len(weight), -1, x.shape[2])  # (b, o, C)
                for image, kernel, result in zip(images.unbind(), kernels.unbind(), results.unbind(), strict=True):
                    result.copy_(onednn.linear(image, kernel, next(biases)))  # (P, o)
        return y

    @staticmethod
    def _blocks(experts: Tensor, limit: int) -> Iterator[tuple[slice, Tensor]]:
        """The experts (K, O, C) in blocks of outputs, (K, o * C): cached copies in which each block is contiguous."""
        row = experts.shape[2] * experts.element_size()
        wide = max(1, limit // (_SEVERAL * row))
        for first in range(0, experts.shape[1], wide):
            outputs = slice(first, first + wide)
            yield outputs, copied(experts, (first, wide), partial(_side_by_side, outputs))

    def backward(self, x: Tensor, grad: Tensor, gradients: Gradients, limit: int) -> None:
        """Raise RuntimeError: oneDNN's products have no gradient."""
        raise RuntimeError("products by oneDNN have no gradient: another form is for training")


def can_multiply(x: Tensor, experts: Tensor) -> bool:
    """Whether `Matrices` can be used for features x at present."""
    return onednn.serves_copies(x, experts) and onednn.multiplies(x, experts)


def _side_by_side(outputs: slice, experts: Tensor) -> Tensor:
    return experts[:, outputs].flatten(1).contiguous()
