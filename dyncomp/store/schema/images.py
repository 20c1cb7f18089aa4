"""The columns of what happened to each test image."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from dyncomp.store.schema.key import Key

Column = Any
"""values of one kind, one for each test image, in test order: a list, or an array of NumPy"""


class ImageColumns(TypedDict):
    """A cell image by image, a row per test image in test order; `records/KEY.parquet`, of finished cells alone."""

    label: Annotated[Column, Key("number of the image's class")]
    prediction: Annotated[Column, Key("number of the class that the network answered")]
    macs: Annotated[Column, Key("what the gates' decisions price", "MACs")]
    route: Annotated[
        Column, Key("a text: 0 or 1 for every unit of every site; hexadecimal digits where there are over 256 units")
    ]
