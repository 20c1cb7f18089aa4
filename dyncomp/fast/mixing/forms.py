"""The equal forms, by name, of a layer whose kernels are mixed for each image; the fastest one depends on the shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from dyncomp.fast.availability import has_generator
from dyncomp.fast.mixing.onednn_packed import Packed, can_pack
from dyncomp.fast.mixing.onednn_products import Matrices, can_multiply
from dyncomp.fast.mixing.tiled_products import Images, Pixels, Tiled
from dyncomp.fast.tuning import power_of_two
from dyncomp.ops import kernels
from dyncomp.ops.experts import ExpertLayer, Form, by_whole_kernels, plain_convolutions
from dyncomp.ops.kernels import Geometry
from dyncomp.ops.mixture import Mixing

SMALL, LARGE = 4 << 20, 16 << 20  # bytes of a tile: near a core's own cache, and well within the shared one


def of_convolution(x: Tensor, mixing: Mixing, geometry: Geometry) -> Mapping[str, Form]:
    """The forms that can convolve features x (B, C, H, W), at least one image, at present."""
    if not _tiles_pay(x):
        return plain_convolutions(x, mixing, geometry)
    unfolds = kernels.unfolded_numbers(x[:1], mixing.shape, geometry) * power_of_two(len(x)) * x.element_size() <= LARGE
    experts = mixing.experts
    # whether the kernels fill more than one small tile; the same for all batches that share a choice
    several_tiles = power_of_two(len(mixing.weight)) * experts.shape[1:].numel() * experts.element_size() > SMALL
    fitting = _Fitting(x.shape[0] > 1, several_tiles, can_pack(x, experts), can_multiply(x, experts), unfolds)
    forms = _tiled_convolutions(mixing.shape, geometry, fitting)
    if not has_generator():
        return forms
    from dyncomp.fast.mixing.generated import of_mixing  # needs llvmlite
    from dyncomp.fast.mixing.generated_training import of_training

    form = of_mixing(x, mixing, geometry) or of_training(x, mixing, geometry)
    return forms if form is None else {**forms, "generated": form}


@dataclass(frozen=True)
class _Fitting:
    """What a batch and its kernels allow: several images or tiles, oneDNN's packed kernels or products, unfolding."""

    many: bool
    several_tiles: bool
    packs: bool
    multiplies: bool
    unfolds: bool


@cache
def _tiled_convolutions(shape: torch.Size, geometry: Geometry, fitting: _Fitting) -> Mapping[str, Form]:
    pointwise = kernels.is_pointwise(shape, geometry)
    name, product = ("pixels", Pixels()) if pointwise else ("images", Images(geometry))
    forms: dict[str, Form] = {}
    for suffix, limit in {"": SMALL, ", large tiles": LARGE}.items():
        if limit == SMALL or fitting.several_tiles:
            form = Tiled(product, limit)
            forms[name + suffix] = partial(_tiled_pointwise, geometry, form) if pointwise else form
    if not fitting.many:
        forms["alone"] = partial(by_whole_kernels, kernels.alone, geometry)
    elif not pointwise:
        forms["grouped"] = partial(by_whole_kernels, kernels.grouped, geometry)
    if fitting.multiplies and pointwise:
        forms["matrices"] = partial(_tiled_pointwise, geometry, Tiled(Matrices(), LARGE))
    if fitting.unfolds and not pointwise and geometry.groups == 1:
        forms["unfolded"] = partial(_tiled_unfolded, shape, geometry, Tiled(Pixels(), SMALL))
        if fitting.multiplies:
            forms["unfolded, matrices"] = partial(_tiled_unfolded, shape, geometry, Tiled(Matrices(), LARGE))
    if fitting.packs:
        forms["packed"] = Tiled(Packed(geometry), LARGE)
    return forms


def of_linear(layer: ExpertLayer, x: Tensor, mixing: Mixing) -> Mapping[str, Form]:
    """The forms that can multiply features x (B, C), at least one image, at present."""
    forms = dict(layer.plain_forms(x, mixing))
    if _tiles_pay(x):
        forms["pixels"] = partial(_tiled_linear, Tiled(Pixels(), SMALL))
    return forms


def _tiles_pay(x: Tensor) -> bool:
    """Whether tiles may pay: on a CPU, with large caches and cheap calls; a compiler or tracer gets whole kernels."""
    return x.device.type == "cpu" and not (torch.compiler.is_compiling() or torch._C._get_tracing_state())


def _tiled_pointwise(geometry: Geometry, form: Tiled, x: Tensor, mixing: Mixing) -> Tensor:
    pixels, size = kernels.to_pixels(x, geometry)
    return kernels.from_pixels(form(pixels, mixing), size, x)


def _tiled_unfolded(shape: torch.Size, geometry: Geometry, form: Tiled, x: Tensor, mixing: Mixing) -> Tensor:
    pixels, size = kernels.unfolded(x, shape, geometry)
    return kernels.from_pixels(form(pixels, mixing), size, x)


def _tiled_linear(form: Tiled, x: Tensor, mixing: Mixing) -> Tensor:
    return form(x[:, None], mixing).squeeze(1)  # (B, O)
