"""beam: best-first search of the graph: a sorted pool, a bit a node for what was seen.

A search waits for memory more than it computes, and each step needs the one before. So a thread keeps IN_FLIGHT searches
going at once, in rounds of two halves: first every search reads the lists that it asked for and asks for the codes of all
neighbours not yet seen, then every search scores them and asks for its next lists. What one has asked for arrives while the
others compute. Inside, a key is (distance << 32) | (node << 1) | expanded, so that one array is the whole state. About 12 to
20 distances a place of the pool.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ...contract import NO_KEY, CodeRows, Int32s, Int64s
from ...parallel import blocks, run
from ._codes import prefetch, query_shift, readable_codes, shifted_dot
from ._rows import JIT, unlocked
from ._scores import NO_SCORE, WIDTH, below
from ._sorted import place_in

IN_FLIGHT = 4
BLOCK = 32  # queries a task: they share the scratch memory
TOUCHED = 1024  # nodes a search may see before its notes are made larger
KEY_LANES = 8  # a pool is made of whole vectors


def beam(
    queries: CodeRows, points: CodeRows, neighbours: Int32s, entries: Int32s, beam: int, width: int, *, threads: int
) -> Int64s:
    """See contract.py."""
    own, others = readable_codes(queries), readable_codes(points)
    lists, starts = (unlocked(ids).view(np.uint32) for ids in (neighbours, entries))  # no sign: -1 is beyond all nodes
    m = len(queries.codes)
    pools = np.full((m, beam), NO_KEY, np.int64)
    size = max(1, min(BLOCK, -(-m // threads)))

    def part(bounds: tuple[int, int]) -> None:
        here = slice(*bounds)
        search_lists(*(column[here] for column in own), *others, lists, starts[here], width, pools[here])

    run(part, blocks(m, size), threads)
    return pools


@njit(**JIT)
def search_lists(
    query_codes: Any, query_norms: Any, query_wide: Any, codes: Any, norms: Any, wide: Any, lists: Any, entries: Any,
    width: Any, pools: Any,
) -> None:  # fmt: skip
    """`beam` into pools full of NO_KEY; lists and entries as uint32."""
    last = len(query_codes)
    flights = min(IN_FLIGHT, last)
    capacity = pools.shape[1]
    most = (max(entries.shape[1], lists.shape[1] * width) + WIDTH - 1) // WIDTH * WIDTH
    seen = np.zeros((flights, len(lists) // 64 + 1), np.uint64)
    touched = np.empty((flights, TOUCHED), np.uint32)
    keys = np.empty((flights, (capacity + KEY_LANES - 1) // KEY_LANES * KEY_LANES), np.int64)
    fresh, chosen = np.empty((flights, most), np.uint32), np.empty((flights, width), np.uint32)
    asked, marks = np.zeros(flights, np.int64), np.zeros(flights, np.int64)
    cursors, taken = np.zeros(flights, np.int64), np.zeros(flights, np.int64)
    query_of, shifts = np.full(flights, -1, np.int64), np.empty(flights, np.int32)
    scores, places = np.empty(most, np.int32), np.empty(most, np.int32)
    waiting, active = 0, 0
    while waiting < last or active:
        for s in range(flights):
            count = 0
            if query_of[s] >= 0:
                for i in range(taken[s]):
                    count = _unseen(lists[np.uint64(chosen[s, i])], seen[s], len(lists), fresh[s], count)
            elif waiting < last:
                q = query_of[s] = waiting
                waiting, active = waiting + 1, active + 1
                shifts[s] = query_norms[q] + np.int32(2) * query_shift(query_codes[q])
                for j in range(keys.shape[1]):
                    keys[s, j] = NO_KEY
                marks[s], cursors[s] = 0, 0
                seen[s, -1] |= np.uint64(1) << np.uint64(len(lists) & 63)
                count = _unseen(entries[q], seen[s], len(lists), fresh[s], count)
            asked[s] = count
            for j in range(count):
                prefetch(codes, np.int64(fresh[s, j]))
        for s in range(flights):
            q, count = query_of[s], asked[s]
            if q < 0:
                continue
            while marks[s] + count > touched.shape[1]:
                touched = _wider(touched)
            for j in range(count):
                node = np.uint64(fresh[s, j])
                touched[s, marks[s] + j] = np.uint32(node)
                dot = shifted_dot(query_codes[q], codes[node])
                if len(query_wide):
                    dot = np.int32(dot + query_wide[q] * wide[node])
                scores[j] = shifts[s] + norms[node] - np.int32(2) * dot
            marks[s] += count
            cursors[s] = min(cursors[s], _into(keys[s], capacity, fresh[s], scores, count, places))
            cursors[s], taken[s] = _choose(keys[s], capacity, cursors[s], width, chosen[s], lists)
            if taken[s] == 0:
                for j in range(marks[s]):
                    seen[s, touched[s, j] >> np.uint32(6)] = np.uint64(0)
                _give(keys[s], pools[q])
                query_of[s], active = -1, active - 1


@njit(**JIT)
def _unseen(row: Any, seen: Any, n: Any, fresh: Any, count: Any) -> Any:
    """The nodes of a list that were not seen before go to fresh[count:] and are seen; gives the new count.

    -1, as a number without sign, counts as node n, which is seen from the beginning.
    """
    at = np.uint64(count)
    for j in range(np.uint64(len(row))):
        node = min(np.uint64(row[j]), np.uint64(n))
        bit = np.uint64(1) << (node & np.uint64(63))
        word = seen[node >> np.uint64(6)]
        seen[node >> np.uint64(6)] = word | bit
        fresh[at] = np.uint32(node)
        at += np.uint64(word & bit == 0)
    return np.int64(at)


@njit(**JIT)
def _into(keys: Any, capacity: Any, fresh: Any, scores: Any, count: Any, places: Any) -> Any:
    """The `count` first scores into the pool, as far as they belong there; gives the first place that changed."""
    steps = (count + WIDTH - 1) // WIDTH
    for j in range(count, steps * WIDTH):
        scores[j] = NO_SCORE
    changed = capacity
    # Most are refused: sixteen at a time, then those that are left one by one.
    bound = np.int32(min(keys[capacity - 1] >> 32, np.int64(NO_SCORE - 1)))
    for i in range(below(scores, steps, bound, places)):
        j = np.uint64(places[i])
        key = (np.int64(scores[j]) << 32) | (np.int64(fresh[j]) << 1)
        if key < keys[capacity - 1]:
            changed = min(changed, place_in(keys, key))
    return changed


@njit(**JIT)
def _choose(keys: Any, capacity: Any, cursor: Any, width: Any, chosen: Any, lists: Any) -> Any:
    """The `width` nearest nodes not yet expanded are marked and their lists asked for; gives the new cursor and their number.

    All before the cursor is expanded. The lists of as many nodes behind are asked for too: they are probably next.
    """
    taken = 0
    while cursor < capacity and keys[cursor] != NO_KEY and taken < width:
        key = keys[cursor]
        if key & 1 == 0:
            keys[cursor] = key | 1
            chosen[taken] = np.uint32((key & 0xFFFFFFFF) >> 1)
            prefetch(lists, np.int64(chosen[taken]))
            taken += 1
        cursor += 1
    for place in range(cursor, min(cursor + width, capacity)):
        if keys[place] != NO_KEY:
            prefetch(lists, (keys[place] & 0xFFFFFFFF) >> 1)
    return cursor, taken


@njit(**JIT)
def _give(keys: Any, pool: Any) -> None:
    for j in range(len(pool)):
        key = keys[j]
        if key == NO_KEY:
            break
        pool[j] = (key & -4294967296) | ((key & 0xFFFFFFFF) >> 1)


@njit(**JIT)
def _wider(touched: Any) -> Any:
    wider = np.empty((touched.shape[0], 2 * touched.shape[1]), np.uint32)
    for s in range(touched.shape[0]):
        for j in range(touched.shape[1]):
            wider[s, j] = touched[s, j]
    return wider
