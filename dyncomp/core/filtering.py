"""Puts Filtered ops into a chain of layers, wherever one convolution's filters are read by the next layer alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from torch import nn

from dyncomp.core.filtered import Filtered, Switch
from dyncomp.core.narrow import acts_by_channel

Split = Callable[[Sequence[nn.Module]], tuple[Sequence[nn.Module], Sequence[nn.Module]]]
"""Which of the layers between a convolution and its reader come before the switch's weight, and which after it."""


def all_before(between: Sequence[nn.Module]) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
    """The weight acts on what the reader would see."""
    return between, ()


def with_switches(
    layers: Iterable[nn.Module], make: Callable[[nn.Conv2d], Switch], split: Split = all_before
) -> list[nn.Module]:
    """The chain of layers, nested Sequentials opened, with a switch by `make` for each convolution that can have one.

    That is: one group, and between it and the next convolution or linear layer only what acts on single channels.
    """
    chain = list(_opened(layers))
    built, index = list[nn.Module](), 0
    while index < len(chain):
        module, index = _from(chain, index, make, split)
        built.append(module)
    return built


def _from(
    chain: list[nn.Module], index: int, make: Callable[[nn.Conv2d], Switch], split: Split
) -> tuple[nn.Module, int]:
    """What stands at `index` with all that hangs on it, and the index behind that."""
    producer, reader = chain[index], _reader(chain, index)
    if reader is None or not isinstance(producer, nn.Conv2d):
        return producer, index + 1
    consumer, end = _from(chain, reader, make, split)
    before, after = split(chain[index + 1 : reader])
    return Filtered(producer, nn.Sequential(*before), nn.Sequential(*after), consumer, make(producer)), end


def _reader(chain: list[nn.Module], index: int) -> int | None:
    """Where the layer stands that alone reads the filters of the convolution at `index`."""
    if not _is_whole(chain[index]) or isinstance(chain[index], nn.Linear):
        return None
    for later in range(index + 1, len(chain)):
        if _is_whole(chain[later]):
            return later
        if not acts_by_channel(chain[later]):
            return None
    return None


def _is_whole(layer: nn.Module) -> bool:
    """Whether each output reads all inputs."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def _opened(layers: Iterable[nn.Module]) -> Iterator[nn.Module]:
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            yield from _opened(layer)
        else:
            yield layer
