"""nearest: each query's k nearest points by the distance of codes: int8 tensor cores, and the best kept on the chip.

        points, BN at a time, one part of them a program      D bytes a code, BK at a time, int32 sums
             +------+------+------+------+
    BM       | dots | dots | dots | ...  |  --> norm - 2 dot --> pool (BM, POOL) --> k keys a part --> select.cu
    queries  +------+------+------+------+                       _pool.py

A program has BM queries and goes over its part of the points; products never leave the chip. The loops over tiles and over
pieces of a code are one, so that loads are in flight across the end of a tile. What is constant for a query, its norm, is
added last. Masked rows are passed over by a list of the allowed ones. Many queries: one part, or a few; few queries: as many
parts as fill the device ("flash decoding"), of which select.cu keeps the best.

Operations and bytes of m queries, n points: 2 m n D on the tensor cores; 3 integer results a score (norm, minimum of a line);
codes of n points read m / BM times, from the second cache but for the first; where they are longer than BK, the queries' as
often as there are tiles. H100, D = 128, 128 x 128 scores: .28 us of a multiprocessor's tensor cores at their peak, .44 us of
its integer units: these decide up to D = 200. 10,000 queries, 1 M points: 1.3 ms of products, 2.0 ms of minima, at the peaks.

Peers: FlashLib's Triton kNN (bf16 or TF32, L2 alone, compiled anew for each n and m); cuVS fuses for k <= 64, L2 and float32
alone; FAISS writes tiles of distances to memory and reads them again. Here n, m, k and D are numbers of a launch, not of the
code, and sums are integers: any order, any split, the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cupy
import numpy as np
import triton
import triton.language as tl
from numpy.typing import NDArray

from ...contract import NO_KEY, CodeRows, Int64s
from ..cupy import nearest as wide_nearest
from ..cupy._device import on_device, op, rows_per_tile, uploaded
from ..cupy.nearest import _points as columns_of
from ..cupy.select import allowed_ids, smallest
from ._launch import INT32_MAX, INT32_MIN, capability, jit, launch, multiprocessors
from ._launch import NO_KEY as NONE
from ._pool import empty_pool, found_in, insert
from ._tuning import NEAREST, Tile, tile_for

POOLS = (16, 64, 256)  # places of a pool: small tiles hold 64 or 256, large ones 16 or 64; more is left to cupy
SHORT = 128  # bytes of a code that is taken at once
FEW = 32  # queries that go to small tiles
LEAST_PART = 4  # tiles that are worth a program of their own
MOST_PARTS = 256


@dataclass(frozen=True)
class Plan:
    """A launch: the tile, places of a pool, into how many parts the points go, and whether queries stay in registers."""

    tile: Tile
    pool: int
    parts: int
    one: bool


def plan_scan(m: int, n: int, code_dim: int, k: int, arch: int, multiprocessors: int) -> Plan | None:
    """The launch for m queries, n points, compute capability `arch`; None where k is too large for a pool."""
    if k > POOLS[-1]:
        return None
    few = m <= FEW or k > POOLS[1]
    pool = next(size for size in (POOLS[1:] if few else POOLS) if k <= size)
    case = "few" if few else "short" if code_dim <= SHORT else "long"
    tile = tile_for(NEAREST, f"{case} {pool}", arch)
    columns, tiles = -(-m // tile.rows), -(-n // tile.columns)
    most = max(1, min(MOST_PARTS, tiles // LEAST_PART))
    return Plan(tile, pool, max(1, min(most, multiprocessors * tile.resident // columns)), case == "short")


@triton.jit
def codes_at(rows, start, dim, there, BK: tl.constexpr):
    """BK bytes of each code from `start` on; zero beyond its end and where no row is there. rows: (R, 1) pointers."""
    place = start + tl.arange(0, BK)[None, :]
    return tl.load(rows + place, mask=there[:, None] & (place < dim), other=0)


@jit("queries", "points")
def scan(
    queries, query_norms, query_wide, m, points, norms, wide, ids, total, n, pieces, k, parts, out,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, POOL: tl.constexpr, ONE: tl.constexpr, WIDE: tl.constexpr,
    LISTED: tl.constexpr,
):  # fmt: skip
    """out (m, parts, k): the k smallest keys of each part, in no order.

    ONE: codes are no longer than BK, and the queries' stay in registers. WIDE: there are wide coordinates. LISTED: the points
    are ids[: total[0]]. As numbers of a launch these would take 30 to 130 registers more.
    """
    dim, lines = pieces * 32, tl.program_id(0) * BM + tl.arange(0, BM)
    here = lines < m
    if LISTED:
        n = tl.load(total)
    tiles, steps = tl.cdiv(n, BN), tl.cdiv(dim, BK)
    each = tl.cdiv(tiles, parts)
    first = tl.program_id(1) * each
    last = tl.minimum(first + each, tiles)
    if WIDE:
        own_wide = tl.load(query_wide + lines, mask=here, other=0)
    own = queries + lines[:, None].to(tl.int64) * dim
    if ONE:
        a = codes_at(own, 0, dim, here, BK)
    pool, limit = empty_pool(k, BM, POOL), tl.where(here, INT32_MAX, INT32_MIN)
    dots = tl.zeros((BM, BN), tl.int32)
    for step in range(first * steps, last * steps):
        tile, piece = step // steps, step % steps
        column = tile * BN
        rows = column + tl.arange(0, BN)
        there = rows < n
        if LISTED:
            rows = tl.load(ids + rows, mask=there, other=0)
        if not ONE:
            a = codes_at(own, piece * BK, dim, here, BK)
        b = codes_at(points + rows[:, None].to(tl.int64) * dim, piece * BK, dim, there, BK)
        dots = tl.dot(a, tl.trans(b), dots, out_dtype=tl.int32)
        if piece == steps - 1:
            if WIDE:
                dots += own_wide[:, None] * tl.load(wide + rows, mask=there, other=0)[None, :]
            # Of a point that is not there the product is 0, and its score no score.
            scores = tl.load(norms + rows, mask=there, other=INT32_MAX)[None, :] - 2 * dots
            pool, limit = insert(pool, limit, scores, column)
            dots = tl.zeros((BM, BN), tl.int32)
    found, score, place = found_in(pool)
    if LISTED:
        place = tl.load(ids + place, mask=found, other=0)
    norm = tl.load(query_norms + lines, mask=here, other=0)
    keys = tl.where(found, ((score + norm[:, None]).to(tl.int64) << 32) | place.to(tl.int64), NONE)
    slot = tl.arange(0, POOL)[None, :]
    to = (lines[:, None].to(tl.int64) * parts + tl.program_id(1)) * k + slot
    tl.store(out + to, keys, mask=here[:, None] & (slot < k))


@op
def nearest(queries: CodeRows, points: CodeRows, k: int, mask: NDArray[np.bool_] | None, *, threads: int) -> Int64s:
    """See contract.py."""
    m, n = len(queries.codes), len(points.codes)
    xp: Any = cupy if on_device(queries.codes) else np
    if not (m and n and k):
        return xp.full((m, k), NO_KEY, np.int64)  # type: ignore[no-any-return]
    if queries.wide is None or points.wide is None:
        queries, points = queries._replace(wide=None), points._replace(wide=None)
    columns, step = columns_of(points, mask)
    plan = plan_scan(m, min(n, step), queries.codes.shape[1], k, capability(), multiprocessors())
    if plan is None:
        return wide_nearest(queries, points, k, mask, threads=threads)
    found = xp.empty((m, k), np.int64)
    each = 8 * k * (plan.parts + 2) + queries.codes.shape[1] + 12
    for start, stop, some in uploaded(tuple(queries), rows_per_tile(each, most=m)):
        here = _search(CodeRows(*some), columns, step, k, plan)
        found[start:stop] = here if xp is cupy else cupy.asnumpy(here)
    return found  # type: ignore[no-any-return]


def _search(queries: CodeRows, columns: tuple[Any, ...], step: int, k: int, plan: Plan) -> Any:
    """`nearest` on the device. columns: codes, norms, wide, mask of the points, `step` rows at a time."""
    keys = []
    for start, _, (codes, norms, wide, mask) in uploaded(columns, step):
        lists = _scan(queries, CodeRows(codes, norms, wide), mask, k, plan)
        keys.append(smallest(lists.reshape(len(lists), -1), k))
        if start:  # ids of later rows; NO_KEY stays what it is
            keys = [smallest(cupy.concatenate([keys[0], cupy.where(keys[1] == NO_KEY, NO_KEY, keys[1] + start)], axis=1), k)]
    return keys[0]


def _scan(queries: CodeRows, points: CodeRows, mask: Any, k: int, plan: Plan) -> Any:
    m, n, tile = len(queries.codes), len(points.codes), plan.tile
    ids, total = (points.norms, points.norms) if mask is None else allowed_ids(mask)  # read if there is a mask
    wide, code_dim = points.wide is not None, queries.codes.shape[1]
    wides = (queries.wide, points.wide) if wide else (queries.norms, points.norms)
    out = cupy.empty((m, plan.parts, k), np.int64)
    launch(
        scan, (-(-m // tile.rows), plan.parts),
        queries.codes, queries.norms, wides[0], m, points.codes, points.norms, wides[1], ids, total,
        n, code_dim // 32, k, plan.parts, out,
        BM=tile.rows, BN=tile.columns, BK=tile.bytes, POOL=plan.pool, ONE=plan.one, WIDE=wide,
        LISTED=mask is not None, options=tile.options,
    )  # fmt: skip
    return out
