"""nearest: integer scores and the k best, fused; scores never leave the cache.

Many queries: a chunk of code rows is packed once and every query of the block passes over it, tile by tile (_tile.py); what
can still enter a query's heap is found by vector comparisons (_scores.py). m * n * D multiply-adds, n * D bytes read a block.
Few queries: packing would cost more than it saves, so each row is met where it lies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ...contract import NO_KEY, CodeRows, Int64s
from ...keys import pack, unpack
from ...parallel import blocks, run
from ._codes import prefetch, query_shift, readable_codes, shifted_dot
from ._heap import push_places, replace_root
from ._rows import JIT, unlocked
from ._scores import NO_SCORE, WIDTH, below, settle
from ._tile import COLUMNS, ROWS, new_panels, products, shift_of
from ._tile import pack as pack_rows

FEW = 4  # fewer queries are scanned without packing
QUERY_BLOCK = 2048
LEAST_PRODUCTS = 40_000_000  # bytes multiplied that are worth a packing of one's own: queries are split by it, then rows
CHUNK_BYTES = 1 << 17  # of packed codes: they stay in the second cache with a line of scores
AHEAD = 16  # rows that a scan asks for before it needs them
LEAST_PART = 1 << 20  # bytes of codes that are worth a thread of their own
SPARSE = 4  # fewer than one row in so many allowed: these alone are met, by a list


def nearest(queries: CodeRows, points: CodeRows, k: int, mask: NDArray[np.bool_] | None, *, threads: int) -> Int64s:
    """See contract.py."""
    some = np.empty(0, np.int32)
    if mask is not None and np.count_nonzero(mask) * SPARSE < len(mask):
        some, mask = np.flatnonzero(mask).astype(np.int32), None
        if len(some) == 0:
            return np.full((len(queries.codes), k), NO_KEY, np.int64)
    own, others = readable_codes(queries), readable_codes(points)
    m, n, dim = len(queries.codes), len(some) or len(points.codes), points.codes.shape[1]
    allowed = np.zeros(0, np.bool_) if mask is None else unlocked(mask)
    packings = max(1, min(threads, m * n * dim // LEAST_PRODUCTS))
    step = max(1, min(QUERY_BLOCK, -(-m // packings)))
    query_blocks = list(blocks(m, step))
    parts = max(1, min(threads // max(1, len(query_blocks)), n * dim // LEAST_PART))
    heaps = np.full((parts, m, k), NO_KEY, np.int64)
    chunk = max(WIDTH, CHUNK_BYTES // dim // WIDTH * WIDTH)

    def scan(task: tuple[int, int, int]) -> None:
        part, first, last = task
        start, stop = part * n // parts, (part + 1) * n // parts
        if last - first < FEW:
            _scan(*own, *others, allowed, some, first, last, start, stop, heaps[part])
        else:
            _tiles(*own, *others, allowed, some, first, last, start, stop, chunk, heaps[part])

    run(scan, [(part, first, last) for part in range(parts) for first, last in query_blocks], threads)
    merged = heaps.transpose(1, 0, 2).reshape(m, parts * k)
    merged.sort(axis=1)
    keys = merged[:, :k]
    if len(some):  # they were counted among themselves
        scores, places = unpack(keys)
        found = places >= 0
        keys[found] = pack(scores[found], some[places[found]])
    return keys


@njit(**JIT)
def _tiles(
    query_codes: Any, query_norms: Any, query_wide: Any, codes: Any, norms: Any, wide: Any, allowed: Any, some: Any,
    first: Any, last: Any, start: Any, stop: Any, chunk: Any, heaps: Any,
) -> None:  # fmt: skip
    dim = codes.shape[1]
    panels, nobody = new_panels(chunk, dim), np.empty(0, np.int32)
    dots = np.empty((ROWS, chunk), np.int32)
    bias, scores, places = np.empty(chunk, np.int32), np.empty(chunk, np.int32), np.empty(chunk, np.int32)
    for low in range(start, stop, chunk):
        count = min(chunk, stop - low)
        steps = (count + WIDTH - 1) // WIDTH
        bias[:] = NO_SCORE
        pack_rows(codes, some[low : low + count], low, count, panels)
        for j in range(count):
            row = np.int64(some[low + j]) if len(some) else np.int64(low + j)
            if len(allowed) == 0 or allowed[row]:
                bias[j] = norms[row] + np.int32(2) * shift_of(codes[row])
        for q in range(first, last, ROWS):
            products(query_codes, nobody, q, last, panels, steps * WIDTH // COLUMNS, dots)
            for r in range(min(ROWS, last - q)):
                line, heap = dots[r], heaps[q + r]
                if len(query_wide):
                    for j in range(count):
                        row = np.int64(some[low + j]) if len(some) else np.int64(low + j)
                        line[j] += query_wide[q + r] * wide[row]
                base = np.int64(query_norms[q + r])
                limit = np.int32(min((heap[0] >> 32) - base, np.int64(NO_SCORE - 1)))
                # A full heap bounds better than the line's own minima.
                rounds = len(heap) if heap[0] == NO_KEY and len(heap) <= WIDTH else 0
                bound = settle(line, bias, scores, steps, rounds, limit)
                push_places(heap, scores, places, below(scores, steps, bound, places), base, low)


@njit(**JIT)
def _scan(
    query_codes: Any, query_norms: Any, query_wide: Any, codes: Any, norms: Any, wide: Any, allowed: Any, some: Any,
    first: Any, last: Any, start: Any, stop: Any, heaps: Any,
) -> None:  # fmt: skip
    for q in range(first, last):
        query, heap = query_codes[q], heaps[q]
        norm = np.int32(query_norms[q] + np.int32(2) * query_shift(query))
        if len(some):  # the same again by the list: one function for both takes 1.5 times as long
            for j in range(start, stop):
                prefetch(codes, np.int64(some[min(j + AHEAD, stop - 1)]))
                row = np.int64(some[j])
                dot = shifted_dot(query, codes[row])
                if len(query_wide):
                    dot = np.int32(dot + query_wide[q] * wide[row])
                key = (np.int64(np.int32(norm + norms[row] - np.int32(2) * dot)) << 32) | j
                if key < heap[0]:
                    replace_root(heap, key)
            continue
        for i in range(start, stop):
            prefetch(codes, min(i + AHEAD, stop - 1))
            dot = shifted_dot(query, codes[i])
            if len(query_wide):
                dot = np.int32(dot + query_wide[q] * wide[i])
            key = (np.int64(np.int32(norm + norms[i] - np.int32(2) * dot)) << 32) | i
            if key < heap[0] and (len(allowed) == 0 or allowed[i]):
                replace_root(heap, key)
