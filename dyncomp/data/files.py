"""Splits of image files, decoded and changed by worker processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from PIL import Image
from torch import Tensor
from torch.utils import data
from torch.utils.data import DataLoader

from dyncomp._images import decoded, in_mode
from dyncomp.data.dataset import Batch, Split
from dyncomp.data.memory import CHANGE, check_batches, epoch_order, generator, whole_batches
from dyncomp.errors import DataNotFound, InvalidValue

Transform = Callable[[Image.Image], Tensor]
_Item = tuple[Tensor, Tensor, int]  # image, label, position
WORKER_WORTH = 512  # images: to start a process costs about as much as to decode these


@final
@dataclass(frozen=True, eq=False)
class FileSplit(Split):
    """Image files, read as RGB; `plain` and `augmented` make normalised tensors (C, H, W) of them.

    What `augmented` draws depends on (seed, epoch, index) alone, however many workers there are.
    """

    files: Sequence[str]
    labels: Tensor
    plain: Transform
    augmented: Transform

    def batches(
        self, batch_size: int, *, epoch: int | None = None, seed: int = 0, augment: float = 0.0
    ) -> Iterator[Batch]:
        """See `Split.batches`.

        Raises:
            DataNotFound: a file that is gone or no image.
        """
        check_batches(batch_size, epoch, augment)
        order = epoch_order(len(self), seed, epoch)[: whole_batches(len(self), batch_size, epoch)]
        loader: DataLoader[_Item | DataNotFound] = DataLoader(
            _Images(self, (seed, epoch) if augment and epoch is not None else None),
            batch_size,
            sampler=order.tolist(),
            num_workers=_workers(len(order)),
            generator=generator(seed),  # or it would draw from the global random state
            collate_fn=_collate,
        )
        for batch in loader:
            if isinstance(batch, DataNotFound):
                raise batch
            yield batch


@dataclass(frozen=True)
class _Images(data.Dataset[_Item | DataNotFound]):
    """What a worker does: position in the split -> image, or the error that explains its absence."""

    split: FileSplit
    change: tuple[int, int] | None  # seed and epoch of the augmentation

    def __getitem__(self, position: int) -> _Item | DataNotFound:
        file = self.split.files[position]
        try:
            image = in_mode(decoded(file), "RGB")
        except InvalidValue as error:  # given back: raised in a worker, it would arrive with a page of traceback
            text = str(error)
            return DataNotFound(text if text.startswith(file) else f"{file}: {text}")
        return self._tensor(image, position), self.split.labels[position], position

    def _tensor(self, image: Image.Image, position: int) -> Tensor:
        if self.change is None:
            return self.split.plain(image)
        with _random_state(generator(*self.change, CHANGE, position)):
            return self.split.augmented(image)


@contextmanager
def _random_state(source: torch.Generator) -> Iterator[None]:
    """torchvision's transforms draw from the global state of the CPU: lend them another one."""
    before = torch.get_rng_state()
    torch.set_rng_state(source.get_state())
    try:
        yield
    finally:
        torch.set_rng_state(before)


def _collate(items: Sequence[_Item | DataNotFound]) -> Batch | DataNotFound:
    images = [item for item in items if not isinstance(item, DataNotFound)]
    if len(images) < len(items):
        return next(item for item in items if isinstance(item, DataNotFound))
    pixels, labels, positions = zip(*images, strict=True)
    return Batch(torch.stack(pixels), torch.stack(labels), torch.tensor(positions))


def _workers(images: int) -> int:
    """Worker processes for that many images: one core is left to the network; none below a process that may not."""
    if multiprocessing.current_process().daemon:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(8, (cores or 1) - 1, images // WORKER_WORTH)
