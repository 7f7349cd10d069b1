"""rerank: all candidates of a block of queries at once, then one sort by (query, distance, id)."""

from __future__ import annotations

import numpy as np

from ...arrays import Rows
from ...contract import NO_KEY, Float32s, Float64s, Int32s, Int64s
from ...keys import distances_of, ordered, pack
from ...parallel import blocks, run
from ._lanes import final_distances

BLOCK_VALUES = 1 << 20


def rerank(
    queries: Rows,
    points: Rows,
    candidates: Int32s,
    k: int,
    metric: int,
    *,
    lengths: Float64s | None,
    lower: Float64s | None,  # a hint that whole-array arithmetic cannot use
    threads: int,
) -> tuple[Float32s, Int64s]:
    """See contract.py."""
    m, width = candidates.shape
    values = queries.float32().astype(np.float64)
    keys = np.full((m, max(width, k)), NO_KEY, np.int64)
    pairs_query, pairs_place = np.nonzero(candidates >= 0)

    def part(bounds: tuple[int, int]) -> None:
        query, place = pairs_query[bounds[0] : bounds[1]], pairs_place[bounds[0] : bounds[1]]
        rows = candidates[query, place]
        known = None if lengths is None else lengths[rows]
        found = final_distances(values[query], points[rows].float32().astype(np.float64), metric, known)
        keys[query, place] = pack(ordered(found), rows)

    run(part, blocks(len(pairs_query), max(1, BLOCK_VALUES // points.dim)), threads)
    keys.sort(axis=1)
    return distances_of(keys[:, :k])
