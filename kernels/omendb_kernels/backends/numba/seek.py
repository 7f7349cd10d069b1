"""seek: the whole search of a graph in one call: encode, router, beam, exact distances, a few queries at a time.

The same kernels one after another, so the same bits as from the ops one by one; but one query costs 20 us in them and 100 us
around them, and a batch has no part that one thread does alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from ...arrays import Rows
from ...codec import EPS, ip_bound, l2_bound, padded_dim, residual_bound, rotation_blocks
from ...contract import NO_KEY, Float32s, Int64s, SearchPlan
from ...parallel import blocks, run
from ._codes import readable_codes
from ._heap import bits_to_float, ordered_bits, replace_root, sort_heap
from ._rows import JIT, lane_dot, readable, unlocked
from ._scores import NO_SCORE, WIDTH, below, settle
from ._tile import ROWS, new_panels, products, products_of_one, shift_of
from ._tile import pack as pack_rows
from .beam import BLOCK, search_lists
from .encode import encode_rows, rotate
from .rerank import COSINE, rerank_rows

IP = 2
LEAST_PLACES = 500  # of pools, together, that are worth a thread of their own

_residual_bound, _l2_bound, _ip_bound = (njit(**JIT)(bound) for bound in (residual_bound, l2_bound, ip_bound))


def seek(plan: SearchPlan) -> Callable[[Rows, int, int, int], tuple[Float32s, Int64s, int]]:
    """See contract.py."""
    size, passes = rotation_blocks(plan.offset.size) if plan.signs is not None else (0, [[], []])
    turn = (
        np.empty((2, 0), np.int8) if plan.signs is None else unlocked(plan.signs),
        size,
        *(np.array(part, np.int64) for part in passes),
    )
    furthest = float(np.abs(plan.offset).max())
    coding = (unlocked(plan.offset), furthest, plan.scale, plan.lossless, padded_dim(plan.offset.size))
    router = (unlocked(plan.router), *_packed(*readable_codes(plan.entrance)[:2]))
    lists = (*readable_codes(plan.codes)[:2], unlocked(plan.neighbours).view(np.uint32), plan.width)
    twins = (unlocked(plan.twin_heads), unlocked(plan.twin_rows), plan.most_twins)
    lengths = np.empty(0) if plan.lengths is None else unlocked(plan.lengths)
    vectors = (readable(plan.vectors), lengths, plan.metric, unlocked(plan.residuals), plan.max_length)
    prepared = (*turn, *coding, *router, *lists, *twins, *vectors)

    def search(queries: Rows, k: int, beam: int, threads: int) -> tuple[Float32s, Int64s, int]:
        m = len(queries)
        distances, ids = np.empty((m, k), np.float32), np.empty((m, k), np.int64)
        fewest = []

        def part(bounds: tuple[int, int]) -> None:
            here = slice(*bounds)
            fewest.append(_seek(unlocked(queries[here].float32()), *prepared, beam, distances[here], ids[here]))

        least = -(-LEAST_PLACES // beam)
        run(part, blocks(m, max(1, min(BLOCK, max(least, -(-m // threads))))), threads)
        return distances, ids, min(fewest, default=len(plan.vectors))

    return search


@njit(**JIT)
def _seek(
    asked: Any, signs: Any, size: Any, starts0: Any, starts1: Any, offset: Any, furthest: Any, scale: Any,
    lossless: Any, code_dim: Any,
    router: Any, panels: Any, bias: Any, codes: Any, norms: Any, lists: Any, width: Any,
    twin_heads: Any, twin_rows: Any, most_twins: Any, vectors: Any, lengths: Any, metric: Any,
    residuals: Any, max_length: Any, beam: Any, distances: Any, ids: Any,
) -> Any:  # fmt: skip
    m, dim = asked.shape
    queries = asked.astype(np.float64)
    query_codes, query_norms, errors = np.zeros((m, code_dim), np.int8), np.empty(m, np.int32), np.empty(m)
    scales, sizes, whole = np.full(m, scale), np.empty(m), np.zeros(m, np.bool_)
    for q in range(m):
        sizes[q] = np.sqrt(lane_dot(queries[q], queries[q]))
        whole[q] = lossless and _is_code(queries[q], np.float64(offset[0]))
        if metric == IP:
            scales[q] = 1.0 if whole[q] else _own_scale(queries[q], signs, size, starts0, starts1)
    centre = np.zeros(dim, np.float32) if metric == IP else offset
    divisors = sizes if metric == COSINE else sizes[:0]
    encode_rows(asked, divisors, centre, signs, size, starts0, starts1, scales, query_codes, query_norms, errors)
    if metric == IP:
        for q in range(m):
            query_norms[q] = 0
    nothing, entries = np.empty(0, np.int32), np.empty((m, 1), np.uint32)
    _enter(query_codes, router, panels, bias, entries)
    pools = np.full((m, beam), NO_KEY, np.int64)
    search_lists(query_codes, query_norms, nothing, codes, norms, nothing, lists, entries, width, pools)
    keys = np.full((m, ids.shape[1]), NO_KEY, np.int64)
    fewest = len(vectors)
    for q in range(m):
        pool = _filled(pools[q])
        if len(twin_heads):
            pool = _with_twins(pool, twin_heads, twin_rows, max(most_twins, ids.shape[1]))
        fewest = min(fewest, len(pool))
        if whole[q]:
            _keep_scores(pool, 0.5 if metric == IP else 1.0, keys[q])
        else:
            coded_length, unit_error = (1.0, EPS) if metric == COSINE else (sizes[q], 0.0)
            off = _residual_bound(errors[q], coded_length, scales[q], np.float64(dim), furthest, unit_error)
            chosen, lower = _bounded(pool, residuals, metric, scale, scales[q], off, sizes[q], max_length)
            rerank_rows(queries[q : q + 1], vectors, chosen, lower, lengths, metric, keys[q : q + 1])
        sort_heap(keys[q])
        for j in range(keys.shape[1]):
            there = keys[q, j] != NO_KEY
            distances[q, j] = bits_to_float(keys[q, j] >> 32) if there else np.float32(np.inf)
            ids[q, j] = keys[q, j] & 0xFFFFFFFF if there else -1
    return fewest


@njit(**JIT)
def _packed(codes: Any, norms: Any) -> Any:
    """Panels of right rows, and what must be added to -2 times a product: NO_SCORE where there is no row."""
    bias = np.full((len(codes) + WIDTH - 1) // WIDTH * WIDTH, NO_SCORE, np.int32)
    panels = new_panels(len(bias), codes.shape[1])
    pack_rows(codes, np.empty(0, np.int32), 0, len(codes), panels)
    for j in range(len(codes)):
        bias[j] = norms[j] + np.int32(2) * shift_of(codes[j])
    return panels, bias


@njit(**JIT)
def _enter(query_codes: Any, router: Any, panels: Any, bias: Any, entries: Any) -> None:
    """The router's node nearest to each query."""
    width, steps = len(bias), len(bias) // WIDTH
    dots, scores, places = np.empty((ROWS, width), np.int32), np.empty(width, np.int32), np.empty(width, np.int32)
    nothing = np.empty(0, np.int32)
    for start in range(0, len(query_codes), ROWS):
        stop = min(start + ROWS, len(query_codes))
        if stop - start == 1:
            products_of_one(query_codes, start, panels, dots)
        else:
            products(query_codes, nothing, start, stop, panels, len(panels), dots)
        for q in range(start, stop):
            least = settle(dots[q - start], bias, scores, steps, 1, np.int32(NO_SCORE - 1))
            below(scores, steps, least, places)  # ascending: the first is the smallest of equals
            entries[q, 0] = router[places[0]]


@njit(**JIT)
def _is_code(query: Any, offset: Any) -> Any:
    """codec.exactly_coded of one query."""
    inside = True
    for value in query:
        inside &= value == np.rint(value) and offset - 128.0 <= value <= offset + 127.0
    return inside


@njit(**JIT)
def _own_scale(query: Any, signs: Any, size: Any, starts0: Any, starts1: Any) -> Any:
    """codec.query_scales of one query that is not a code."""
    turned = query.copy()
    if size:
        rotate(turned, signs[0], starts0, size)
        rotate(turned, signs[1], starts1, size)
    peak = 0.0
    for value in turned:
        peak = max(peak, abs(value))
    wanted = peak / 127.0
    scale = np.float32(wanted)
    if np.float64(scale) < wanted:
        scale = np.nextafter(scale, np.float32(np.inf))
    return max(np.float64(scale), 2.0**-126)


@njit(**JIT)
def _bounded(
    pool: Any, residuals: Any, metric: Any, scale: Any, own_scale: Any, off: Any, length: Any, max_length: Any
) -> Any:
    """The rows of a pool, int32 (1, c), and lower bounds of their distances (1, c), as `rerank` takes them."""
    chosen, lower = np.empty((1, len(pool)), np.int32), np.empty((1, len(pool)))
    for j in range(len(pool)):
        row = pool[j] & 0xFFFFFFFF
        chosen[0, j] = row
        score, apart = np.float64(pool[j] >> 32), np.float64(residuals[row])
        if metric == IP:
            lower[0, j] = _ip_bound(scale, own_scale, score, off, apart, length, max_length)
        else:
            bound = _l2_bound(scale, score, off, apart)
            lower[0, j] = np.maximum(bound / 2 - EPS, 0.0) if metric == COSINE else bound
    return chosen, lower


@njit(**JIT)
def _filled(pool: Any) -> Any:
    """The keys of a pool without the NO_KEY behind."""
    size = len(pool)
    while size and pool[size - 1] == NO_KEY:
        size -= 1
    return pool[:size]


@njit(**JIT)
def _with_twins(pool: Any, heads: Any, rows: Any, most: Any) -> Any:
    """These keys, then those of further rows of their nodes, at most `most`."""
    size = len(pool)
    firsts = np.empty(size, np.int64)
    more = 0
    for i in range(size):
        firsts[i] = place = _first_at(heads, pool[i] & 0xFFFFFFFF)
        while place < len(heads) and heads[place] == pool[i] & 0xFFFFFFFF and more < most:
            place, more = place + 1, more + 1
    out = np.empty(size + more, np.int64)
    for i in range(size):
        out[i] = pool[i]
    for i in range(size):
        place = firsts[i]
        while size < len(out) and place < len(heads) and heads[place] == pool[i] & 0xFFFFFFFF:
            out[size] = (pool[i] & -4294967296) | np.int64(rows[place])
            place, size = place + 1, size + 1
    return out


@njit(**JIT)
def _first_at(heads: Any, head: Any) -> Any:
    """The first place of the ascending heads that is not below `head`: np.searchsorted, which takes a second to compile."""
    low, high = 0, len(heads)
    while low < high:
        middle = (low + high) >> 1
        if heads[middle] < head:
            low = middle + 1
        else:
            high = middle
    return low


@njit(**JIT)
def _keep_scores(pool: Any, factor: Any, heap: Any) -> None:
    """Scores that are the distances, times a factor, into a full heap."""
    for key in pool:
        distance = np.float32(np.float64(key >> 32) * factor) + np.float32(0.0)
        key = (ordered_bits(distance) << 32) | (key & 0xFFFFFFFF)
        if key < heap[0]:
            replace_root(heap, key)
