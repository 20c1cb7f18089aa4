"""The test images that cost the least and the most, small enough for a record."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from dyncomp.data import Splits
from dyncomp.profile.evaluation import Evaluation
from dyncomp.store.schema import GalleryRecord

EACH = 8
"""images of either end"""
MOST_PIXELS = 64
"""of a side"""


def gallery(splits: Splits, test: Evaluation) -> list[GalleryRecord]:
    """The cheapest test images, then the dearest, of equal ones the first; none where all cost the same."""
    if test.macs.min() == test.macs.max():
        return []
    each = min(EACH, len(test.macs) // 2)
    cheapest = test.macs.argsort(stable=True)[:each].tolist()
    dearest = (-test.macs).argsort(stable=True)[:each].tolist()
    files = _files(splits, {*cheapest, *dearest})
    return [
        {
            "image": image,
            "end": "cheapest" if place < each else "dearest",
            "macs": int(test.macs[image]),
            "label": splits.class_names[int(test.labels[image])],
            "prediction": splits.class_names[int(test.predictions[image])],
            "png": files[image],
        }
        for place, image in enumerate([*cheapest, *dearest])
    ]


def _files(splits: Splits, wanted: set[int]) -> Mapping[int, str]:
    """Test images by number, as PNG files in base 64."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (splits.mean, splits.std))  # (C, 1, 1)
    files = {}
    for images, _, index in splits.test.batches(256):
        for image, number in zip(images, index.tolist(), strict=True):
            if number in wanted:
                files[number] = b64encode(_png(image * std + mean)).decode()
        if len(files) == len(wanted):
            break
    return files


def _png(image: Tensor) -> bytes:
    """Of an image (C, H, W), values from 0 to 1; its mean over the channels where they are not three."""
    image = image if len(image) == 3 else image.mean(0, keepdim=True)
    scale = min(1.0, MOST_PIXELS / max(image.shape[1:]))
    if scale < 1:
        size = [max(1, round(scale * side)) for side in image.shape[1:]]
        image = interpolate(image[None], size=size, mode="area")[0]
    pixels = (255 * image.clamp(0, 1)).round().to(torch.uint8).movedim(0, -1).squeeze(-1)  # (H, W) or (H, W, 3)
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "PNG", optimize=True)
    return file.getvalue()
