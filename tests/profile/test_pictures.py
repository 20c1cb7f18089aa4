"""The gallery: which images, what is said of them, and pictures that are the images."""

from __future__ import annotations

import io
from base64 import b64decode
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from dyncomp import build
from dyncomp.data import Splits
from dyncomp.profile import Evaluation, evaluate, gallery
from dyncomp.profile.pictures import EACH, MOST_PIXELS
from tests.handmade import stripes


def picture(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(b64decode(png))))


def evaluated(splits: Splits, macs: torch.Tensor) -> Evaluation:
    net = build("static", "cifar_resnet8", classes=2, in_channels=1, image_size=splits.image_size)
    return replace(evaluate(net, splits.test), macs=macs)


def test_the_cheapest_and_the_dearest_images_stand_in_it() -> None:
    splits = stripes(count=40)
    count = len(splits.test)
    macs = torch.tensor(np.random.default_rng(0).permutation(count) + 100)
    test = evaluated(splits, macs)
    found = gallery(splits, test)
    assert [one["macs"] for one in found] == [100 + n for n in range(EACH)] + [99 + count - n for n in range(EACH)]
    assert [one["end"] for one in found] == ["cheapest"] * EACH + ["dearest"] * EACH
    for one in found:
        place = one["image"]
        assert one["macs"] == int(macs[place])
        assert one["label"] == splits.class_names[int(test.labels[place])]
        assert one["prediction"] == splits.class_names[int(test.predictions[place])]


def test_pictures_are_the_images_as_they_were_before_normalisation() -> None:
    splits = replace(stripes(count=40), mean=(0.25,), std=(0.5,))
    for one in gallery(splits, evaluated(splits, torch.arange(len(splits.test)))):
        image = next(iter(splits.test.batches(len(splits.test)))).images[one["image"]]
        shown = ((0.5 * image + 0.25).clamp(0, 1) * 255).round()
        assert np.array_equal(picture(one["png"]), shown[0].numpy())


def test_large_images_are_made_small() -> None:
    splits = stripes(count=4, size=96)
    found = gallery(splits, evaluated(splits, torch.arange(len(splits.test))))
    assert {picture(one["png"]).shape for one in found} == {(MOST_PIXELS, MOST_PIXELS)}
    assert len(found) == 2 * (len(splits.test) // 2)  # of few images none stands at both ends


def test_where_all_cost_the_same_there_is_none() -> None:
    splits = stripes(count=4)
    assert gallery(splits, evaluated(splits, torch.full((len(splits.test),), 7))) == []
