"""Selection of a backbone's blocks that can take an op."""

from __future__ import annotations

from dyncomp.core.backbone import Backbone, ResidualBlock
from dyncomp.errors import CannotAttach


def residual_blocks(backbone: Backbone, method: str, behind: int = 0) -> dict[str, ResidualBlock]:
    """The residual blocks after the backbone's first `behind` blocks, by name. Raises CannotAttach if there is none."""
    parts = {name: backbone.part(name) for name in backbone.blocks[behind:]}
    found = {name: part for name, part in parts.items() if isinstance(part, ResidualBlock)}
    if not found:
        where = " behind its first block" if behind else ""
        raise CannotAttach(
            f"{method}: {backbone.name} has no residual block{where}, so nothing can be skipped; "
            "choose a backbone with shortcuts, such as cifar_resnet14, resnet18 or mobilenet_v2"
        )
    return found


def needs_single_maps(backbone: Backbone, method: str) -> None:
    """Raise CannotAttach for a backbone whose blocks have several maps as input and output."""
    if backbone.multi_scale:
        raise CannotAttach(
            f"{method}: the blocks of {backbone.name} pass on several maps at once; "
            "choose a backbone with one map, such as cifar_resnet14, or early_exit as the method"
        )
