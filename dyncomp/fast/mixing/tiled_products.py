"""Products of images with their own kernels, computed tile by tile, forward and backward.

The products are opaque to autograd: the backward pass mixes kernels again instead of keeping them, and adds the
gradients of a tile's kernels to those of the experts at once, so no tensor of B * |W| numbers is ever made.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dyncomp.fast.mixing import onednn
from dyncomp.fast.mixing.tiles import mixed_kernels, scalar_products, tiles
from dyncomp.fast.scratch import scratch
from dyncomp.fast.tuning import chosen, power_of_two
from dyncomp.ops.kernels import Geometry, convolve
from dyncomp.ops.mixture import Mixing
from dyncomp.ops.rows import empty_like_layout


class Gradients:
    """Gradients that a backward pass accumulates tile by tile: of x, the weights (B, K) and the experts (K, O, N)."""

    def __init__(self, x: Tensor, mixing: Mixing, needed: tuple[bool, bool, bool]) -> None:
        total = torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype
        self.mixing = mixing
        self.x = torch.zeros_like(x) if needed[0] else None
        self.weight = torch.zeros_like(mixing.weight, dtype=total) if needed[1] else None
        self.experts = torch.zeros_like(mixing.experts, dtype=total) if needed[2] else None

    @property
    def of_kernels(self) -> bool:
        """Whether any gradient depends on that of the mixed kernels."""
        return self.weight is not None or self.experts is not None

    def add(self, kernels: Tensor, images: slice, outputs: slice) -> None:
        """Add what the gradient of a tile's kernels (b, o, N) contributes."""
        flat = kernels.flatten(1)
        if self.weight is not None:
            rows = self.mixing.experts[:, outputs].flatten(1)
            self.weight[images] += scalar_products(flat, rows)
        if self.experts is not None:
            weight = self.mixing.weight[images].t()
            total = self.experts[:, outputs].flatten(1)
            if total.dtype == flat.dtype:
                total.addmm_(weight, flat)
            else:
                total += torch.mm(weight, flat)


class Product(ABC):
    """A way to apply each image's kernel to the image."""

    @abstractmethod
    def forward(self, x: Tensor, mixing: Mixing, limit: int) -> Tensor:
        """The product plus the bias, with tiles of about `limit` bytes; without autograd."""

    @abstractmethod
    def spread(self, bias: Tensor) -> Tensor:
        """A bias (B, O) in a shape that broadcasts to the product."""

    @abstractmethod
    def backward(self, x: Tensor, grad: Tensor, gradients: Gradients, limit: int) -> None:
        """Add to `gradients` what `grad`, the gradient of the product, contributes to x and to the kernels."""


class Pixels(Product):
    """x (B, P, C) by kernels (B, O, C): batched matrix products, (B, P, O)."""

    def forward(self, x: Tensor, mixing: Mixing, limit: int) -> Tensor:
        """Batched matrix products, tile by tile."""
        y = x.new_empty(*x.shape[:2], mixing.experts.shape[1])
        for images, outputs in tiles(mixing, limit, split=True):
            kernels = mixed_kernels(mixing, images, outputs).transpose(1, 2)  # (b, C, o)
            tile = y[images, :, outputs]  # (b, P, o)
            _multiply(x[images], kernels, tile)
            if mixing.bias is not None:  # here, while the tile is in cache
                tile.add_(self.spread(mixing.bias[images, outputs]))
        return y

    def spread(self, bias: Tensor) -> Tensor:
        """Shape (B, 1, O)."""
        return bias[:, None, :]

    def backward(self, x: Tensor, grad: Tensor, gradients: Gradients, limit: int) -> None:
        """Two batched matrix products per tile, whose kernels are mixed again."""
        mixing = gradients.mixing
        for images, outputs in tiles(mixing, limit, split=True):
            g = grad[images, :, outputs]  # (b, P, o)
            if gradients.x is not None:
                of_x = scratch("gradient of x", x, x[images].numel()).view_as(x[images])
                _multiply(g, mixed_kernels(mixing, images, outputs), of_x)
                gradients.x[images] += of_x
            if gradients.of_kernels:
                flat = scratch("gradient", g, len(g) * g.shape[2] * x.shape[2])
                kernels = flat.view(len(g), g.shape[2], x.shape[2])
                _multiply(g.transpose(1, 2), x[images], kernels)
                gradients.add(kernels, images, outputs)


def _multiply(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Write batched products of left (b, m, k) and right (b, k, n) into out (b, m, n), in the faster of two ways."""
    if onednn.multiplies(left, right):
        sizes = power_of_two(len(left)), *left.shape[1:], right.shape[2]
        key = ("product", *sizes, left.stride(2) == 1, right.stride(2) == 1, torch.get_num_threads())
        way = chosen(
            key,
            lambda: {"together": _multiply_together, "by oneDNN": _multiply_by_onednn},
            lambda way: way(left, right, torch.empty_like(out)),
        )
        way(left, right, out)
    else:
        _multiply_together(left, right, out)


def _multiply_together(left: Tensor, right: Tensor, out: Tensor) -> None:
    if left.shape[0] == 1:  # `mm` divides the rows of a single product between threads
        torch.mm(left[0], right[0], out=out[0])
    elif out.is_contiguous():
        torch.bmm(left, right, out=out)
    else:  # `bmm` into a strided `out` takes 1.5 times as long as with a copy
        out.copy_(torch.bmm(left, right))


def _multiply_by_onednn(left: Tensor, right: Tensor, out: Tensor) -> None:
    for one, other, result in zip(left.unbind(), right.transpose(1, 2).unbind(), out.unbind(), strict=True):
        result.copy_(onednn.linear(one, other))


@dataclass(frozen=True)
class Images(Product):
    """x (B, C, H, W), one convolution call per image, (B, O, H', W')."""

    geometry: Geometry

    def forward(self, x: Tensor, mixing: Mixing, limit: int) -> Tensor:
        """A convolution per image, tile by tile."""
        y = None
        for images, outputs in tiles(mixing, limit, split=False):
            kernels = mixed_kernels(mixing, images, outputs).view(-1, *mixing.shape)
            for i, kernel in enumerate(kernels, images.start):
                bias = None if mixing.bias is None else mixing.bias[i]
                part = convolve(x[i : i + 1], kernel, bias, self.geometry)  # (1, O, H', W')
                if x.shape[0] == 1:
                    return part
                y = empty_like_layout(x, (len(x), *part.shape[1:])) if y is None else y
                y[i : i + 1] = part
        assert y is not None  # there is at least one image
        return y

    def spread(self, bias: Tensor) -> Tensor:
        """Shape (B, O, 1, 1)."""
        return bias[:, :, None, None]

    def backward(self, x: Tensor, grad: Tensor, gradients: Gradients, limit: int) -> None:
        """The backward pass of a convolution per image; a tile's kernels are mixed again."""
        mixing, g = gradients.mixing, self.geometry
        needed = [gradients.x is not None, gradients.of_kernels, False]
        for images, outputs in tiles(mixing, limit, split=False):
            kernels = mixed_kernels(mixing, images, outputs)  # (b, O, N)
            flat = scratch("gradient", kernels, kernels.numel())
            of_kernels = flat.view_as(kernels)
            for i, kernel in enumerate(kernels, images.start):
                one = slice(i, i + 1)
                own = grad[one], x[one], kernel.view(mixing.shape)
                given = (*own, None, g.stride, g.padding, g.dilation, False, [0, 0], g.groups, needed)
                of_x, of_kernel, _ = torch.ops.aten.convolution_backward(*given)  # each None where it is not needed
                if gradients.x is not None:
                    gradients.x[one] = of_x
                if gradients.of_kernels:
                    of_kernels[i - images.start] = of_kernel.reshape(kernel.shape)
            if gradients.of_kernels:
                gradients.add(of_kernels, images, outputs)


@dataclass(frozen=True)
class Tiled:
    """A form: a product whose kernels are mixed in tiles of about `limit` bytes; differentiable once.

    Under autocast it computes in autocast's dtype; gradients of float32 parameters accumulate in float32.
    """

    product: Product
    limit: int

    def __call__(self, x: Tensor, mixing: Mixing) -> Tensor:
        """The product of x and the mixed kernels, plus the bias."""
        device = x.device.type
        if torch.is_autocast_enabled(device) and x.dtype != torch.float64:  # autocast leaves float64 alone
            x = x.to(torch.get_autocast_dtype(device))
            with torch.autocast(device, enabled=False):
                return self._run(x, mixing)
        return self._run(x, mixing)

    def _run(self, x: Tensor, mixing: Mixing) -> Tensor:
        if not torch.is_grad_enabled():
            return self.product.forward(x, _in_type_of(x, mixing), self.limit)
        y: Tensor = _Recorded.apply(x, mixing.weight, mixing.experts, (self, mixing.shape))
        return y if mixing.bias is None else y + self.product.spread(mixing.bias).to(y.dtype)


class _Recorded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, experts: Tensor, rest: tuple[Tiled, torch.Size]) -> Tensor:
        ctx.save_for_backward(x, weight, experts)
        ctx.form, ctx.shape = form, shape = rest
        return form.product.forward(x, _in_type_of(x, Mixing(weight, experts, shape)), form.limit)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, experts = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            mixing = _in_type_of(x, Mixing(weight, experts, ctx.shape))
            gradients = Gradients(x, mixing, ctx.needs_input_grad[:3])
            ctx.form.product.backward(x, grad, gradients, ctx.form.limit)
        found, given = (gradients.x, gradients.weight, gradients.experts), (x, weight, experts)
        return *(g if g is None else g.to(t.dtype) for g, t in zip(found, given, strict=True)), None


def _in_type_of(x: Tensor, mixing: Mixing) -> Mixing:
    if x.dtype == mixing.weight.dtype == mixing.experts.dtype:
        return mixing
    bias = None if mixing.bias is None else mixing.bias.to(x.dtype)
    return replace(mixing, weight=mixing.weight.to(x.dtype), experts=mixing.experts.to(x.dtype), bias=bias)
