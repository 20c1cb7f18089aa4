"""What makes a network of use to who has an image and wants its class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dyncomp._images import AnyImage
from dyncomp.core.card import Card
from dyncomp.errors import InvalidValue


class Prediction(NamedTuple):
    """An image's class by name, and with which confidence, from 0 to 1."""

    class_name: str
    confidence: float


class Usable(nn.Module):
    """A network that may have a card, and then says what it is and answers images.

    `card` is None for a network that neither `dyncomp.build` nor `dyncomp.load` has made.
    """

    card: Card | None = None
    __jit_unused_properties__ = ("spec", "backbone", "classes")  # which the old tracer would ask for

    @property
    def spec(self) -> str:
        """The spec of its method. Raises InvalidValue without a card, as all of this class do."""
        return self._known_card().spec

    @property
    def backbone(self) -> str:
        """The spec of its backbone."""
        return self._known_card().backbone

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes, in the order of the logits (B, Y); numbers as text where the card has no names."""
        return self._known_card().classes

    def preprocess(self, image: AnyImage) -> Tensor:
        """One image as the network's test images were: (1, C, H, W), of the network's type and on its device.

        `image` is a PIL image or an image file, by its path or its bytes, converted to grey or RGB; an array (H, W) or
        (H, W, C), or a tensor (C, H, W), uint8 or floating point from 0 to 1, with the network's channels. Of another
        size it is resized, bilinear, to the shorter side, and its middle kept. Raises InvalidValue for anything else,
        and where mean and deviation are not known.
        """
        prepared = self._known_card().preparation()(image)
        return self._moved(prepared[None])

    def predict(self, images: AnyImage | Sequence[AnyImage]) -> list[Prediction]:
        """The class of each image and its confidence, the softmax of the logits, in one pass of the sparse form.

        `images` is an image as `preprocess` takes it, a sequence of them, an array (B, H, W, C) or a tensor of bytes
        (B, C, H, W); or a tensor of floats (B, C, H, W), taken for normalised already. Where logits are logarithms of
        shares, as those of ensembles are, the confidence is the share. Nothing is kept on the network. Raises
        InvalidValue for images that do not fit, and for answers that are no numbers or more than the classes that the
        card names; RuntimeError in training mode.
        """
        card = self._known_card()
        batch = self._batch(card, images)
        if not len(batch):
            return []
        with torch.inference_mode():
            batch = batch.contiguous(memory_format=torch.channels_last)  # the layout of its kernels
            logits: Tensor = self(batch, sparse=True, record=False).logits
            _check(logits, card)
            confidence, chosen = logits.float().softmax(dim=1).max(dim=1)
        names = [card.classes[label] for label in chosen.tolist()]
        return [Prediction(name, value) for name, value in zip(names, confidence.tolist(), strict=True)]

    def _batch(self, card: Card, images: AnyImage | Sequence[AnyImage]) -> Tensor:
        """(B, C, H, W), normalised, where the network is."""
        if isinstance(images, Tensor) and images.dim() == 4 and images.is_floating_point():
            wanted = (card.in_channels, card.image_size, card.image_size)
            if tuple(images.shape[1:]) != wanted:
                raise InvalidValue(
                    f"a batch of shape {tuple(images.shape)}; the network sees (B, C, H, W) = (B, "
                    f"{', '.join(map(str, wanted))}): give images of another size one by one, unnormalised"
                )
            if card.mean is not None and any(card.mean) and _are_pixels(images):
                raise InvalidValue(
                    "a batch of floats from 0 to 1, which a normalised one is not: give pixels as bytes, one by one, "
                    "or what preprocess makes of them"
                )
            return self._moved(images)
        prepare, single = card.preparation(), not _is_several(images)
        each = [images] if single else images
        prepared = [prepare(image) for image in each]  # type: ignore[arg-type,union-attr]
        return self._moved(torch.stack(prepared)) if prepared else torch.empty(0)

    def _moved(self, images: Tensor) -> Tensor:
        some = next(self.parameters(), None)
        return images if some is None else images.to(some)

    def _known_card(self) -> Card:
        if self.card is None:
            raise InvalidValue(
                "this network has no card, so nobody knows its classes and images; make it by dyncomp.build or "
                "dyncomp.load, or set net.card"
            )
        return self.card


def _check(logits: Tensor, card: Card) -> None:
    """Raise InvalidValue for logits (B, Y) that name no class."""
    if logits.shape[1] != len(card.classes):
        raise InvalidValue(
            f"the network tells {logits.shape[1]} classes, and its card names {len(card.classes)}; set net.card = "
            "dataclasses.replace(net.card, classes=(...)), one name for each class"
        )
    wrong = logits.isnan().any(dim=1) | (logits == math.inf).any(dim=1) | (logits == -math.inf).all(dim=1)
    if bool(wrong.any()):
        raise InvalidValue(
            f"the network's answers to {int(wrong.sum())} of {len(logits)} images are no finite numbers; give images "
            "of finite numbers, and check that the network's parameters are finite"
        )


def _are_pixels(images: Tensor) -> bool:
    """Whether numbers lie from 0 to 1, and are not all 0: normalised images have pixels below their mean."""
    return bool(images.numel()) and 0 <= float(images.min()) <= float(images.max()) <= 1 and bool(images.any())


def _is_several(images: object) -> bool:
    """Whether these are images, not one."""
    if isinstance(images, np.ndarray):
        return images.ndim == 4
    if isinstance(images, Tensor):
        return images.dim() == 4
    return isinstance(images, Sequence) and not isinstance(images, str | bytes | bytearray | memoryview | Image.Image)
