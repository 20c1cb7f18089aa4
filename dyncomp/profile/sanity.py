"""Whether a network's answers can be measured: it answers every batch, in the right shape, with numbers, repeatably."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from dyncomp.core import Net, Output
from dyncomp.core.modes import evaluating
from dyncomp.errors import BadAnswer, in_one_line

SAME = 1e-3
"""share of the largest value by which rounding may move an answer that is asked for again"""


@contextmanager
def answering(where: str) -> Iterator[None]:
    """Whatever the network raises inside becomes a BadAnswer that says at which images."""
    try:
        yield
    except BadAnswer:
        raise
    except Exception as error:
        hint = "give smaller batches" if is_out_of_memory(error) else "mend the network for such a batch"
        raise BadAnswer(f"the network fails on {where}: {in_one_line(error)}; {hint}") from error


def check_logits(logits: Tensor, images: int, classes: int | None, where: str) -> None:
    """Raise BadAnswer unless these are finite logits (images, classes); None stands for any number of classes."""
    _check_shape(logits, images, classes, where)
    _check_numbers(logits, where)


def _check_shape(logits: Tensor, images: int, classes: int | None, where: str) -> None:
    if not isinstance(logits, Tensor):
        raise BadAnswer(f"{where}: the answer is a {type(logits).__name__}; let the network return logits (B, Y)")
    shape = tuple(logits.shape)
    if len(shape) != 2 or shape[0] != images or classes not in (None, shape[1]):
        wanted = f"({images}, {'classes' if classes is None else classes})"
        raise BadAnswer(f"{where}: logits of shape {shape}, not {wanted}; let the network give one value per class")


def check_repeatable(ask: Callable[[Tensor], Any], images: Tensor, where: str) -> None:
    """Raise BadAnswer where the same images get other answers the second time. Rounding is no difference."""
    with torch.inference_mode(), answering(where):
        ask(images.clone())  # what is chosen at the first call may change rounding
        first = [tensor.detach().clone() for tensor in tensors_in(ask(images.clone()))]
        again = tensors_in(ask(images.clone()))  # of copies: a network may write into what it is given
    for a, b in zip(first, again, strict=True):
        if other := _rows_that_differ(a, b):
            raise BadAnswer(
                f"{where}: {other} of {len(images)} images get another answer when asked again; "
                "in evaluation nothing may be drawn by chance, nor kept from call to call: ask self.training"
            )


def check_untrained(net: Net, images: Tensor, classes: int) -> None:
    """Raise BadAnswer where a network, before its training, gives images another shape than (B, classes)."""
    with evaluating(net), answering("a batch before its training"):
        logits = net(images, sparse=True, record=False).logits
    _check_shape(logits, len(images), classes, "before the training")


def check_network(net: Net, images: Tensor, classes: int, where: str) -> None:
    """Raise BadAnswer unless the sparse form gives these images finite logits (B, classes), the same each time."""
    with torch.inference_mode(), answering(where):
        logits = net(images, sparse=True, record=False).logits
    check_logits(logits, len(images), classes, where)
    check_repeatable(lambda x: net(x, sparse=True, record=False), images, where)


def check_module(ask: Callable[[Tensor], Any], images: Tensor, where: str) -> None:
    """Raise BadAnswer unless the answer has a floating-point tensor with a row per image; all finite, repeatable.

    Beside such a tensor there may be others: a scalar (a loss of the gates), integers (classes).
    """
    with torch.inference_mode(), answering(where):
        answer = ask(images)
    found = tensors_in(answer)
    if not found:
        raise BadAnswer(f"{where}: the answer is a {type(answer).__name__} without a tensor; return logits (B, Y)")
    numbers = [tensor for tensor in found if tensor.is_floating_point()]
    if not numbers:
        raise BadAnswer(f"{where}: an answer of {found[0].dtype}; let the network return floating point logits")
    if not any(tensor.dim() > 0 and len(tensor) == len(images) for tensor in numbers):
        raise BadAnswer(
            f"{where}: an answer of shape {tuple(numbers[0].shape)} for a batch of {len(images)}; "
            "let the network return a row per image"
        )
    for tensor in numbers:
        _check_numbers(tensor, where)
    check_repeatable(ask, images, where)


def tensors_in(answer: Any) -> list[Tensor]:
    """All tensors of what a network returns: a tensor, an Output, or collections and dataclasses of them."""
    if isinstance(answer, Output):
        return [answer.logits]
    if isinstance(answer, Tensor):
        return [answer]
    parts: Iterable[Any] = ()
    if isinstance(answer, Mapping):
        parts = answer.values()
    elif isinstance(answer, list | tuple | set):
        parts = answer
    elif is_dataclass(answer) or isinstance(answer, SimpleNamespace):
        parts = vars(answer).values() if hasattr(answer, "__dict__") else _fields(answer)
    return [tensor for part in parts for tensor in tensors_in(part)]


def _fields(answer: Any) -> list[Any]:
    """The values of a dataclass that has slots."""
    return [getattr(answer, field.name) for field in fields(answer)]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this says that memory is exhausted, the device's or the machine's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _check_numbers(tensor: Tensor, where: str) -> None:
    if not tensor.is_floating_point():
        raise BadAnswer(f"{where}: an answer of {tensor.dtype}; let the network return floating point logits")
    if not bool(tensor.isfinite().all()):
        rows = int((~tensor.isfinite()).flatten(1).any(1).sum()) if tensor.dim() > 1 else 1
        raise BadAnswer(
            f"{where}: {rows} of {len(tensor)} images get NaN or infinite values; "
            "look for a division by zero, a logarithm of zero, or a loss that diverged"
        )


def _rows_that_differ(a: Tensor, b: Tensor) -> int:
    if a.shape != b.shape:
        return len(a)
    bar = SAME * float(a.abs().max().clamp_min(1e-6))
    return int(((a - b).abs() > bar).flatten(1).any(1).sum()) if a.dim() > 1 else int(((a - b).abs() > bar).sum())
