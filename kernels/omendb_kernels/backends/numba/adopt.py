"""adopt: new candidates among settled neighbours. Lists are long settled and newcomers few, so only pairs with a newcomer are
looked at: some 70 distances a row, where pruning anew takes the products of all pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ...contract import NO_KEY, CodeRows, Int32s, Int64s
from ...parallel import blocks, run
from ._codes import prefetch, query_shift, readable_codes, shifted_dot
from ._rows import JIT, unlocked
from ._sorted import insert_sorted
from .link import edges_back, keys_of

BLOCK = 2048


def adopt(
    points: CodeRows, rows: Int32s, lists: Int32s, sources: Int32s, kept: Int64s, width: int, alpha: tuple[int, int], *,
    threads: int,
) -> Int32s:  # fmt: skip
    """See contract.py."""
    codes, norms, wide = readable_codes(points)
    starts, back = edges_back(rows, sources, kept)
    rows, lists = unlocked(rows), unlocked(np.ascontiguousarray(lists))
    out = np.full(lists.shape, -1, np.int32)

    def part(bounds: tuple[int, int]) -> None:
        here = slice(*bounds)
        own_starts = starts[bounds[0] : bounds[1] + 1]
        _adopt(codes, norms, wide, rows[here], lists[here], own_starts, back, width, *alpha, out[here])

    run(part, blocks(len(rows), BLOCK), threads)
    return out


@njit(**JIT)
def _adopt(
    codes: Any, norms: Any, wide: Any, rows: Any, lists: Any, starts: Any, back: Any, width: Any, numerator: Any,
    denominator: Any, out: Any,
) -> None:  # fmt: skip
    degree = lists.shape[1]
    old, new = np.empty(degree, np.int64), np.empty(width, np.int64)
    kept, is_new = np.empty(degree, np.int64), np.empty(degree, np.bool_)
    for i in range(len(rows)):
        if i + 1 < len(rows):  # the codes of the next row's candidates arrive while this one is computed
            for j in range(degree):
                if lists[i + 1, j] >= 0:
                    prefetch(codes, np.int64(lists[i + 1, j]))
            for j in range(starts[i + 1], starts[i + 2]):
                prefetch(codes, back[j] & 0xFFFFFFFF)
        for j in range(degree):
            old[j] = NO_KEY
        count = keys_of(codes, norms, wide, np.int64(rows[i]), lists[i], old)
        for j in range(width):
            new[j] = NO_KEY
        for j in range(starts[i], starts[i + 1]):
            insert_sorted(new, back[j])
        size, a, b = 0, 0, 0
        for _ in range(width):
            coming = new[b] if b < width else NO_KEY
            key = old[a] if a < count else NO_KEY
            if (key == NO_KEY and coming == NO_KEY) or size == degree:
                break
            fresh = coming < key
            b += np.int64(coming <= key)
            a += np.int64(not fresh)
            key = coming if fresh else key
            if not _struck(codes, norms, wide, key, fresh, kept, is_new, size, numerator, denominator):
                kept[size], is_new[size] = key & 0xFFFFFFFF, fresh
                out[i, size] = np.int32(key & 0xFFFFFFFF)
                size += 1


@njit(**JIT)
def _struck(
    codes: Any, norms: Any, wide: Any, key: Any, fresh: Any, kept: Any, is_new: Any, size: Any, numerator: Any,
    denominator: Any,
) -> Any:  # fmt: skip
    """Whether one of the `size` kept is so near to the candidate of this key that it is not needed."""
    node, reach = key & 0xFFFFFFFF, denominator * (key >> 32)
    code = codes[node]
    norm = np.int32(norms[node] + np.int32(2) * query_shift(code))
    for j in range(size):
        if fresh or is_new[j]:
            other = kept[j]
            dot = shifted_dot(code, codes[other])
            if len(wide):
                dot = np.int32(dot + wide[node] * wide[other])
            if numerator * np.int64(np.int32(norm + norms[other] - np.int32(2) * dot)) <= reach:
                return True
    return False
