"""rerank: final distances of candidates as keys, in the contract's float64; select.cu keeps the k smallest of each query.

    pairs (query, candidate), ROWS a program       8 values of each row at a time
      q0 c17   -->  | v0 .. v7 | v8 .. v15 | ...   acc (ROWS, 8) float64, lane sum (_rows.py) --> float32 --> key
      q0 c4    -->  | rows at random: a sector of 32 bytes is the least that is read, and what is read is used
      q1 c9    -->  |

A program has pairs of whatever queries, so that neither few candidates nor few queries leave lanes idle. The query's values are
read again for each pair, from the first cache. Where lower bounds are known, the best candidates of the search before come
first, in a launch of their own; the k-th distance among them then rules out most others, whose rows are not read.

Bytes and operations of a row: its own, 12 of candidate and bound, 8 of key; a value is 3 float64 operations and 2 conversions.
H100, 768 values of float32: 3 KiB at random, 1.6 ns at 59 % of the peak; conversions, 16 a cycle and multiprocessor, 0.4 ns:
memory. rerank.cu reads the query once for two rows and selects in the same kernel; here keys go through memory, 16 bytes each.
Peer: FlashLib recomputes the final k of its search by a gather, in float32.
"""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
import triton.language as tl

from ...arrays import Rows
from ...contract import Float32s, Float64s, Int32s, Int64s
from ...metrics import METRICS
from ..cupy._device import launch as launch_cuda
from ..cupy._device import op
from ..cupy.rerank import CU, Points, rerank_by
from ..cupy.select import smallest
from ._launch import NO_KEY as NONE
from ._launch import capability, jit, launch
from ._rows import LANES, lane_sum, values_at
from ._tuning import RERANK, tile_for
from .encode import measure, unit_of

L2, COSINE = METRICS["l2"].code, METRICS["cosine"].code
EARLY = 16  # candidates that come before the others, at least, where bounds are known
FEW = 2**15  # pairs that all come at once


@jit("queries", "points")
def final_keys(
    queries, points, units, candidates, lower, limits, lengths, query_lengths, names, m, width, first, count, out,
    ROWS: tl.constexpr, UNIT: tl.constexpr, METRIC: tl.constexpr, KNOWN: tl.constexpr, NAMED: tl.constexpr,
    BOUNDED: tl.constexpr,
):  # fmt: skip
    """out (m, width), columns first .. first + count: the keys of candidates, NO_KEY for those that are none.

    METRIC: 0 l2, 1 cosine, 2 ip. KNOWN: cosine has the points' lengths. NAMED: ids are names[row]. BOUNDED: what has a bound
    above limits[query] is none.
    """
    dim = units * UNIT
    pair = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    query, column = pair // count, first + pair % count
    asked = query < m
    row = tl.load(candidates + query * width + column, mask=asked, other=-1)
    there = row >= 0
    if BOUNDED:
        limit = tl.load(limits + query, mask=asked, other=0).to(tl.float64)
        there = there & (tl.load(lower + query * width + column, mask=asked, other=0) <= limit)
    own = queries + (query * dim)[:, None]
    other = points + tl.where(there, row, 0).to(tl.int64)[:, None] * dim
    sums, squares = tl.zeros((ROWS, LANES), tl.float64), tl.zeros((ROWS, LANES), tl.float64)
    for start in tl.range(0, dim, LANES, loop_unroll_factor=2):
        q, x = values_at(own, start, dim, there), values_at(other, start, dim, there)
        if METRIC == 0:
            gap = q - x
            sums += gap * gap
        else:
            sums += q * x
        if METRIC == 1 and not KNOWN:
            squares += x * x
    found = lane_sum(sums)
    if METRIC == 1:
        length = tl.sqrt(lane_sum(squares)) if not KNOWN else tl.load(lengths + row, mask=there, other=1)
        found /= tl.load(query_lengths + query, mask=there, other=1) * tl.where(there, length, 1.0)
        found = tl.maximum(1.0 - found, 0.0)
    if METRIC == 2:
        found = 0.0 - found
    bits = (found.to(tl.float32) + 0.0).to(tl.int32, bitcast=True)  # a zero is +0.0
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    if NAMED:
        row = tl.load(names + row, mask=there, other=0)
    key = tl.where(there, (bits.to(tl.int64) << 32) | row.to(tl.int64), NONE)
    tl.store(out + query * width + column, key, mask=asked)


@op
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
    return rerank_by(_answer, queries, points, candidates, k, metric, lengths, lower)


def _answer(queries: Any, pieces: Any, k: int, metric: int, near: Any) -> None:
    """Distances and ids of the k nearest of all pieces' candidates into near, all on the device."""
    sizes = cupy.empty(len(queries), np.float64) if metric == COSINE else None
    if sizes is not None:
        measure(Rows(queries, "float32"), sizes)
    keys = [_keys(queries, sizes, piece, k, metric, near) for piece in pieces]
    _take(keys[0] if len(keys) == 1 else cupy.concatenate(keys, axis=1), k, near)


def _take(keys: Any, k: int, near: Any) -> None:
    """What the k smallest keys of each line say, into near."""
    least = smallest(keys, k)
    launch_cuda(CU, "unpack", -(-least.size // 256), 256, least, np.int64(least.size), *near)


def _keys(queries: Any, sizes: Any, piece: tuple[Points, Any, Any], k: int, metric: int, near: Any) -> Any:
    """int64 (m, c) of a piece's points, candidates and bounds. near: room for what the first candidates say on the way."""
    points, candidates, lower = piece
    m, width = candidates.shape
    out = cupy.empty((m, width), np.int64)
    early = width
    if lower is not None and m * width > FEW:
        early = min(width, max(EARLY, -(-k // EARLY) * EARLY))
    _launch(queries, sizes, points, candidates, (None, None), metric, (0, early), out)
    if early < width:
        _take(cupy.ascontiguousarray(out[:, :early]), k, near)
        limits = cupy.ascontiguousarray(near[0][:, k - 1])
        _launch(queries, sizes, points, candidates, (lower, limits), metric, (early, width - early), out)
    return out


def _launch(
    queries: Any, sizes: Any, points: Points, candidates: Any, bounds: Any, metric: int, cut: tuple[int, int], out: Any
) -> None:
    """Keys of the candidates cut[0] .. cut[0] + cut[1] of each query. bounds: lower bounds and limits, or None twice."""
    (m, width), rows, tile = candidates.shape, points.rows, tile_for(RERANK, "keys", capability())
    unit = unit_of(rows.dim)
    known = metric == COSINE and points.lengths is not None
    kinds = (np.float64, np.float32, np.float64, np.float64, np.int32)
    given = zip((*bounds, points.lengths, sizes, points.names), kinds, strict=True)
    given_or_not = (out.view(kind) if array is None else array for array, kind in given)  # of one type, so of one code
    launch(
        final_keys, (-(-m * cut[1] // tile.rows),), queries, rows.data, rows.dim // unit, candidates, *given_or_not,
        m, width, *cut, out, ROWS=tile.rows, UNIT=unit, METRIC=metric, KNOWN=known, NAMED=points.names is not None,
        BOUNDED=bounds[0] is not None, options=tile.options,
    )  # fmt: skip
