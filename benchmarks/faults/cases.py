"""One case: a network made ready for use under pages that fault, against its plain form in float64."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from benchmarks.faults.networks import Made, network, palette_of
from dyncomp.core import Decision, Net
from dyncomp.core import decisions as wishes
from dyncomp.fast import codegen, deployed, disabled
from dyncomp.fast.fusion import Run
from dyncomp.fast.memory import Allocate, allocated_by
from dyncomp.fast.tuning import by_last_ways, in_turn
from tests.guarded import before_a_fault, behind_a_fault, forget_scratch, guard_parameters, guarded

BATCHES = (0, 1, 1, 2, 3, 5, 7, 16)
ALLOWED = {torch.float64: 1e-9, torch.float32: 2e-3}
"""difference, as a share of the greatest number that comes out"""


class Deviation(AssertionError):
    """What comes out is not what the plain form gives."""


@dataclass
class Seen:
    """What a case did."""

    words: str
    passes: int = 0
    ran: int = 0
    """passes in which generated code ran"""
    runs: int = 0
    """passes in which layers ran in one go"""
    thresholds: int = 0
    """images that rounding in float32 sent another way"""
    learned: bool = False


def case(seed: int) -> Seen:
    """Run a seed's case. Raises Deviation; a number read or written too far ends the process."""
    draw = Random(seed)
    allocate = draw.choice([before_a_fault, before_a_fault, behind_a_fault])
    threads = 2 if draw.random() < 0.2 else 1
    outer = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with allocated_by(allocate), in_turn() if draw.random() < 0.1 else by_last_ways():
            forget_scratch()
            made = network(seed, draw)
            seen = Seen(f"{made.words}, {palette_of(seed).dtype}, {threads} threads, {allocate.__name__}")
            _passes(seed, draw, made, allocate, seen)
            if "conv(" in made.words and palette_of(seed).dtype is torch.float64 and draw.random() < 0.3:
                _learn(seed, draw, made, allocate, seen)
            return seen
    finally:
        torch.set_num_threads(outer)
        forget_scratch()


def _passes(seed: int, draw: Random, made: Made, allocate: Allocate, seen: Seen) -> None:
    plain = copy.deepcopy(made.net).double().eval()
    net = deployed(made.net)
    guard_parameters(net, allocate)
    for turn in range(draw.randint(3, 6)):
        images, mode = draw.choice(BATCHES), draw.choice([torch.inference_mode, torch.inference_mode, torch.no_grad])
        x = _images(made, images, seed * 100 + turn, draw.random() < 0.7, net, allocate)
        before, forced = x.clone(), None
        if draw.random() < 0.3:
            forced = wishes.random(net, images, torch.Generator().manual_seed(seed * 100 + turn))
        if draw.random() < 0.8:
            forget_scratch()
        with mode(), _noting(seen):
            ours = net(x, sparse=True, decisions=forced, record=draw.random() < 0.25 and forced is not None).logits
        with torch.no_grad():
            trace = forced if forced is not None else dict(net(x, sparse=True).trace)
            _compare(plain, x, trace, ours, seen)
        if not torch.equal(x, before):
            raise Deviation(f"pass {turn} of {images} images writes over its input")
        seen.passes += 1


def _images(made: Made, images: int, seed: int, channels_last: bool, net: Net, allocate: Allocate) -> Tensor:
    channels, side = made.image
    draw, like = torch.Generator().manual_seed(seed), next(net.parameters())
    x = torch.randn(images, channels, side, side, generator=draw, dtype=torch.float64).to(like.dtype)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return guarded(x.contiguous(memory_format=layout), allocate) if images else x


def _compare(plain: Net, x: Tensor, trace: Mapping[str, Decision], ours: Tensor, seen: Seen) -> None:
    """By the same decisions, both forms say the same."""
    with disabled():
        wanted = plain(x.double(), sparse=False, decisions=trace, record=False).logits
    if ours.shape != wanted.shape:
        raise Deviation(f"{tuple(ours.shape)} answers where the plain form has {tuple(wanted.shape)}")
    overflown = ~wanted.isfinite().flatten(1).all(1)  # a long chain on first weights
    scale = max([1.0, *wanted[~overflown].abs().flatten().tolist()])
    # nan is no number that deviates by less
    wrong = ~((ours.double() - wanted).abs() <= ALLOWED[ours.dtype] * scale).flatten(1).all(1)
    wrong &= ~(overflown & ~ours.isfinite().flatten(1).all(1))
    if not bool(wrong.any()):
        return
    own = plain(x.double(), sparse=False).trace
    other = torch.zeros(len(x), dtype=torch.bool)
    for site, decision in trace.items():
        other |= (decision.used.double() - own[site].used).abs().flatten(1).amax(1) > 0.5
    if ours.dtype is torch.float32 and not bool((wrong & ~other).any()):
        seen.thresholds += int(wrong.sum())
        return
    by = float((ours.double() - wanted).abs().max()) / scale
    raise Deviation(f"{int(wrong.sum())} of {len(x)} images deviate, by {by:.3g} of the greatest number")


def _learn(seed: int, draw: Random, made: Made, allocate: Allocate, seen: Seen) -> None:
    """The same gradients by generated code as by torch."""
    net = made.net
    guard_parameters(net, allocate)
    images = draw.choice([1, 2, 5])
    x = _images(made, images, seed, channels_last=True, net=net, allocate=allocate)

    def gradients() -> list[Tensor]:
        net.zero_grad()
        net(x, sparse=False, record=False).logits.square().sum().backward()
        return [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]

    with disabled():
        wanted = gradients()
    for ours, theirs in zip(gradients(), wanted, strict=True):
        if not torch.allclose(ours, theirs, rtol=1e-7, atol=1e-8 * max(1.0, float(theirs.abs().max()))):
            raise Deviation(f"a gradient deviates by {float((ours - theirs).abs().max()):.3g}")
    seen.learned = True


@contextmanager
def _noting(seen: Seen) -> Iterator[None]:
    """Note whether generated code runs inside, and whether layers run in one go."""
    code_runs, call, ran, runs = codegen.Code.call, Run.__call__, [], []

    def noted(code: codegen.Code, *given: Any, **more: Any) -> None:
        ran.append(True)
        code_runs(code, *given, **more)

    def asked(one: Run, x: Tensor) -> Tensor | None:
        y = call(one, x)
        runs.extend([True] if y is not None else [])
        return y

    codegen.Code.call, Run.__call__ = noted, asked  # type: ignore[method-assign]
    try:
        yield
    finally:
        codegen.Code.call, Run.__call__ = code_runs, call  # type: ignore[method-assign]
        seen.ran, seen.runs = seen.ran + bool(ran), seen.runs + bool(runs)
