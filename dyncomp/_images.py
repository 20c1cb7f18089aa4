"""From one image to what a network sees: the right channels and size, pixels normalised. One truth for data and use."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from dyncomp.errors import InvalidValue

AnyImage = Image.Image | npt.NDArray[Any] | Tensor | str | Path | bytes | bytearray | memoryview
"""A PIL image, an array (H, W) or (H, W, C), a tensor (C, H, W), the path of an image file, or the bytes of one."""

MODES = {1: "L", 3: "RGB"}
"""what PIL calls images of so many channels"""
CONVERTIBLE = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
"""PIL's modes of eight bits or less: of the others, but 16 bits, nobody knows which value is white"""
MOST_PIXELS = 100_000_000
"""of an image after resizing: a thin line, as wide as asked for, would fill the memory"""
KINDS = "a PIL image, the path or the bytes of an image file, an array (H, W) or (H, W, C), or a tensor (C, H, W)"


@dataclass(frozen=True)
class Preparation:
    """What happens to an image on its way into a network, without augmentation.

    The shorter side is resized to `shorter_side` pixels, bilinear, and the middle `size` x `size` is kept; an image
    that has this size stays as it is. Then each of the `channels` is normalised by its `mean` and `std`, of pixels from
    0 to 1.
    """

    channels: int
    size: int
    shorter_side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: AnyImage) -> Tensor:
        """(channels, size, size) float32, on the CPU.

        Files and PIL images are converted to grey or RGB; arrays and tensors are uint8, or floating point from 0 to 1,
        and have the network's channels. Raises InvalidValue for anything else.
        """
        if isinstance(image, bytearray | memoryview):
            image = bytes(image)
        if isinstance(image, str | Path | bytes):
            image = decoded(image)
        if isinstance(image, np.ndarray):
            image = _from_array(image)
        if isinstance(image, Image.Image):
            pixels = self._seen(_converted(image, self.channels))
        elif isinstance(image, Tensor):
            pixels = self._of_tensor(image.detach().cpu())
        else:
            raise InvalidValue(f"an image of type {type(image).__name__}; give {KINDS}")
        return normalised(pixels, torch.tensor(self.mean), torch.tensor(self.std))

    def _of_tensor(self, image: Tensor) -> Tensor:
        _check(image, self.channels)
        height, width = image.shape[1:]
        if self._fits(height, width):
            return image if image.dtype == torch.uint8 else image.to(torch.float32)
        if image.dtype == torch.uint8 and self.channels in MODES:  # as the file of the same pixels would be
            flat = image[0] if self.channels == 1 else image.permute(1, 2, 0)
            return self._seen(Image.fromarray(flat.contiguous().numpy()))
        scale = full_scale(image)
        return self._cut(_resized(image.to(torch.float32).div(scale), self._sides(height, width)))

    def _seen(self, picture: Image.Image) -> Tensor:
        """(C, size, size) uint8 of a picture that has the right mode."""
        width, height = picture.size
        if not self._fits(height, width):
            sides = self._sides(height, width)
            if sides != (height, width):
                picture = picture.resize(sides[::-1], Image.Resampling.BILINEAR)
            left, top = _margin(sides[1], self.size), _margin(sides[0], self.size)
            picture = picture.crop((left, top, left + self.size, top + self.size))
        pixels = torch.from_numpy(np.array(picture))  # (H, W) or (H, W, C)
        return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1).contiguous()

    def _fits(self, height: int, width: int) -> bool:
        return height == width == self.size == self.shorter_side

    def _sides(self, height: int, width: int) -> tuple[int, int]:
        """Height and width, resized, as torchvision rounds them."""
        short, long = sorted((height, width))
        longer = int(self.shorter_side * long / short)
        if longer * self.shorter_side > MOST_PIXELS:
            raise InvalidValue(
                f"an image of {height} x {width} pixels would be resized to {self.shorter_side} x {longer}; give one "
                "whose sides are more alike"
            )
        return (self.shorter_side, longer) if height <= width else (longer, self.shorter_side)

    def _cut(self, image: Tensor) -> Tensor:
        top, left = (_margin(side, self.size) for side in image.shape[1:])
        return image[:, top : top + self.size, left : left + self.size]


def normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Images (..., C, H, W), uint8 or float from 0 to 1, as float32 by the channels' `mean` and `std` (C,)."""
    scale = full_scale(images)
    mean, std = (value.view(-1, 1, 1) * scale for value in (mean, std))
    return images.to(torch.float32).sub(mean).div_(std)


def full_scale(images: Tensor) -> float:
    """The value of a white pixel."""
    return 1.0 if images.is_floating_point() else 255.0


def decoded(file: str | Path | bytes) -> Image.Image:
    """The image in a file, by its path or its bytes, turned as its EXIF data say.

    Raises InvalidValue for what is no whole image, whatever error PIL's decoders have for it.
    """
    name = "the file of these bytes" if isinstance(file, bytes) else str(file)
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
            opened.load()
            upright: Image.Image = ImageOps.exif_transpose(opened)
            # a PNG file has at most 16 bits, which some versions of PIL tell as 32
            return _in_eight_bits(upright) if (opened.format, opened.mode) == ("PNG", "I") else upright
    except UnidentifiedImageError:
        raise InvalidValue(f"{name} is no image; give a file that PIL can read, such as PNG or JPEG") from None
    except Exception as error:  # decoders raise errors of many kinds for damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InvalidValue(f"{name} cannot be read as an image ({reason}); give a whole image file") from error


def in_mode(picture: Image.Image, mode: str) -> Image.Image:
    """A picture of 8 or 16 bits per channel as "L" or "RGB". Raises InvalidValue for others, and what is damaged."""
    sixteen_bits = picture.mode.startswith("I;16")
    if picture.mode not in CONVERTIBLE and not sixteen_bits:
        raise InvalidValue(
            f"a PIL image of mode {picture.mode}; give 8 or 16 bits per channel, or an array of floats from 0 to 1"
        )
    try:
        if sixteen_bits:
            picture = _in_eight_bits(picture)
        if "transparency" in picture.info:  # else converting may warn
            picture = picture.convert("RGBA")
        return picture.convert(mode)
    except Exception as error:  # it was opened, not yet decoded
        reason = " ".join(str(error).split())[:200]
        raise InvalidValue(f"the image cannot be decoded ({reason}); give a whole image file") from error


def _in_eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 0 to 65535 as grey of 0 to 255, rounded; PIL's own conversion would cut all above 255."""
    levels = np.asarray(picture).astype(np.uint32)
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def _converted(picture: Image.Image, channels: int) -> Image.Image:
    if channels not in MODES:
        raise InvalidValue(f"a PIL image for a network of {channels} channels; give a tensor ({channels}, H, W)")
    return in_mode(picture, MODES[channels])


def _from_array(image: npt.NDArray[Any]) -> Tensor:
    """(C, H, W) of an array (H, W) or (H, W, C)."""
    if image.ndim not in (2, 3):
        raise InvalidValue(f"an array of shape {image.shape}; give (H, W) or (H, W, C)")
    if image.dtype != np.uint8:
        if image.dtype.kind != "f":
            raise InvalidValue(f"an array of {image.dtype}; give uint8, or floats from 0 to 1")
        image = image.astype(np.float32)
    pixels = torch.from_numpy(image.copy())  # a tensor of its own, whatever the array's memory is like
    return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1).contiguous()


def _check(image: Tensor, channels: int) -> None:
    """Raises InvalidValue for what is no image (C, H, W) of so many channels."""
    if image.dim() != 3 or image.shape[0] != channels or image.numel() == 0:
        raise InvalidValue(
            f"an image of shape (C, H, W) = {tuple(image.shape)}; the network sees {channels} "
            f"channel{'s' * (channels > 1)}: give {KINDS}"
        )
    if image.dtype == torch.uint8:
        return
    if not image.is_floating_point():
        raise InvalidValue(f"an image of {image.dtype}; give uint8, or floats from 0 to 1")
    low, high = (float(value) for value in image.aminmax())
    if not (low >= 0.0 and high <= 1.0):  # which is so for NaN, too
        raise InvalidValue(
            f"pixels from {low:.4g} to {high:.4g}; give floats from 0 to 1, uint8, or a batch (B, C, H, W) that is "
            "normalised already"
        )


def _resized(image: Tensor, sides: tuple[int, int]) -> Tensor:
    """A float image (C, H, W) at (height, width) `sides`; made smaller, each pixel is a mean of those it covers."""
    smaller = sides[0] < image.shape[1]
    resized = functional.interpolate(image[None], size=sides, mode="bilinear", antialias=smaller)[0]
    return resized.clamp(0.0, 1.0)


def _margin(side: int, size: int) -> int:
    """Where the middle `size` of `side` pixels begins, as torchvision rounds it."""
    return round((side - size) / 2.0)
