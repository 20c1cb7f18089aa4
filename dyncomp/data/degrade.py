"""What a camera does to an image: small jitter in every frame, and sometimes a flaw of a known kind and severity.

Everything works on a batch at once; a severity from 0 to 1 is the image's own. Sizes are in shares of the image's side,
so that 8 and 32 pixels suffer alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

CLEAN, BLUR, NOISE, DARK, OCCLUSION = range(5)
KINDS = ("clean", "blur", "noise", "dark", "occlusion")

BRIGHTNESS = 0.15  # a frame is brighter or darker by at most this share
BLUR_WIDTH = 0.25  # deviation of the Gaussian at severity 1, as a share of the side
NOISE_LEVEL = 0.7  # deviation of the noise at severity 1; white is 1
DARKNESS = 0.95  # share of the light that is missing at severity 1
READ_NOISE = 0.04  # of the sensor, which a dark image does not drown
COVERED = 0.9  # share of the image that is covered at severity 1


def jitter(images: Tensor, random: torch.Generator) -> Tensor:
    """Images (N, C, H, W) from 0 to 1, each moved by at most a 14th of its side (at least a pixel) and lit otherwise.

    What comes in at a border repeats it.
    """
    count, channels, height, width = images.shape
    reach = max(1, min(height, width) // 14)
    down, right = torch.randint(-reach, reach + 1, (2, count), generator=random)
    rows = (torch.arange(height) + down[:, None]).clamp(0, height - 1)  # (N, H)
    columns = (torch.arange(width) + right[:, None]).clamp(0, width - 1)  # (N, W)
    pixels = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)  # (N, H*W)
    moved = images.flatten(2).gather(2, pixels[:, None].expand(-1, channels, -1)).view_as(images)
    light = 1 + BRIGHTNESS * (2 * torch.rand(count, 1, 1, 1, generator=random) - 1)
    return (moved * light).clamp(0, 1)


def degrade(images: Tensor, kinds: Tensor, severity: Tensor, random: torch.Generator) -> Tensor:
    """Images (N, C, H, W) from 0 to 1 with the flaw of `kinds` (N,), an index into KINDS, at `severity` (N,)."""
    flawed = images.clone()
    for kind, flaw in {BLUR: _blurred, NOISE: _noisy, DARK: _dark, OCCLUSION: _occluded}.items():
        members = (kinds == kind).nonzero().flatten()
        flawed[members] = flaw(images[members], severity[members, None, None], random)
    return flawed.clamp(0, 1)


def _blurred(images: Tensor, severity: Tensor, random: torch.Generator) -> Tensor:
    """Gaussian blur of its own width for each image: rows and columns by a matrix whose rows add up to 1."""
    down, right = (_gaussian(severity * BLUR_WIDTH * side, side) for side in images.shape[-2:])
    return down[:, None] @ images @ right[:, None].transpose(2, 3)  # (N, C, H, W)


def _gaussian(width: Tensor, side: int) -> Tensor:
    """(N, side, side) which share of each pixel goes to each; `width` (N, 1, 1) is the deviation in pixels."""
    place = torch.arange(side, dtype=torch.float32)
    distance = (place[:, None] - place[None, :]) / width.clamp_min(1e-3)  # (N, side, side)
    weight = (-distance.square() / 2).exp()
    return weight / weight.sum(2, keepdim=True)


def _noisy(images: Tensor, severity: Tensor, random: torch.Generator) -> Tensor:
    return images + NOISE_LEVEL * severity[..., None] * torch.randn(images.shape, generator=random)


def _dark(images: Tensor, severity: Tensor, random: torch.Generator) -> Tensor:
    light = 1 - DARKNESS * severity[..., None]  # (N, 1, 1, 1)
    return images * light + READ_NOISE * torch.randn(images.shape, generator=random)


def _occluded(images: Tensor, severity: Tensor, random: torch.Generator) -> Tensor:
    """An evenly grey rectangle of the image's proportions lies anywhere over it."""
    count, channels, height, width = images.shape
    share = (COVERED * severity).sqrt()  # (N, 1, 1), of each side
    top, left = (1 - share) * torch.rand(2, count, 1, 1, generator=random)
    rows = ((torch.arange(height) + 0.5) / height)[:, None]  # (H, 1)
    columns = (torch.arange(width) + 0.5) / width  # (W,)
    covered = (rows >= top) & (rows < top + share) & (columns >= left) & (columns < left + share)  # (N, H, W)
    grey = torch.rand(count, 1, 1, 1, generator=random).expand(-1, channels, -1, -1)
    return torch.where(covered[:, None], grey, images)
