"""The base of dispatch modes, which see every operator that runs."""

from __future__ import annotations

import sys
from functools import wraps
from typing import Any

from torch._compile import _disable_dynamo
from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that torch.compile leaves alone, as it does all; without importing it, which takes seconds.

    Torch disables the compiler inside every mode by importing it at the first operator. Where nobody else has imported
    the compiler, nothing is compiled, and nothing has to be disabled.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # see __init_subclass__

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)  # type: ignore[no-untyped-call]
        dispatch = cls.__dict__.get("__torch_dispatch__")
        if dispatch is None:
            return
        alone = _disable_dynamo(dispatch, recursive=True)

        @wraps(dispatch)
        def without_compiler(*args: Any, **kwargs: Any) -> Any:
            return (alone if "torch._dynamo" in sys.modules else dispatch)(*args, **kwargs)

        cls.__torch_dispatch__ = without_compiler  # type: ignore[method-assign]
