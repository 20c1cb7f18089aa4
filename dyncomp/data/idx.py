"""The idx format of the MNIST family: a magic number, the sizes, then the bytes."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dyncomp.errors import DataNotFound

BYTES = 0x08  # the format's code for unsigned bytes, the only element type here


def has_idx(path: Path) -> bool:
    """Whether the file is there, as it is or packed (.gz)."""
    return path.is_file() or _packed(path).is_file()


def read_idx(path: Path, dimensions: int) -> Tensor:
    """The uint8 tensor in an idx file, as it is or packed (.gz).

    Raises:
        DataNotFound: the file is damaged or holds something else.
    """
    path = path if path.is_file() else _packed(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    start = 4 + 4 * dimensions
    if len(content) <= start or content[:4] != bytes((0, 0, BYTES, dimensions)):
        raise _damaged(path, f"not an idx file of bytes in {dimensions} dimensions")
    sizes = [int(size) for size in np.frombuffer(content, ">u4", count=dimensions, offset=4)]
    if len(content) - start != math.prod(sizes):
        raise _damaged(path, f"{len(content) - start} bytes for the sizes {sizes}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(sizes)


def _packed(path: Path) -> Path:
    return path.with_name(f"{path.name}.gz")


def _damaged(path: Path, reason: str) -> DataNotFound:
    return DataNotFound(f"{path} is damaged ({reason}); delete it and get the data set again")
