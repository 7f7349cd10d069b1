"""assign: the leaders of an item are packed once and its members pass over them, tile by tile, as in nearest.py.

Members are read where they lie, by their row numbers; a task takes a run of them, whatever items these are of.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ...contract import NO_KEY, CodeRows, Int32s, Int64s
from ...parallel import blocks, run
from ._codes import prefetch, readable_codes
from ._heap import push_places, sort_heap
from ._rows import JIT, unlocked
from ._scores import NO_SCORE, WIDTH, below, settle
from ._tile import COLUMNS, ROWS, new_panels, pack, products, shift_of
from .nearest import AHEAD, CHUNK_BYTES, QUERY_BLOCK


def assign(
    points: CodeRows, members: Int32s, offsets: Int64s, leaders: Int32s, starts: Int64s, fanout: int, *, threads: int
) -> Int32s:
    """See contract.py."""
    codes = readable_codes(points)
    members, offsets = unlocked(members), unlocked(offsets)
    leaders, starts = unlocked(leaders), unlocked(starts)
    t, most = len(members), int(np.diff(starts).max(initial=0))
    out = np.full((t, fanout), -1, np.int32)
    chunk = min(max(WIDTH, CHUNK_BYTES // points.codes.shape[1] // WIDTH * WIDTH), -(-most // WIDTH) * WIDTH)

    def find(rows: tuple[int, int]) -> None:
        item = int(np.searchsorted(offsets, rows[0], side="right")) - 1
        _assign(*codes, members, offsets, leaders, starts, item, rows[0], rows[1], chunk, out)

    run(find, blocks(t if chunk and fanout else 0, max(1, min(QUERY_BLOCK, -(-t // threads)))), threads)
    return out


@njit(**JIT)
def _assign(
    codes: Any, norms: Any, wide: Any, members: Any, offsets: Any, leaders: Any, starts: Any,
    item: Any, low: Any, high: Any, chunk: Any, out: Any,
) -> None:  # fmt: skip
    """out[low:high]; member `low` is of item `item`. Scores lack the member's norm: its order does not need it."""
    panels, heaps = new_panels(chunk, codes.shape[1]), np.full((high - low, out.shape[1]), NO_KEY)
    dots = np.empty((ROWS, chunk), np.int32)
    bias, scores, places = np.empty(chunk, np.int32), np.empty(chunk, np.int32), np.empty(chunk, np.int32)
    first = low
    while first < high:
        last = min(high, offsets[item + 1])
        for start in range(starts[item], starts[item + 1], chunk):
            ids = leaders[start : min(start + chunk, starts[item + 1])]
            steps = (len(ids) + WIDTH - 1) // WIDTH
            bias[:] = NO_SCORE
            pack(codes, ids, 0, len(ids), panels)
            for j in range(len(ids)):
                bias[j] = norms[ids[j]] + np.int32(2) * shift_of(codes[ids[j]])
            for m in range(first, last, ROWS):
                for r in range(ROWS):
                    prefetch(codes, np.int64(members[min(m + AHEAD + r, high - 1)]))
                products(codes, members, m, last, panels, steps * WIDTH // COLUMNS, dots)
                for r in range(min(ROWS, last - m)):
                    line, heap = dots[r], heaps[m + r - low]
                    if len(wide):
                        for j in range(len(ids)):
                            line[j] += wide[members[m + r]] * wide[ids[j]]
                    limit = np.int32(min(heap[0] >> 32, np.int64(NO_SCORE - 1)))
                    # A full heap bounds better than the line's own minima.
                    rounds = len(heap) if heap[0] == NO_KEY and len(heap) <= WIDTH else 0
                    bound = settle(line, bias, scores, steps, rounds, limit)
                    push_places(heap, scores, places, below(scores, steps, bound, places), np.int64(0), start - starts[item])
        first, item = last, item + 1
    for m in range(low, high):
        heap = heaps[m - low]
        sort_heap(heap)
        for place in range(len(heap)):
            out[m, place] = np.int32(heap[place])
