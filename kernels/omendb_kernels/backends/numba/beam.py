"""beam: best-first search of the graph, one query at a time: a sorted pool, a bit a node for what was seen.

A search waits for memory more than it computes: the codes of all neighbours not yet seen are asked for before the first is
scored, and so are the lists of the nodes that will probably be expanded next. Inside, a key is (distance << 32) | (node << 1)
| expanded, so that one array is the whole state. About 12 to 20 distances a place of the pool.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ...contract import NO_KEY, CodeRows, Int32s, Int64s
from ...parallel import blocks, run
from ._codes import prefetch, query_shift, readable_codes, shifted_dot
from ._rows import JIT, unlocked

BLOCK = 16  # queries a task: they share the scratch memory
SCANNED = 64  # places of the pool that are counted through rather than halved: no branch to mispredict


def beam(
    queries: CodeRows, points: CodeRows, neighbours: Int32s, entries: Int32s, beam: int, width: int, *, threads: int
) -> Int64s:
    """See contract.py."""
    own, others = readable_codes(queries), readable_codes(points)
    neighbours, entries = unlocked(neighbours), unlocked(entries)
    m = len(queries.codes)
    pool = np.full((m, beam), NO_KEY, np.int64)
    size = max(1, min(BLOCK, -(-m // threads)))
    run(lambda part: _beam(*own, *others, neighbours, entries, width, *part, pool), blocks(m, size), threads)
    return pool


@njit(**JIT)
def _beam(
    query_codes: Any, query_norms: Any, query_wide: Any, codes: Any, norms: Any, wide: Any, neighbours: Any, entries: Any,
    width: Any, first: Any, last: Any, pools: Any,
) -> None:  # fmt: skip
    n, degree = neighbours.shape
    capacity = pools.shape[1]
    seen = np.zeros((n + 63) // 64, np.uint64)
    touched = np.empty(1024, np.int32)
    pool = np.empty(capacity, np.int64)
    fresh = np.empty(max(entries.shape[1], degree * width) + 1, np.int64)
    for q in range(first, last):
        query = query_codes[q]
        norm = np.int32(query_norms[q] + np.int32(2) * query_shift(query))
        size, marks, cursor, count = 0, 0, 0, 0
        for j in range(entries.shape[1]):
            fresh[count] = entries[q, j]
            count += np.int64(entries[q, j] >= 0)
        while True:
            unseen = _unseen(fresh, count, seen)
            for j in range(unseen):
                prefetch(codes, fresh[j])
            for place in range(cursor, min(cursor + width, size)):
                prefetch(neighbours, (pool[place] & 0xFFFFFFFF) >> 1)
            if marks + unseen > len(touched):
                larger = np.empty(2 * (marks + unseen), np.int32)
                larger[:marks] = touched[:marks]
                touched = larger
            for j in range(unseen):
                node = fresh[j]
                touched[marks] = node
                marks += 1
                dot = shifted_dot(query, codes[node])
                if len(query_wide):
                    dot = np.int32(dot + query_wide[q] * wide[node])
                key = (np.int64(np.int32(norm + norms[node] - np.int32(2) * dot)) << 32) | (node << 1)
                if size < capacity or key < pool[capacity - 1]:
                    place = _insert(pool, size, key)
                    size = min(size + 1, capacity)
                    cursor = min(cursor, place)
            count, taken = 0, 0
            while cursor < size and taken < width:
                key = pool[cursor]
                if key & 1 == 0:
                    pool[cursor] = key | 1
                    taken += 1
                    node = (key & 0xFFFFFFFF) >> 1
                    for j in range(degree):
                        fresh[count] = neighbours[node, j]
                        count += np.int64(neighbours[node, j] >= 0)
                cursor += 1
            if taken == 0:
                break
        for j in range(marks):
            seen[touched[j] >> 6] = np.uint64(0)
        for j in range(size):
            pools[q, j] = (pool[j] & -4294967296) | ((pool[j] & 0xFFFFFFFF) >> 1)


@njit(**JIT)
def _unseen(fresh: Any, count: Any, seen: Any) -> Any:
    """Mark the `count` first nodes as seen; those that were not before come to the front, and their number back."""
    unseen = 0
    for j in range(count):
        node = fresh[j]
        bit = np.uint64(1) << np.uint64(node & 63)
        word = seen[node >> 6]
        seen[node >> 6] = word | bit
        fresh[unseen] = node
        unseen += np.int64(word & bit == 0)
    return unseen


@njit(**JIT)
def _insert(pool: Any, size: Any, key: Any) -> Any:
    """Put `key` into the ascending pool, the largest leaving when it is full; gives its place."""
    low, left = 0, size
    while left > SCANNED:
        half = left >> 1
        if pool[low + half] < key:
            low += half
        left -= half
    smaller = 0
    for i in range(left):
        smaller += np.int64(pool[low + i] < key)
    low += smaller
    for i in range(min(size, len(pool) - 1), low, -1):
        pool[i] = pool[i - 1]
    pool[low] = key
    return low
