"""pick: each leaf's distances by tiles of integer products, the k nearest of each row, both directions into the reservoir.

ROWS lines of a leaf's distance matrix at a time stay in the first cache while their smallest are found (_scores.py).
s^2 D multiply-adds for a leaf of s rows; 2 k insertions a membership.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ...arrays import aligned_empty
from ...contract import NO_KEY, CodeRows, Int32s, Int64s
from ...parallel import blocks, run
from ._codes import readable_codes
from ._heap import replace_root
from ._rows import JIT, unlocked
from ._scores import NO_SCORE, WIDTH, below, settle
from ._sorted import insert_sorted
from ._tile import COLUMNS, ROWS, new_panels, pack, products, shift_of

CHUNK = 1 << 18  # memberships whose edges are held before they are merged
LEAVES = 16  # leaves a task
BOTH = np.int64(1 << 31)  # in a key: its reverse is proposed by the other end as well (rows need 31 bits)
MERGE_ROWS = 1 << 14  # rows of the reservoir that one merging task owns, at least


def pick(points: CodeRows, members: Int32s, offsets: Int64s, k: int, width: int, *, threads: int) -> Int64s:
    """See contract.py."""
    codes, norms, wide = readable_codes(points)
    n = len(codes)
    members, offsets = unlocked(members), unlocked(offsets)
    reservoir = aligned_empty((n, width), np.int64)
    reservoir[:] = NO_KEY
    leaf = 0
    while leaf < len(offsets) - 1:
        begin = int(offsets[leaf])
        last = max(leaf + 1, int(np.searchsorted(offsets, begin + CHUNK, side="right")) - 1)
        end = int(offsets[last])
        near = np.full((end - begin, k), NO_KEY, np.int64)

        def find(part: tuple[int, int], leaf: int = leaf, begin: int = begin, near: Int64s = near) -> None:
            _leaves(codes, norms, wide, members, offsets, leaf + part[0], leaf + part[1], begin, near)

        def merge(rows: tuple[int, int], begin: int = begin, end: int = end, near: Int64s = near) -> None:
            _merge(members[begin:end], near, rows[0], rows[1], reservoir)

        run(find, blocks(last - leaf, LEAVES), threads)
        run(merge, blocks(n, max(MERGE_ROWS, -(-n // threads))), threads)
        leaf = last
    return reservoir


@njit(**JIT)
def _leaves(
    codes: Any, norms: Any, wide: Any, members: Any, offsets: Any, first: Any, last: Any, begin: Any, near: Any
) -> None:
    """near[position - begin] = the k smallest keys of each membership in leaves first..last, as a heap."""
    dim = codes.shape[1]
    largest = 1
    for leaf in range(first, last):
        largest = max(largest, offsets[leaf + 1] - offsets[leaf])
    panels, place_of = new_panels(largest + WIDTH, dim), np.empty(len(codes), np.int32)
    padded = (largest + WIDTH - 1) // WIDTH * WIDTH
    dots = np.empty((ROWS, padded), np.int32)
    scores, bias, places = np.empty(padded, np.int32), np.empty(padded, np.int32), np.empty(padded, np.int32)
    for leaf in range(first, last):
        ids = members[offsets[leaf] : offsets[leaf + 1]]
        size = len(ids)
        bias[:] = NO_SCORE
        pack(codes, ids, 0, size, panels)
        for j in range(size):
            bias[j] = norms[ids[j]] + np.int32(2) * shift_of(codes[ids[j]])
        steps = (size + WIDTH - 1) // WIDTH
        for start in range(0, size, ROWS):
            products(codes, ids, start, size, panels, steps * WIDTH // COLUMNS, dots)
            for own in range(start, min(start + ROWS, size)):
                line = dots[own - start]
                if len(wide):
                    for j in range(size):
                        line[j] += wide[ids[own]] * wide[ids[j]]
                heap = near[offsets[leaf] - begin + own]
                # One more than k: the row itself, at distance 0, is among them.
                bound = settle(line, bias, scores, steps, len(heap) + 1, np.int32(NO_SCORE - 1))
                base = np.int64(norms[ids[own]])
                for i in range(below(scores, steps, bound, places)):
                    j = places[i]
                    key = ((base + np.int64(scores[j])) << 32) | np.int64(ids[j])
                    if j != own and key < heap[0]:
                        replace_root(heap, key)
        _mark_mutual(ids, place_of, near[offsets[leaf] - begin : offsets[leaf + 1] - begin])


@njit(**JIT)
def _mark_mutual(ids: Any, place_of: Any, near: Any) -> None:
    """Set BOTH in the keys of edges that the other end proposes too: their reverse need not be merged."""
    for i in range(len(ids)):
        place_of[ids[i]] = i
    for i in range(len(ids)):
        for slot in range(near.shape[1]):
            key = near[i, slot]
            if key != NO_KEY:
                back = (key & -4294967296) | np.int64(ids[i])
                other = near[place_of[key & 0x7FFFFFFF]]
                for held in other:
                    if held & ~BOTH == back:
                        near[i, slot] = key | BOTH
                        break


@njit(**JIT)
def _merge(members: Any, near: Any, low: Any, high: Any, reservoir: Any) -> None:
    """Edges (row, key) of `near` and their reverses into the reservoirs of rows low..high."""
    for position in range(len(members)):
        row = members[position]
        mine = low <= row < high
        for place in range(near.shape[1]):
            key = near[position, place]
            if key == NO_KEY:
                continue
            other = np.int64(key & 0x7FFFFFFF)
            edge = (key & -4294967296) | other
            if mine:
                insert_sorted(reservoir[row], edge)
            if key & BOTH == 0 and low <= other < high:
                insert_sorted(reservoir[other], (key & -4294967296) | np.int64(row))
