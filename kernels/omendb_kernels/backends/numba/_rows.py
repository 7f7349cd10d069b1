"""How Numba kernels read rows of any kind, and the lane sums every float of the contract is made of."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload
from numpy.typing import NDArray

from ...arrays import Rows

JIT: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}  # never fastmath: see contract.py


@functools.cache
def _table(kind: str) -> NDArray[np.float32]:
    """The float32 of every 16-bit pattern: Numba cannot read float16, and one look-up serves bfloat16 too."""
    patterns = np.arange(65536, dtype=np.uint16)
    return Rows(patterns.view(np.float16) if kind == "float16" else patterns, kind).float32()


_NO_TABLE = np.zeros(1, np.float32)


def unlocked(array: NDArray[Any]) -> NDArray[Any]:
    """The same memory, typed writable: else every kernel would be compiled once more for read-only arrays."""
    if array.flags.writeable:
        return array
    return np.asarray(_Unlocked(array))


class _Unlocked:
    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array  # keeps the memory alive
        self.__array_interface__ = dict(array.__array_interface__, data=(array.__array_interface__["data"][0], False))


def readable(rows: Rows) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """(data, table) for kernels: 16-bit rows as uint16 patterns with their table, others as they are."""
    if rows.kind in ("float16", "bfloat16"):
        return unlocked(rows.data).view(np.uint16), _table(rows.kind)
    return unlocked(rows.data), _NO_TABLE


def _widen(value, table):  # type: ignore[no-untyped-def]
    """float64 of one stored value. Not annotated: Numba compares signatures, annotations included."""
    return np.float64(table[value] if isinstance(value, np.uint16) else value)


widen: Any = _widen


@overload(widen)
def _widen_overload(value, table):  # type: ignore[no-untyped-def]
    if value == types.uint16:
        return lambda value, table: np.float64(table[value])
    return lambda value, table: np.float64(value)


@njit(**JIT)
def lane_dot(a: Any, a_table: Any, b: Any, b_table: Any) -> Any:
    """Lane sum of a * b over two rows."""
    d = len(a)
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    for j in range(0, d - 7, 8):
        s0 += widen(a[j], a_table) * widen(b[j], b_table)
        s1 += widen(a[j + 1], a_table) * widen(b[j + 1], b_table)
        s2 += widen(a[j + 2], a_table) * widen(b[j + 2], b_table)
        s3 += widen(a[j + 3], a_table) * widen(b[j + 3], b_table)
        s4 += widen(a[j + 4], a_table) * widen(b[j + 4], b_table)
        s5 += widen(a[j + 5], a_table) * widen(b[j + 5], b_table)
        s6 += widen(a[j + 6], a_table) * widen(b[j + 6], b_table)
        s7 += widen(a[j + 7], a_table) * widen(b[j + 7], b_table)
    for j in range(d - d % 8, d):
        term = widen(a[j], a_table) * widen(b[j], b_table)
        lane = j % 8
        if lane == 0:
            s0 += term
        elif lane == 1:
            s1 += term
        elif lane == 2:
            s2 += term
        elif lane == 3:
            s3 += term
        elif lane == 4:
            s4 += term
        elif lane == 5:
            s5 += term
        else:
            s6 += term
    return _fold(s0, s1, s2, s3, s4, s5, s6, s7)


@njit(**JIT)
def lane_l2(a: Any, a_table: Any, b: Any, b_table: Any) -> Any:
    """Lane sum of (a - b) * (a - b) over two rows."""
    d = len(a)
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    for j in range(0, d - 7, 8):
        t0 = widen(a[j], a_table) - widen(b[j], b_table)
        t1 = widen(a[j + 1], a_table) - widen(b[j + 1], b_table)
        t2 = widen(a[j + 2], a_table) - widen(b[j + 2], b_table)
        t3 = widen(a[j + 3], a_table) - widen(b[j + 3], b_table)
        t4 = widen(a[j + 4], a_table) - widen(b[j + 4], b_table)
        t5 = widen(a[j + 5], a_table) - widen(b[j + 5], b_table)
        t6 = widen(a[j + 6], a_table) - widen(b[j + 6], b_table)
        t7 = widen(a[j + 7], a_table) - widen(b[j + 7], b_table)
        s0 += t0 * t0
        s1 += t1 * t1
        s2 += t2 * t2
        s3 += t3 * t3
        s4 += t4 * t4
        s5 += t5 * t5
        s6 += t6 * t6
        s7 += t7 * t7
    for j in range(d - d % 8, d):
        t = widen(a[j], a_table) - widen(b[j], b_table)
        term = t * t
        lane = j % 8
        if lane == 0:
            s0 += term
        elif lane == 1:
            s1 += term
        elif lane == 2:
            s2 += term
        elif lane == 3:
            s3 += term
        elif lane == 4:
            s4 += term
        elif lane == 5:
            s5 += term
        else:
            s6 += term
    return _fold(s0, s1, s2, s3, s4, s5, s6, s7)


@njit(**JIT)
def _fold(s0: Any, s1: Any, s2: Any, s3: Any, s4: Any, s5: Any, s6: Any, s7: Any) -> Any:
    return ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))


@njit(**JIT)
def distance(query: Any, point: Any, table: Any, metric: Any, query_length: Any, point_length: Any) -> Any:
    """float32 final distance; query is float64 (d,). Lengths are read by cosine only."""
    if metric == 0:
        return np.float32(lane_l2(query, table, point, table))
    dot = lane_dot(query, table, point, table)
    if metric == 2:
        return np.float32(0.0 - dot)
    return np.float32(max(0.0, 1.0 - dot / (query_length * point_length)))
