"""Whether a timing can be relied on, and if not, why: milliseconds, and the ratio of two networks' times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dyncomp.samples.intervals import Interval, between_timings, median_interval
from dyncomp.samples.rounds import Rounds

VALID = "VALID"
INVALID = "INVALID"
LEAST_ROUNDS = 20
MOST_SPREAD = 0.10
"""interquartile range of the rounds, as a share of their median"""
MOST_DRIFT = 0.05
"""between the first third of the rounds and the last, as a share, and beyond what chance allows"""
MOST_LOAD = 0.10
"""of the processors that we may run on, busy with the work of others"""
MOST_WIDTH = 0.06
"""of a ratio's interval within a timing, as a share of the ratio; up to it, most differences of 10 % are found"""


@dataclass(frozen=True)
class Load:
    """Processors that were busy during a timing, on average: with our own processes and with those of others.

    `processors` is how many we may run on; `average` the kernel's load average at the end. None where it is not known.
    """

    processors: int
    own: float | None
    others: float | None
    average: float | None


def verdict(rounds: Rounds, name: str, load: Load | None = None) -> str:
    """`VALID`, or `INVALID: ` and every reason, for a network's milliseconds; see `judged_speedup` for its speed-up."""
    count = rounds.count(name)
    reasons = [f"too few samples ({count} rounds, at least {LEAST_ROUNDS} are wanted)"] if count < LEAST_ROUNDS else []
    if not reasons:
        relative = rounds.relative(name)
        reasons = noise(relative) + _drift(relative, "slower", "faster")
    if load is not None and load.others is not None and load.others > MOST_LOAD * load.processors:
        reasons.append(f"other load ({load.others:.1f} of {load.processors} processors busy with other work)")
    return in_words(reasons)


def judged_speedup(rounds: Rounds, name: str, reference: str | None) -> tuple[Interval, str | None]:
    """A network's speed-up against `reference`, and `VALID`, or `INVALID: ` and every reason.

    The speed-up is `Rounds.speedup`, its interval widened by what differs `between_timings`. Judged by the ratios of
    the rounds alone. What slows both networks of a round alike makes their milliseconds unreliable, and leaves the
    ratio as it is. Without a reference the speed-up is unknown and the verdict None.
    """
    within = rounds.speedup(name, reference)
    if reference is None:
        return within, None
    if name == reference:
        return within, VALID
    speedup, ratios = between_timings(within), rounds.ratios(name, reference)
    if len(ratios) < LEAST_ROUNDS:
        return speedup, in_words([f"too few rounds ({len(ratios)}, at least {LEAST_ROUNDS} are wanted)"])
    wide = f"known too roughly (the rounds' interval is {within.width:.0%} wide, at most {MOST_WIDTH:.0%} is wanted)"
    return speedup, in_words(([wide] if within.width > MOST_WIDTH else []) + _drift(ratios, "greater", "smaller"))


def in_words(reasons: Sequence[str]) -> str:
    """`VALID`, or `INVALID: ` and the reasons why."""
    return f"{INVALID}: {'; '.join(reasons)}" if reasons else VALID


def is_invalid(text: object) -> bool:
    """Whether a verdict says that the timing cannot be relied on; one that was never judged does not say so."""
    return isinstance(text, str) and text.startswith(INVALID)


def noise(relative: Sequence[float]) -> list[str]:
    """What to say of times as shares of their median where they are spread too wide, else nothing."""
    import numpy as np

    low, high = np.percentile(relative, [25, 75])
    spread = high - low
    return [f"noisy (interquartile range {100 * spread:.0f} % of the median)"] if spread > MOST_SPREAD else []


def _drift(values: Sequence[float], risen: str, fallen: str) -> list[str]:
    """What to say of values, one per round, whose last third differs from the first, else nothing."""
    third = len(values) // 3
    first, last = median_interval(values[:third]), median_interval(values[-third:])
    change = last.middle / first.middle - 1
    if abs(change) <= MOST_DRIFT or not (first.high < last.low or last.high < first.low):
        return []
    return [f"drifting (the last third {abs(change):.0%} {risen if change > 0 else fallen})"]
