"""The blocks that a run may have, and the code of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor, nn

from dyncomp.core import native
from dyncomp.core.backbone import ResidualBlock
from dyncomp.core.bodies import BodyCode
from dyncomp.core.direct import able_to_make_code
from dyncomp.core.gate_code import GateCode
from dyncomp.core.gated import Gated
from dyncomp.core.gates import Gate, Products, Router
from dyncomp.core.loaded import Loaded
from dyncomp.core.mixed import Mixed
from dyncomp.core.mixed_body import convolutions_of, is_mixed_block, load_experts, mixed_body
from dyncomp.core.native import Argument
from dyncomp.core.planned import Follower
from dyncomp.core.ready import ReadyConv2d
from dyncomp.core.shrink import Shrink
from dyncomp.core.words import Given

Place = Gated | Follower | Mixed | ResidualBlock


def is_place(module: nn.Module) -> TypeGuard[Place]:
    """Whether a module is a block made ready, gated, planned, mixed or none of it, that can be part of a run."""
    if not isinstance(module, (Gated, Follower, Mixed, ResidualBlock)):
        return False
    if type(module) not in (Gated, Follower, Mixed, ResidualBlock) or type(block_of(module)) is not ResidualBlock:
        return False
    if isinstance(module, Mixed):
        return is_mixed_block(module)
    if isinstance(module, Gated) and not isinstance(module.gate, Gate):
        return False
    block = block_of(module)
    known = projection_of(module) is not None or type(block.shortcut) in (nn.Identity, Shrink)
    return known and block.ready is not None and type(block.activation) is nn.ReLU


def block_of(place: Place) -> ResidualBlock:
    """The block that stands there."""
    block = place if isinstance(place, ResidualBlock) else place.block
    return block  # type: ignore[return-value]  # `is_place` asked


def projection_of(place: Place) -> ReadyConv2d | None:
    """The convolution that its shortcut is, one for all images; None where it is anything else."""
    layers = [layer for layer in block_of(place).shortcut.modules() if type(layer) is not nn.Sequential]
    return layers[0] if len(layers) == 1 and type(layers[0]) is ReadyConv2d else None


@dataclass(frozen=True)
class Shortcut:
    """The code of a shortcut that is not the identity, and what becomes of an image, (C', H', W')."""

    code: native.Code
    output: torch.Size
    loaded: Loaded | None = None
    """the convolution that it is, with the numbers that the code reads"""

    def given(self) -> Given:
        """What the code is given in every pass."""
        return {} if self.loaded is None else given_always(self.loaded)


@dataclass(frozen=True)
class Block:
    """A block of a run and its code; the shortcut's is None where that is the identity."""

    place: Place
    body: BodyCode
    shortcut: Shortcut | None
    gate: GateCode | None

    @staticmethod
    def of(place: Place, x: Tensor) -> Block | None:
        """On features like x; None where there is no code that pays."""
        body = _body(place, x) if able_to_make_code() else None
        shortcut = None if body is None else _shortcut(place, x)
        if body is None or (shortcut is None and type(block_of(place).shortcut) is not nn.Identity):
            return None
        if body.chain[-1].output != (x.shape[1:] if shortcut is None else shortcut.output):
            return None
        products: Products | None = None
        if isinstance(place, Mixed) and type(place.router) is Router:
            products = place.router.products()
        elif isinstance(place, Gated) and isinstance(place.gate, Gate):
            products = place.gate.products()
        gate = None if products is None else GateCode.of(products, x)
        if gate is None and isinstance(place, (Gated, Mixed)):
            return None
        return Block(place, body, shortcut, gate)

    @property
    def mixing(self) -> int:
        """Numbers of memory that each thread needs to mix kernels."""
        shortcut = None if self.shortcut is None else self.shortcut.loaded
        return max(loaded.plan.scratch for loaded in (*self.body.chain, shortcut) if loaded is not None)

    @property
    def runs_all(self) -> bool:
        """Whether all images run it."""
        return isinstance(self.place, (ResidualBlock, Mixed))


def given_always(loaded: Loaded) -> dict[int, int | str]:
    """What a convolution's code is given in every pass."""
    given: dict[int, int | str] = {Argument.WEIGHTS: loaded.weights.data_ptr(), Argument.BIAS: loaded.bias.data_ptr()}
    return given | {Argument.SHARES: "shares", Argument.SCRATCH: "mixing"} if loaded.plan.experts else given


def _body(place: Place, x: Tensor) -> BodyCode | None:
    block = block_of(place)
    if isinstance(place, Mixed):
        return mixed_body(block, x)
    if block.ready is None:
        return None
    images = len(x) if isinstance(place, ResidualBlock) else max(1, len(x) // 2)
    body = block.ready.code(x, block.shortcut(x), images, block.body)
    return None if body is None or any(loaded.plan.shape.groups > 1 for loaded in body.chain) else body


def _shortcut(place: Place, x: Tensor) -> Shortcut | None:
    """On features like x; None where there is no code."""
    shortcut, projection, here = block_of(place).shortcut, projection_of(place), native.this_machine()
    loaded = None if projection is None else projection.loaded(x.shape[1:])
    if isinstance(place, Mixed):
        loaded = next((load_experts(layer, x) for layer in convolutions_of(shortcut)), None)
    if loaded is not None:
        return Shortcut(loaded.code, loaded.output, loaded) if loaded.plan.shape.groups == 1 else None
    if type(shortcut) is not Shrink or here is None:
        return None
    channels, height, width = x.shape[1:]
    window = shortcut.stride if shortcut.mean else 1
    sizes = channels, channels + shortcut.extra, (height, width), window, shortcut.stride
    plan = native.Pooling(*sizes, native.Number(x.dtype), here)
    return Shortcut(native.pooling_for(plan), torch.Size((plan.outputs, *plan.places)))
