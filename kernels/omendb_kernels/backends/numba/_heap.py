"""A bounded max-heap of packed keys: the k smallest seen so far, the worst of them at the root."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ._rows import JIT


@njit(**JIT)
def replace_root(heap: Any, key: Any) -> None:
    """Put `key` in place of the root of a full heap (fill it with NO_KEY first). The caller has compared it."""
    size = len(heap)
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= key:
            break
        heap[hole] = heap[child]
        hole = child
    heap[hole] = key


@njit(**JIT)
def sort_heap(heap: Any) -> None:
    """A heap becomes an ascending list."""
    for end in range(len(heap) - 1, 0, -1):
        largest, key = heap[0], heap[end]
        replace_root(heap[:end], key)
        heap[end] = largest


@njit(**JIT)
def push_places(heap: Any, scores: Any, places: Any, count: Any, base: Any, first: Any) -> None:
    """The keys (base + scores[j], first + j) of the `count` first places j into the heap."""
    for i in range(count):
        j = np.int64(places[i])
        key = ((base + np.int64(scores[j])) << 32) | (first + j)
        if key < heap[0]:
            replace_root(heap, key)


@njit(**JIT)
def ordered_bits(distance: Any) -> Any:
    """int64 of the same order as this float32 (keys.ordered)."""
    bits = np.float32(distance).view(np.int32)
    return np.int64(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@njit(**JIT)
def bits_to_float(bits: Any) -> Any:
    """The float32 whose `ordered_bits` these are."""
    narrow = np.int32(bits)
    return np.int32(narrow ^ ((narrow >> np.int32(31)) & np.int32(0x7FFFFFFF))).view(np.float32)
