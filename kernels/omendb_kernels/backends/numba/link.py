"""link: reverse edges beside a row's own, the nearest of them; score: keys of given pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ...contract import NO_KEY, CodeRows, Int32s, Int64s
from ...parallel import blocks, run
from ._codes import prefetch, query_shift, readable_codes, shifted_dot
from ._rows import JIT, unlocked
from ._sorted import append_sorted, insert_sorted

BLOCK = 4096


def link(targets: Int32s, own: Int64s, sources: Int32s, kept: Int64s, width: int, *, threads: int) -> Int64s:
    """See contract.py."""
    own, sources, kept = unlocked(own), unlocked(sources), unlocked(kept)
    out = np.full((len(targets), width), NO_KEY, np.int64)

    def part(bounds: tuple[int, int]) -> None:
        here = slice(*bounds)
        starts, back = edges_back(targets[here], sources, kept)
        _nearest(own[here], starts, back, out[here])

    # A task walks over all edges, so there are no more tasks than threads.
    run(part, blocks(len(targets), max(1, -(-len(targets) // threads))), threads)
    return out


def edges_back(targets: Int32s, sources: Int32s, kept: Int64s) -> tuple[Int64s, Int64s]:
    """The keys (D, source) of the edges to each target, one target after another, and where each begins, (t + 1,)."""
    first = int(targets[0]) if len(targets) else 0
    place_of = np.full(int(targets[-1]) + 1 - first if len(targets) else 0, -1, np.int32)
    place_of[targets - first] = np.arange(len(targets), dtype=np.int32)
    starts = np.zeros(len(targets) + 1, np.int64)
    _count(place_of, first, kept, starts)
    np.cumsum(starts, out=starts)
    back = np.empty(int(starts[-1]), np.int64)
    _fill(place_of, first, sources, kept, starts[:-1].copy(), back)
    return starts, back


@njit(**JIT)
def _count(place_of: Any, first: Any, kept: Any, starts: Any) -> None:
    for i in range(len(kept)):
        for j in range(kept.shape[1]):
            key = kept[i, j]
            if key == NO_KEY:
                break
            at = np.uint64((key & 0xFFFFFFFF) - first)  # no sign: a row before the first is beyond the last
            if at < np.uint64(len(place_of)) and place_of[at] >= 0:
                starts[place_of[at] + 1] += 1


@njit(**JIT)
def _fill(place_of: Any, first: Any, sources: Any, kept: Any, cursor: Any, back: Any) -> None:
    for i in range(len(kept)):
        for j in range(kept.shape[1]):
            key = kept[i, j]
            if key == NO_KEY:
                break
            at = np.uint64((key & 0xFFFFFFFF) - first)
            if at < np.uint64(len(place_of)) and place_of[at] >= 0:
                place = place_of[at]
                back[cursor[place]] = (key & -4294967296) | np.int64(sources[i])
                cursor[place] += 1


@njit(**JIT)
def _nearest(own: Any, starts: Any, back: Any, out: Any) -> None:
    for i in range(len(own)):
        ascending = True
        for j in range(1, own.shape[1]):
            ascending &= own[i, j - 1] < own[i, j] or own[i, j] == NO_KEY
        if ascending:
            for j in range(min(own.shape[1], out.shape[1])):
                out[i, j] = own[i, j]
        else:
            for key in own[i]:
                insert_sorted(out[i], key)
        for j in range(starts[i], starts[i + 1]):
            insert_sorted(out[i], back[j])


def score(points: CodeRows, rows: Int32s, ids: Int32s, width: int, *, threads: int) -> Int64s:
    """See contract.py."""
    codes, norms, wide = readable_codes(points)
    rows, ids = unlocked(rows), unlocked(ids)
    out = np.full((len(rows), width), NO_KEY, np.int64)

    def part(bounds: tuple[int, int]) -> None:
        here = slice(*bounds)
        _score(codes, norms, wide, rows[here], ids[here], out[here])

    run(part, blocks(len(rows), BLOCK), threads)
    return out


@njit(**JIT)
def _score(codes: Any, norms: Any, wide: Any, rows: Any, ids: Any, out: Any) -> None:
    for i in range(len(rows)):
        row = np.int64(rows[i])
        if i + 1 < len(rows):  # the codes of the next line arrive while this one is computed
            for j in range(ids.shape[1]):
                if ids[i + 1, j] >= 0:
                    prefetch(codes, np.int64(ids[i + 1, j]))
        keys_of(codes, norms, wide, row, ids[i], out[i])


@njit(**JIT)
def keys_of(codes: Any, norms: Any, wide: Any, row: Any, ids: Any, keys: Any) -> Any:
    """The keys of a row's neighbours into `keys`, full of NO_KEY; gives their number. They mostly come in order."""
    code, count = codes[row], 0
    norm = np.int32(norms[row] + np.int32(2) * query_shift(code))
    for j in range(len(ids)):
        other = np.int64(ids[j])
        if other >= 0 and other != row:
            dot = shifted_dot(code, codes[other])
            if len(wide):
                dot = np.int32(dot + wide[row] * wide[other])
            key = (np.int64(np.int32(norm + norms[other] - np.int32(2) * dot)) << 32) | other
            count = append_sorted(keys, count, key)
    return count
