"""beam: best-first search of the graph, one query at a time: a sorted pool, a bit a node for what was seen.

About 12 distances a place of the pool. Codes of the neighbours not yet seen are prefetched before the first is scored:
a search waits for memory more than it computes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ...contract import NO_KEY, CodeRows, Int32s, Int64s
from ...parallel import blocks, run
from ._codes import code_dot, prefetch, readable_codes
from ._rows import JIT, unlocked

BLOCK = 16  # queries a task: they share the scratch memory


def beam(
    queries: CodeRows, points: CodeRows, neighbours: Int32s, entries: Int32s, beam: int, width: int, *, threads: int
) -> Int64s:
    """See contract.py."""
    query_codes, query_norms, query_wide = readable_codes(queries)
    codes, norms, wide = readable_codes(points)
    neighbours, entries = unlocked(neighbours), unlocked(entries)
    pool = np.full((len(query_codes), beam), NO_KEY, np.int64)

    def part(bounds: tuple[int, int]) -> None:
        _beam(query_codes, query_norms, query_wide, codes, norms, wide, neighbours, entries, width, *bounds, pool)

    m = len(query_codes)
    run(part, blocks(m, max(1, min(BLOCK, -(-m // threads)))), threads)
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
    expanded = np.empty(capacity, np.uint8)
    fresh = np.empty(max(entries.shape[1], degree * width), np.int64)
    for q in range(first, last):
        pool = pools[q]
        query = query_codes[q]
        size, marks, cursor = 0, 0, 0
        count = 0
        for j in range(entries.shape[1]):
            node = np.int64(entries[q, j])
            if node >= 0:
                fresh[count] = node
                count += 1
        while True:
            # Score the fresh nodes that were not seen before.
            unseen = 0
            for j in range(count):
                node = fresh[j]
                word, bit = node >> 6, np.uint64(1) << np.uint64(node & 63)
                if seen[word] & bit == 0:
                    seen[word] |= bit
                    fresh[unseen] = node
                    unseen += 1
                    prefetch(codes, node)
            if marks + unseen > len(touched):
                larger = np.empty(max(2 * len(touched), marks + unseen), np.int32)
                larger[:marks] = touched[:marks]
                touched = larger
            for j in range(unseen):
                node = fresh[j]
                touched[marks] = node
                marks += 1
                dot = code_dot(query, codes[node])
                if len(query_wide):
                    dot = np.int32(dot + query_wide[q] * wide[node])
                key = (np.int64(np.int32(query_norms[q] + norms[node] - np.int32(2) * dot)) << 32) | node
                if size == capacity and key >= pool[capacity - 1]:
                    continue
                low, high = 0, size
                while low < high:
                    middle = (low + high) >> 1
                    if pool[middle] < key:
                        low = middle + 1
                    else:
                        high = middle
                if size < capacity:
                    size += 1
                for i in range(size - 1, low, -1):
                    pool[i] = pool[i - 1]
                    expanded[i] = expanded[i - 1]
                pool[low] = key
                expanded[low] = 0
                cursor = min(cursor, low)
            # Take the best `width` nodes not yet expanded.
            count, taken = 0, 0
            while cursor < size and taken < width:
                if expanded[cursor] == 0:
                    expanded[cursor] = 1
                    taken += 1
                    node = np.int64(pool[cursor] & 0xFFFFFFFF)
                    for j in range(degree):
                        other = neighbours[node, j]
                        if other >= 0:
                            fresh[count] = other
                            count += 1
                cursor += 1
            if taken == 0:
                break
        for j in range(marks):
            seen[touched[j] >> 6] = np.uint64(0)
