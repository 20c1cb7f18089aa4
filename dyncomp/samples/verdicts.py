"""Whether a timing can be relied on, and if not, why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dyncomp.samples.intervals import median_interval
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


@dataclass(frozen=True)
class Load:
    """Processors that were busy during a timing, on average: with our own processes and with those of others.

    `processors` is how many we may run on; `average` the kernel's load average at the end. None where it is not known.
    """

    processors: int
    own: float | None
    others: float | None
    average: float | None


def verdict(rounds: Rounds, name: str, load: Load | None = None, reference: str | None = None) -> str:
    """`VALID`, or `INVALID: ` and every reason; the reference's reasons count too, since the ratio needs both."""
    reasons = _reasons(rounds, name)
    if reference is not None and reference != name:
        reasons += [f"static is {reason}" for reason in _reasons(rounds, reference) if reason not in reasons]
    if load is not None and load.others is not None and load.others > MOST_LOAD * load.processors:
        reasons.append(f"other load ({load.others:.1f} of {load.processors} processors busy with other work)")
    return in_words(reasons)


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


def _reasons(rounds: Rounds, name: str) -> list[str]:
    count = rounds.count(name)
    if count < LEAST_ROUNDS:
        return [f"too few samples ({count} rounds, at least {LEAST_ROUNDS} are wanted)"]
    relative = rounds.relative(name)
    reasons = noise(relative)
    third = count // 3
    first, last = median_interval(relative[:third]), median_interval(relative[-third:])
    change = last.middle / first.middle - 1
    if abs(change) > MOST_DRIFT and (first.high < last.low or last.high < first.low):
        reasons.append(f"drifting (the last third {abs(change):.0%} {'slower' if change > 0 else 'faster'})")
    return reasons
