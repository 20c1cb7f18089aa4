"""The geometry of a convolution for which code is generated."""

from __future__ import annotations

from dataclasses import dataclass

_WIDE = 32
"""fewest pixels in a row of a map that is re-cut into rows: shorter rows would leave register blocks too narrow"""


@dataclass(frozen=True)
class Shape:
    """A convolution with one group, or depthwise, on maps of one size; pairs are (vertical, horizontal).

    With `groups` > 1 the shape is that of one group of a grouped convolution: x has `groups` times `channels` channels,
    y has `groups` times `outputs`.
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
    def x_channels(self) -> int:
        """Pixel stride of x, in elements."""
        return self.channels * self.groups

    @property
    def y_channels(self) -> int:
        """Pixel stride of y, in elements."""
        return self.outputs * self.groups

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        sides = zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        height, width = ((n + 2 * pad - far * (k - 1) - 1) // step + 1 for n, k, step, pad, far in sides)
        return height, width

    @property
    def is_pointwise(self) -> bool:
        """Whether an output pixel reads only the input pixel at its position, so that maps may be re-cut into rows."""
        return self.kernel == self.stride == (1, 1) and self.padding == (0, 0)

    @property
    def rows(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(rows, pixels per row) of the input and of the output; a flat map is re-cut into 8, 4, 2 or 1 rows."""
        if not self.is_pointwise:
            return self.size, self.output_size
        pixels = self.size[0] * self.size[1]
        cut = next(n for n in (8, 4, 2, 1) if pixels % n == 0 and (pixels // n >= _WIDE or n == 1))
        return (cut, pixels // cut), (cut, pixels // cut)

    @property
    def can_be_cut(self) -> bool:
        """Whether every row of the output reads some row of the input, and neither output nor channels are empty."""
        if min(*self.output_size, self.channels, self.outputs) < 1:
            return False
        return all(any(self.reads_inside(row, tap) for tap in range(self.kernel[0])) for row in range(self.rows[1][0]))

    def reads_inside(self, place: int, tap: int, axis: int = 0) -> bool:
        """Whether a kernel tap reads inside the map, not padding, for a row of the output (`axis` 1: a column)."""
        at = place * self.stride[axis] - self.padding[axis] + tap * self.dilation[axis]
        return 0 <= at < self.rows[0][axis]
