"""Shapes as signed distances: negative inside, positive outside, about one unit per unit of length.

Points are given as x and y (N, H, W), in units of the shape's circumradius, around its centre.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Outline = Callable[[Tensor, Tensor], Tensor]


def disc(x: Tensor, y: Tensor, radius: float = 0.9) -> Tensor:
    """A filled circle."""
    return torch.hypot(x, y) - radius


def box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    """A filled rectangle."""
    dx, dy = x.abs() - half_width, y.abs() - half_height
    return torch.hypot(dx.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dx, dy).clamp(max=0)


def star(x: Tensor, y: Tensor, points: int, inner: float) -> Tensor:
    """A star with its points at distance 1 and its notches at `inner`.

    Folded by its symmetry, it is one edge. With inner = cos(pi / points) it is a regular polygon.
    """
    sector = 2 * math.pi / points
    angle = torch.atan2(y, x)
    angle = (angle - sector * (angle / sector).round()).abs()  # from a point (0) to a notch
    radius = torch.hypot(x, y)
    notch_x, notch_y = inner * math.cos(sector / 2), inner * math.sin(sector / 2)
    length = math.hypot(1 - notch_x, notch_y)
    return ((radius * angle.cos() - 1) * notch_y + radius * angle.sin() * (1 - notch_x)) / length


def segment(x: Tensor, y: Tensor, half_length: Tensor) -> Tensor:
    """Distance to a line without width along x; `half_length` broadcasts against the points."""
    return torch.hypot((x.abs() - half_length).clamp(min=0), y)


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(box(x, y, 0.95, 0.3), box(x, y, 0.3, 0.95))


def _crescent(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(disc(x, y, 0.95), -disc(x - 0.5, y, 0.8))


OUTLINES: dict[str, Outline] = {
    "bar": lambda x, y: box(x, y, 0.95, 0.3),
    "crescent": _crescent,
    "cross": _cross,
    "disc": disc,
    "frame": lambda x, y: box(x, y, 0.58, 0.58).abs() - 0.14,
    "half_disc": lambda x, y: torch.maximum(disc(x, y + 0.4, 0.9), -0.4 - y),
    "ring": lambda x, y: disc(x, y, 0.76).abs() - 0.17,
    "square": lambda x, y: box(x, y, 0.72, 0.72),
    "star": lambda x, y: star(x, y, 5, 0.42),
    "triangle": lambda x, y: star(x, y, 3, 0.5),
}
