"""The card of a network: its specs, the names of its classes, and the preparation of its images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dyncomp._images import Preparation
from dyncomp.errors import InvalidValue


@dataclass(frozen=True)
class Card:
    """A network's card, which checkpoints, copies and deployed networks contain.

    `spec` and `backbone` are the specs of method and backbone; with `seed` they build the network. `classes` are
    the names of the classes, in the order of the logits. `mean` and `std` (one value per channel, for pixels from 0 to
    1) normalise the square images of `image_size` pixels and `in_channels` channels; None if unknown. `shorter_side`:
    size of an image's shorter side before the centre crop, None for `image_size`. `deployed`: the network is a deployed
    one. Raises InvalidValue for values that contradict each other.
    """

    spec: str
    backbone: str
    classes: tuple[str, ...]
    in_channels: int
    image_size: int
    seed: int = 0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    shorter_side: int | None = None
    deployed: bool = False

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.in_channels:
                raise InvalidValue(f"{name}={values!r} for {self.in_channels} channels; give one value per channel")
            if values is not None and not all(map(math.isfinite, values)):
                raise InvalidValue(f"{name}={values!r}; give finite numbers")
        if self.std is not None and not all(value > 0 for value in self.std):
            raise InvalidValue(f"std={self.std!r}; give deviations above 0")
        if self.shorter_side is not None and self.shorter_side < self.image_size:
            raise InvalidValue(
                f"shorter_side={self.shorter_side} is below image_size={self.image_size}; give at least that"
            )

    def preparation(self) -> Preparation:
        """The preparation of images for the network. Raises InvalidValue if mean or standard deviation is unknown."""
        if self.mean is None or self.std is None:
            raise InvalidValue(
                "mean and deviation of the network's images are not known: it is not from a benchmark run, or from one "
                "of an older version; set net.card = dataclasses.replace(net.card, mean=(...), std=(...)), or give "
                "predict a normalised batch (B, C, H, W)"
            )
        side = self.image_size if self.shorter_side is None else self.shorter_side
        return Preparation(self.in_channels, self.image_size, side, self.mean, self.std)

    def facts(self) -> dict[str, Any]:
        """The fields that a checkpoint holds beside the specs and the seed, as JSON data; `classes` is their number."""
        return {
            "classes": len(self.classes),
            "in_channels": self.in_channels,
            "image_size": self.image_size,
            "class_names": list(self.classes),
            "mean": None if self.mean is None else list(map(float, self.mean)),
            "std": None if self.std is None else list(map(float, self.std)),
            "shorter_side": self.shorter_side,
            "deployed": self.deployed,
        }

    @staticmethod
    def from_facts(spec: str, backbone: str, seed: int, facts: Mapping[str, Any]) -> Card:
        """From `facts`, which may lack fields that older versions did not write. Raises InvalidValue if unreadable."""
        try:
            values = {name: facts.get(name) for name in ("mean", "std")}
            side = facts.get("shorter_side")
            return Card(
                spec=spec,
                backbone=backbone,
                classes=class_names(int(facts["classes"]), facts.get("class_names") or ()),
                in_channels=int(facts["in_channels"]),
                image_size=int(facts["image_size"]),
                seed=seed,
                **{name: None if value is None else tuple(map(float, value)) for name, value in values.items()},
                shorter_side=None if side is None else int(side),
                deployed=bool(facts.get("deployed", False)),
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidValue(
                f"what it says of its network cannot be read ({error}); give a file that dyncomp wrote"
            ) from error


def class_names(classes: int, names: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """The names of `classes` classes: `names`, or numbers if there is not one name for each."""
    return tuple(map(str, names)) if len(names) == classes else tuple(map(str, range(classes)))
