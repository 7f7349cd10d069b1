"""rerank: final distances of a few candidates of each query, best k kept. c * d float64 products a query at most."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ...arrays import Rows
from ...contract import NO_KEY, Float32s, Float64s, Int32s, Int64s
from ...keys import distances_of
from ...parallel import blocks, run
from ._codes import prefetch
from ._heap import bits_to_float, ordered_bits, replace_root
from ._rows import JIT, distance, lane_dot, readable, unlocked

COSINE = 1
LEAST_VALUES = 500_000  # of candidates that are worth a thread of their own
AHEAD = 2  # candidates whose vectors are asked for before they are needed


def rerank(
    queries: Rows,
    points: Rows,
    candidates: Int32s,
    k: int,
    metric: int,
    *,
    lengths: Float64s | None,
    lower: Float64s | None,
    threads: int,
) -> tuple[Float32s, Int64s]:
    """See contract.py."""
    m = len(queries)
    data = readable(points)
    values = queries.float32().astype(np.float64)
    bounds = np.empty((m, 0)) if lower is None else unlocked(np.ascontiguousarray(lower))
    sizes = np.empty(0) if lengths is None else unlocked(lengths)
    chosen = unlocked(np.ascontiguousarray(candidates))
    keys = np.full((m, k), NO_KEY, np.int64)

    def part(block: tuple[int, int]) -> None:
        here = slice(*block)
        rerank_rows(values[here], data, chosen[here], bounds[here], sizes, metric, keys[here])

    least = LEAST_VALUES // max(1, chosen.shape[1] * values.shape[1])
    run(part, blocks(m, max(1, least, -(-m // (4 * threads)))), threads)
    keys.sort(axis=1)
    return distances_of(keys)


@njit(**JIT)
def rerank_rows(
    queries: Any, data: Any, candidates: Any, lower: Any, lengths: Any, metric: Any, keys: Any
) -> None:  # fmt: skip
    """`rerank` of float64 queries into keys, heaps full of NO_KEY. lower, lengths: or none of them."""
    for q in range(len(queries)):
        query = queries[q]
        query_length = np.sqrt(lane_dot(query, query)) if metric == COSINE else 1.0
        heap = keys[q]
        limit = np.inf
        for c in range(candidates.shape[1]):
            if c + AHEAD < candidates.shape[1]:
                coming = np.int64(candidates[q, c + AHEAD])
                if coming >= 0 and (lower.shape[1] == 0 or lower[q, c + AHEAD] <= limit):
                    prefetch(data, coming)
            row = np.int64(candidates[q, c])
            # A value just above the k-th distance may round down to it: only beyond the next float32 is it out.
            if row < 0 or (lower.shape[1] > 0 and lower[q, c] > limit):
                continue
            point = data[row]
            point_length = 1.0
            if metric == COSINE:
                point_length = lengths[row] if len(lengths) else np.sqrt(lane_dot(point, point))
            key = (ordered_bits(distance(query, point, metric, query_length, point_length)) << 32) | row
            if key < heap[0]:
                replace_root(heap, key)
                if heap[0] != NO_KEY:
                    limit = np.float64(bits_to_float((heap[0] >> 32) + 1))
