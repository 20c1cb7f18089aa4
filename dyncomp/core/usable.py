"""Prediction of classes for image files, arrays and tensors, by a network with a card."""

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
    """The name of an image's class, and the confidence, from 0 to 1."""

    class_name: str
    confidence: float


class Usable(nn.Module):
    """A network that can have a card, which holds its specs and classes and the preparation of its images.

    `card` is None for a network that neither `dyncomp.build` nor `dyncomp.load` has made.
    """

    card: Card | None = None
    __jit_unused_properties__ = ("spec", "backbone", "classes")  # torch.jit.trace would read these properties

    @property
    def spec(self) -> str:
        """The spec of the method. Raises InvalidValue without a card, as do all properties and methods here."""
        return self._known_card().spec

    @property
    def backbone(self) -> str:
        """The spec of the backbone."""
        return self._known_card().backbone

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits (B, Y); numbers as text if the card has no names."""
        return self._known_card().classes

    def preprocess(self, image: AnyImage) -> Tensor:
        """Prepare one image as test images are: (1, C, H, W), in the network's dtype and on its device.

        `image` is a PIL image or an image file, given by its path or its bytes, which is converted to grey or RGB; or
        an array (H, W) or (H, W, C), or a tensor (C, H, W), uint8 or floating point from 0 to 1, with the network's
        channels. An image of another size is resized, bilinear, by its shorter side, and cropped to its centre. Raises
        InvalidValue for anything else, and if mean and standard deviation are unknown.
        """
        prepared = self._known_card().preparation()(image)
        return self._moved(prepared[None])

    def predict(self, images: AnyImage | Sequence[AnyImage]) -> list[Prediction]:
        """The class of each image and its confidence, the softmax of the logits, in one sparse pass.

        `images` is an image as `preprocess` takes it, a sequence of such images, an array (B, H, W, C), a uint8 tensor
        (B, C, H, W), or a floating-point tensor (B, C, H, W) of normalised images. For an ensemble, whose logits are
        logarithms of shares, the confidence is the share. The pass leaves no state on the network. Raises InvalidValue
        for images that do not fit, and for logits that are not finite or do not match the classes of the card;
        RuntimeError in training mode.
        """
        card = self._known_card()
        batch = self._batch(card, images)
        if not len(batch):
            return []
        with torch.inference_mode():
            batch = batch.contiguous(memory_format=torch.channels_last)  # the layout of deployed kernels
            logits: Tensor = self(batch, sparse=True, record=False).logits
            if logits.shape[1] != len(card.classes):
                raise InvalidValue(
                    f"the network tells {logits.shape[1]} classes, and its card names {len(card.classes)}; set "
                    "net.card = dataclasses.replace(net.card, classes=(...)), one name for each class"
                )
            # answers with NaN, or without a finite maximum
            wrong = logits.isnan().any(dim=1) | (logits == math.inf).any(dim=1) | (logits == -math.inf).all(dim=1)
            if bool(wrong.any()):
                raise InvalidValue(
                    f"the network's answers to {int(wrong.sum())} of {len(logits)} images are no finite numbers; give "
                    "images of finite numbers, and check that the network's parameters are finite"
                )
            confidence, chosen = logits.float().softmax(dim=1).max(dim=1)
        names = [card.classes[label] for label in chosen.tolist()]
        return [Prediction(name, value) for name, value in zip(names, confidence.tolist(), strict=True)]

    def _batch(self, card: Card, images: AnyImage | Sequence[AnyImage]) -> Tensor:
        """Normalised images (B, C, H, W) on the network's device."""
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
        prepare = card.preparation()
        if isinstance(images, np.ndarray | Tensor):
            several = images.ndim == 4
        else:
            single = str | bytes | bytearray | memoryview | Image.Image
            several = isinstance(images, Sequence) and not isinstance(images, single)
        each = images if several else [images]
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


def _are_pixels(images: Tensor) -> bool:
    """Whether all values are from 0 to 1, and not all 0: a normalised image has values below 0."""
    return bool(images.numel()) and 0 <= float(images.min()) <= float(images.max()) <= 1 and bool(images.any())
