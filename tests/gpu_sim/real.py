"""The real CuPy, which imports without a GPU: its names, signatures and error classes. The double lives without it too."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

_ABSENT = object()


def _import() -> Any:
    held = {name: module for name, module in sys.modules.items() if name.split(".")[0] in ("cupy", "cupyx")}
    try:
        return importlib.import_module("cupy")
    except Exception:  # noqa: BLE001  # whatever stands in the way of an optional library
        for name in [name for name in sys.modules if name.split(".")[0] in ("cupy", "cupyx") and name not in held]:
            del sys.modules[name]
        return None


CUPY = _import()


class _OutOfMemoryError(MemoryError):
    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes).")


class _CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(f"CUDA error {status}")
        self.status = status


OutOfMemoryError = CUPY.cuda.memory.OutOfMemoryError if CUPY else _OutOfMemoryError
CUDARuntimeError = CUPY.cuda.runtime.CUDARuntimeError if CUPY else _CUDARuntimeError
VERSION = CUPY.__version__ if CUPY else "14.2.0"


def has(name: str) -> bool:
    """Whether cupy has this function; without CuPy, whether it is not one of those known to be missing."""
    if CUPY is None:
        return name not in {"errstate", "insert", "block", "vecdot", "matvec", "vecmat", "memmap", "ndenumerate", "unstack"}
    return hasattr(CUPY, name)


def bind(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raises TypeError where cupy's function of this name does not take these arguments."""
    function: Callable[..., Any] | Any = getattr(CUPY, name, _ABSENT)
    if function is _ABSENT:
        return
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # a ufunc or a builtin
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"cupy.{name}: {error}") from None
