"""What a convolution computes, as far as its code depends on it."""

from __future__ import annotations

from dataclasses import dataclass

_WIDE = 32
"""pixels of a row that is cut out of a map at will: fewer would leave blocks too narrow"""


@dataclass(frozen=True)
class Shape:
    """A convolution with one group, or depthwise, of maps of one size; pairs are vertical, horizontal.

    Where it is one group of several, x and y have `groups` times as many channels as it reads and writes.
    """

    channels: int
    outputs: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    depthwise: bool = False
    groups: int = 1

    @property
    def reads(self) -> int:
        """Numbers from one pixel of x to the next."""
        return self.channels * self.groups

    @property
    def writes(self) -> int:
        """Numbers from one pixel of y to the next."""
        return self.outputs * self.groups

    @property
    def places(self) -> tuple[int, int]:
        """Height and width of the output."""
        sides = zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        height, width = ((n + 2 * pad - far * (k - 1) - 1) // step + 1 for n, k, step, pad, far in sides)
        return height, width

    @property
    def is_flat(self) -> bool:
        """Whether pixels are read one by one, so that it does not matter how a map is cut into rows."""
        return self.kernel == self.stride == (1, 1) and self.padding == (0, 0)

    @property
    def rows(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and pixels in a row, of the input and of the output."""
        if not self.is_flat:
            return self.size, self.places
        pixels = self.size[0] * self.size[1]
        cut = next(n for n in (8, 4, 2, 1) if pixels % n == 0 and (pixels // n >= _WIDE or n == 1))
        return (cut, pixels // cut), (cut, pixels // cut)

    @property
    def can_be_cut(self) -> bool:
        """Whether every row of the output sees some row of the input, and there is something to compute."""
        if min(*self.places, self.channels, self.outputs) < 1:
            return False
        return all(any(self.sees(row, tap) for tap in range(self.kernel[0])) for row in range(self.rows[1][0]))

    def sees(self, place: int, tap: int, axis: int = 0) -> bool:
        """Whether a tap of the kernel falls on the map at that row (or column) of the output."""
        at = place * self.stride[axis] - self.padding[axis] + tap * self.dilation[axis]
        return 0 <= at < self.rows[0][axis]
