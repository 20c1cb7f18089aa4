"""Under which names the forms of a network stand beside each other in a timing."""

from __future__ import annotations

from dyncomp.samples.rounds import Rounds

SPARSE, DENSE = "sparse", "dense"
COMPILED = "_compiled"
"""behind either, where torch.compile made it"""


def name_of_form(key: str, form: str) -> str:
    """The name of a cell's network in a form: the cell's key alone in the sparse form, the one that is deployed."""
    return key if form == SPARSE else f"{key}.{form}"


def key_in(name: str) -> str:
    """The key of the cell in such a name."""
    return name.partition(".")[0]


def is_dense(name: str) -> bool:
    """Whether such a name is of the dense form, compiled or not."""
    return name.partition(".")[2].startswith(DENSE)


def is_compiled(name: str) -> bool:
    """Whether such a name is of a form that was compiled."""
    return name.endswith(COMPILED)


def fastest_form(rounds: Rounds, key: str) -> str:
    """The faster of a network's deployed form and of that form compiled; the former where nothing was compiled."""
    compiled = name_of_form(key, SPARSE + COMPILED)
    both = rounds.count(key) and rounds.count(compiled)
    return compiled if both and rounds.median(compiled).middle < rounds.median(key).middle else key
