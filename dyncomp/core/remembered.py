"""What gates remember from site to site during a pass."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dyncomp.errors import CannotExport


class Remembered(dict[str, Tensor]):
    """Tensors by key; those whose last value stayed inside a conditional branch of a graph are `lost`."""

    lost: frozenset[str] = frozenset()

    @staticmethod
    def of(values: Mapping[str, Tensor], lost: frozenset[str]) -> Remembered:
        """These values, and those keys lost."""
        made = Remembered(values)
        made.lost = lost
        return made

    def recalled(self, key: str) -> Tensor | None:
        """The value, None where there is none yet. Raises CannotExport for one that is lost."""
        if key in self.lost:
            raise CannotExport(
                f"a gate reads {key!r}, which was last remembered inside a branch that may not run; export it --dense"
            )
        return self.get(key)

    def changed(self, since: Mapping[str, Tensor]) -> frozenset[str]:
        """The keys that hold another tensor than before."""
        return frozenset(key for key, value in self.items() if since.get(key) is not value)
