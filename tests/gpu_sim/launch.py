"""One launch: the checks of the driver and of a strict reader of the arguments, then the fibers."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from .compile import Library
from .state import SIM

MOST_THREADS, MOST_SHARED, MOST_SHARED_OPTIN = 1024, 48 * 1024, 227 * 1024
MOST_GRID, MOST_BLOCK = (2**31 - 1, 65_535, 65_535), (1024, 1024, 64)

_lock = threading.Lock()  # the runtime of a library knows one launch at a time
_NAMES = {
    "i1": "signed char", "u1": "unsigned char", "i2": "short", "u2": "unsigned short", "i4": "int", "u4": "unsigned int",
    "i8": "long long", "u8": "unsigned long long", "f4": "float", "f8": "double", "b1": "bool",
}  # fmt: skip


class KernelError(AssertionError):
    """What a GPU would do silently, or would end the process for: a race, a wild address, a barrier that not all reach."""


class LaunchError(TypeError):
    """Arguments that CuPy would pass on as other bits, or a launch that the driver would refuse."""


class _Buffer(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("size", ctypes.c_size_t), ("item", ctypes.c_uint))


class _Setup(ctypes.Structure):
    _fields_ = (
        *(("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("dynamic", ctypes.c_uint), ("order", ctypes.c_uint)),
        *(("seed", ctypes.c_uint), ("preempt", ctypes.c_uint), ("seconds", ctypes.c_uint), ("buffers", ctypes.c_uint)),
        ("buffer", ctypes.POINTER(_Buffer)),
    )


def _shown(code: str) -> str:
    return _NAMES.get(code.lstrip("*"), f"a type of {code}") + ("*" if code.startswith("*") else "")


def _code(dtype: np.dtype[Any]) -> str:
    return f"{dtype.kind}{dtype.itemsize}"


def _fits(pointer: str, array: np.ndarray) -> bool:
    have = _code(array.dtype)
    return pointer in (f"*{have}", "*v0") or (pointer, have) in (("*u1", "b1"), ("*u2", "f2"))


def _argument(place: str, code: str, value: Any) -> np.ndarray:
    """The bits of one argument, an address for an array: an array of one element. Raises LaunchError."""
    wanted = _shown(code)
    if "V" in code:
        raise LaunchError(f"{place}: {wanted} can be passed by no array or scalar")
    if code.startswith("*"):
        if isinstance(value, np.uintp | np.intp) and value == 0:
            return np.array(0, np.uintp)  # a null pointer
        if not isinstance(value, np.ndarray):
            raise LaunchError(f"{place}: {wanted} wants a device array, not {type(value).__name__}")
        if not _fits(code, value):
            raise LaunchError(f"{place}: {wanted} wants another dtype than {value.dtype}")
        if not value.flags.c_contiguous:
            raise LaunchError(f"{place}: the array is not C-contiguous")
        return np.array(value.ctypes.data, np.uintp)
    if type(value) in (bool, int, float):  # as CuPy's scalar_to_c_scalar
        value = {bool: np.bool_, int: np.int64, float: np.float64}[type(value)](value)
    if not isinstance(value, np.generic):
        raise LaunchError(f"{place}: {wanted} wants a scalar, not {type(value).__name__}")
    if _code(value.dtype) != code:
        raise LaunchError(f"{place}: {wanted} wants another scalar than {value.dtype}")
    return np.array(value)


def _dimensions(name: str, what: str, given: Any, most: tuple[int, ...]) -> list[int]:
    if not isinstance(given, tuple) or not 1 <= len(given) <= 3:
        raise LaunchError(f"{name}: {what} must be a tuple of 1 to 3 numbers, not {given!r}")
    full = [int(side) for side in given] + [1] * (3 - len(given))
    if any(not 1 <= side <= limit for side, limit in zip(full, most, strict=True)):
        raise LaunchError(f"{name}: {what} {given} is outside 1..{most}")
    return full


def _check_limits(library: Library, name: str, block: list[int], shared_mem: int, opted: int) -> None:
    count = block[0] * block[1] * block[2]
    most = library.most_threads[name] or MOST_THREADS
    if count > most:
        raise LaunchError(f"{name}: a block of {count} threads, the most is {most}")
    static = library.shared[name]
    if static > MOST_SHARED:
        raise LaunchError(f"{name}: {static} bytes of static shared memory, the most is {MOST_SHARED}")
    if shared_mem < 0 or static + shared_mem > max(MOST_SHARED, static + opted):
        raise LaunchError(f"{name}: {static} + {shared_mem} bytes of shared memory, the most is {MOST_SHARED} unless asked for")
    if static + shared_mem > MOST_SHARED_OPTIN:
        raise LaunchError(f"{name}: {static} + {shared_mem} bytes of shared memory, the most is {MOST_SHARED_OPTIN}")


def launch(library: Library, name: str, grid: Any, block: Any, args: Sequence[Any], shared_mem: int, opted: int) -> None:
    """Run a kernel. args: NumPy arrays where device arrays were given. Raises LaunchError, KernelError."""
    types = library.types[name]
    if len(args) != len(types):
        raise LaunchError(f"{name} has {len(types)} parameters, {len(args)} arguments were given")
    full_grid, full_block = _dimensions(name, "grid", grid, MOST_GRID), _dimensions(name, "block", block, MOST_BLOCK)
    _check_limits(library, name, full_block, shared_mem, opted)
    bits = [_argument(f"{name}, argument {i}", code, value) for i, (code, value) in enumerate(zip(types, args, strict=True))]
    pointers = (ctypes.c_void_p * max(1, len(bits)))(*[word.ctypes.data for word in bits])
    arrays = [value for value in args if isinstance(value, np.ndarray)]
    buffers = (_Buffer * max(1, len(arrays)))(*[(a.ctypes.data, a.nbytes, min(a.itemsize, 4)) for a in arrays])
    setup = _Setup(
        (ctypes.c_uint * 3)(*full_grid), (ctypes.c_uint * 3)(*full_block), shared_mem, SIM.order, SIM.seed, SIM.preempt,
        SIM.seconds, len(arrays), buffers,
    )  # fmt: skip
    with _lock:
        wrong = library.launch(library.described[name], pointers, ctypes.byref(setup))
    SIM.launches[name] += 1
    if wrong:
        raise KernelError(f"{name}: {library.with_lines(wrong.decode())}")
