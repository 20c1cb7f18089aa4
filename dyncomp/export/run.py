"""An exported file as a function of images: what it was given is checked, and a batch goes one by one where it must."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dyncomp.errors import InvalidValue
from dyncomp.export.formats import FORMATS, Run
from dyncomp.export.text import one_line


@dataclass(frozen=True)
class Exported:
    """A network that was read from a file, on a processor, on as many threads as torch used then.

    `facts` say what it is: `form`, `one_image`, `routes`, `image_shape`, `classes`, `dtype`, `dyncomp` (the
    version), and, of a checkpoint, `method`, `backbone`, `dataset`.
    """

    facts: Mapping[str, Any]
    run: Run

    def __call__(self, images: NDArray[Any]) -> NDArray[Any]:
        """Images (B, C, H, W) -> logits (B, Y). Raises InvalidValue for images of another shape or type."""
        shape, kind = tuple(self.facts["image_shape"]), self.facts["dtype"]
        if not isinstance(images, np.ndarray):
            raise InvalidValue(
                f"images of type {type(images).__name__}; give a NumPy array "
                f"(images, {', '.join(map(str, shape))}) of {kind}"
            )
        if images.ndim != 4 or tuple(images.shape[1:]) != shape or str(images.dtype) != kind:
            raise InvalidValue(
                f"images of shape {tuple(images.shape)} and type {images.dtype}; "
                f"give (images, {', '.join(map(str, shape))}) of {kind}"
            )
        if not self.facts["one_image"] and len(images):
            return self.run(np.ascontiguousarray(images))
        rows = [self.run(np.ascontiguousarray(images[i : i + 1])) for i in range(len(images))]
        return np.concatenate(rows) if rows else np.zeros((0, self.facts["classes"]), images.dtype)


def load_exported(path: str | Path) -> Exported:
    """Read a file that `export_network` wrote.

    Raises InvalidValue for any other file, CannotExport where its format is not installed.
    """
    path = Path(path)
    found = [form for form in FORMATS.values() if form.suffix == path.suffix]
    if not found or not path.is_file():
        wanted = ", ".join(form.suffix for form in FORMATS.values())
        raise InvalidValue(f"{path}: no such file, or none of {wanted}; give a file that `dyncomp export` wrote")
    found[0].check_installed()
    try:
        facts, run = found[0].open(path)
    except ImportError as error:
        raise found[0].broken(error) from error
    except Exception as error:  # each library has errors of its own for a file that is none of its
        raise InvalidValue(
            f"{path} cannot be read ({one_line(error)}); give a file that `dyncomp export` wrote"
        ) from error
    return Exported(facts, run)
