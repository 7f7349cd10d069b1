"""nearest: integer scores and the k best, fused; scores never leave the cache.

A tile of code rows (TILE * D bytes) stays in L1/L2 while a block of queries passes over it. LLVM turns the inner product
into vector multiply-adds. m * n * D multiply-adds, n * D bytes read per block of queries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ...contract import NO_KEY, Int8s, Int32s, Int64s
from ...keys import pack, unpack
from ...parallel import blocks, run
from ._heap import replace_root
from ._rows import JIT, unlocked

TILE = 256
QUERY_BLOCK = 64
SPARSE = 4  # gather the allowed rows first when fewer than one in this many is allowed


def nearest(
    query_codes: Int8s,
    query_norms: Int32s,
    codes: Int8s,
    norms: Int32s,
    k: int,
    mask: NDArray[np.bool_] | None,
    *,
    threads: int,
) -> Int64s:
    """See contract.py."""
    if mask is not None and np.count_nonzero(mask) * SPARSE < len(codes):
        ids = np.flatnonzero(mask)
        keys = nearest(query_codes, query_norms, codes[ids], norms[ids], k, None, threads=threads)
        scores, places = unpack(keys)
        found = places >= 0
        keys[found] = pack(scores[found], ids[places[found]])
        return keys
    m, n = len(query_codes), len(codes)
    allowed = np.zeros(0, np.bool_) if mask is None else unlocked(mask)
    query_step = max(1, min(QUERY_BLOCK, -(-m // threads)))
    query_blocks = list(blocks(m, query_step))
    row_parts = max(1, min(threads // max(1, len(query_blocks)), n // TILE))
    heaps = np.full((row_parts, m, k), NO_KEY, np.int64)
    tasks = [
        (part, first, last) for part in range(row_parts) for first, last in query_blocks
    ]  # fmt: skip
    query_codes, codes, norms = unlocked(query_codes), unlocked(codes), unlocked(norms)

    def scan(task: tuple[int, int, int]) -> None:
        part, first, last = task
        start, stop = part * n // row_parts, (part + 1) * n // row_parts
        _scan(query_codes, query_norms, codes, norms, allowed, first, last, start, stop, heaps[part])

    run(scan, tasks, threads)
    merged = heaps.transpose(1, 0, 2).reshape(m, row_parts * k)
    merged.sort(axis=1)
    return merged[:, :k]


@njit(**JIT)
def _scan(
    query_codes: Any, query_norms: Any, codes: Any, norms: Any, allowed: Any, first: Any, last: Any, start: Any, stop: Any,
    heaps: Any,
) -> None:  # fmt: skip
    dim = codes.shape[1]
    scores = np.empty(TILE, np.int32)
    for low in range(start, stop, TILE):
        high = min(low + TILE, stop)
        for q in range(first, last):
            for i in range(low, high):
                dot = np.int32(0)
                for j in range(dim):
                    dot = np.int32(dot + np.int32(query_codes[q, j]) * np.int32(codes[i, j]))
                scores[i - low] = np.int32(query_norms[q] + norms[i] - 2 * dot)
            heap = heaps[q]
            limit = np.int32(heap[0] >> 32)
            for i in range(low, high):
                # Ids ascend, so an equal score loses against every row already kept.
                if scores[i - low] < limit and (len(allowed) == 0 or allowed[i]):
                    replace_root(heap, (np.int64(scores[i - low]) << 32) | i)
                    limit = np.int32(heap[0] >> 32)
