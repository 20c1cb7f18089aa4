"""How far a median may be off, with rounds that follow each other and are therefore alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES = 1000
LEAST_BLOCKS = 6
MOST_VALUES = 2**22
"""drawn at a time, so that a long timing does not fill the memory"""
Z95 = 1.959963984540054
"""standard deviations within which 95 % of a normal distribution lie"""

BETWEEN = 0.02
"""Standard deviation from one timing to the next, as a share, of the ratio of one network with itself.

How processes lie in memory and on processors differs, and no interval from within a timing can know of it. Measured by
`benchmarks/honesty`, same_network.
"""


class Interval(NamedTuple):
    """A median and its 95 % interval; NaN where there is nothing to tell it from."""

    low: float
    middle: float
    high: float

    @property
    def width(self) -> float:
        """From low to high, as a share of the middle; NaN where it is unknown."""
        return (self.high - self.low) / self.middle if self.middle else math.nan


UNKNOWN = Interval(math.nan, math.nan, math.nan)


def between_timings(within: Interval) -> Interval:
    """The interval that holds what another timing would give too: relative half widths add up as squares do.

    `within` is a ratio, or a time, with its interval from the rounds of one timing. Timings differ by `BETWEEN`.
    """
    more = Z95 * BETWEEN
    low = math.hypot(1 - within.low / within.middle, more)
    high = math.hypot(within.high / within.middle - 1, more)
    return Interval(within.middle * (1 - low), within.middle, within.middle * (1 + high))


def side_of(low: float, high: float) -> Literal["faster", "slower", "same"]:
    """What a 95 % interval of a ratio static / method says: different where all of it lies on one side of 1.

    The one rule by which a difference is declared. An unknown interval declares none. The interval has to hold what
    timings differ by: `between_timings`.
    """
    if low > 1:
        return "faster"
    return "slower" if high < 1 else "same"


def median_interval(values: Sequence[float] | Sequence[Sequence[float]], resamples: int = RESAMPLES) -> Interval:
    """The median of all values, and its interval by a seeded bootstrap over rounds; a row of several is one round.

    Successive rounds are alike (a clock that falls, a neighbour that comes and goes), so blocks of them are drawn, in a
    circle (Politis and Romano 1992), as long as the autocorrelation reaches. With few blocks the percentiles are too
    close to the median, as a normal distribution's are for Student's: both halves are widened by the same factor.
    """
    import numpy as np

    if not len(values):
        return UNKNOWN
    rounds = np.asarray(values, dtype=float).reshape(len(values), -1)  # (R, K)
    middle = float(np.median(rounds))
    count = len(rounds)
    if count < 2:
        return Interval(math.nan, middle, math.nan)
    length = block_length(np.median(rounds, axis=1))
    low, high = np.percentile(_medians(rounds, length, resamples), [2.5, 97.5])
    factor = _widening(count / length)
    return Interval(middle - factor * (middle - float(low)), middle, middle + factor * (float(high) - middle))


def block_length(values: NDArray[np.float64]) -> int:
    """How many successive rounds are drawn together: as far as the autocorrelation reaches, which is not seen whole.

    It is that of being above the median, because one interrupted round must not hide it, summed up to the first lag at
    which it is lost in chance. A weak one is lost at once: blocks have at least 1.5 times the cube root of the rounds.
    """
    import numpy as np

    count = int(values.size)
    signs = np.sign(values - np.median(values))
    signs = signs - signs.mean()
    power = float(signs @ signs)
    reach = 1.0
    for lag in range(1, count // 4):
        correlation = float(signs[:-lag] @ signs[lag:]) / power if power else 0.0
        if correlation < 1 / math.sqrt(count):
            break
        reach += 2 * correlation
    return max(1, min(max(math.ceil(reach), round(1.5 * math.cbrt(count))), count // LEAST_BLOCKS))


def _medians(rounds: NDArray[np.float64], length: int, resamples: int) -> Any:
    """(resamples,) medians of as many rounds again, drawn block by block."""
    import numpy as np

    count = len(rounds)
    begins = np.random.default_rng(0).integers(0, count, size=(resamples, math.ceil(count / length)))
    medians = []
    for some in np.array_split(begins, math.ceil(begins.shape[0] * rounds.size / MOST_VALUES)):
        places = (some[:, :, None] + np.arange(length)) % count
        drawn = rounds[places.reshape(len(some), -1)[:, :count]]  # (some, R, K)
        medians.append(np.median(drawn.reshape(len(some), -1), axis=1))
    return np.concatenate(medians)


def _widening(blocks: float) -> float:
    freedom = max(blocks - 1, 1.0)
    return t95(freedom) / Z95 * math.sqrt(blocks / freedom)


def t95(freedom: float) -> float:
    """Standard deviations within which 95 % of Student's t lie; `Z95` is its limit for many degrees of freedom."""
    from scipy.special import stdtrit  # scipy.stats takes a second to import, in the middle of a timing

    return float(stdtrit(freedom, 0.975))
