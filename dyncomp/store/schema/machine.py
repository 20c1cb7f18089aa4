"""On what a number was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypedDict

from dyncomp.store.schema.key import Key

VERSION = "`not installed` where it is absent"

_Packages = TypedDict(  # the name of a package is no name of Python
    "_Packages",
    {
        "dyncomp": Annotated[str, Key("its version")],
        "torch": Annotated[str, Key("its version")],
        "torchvision": Annotated[str, Key(f"its version; {VERSION}")],
        "numpy": Annotated[str, Key(f"its version; {VERSION}")],
        "scikit-learn": Annotated[str, Key(f"its version; {VERSION}")],
        "pandas": Annotated[str, Key(f"its version; {VERSION}")],
    },
)


class EnvironmentRecord(_Packages):
    """Versions, processor and device."""

    python: Annotated[str, Key("its version")]
    platform: Annotated[str, Key("operating system and C library")]
    machine: Annotated[str, Key("the processor's architecture")]
    processor: Annotated[str, Key("the processor's name")]
    cores: Annotated[int | None, Key("cores that the process may run on; null where it is not known")]
    threads: Annotated[int, Key("threads of torch")]
    cpu_capability: Annotated[str, Key("the vector instructions that torch uses")]
    fast_path: Annotated[str, Key("generated code and its vectors, why there is none, or `off`", before="")]
    device: Annotated[str, Key("the GPU's name, or `cpu`")]
    argv: Annotated[Sequence[str], Key("arguments of the command")]
