"""`--strict-macs`: an operator without a known cost is an error of its cell."""

from __future__ import annotations

from collections.abc import Sequence

from dyncomp.errors import UnpricedOperators


def check_priced(uncounted: Sequence[str]) -> None:
    """Raise UnpricedOperators where an operator ran that has no known cost."""
    if uncounted:
        raise UnpricedOperators(unpriced(uncounted))


def unpriced(uncounted: Sequence[str]) -> str:
    """What is said of such operators, and what to do."""
    return (
        f"strict-macs: operators without a known cost ran: {', '.join(uncounted)}; give each a formula by "
        "torch.utils.flop_counter.register_flop_formula, or leave out --strict-macs"
    )
