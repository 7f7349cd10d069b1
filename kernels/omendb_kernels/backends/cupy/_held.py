"""Copies on the device of arrays that stay on the host: ops that are given such an array take the copy.

planner.py says which (`hold`), and lets all go when the memory is needed (`release`). An array is known by where it begins; as
long as its copy is held, so is the array, so that nothing else can come to lie there. Held arrays must not be written to.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import cupy
import numpy as np

from ...arrays import Rows
from ...contract import CodeRows
from ...errors import OutOfDeviceMemory


class _Copy(NamedTuple):
    host: np.ndarray[Any, Any]
    device: Any


_copies: dict[int, _Copy] = {}


def hold(holder: Any, arrays: tuple[Any, ...]) -> None:
    """Copy these arrays (None is passed over) to the device, for as long as `holder` lives or until `release`.

    Raises OutOfDeviceMemory; then none of them is held.
    """
    fresh: dict[int, _Copy] = {}
    try:
        for array in arrays:
            if isinstance(array, np.ndarray) and array.size and array.flags.c_contiguous:
                fresh[_address(array)] = _Copy(array, cupy.asarray(array))
    except cupy.cuda.memory.OutOfMemoryError as error:
        raise OutOfDeviceMemory("hold", str(error)) from error
    _copies.update(fresh)
    weakref.finalize(holder, _drop, tuple(fresh))


def release() -> int:
    """Hold nothing any more. How many bytes that were."""
    freed = sum(copy.host.nbytes for copy in tuple(_copies.values()))
    _copies.clear()
    cupy.get_default_memory_pool().free_all_blocks()
    return freed


def held(argument: Any) -> Any:
    """The copy of an array, of rows or of coded rows that are held, or the first rows of it; anything else as it is."""
    if not _copies:
        return argument
    if isinstance(argument, Rows):
        return Rows(_copy_of(argument.data), argument.kind)
    if isinstance(argument, CodeRows):
        found = CodeRows(*map(_copy_of, argument))
        whole = all(column is None or isinstance(column, cupy.ndarray) for column in found)
        return found if whole else argument
    return _copy_of(argument)


def _copy_of(array: Any) -> Any:
    if not isinstance(array, np.ndarray) or not array.size or not array.flags.c_contiguous:
        return array
    copy = _copies.get(_address(array))
    fits = copy is not None and copy.host.dtype == array.dtype and copy.host.shape[1:] == array.shape[1:]
    return copy.device[: len(array)] if copy is not None and fits and len(copy.host) >= len(array) else array


def _address(array: np.ndarray[Any, Any]) -> int:
    return int(array.ctypes.data)


def _drop(addresses: tuple[int, ...]) -> None:
    for address in addresses:
        _copies.pop(address, None)
