"""pairwise: "exact" in the contract's float64 order, and "float32" as one fused product where rows are short.

    exact    BM queries x BN points a program                   float32    BM x BN x BD tiles of a product (tl.dot, "ieee":
             q (BM, 8), 8 values at a time                                 multiply-adds of float32, no TF32), and in the
             x (BN, 8)  -->  acc (BM, BN, 8) += (q - x)^2                  same program |q|^2 + |x|^2 - 2 q x, or 1 - q x,
             then lanes are added (_rows.py)                               or -q x: no product ever reaches memory

exact: 3 float64 operations a value and pair (2 but for l2), 1/BM + 1/BN conversions; 10,000 x 1,000 x 768 on an H100 1.4 ms at
the peak of float64, the limiter. Few queries are left to cupy, where a team of threads has a pair.

float32: 2 d operations and 4 bytes a pair. cuBLAS with `finish` after it moves 12 bytes a pair, 5.0 ps on an H100 at 72 % of
its peak, and then 2 d operations at 75 % of theirs; fused, at half of the peak, a pair takes 1.7 ps of memory or 0.06 d ps:
faster up to some 190 dimensions, if these shares hold. Longer rows are left to cuBLAS, and rows of a number of dimensions that
4 does not divide: their loads are narrow and spill on sm_80. TF32 would break the stated bound (gemm.py).

Peers: torch.cdist and cuVS multiply, write the products, read them again; KeOps fuses with (q - x)^2, as "exact" does.
"""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
import triton.language as tl
from numpy.typing import NDArray

from ...arrays import Rows
from ...metrics import METRICS
from ..cupy._device import op
from ..cupy.distances import FEW, Side, Tile, _by_product, _exact, _measured, pairwise_by
from ._launch import capability, jit, launch
from ._rows import LANES, lane_sum, values_at
from ._tuning import DISTANCES, tile_for
from .encode import unit_of

SHORT = 128  # dimensions of rows whose product is fused
L2, COSINE = METRICS["l2"].code, METRICS["cosine"].code


@jit("queries", "points")
def exact_tile(
    queries, points, m, n, units, query_lengths, lengths, out, line, column,
    BM: tl.constexpr, BN: tl.constexpr, UNIT: tl.constexpr, METRIC: tl.constexpr,
):  # fmt: skip
    """out: a line of `line` float32 for each query, from `column` on."""
    dim = units * UNIT
    left, right = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    own, other = queries + (left.to(tl.int64) * dim)[:, None], points + (right.to(tl.int64) * dim)[:, None]
    sums = tl.zeros((BM, BN, LANES), tl.float64)
    for start in range(0, dim, LANES):
        q, x = values_at(own, start, dim, left < m)[:, None, :], values_at(other, start, dim, right < n)[None, :, :]
        if METRIC == 0:
            gap = q - x
            sums += gap * gap
        else:
            sums += q * x
    found = tl.reshape(lane_sum(tl.reshape(sums, (BM * BN, LANES))), (BM, BN))
    if METRIC == 1:
        sizes = tl.load(query_lengths + left, mask=left < m, other=1.0)[:, None]
        found = found / (sizes * tl.load(lengths + right, mask=right < n, other=1.0)[None, :])
        found = tl.maximum(1.0 - found, 0.0)
    if METRIC == 2:
        found = 0.0 - found
    to = left[:, None].to(tl.int64) * line + column + right[None, :]
    tl.store(out + to, found.to(tl.float32) + 0.0, mask=(left < m)[:, None] & (right < n)[None, :])


@jit("queries", "points")
def product_tile(
    queries, points, m, n, units, query_squares, squares, out, line, column,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, UNIT: tl.constexpr, METRIC: tl.constexpr,
):  # fmt: skip
    """The same of float32 rows that are centred (l2) or of length 1 (cosine); squares: their squared lengths, for l2."""
    dim = units * UNIT
    left, right = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    own, other = queries + (left.to(tl.int64) * dim)[:, None], points + (right.to(tl.int64) * dim)[:, None]
    products = tl.zeros((BM, BN), tl.float32)
    for start in range(0, dim, BD):
        place = start + tl.arange(0, BD)[None, :]
        q = tl.load(own + place, mask=(left < m)[:, None] & (place < dim), other=0.0)
        x = tl.load(other + place, mask=(right < n)[:, None] & (place < dim), other=0.0)
        products = tl.dot(q, tl.trans(x), products, input_precision="ieee")
    if METRIC == 0:
        lengths = tl.load(query_squares + left, mask=left < m, other=0.0)[:, None]
        lengths += tl.load(squares + right, mask=right < n, other=0.0)[None, :]
        found = tl.maximum(lengths - 2.0 * products, 0.0)
    elif METRIC == 1:
        found = tl.maximum(1.0 - products, 0.0)
    else:
        found = 0.0 - products
    to = left[:, None].to(tl.int64) * line + column + right[None, :]
    tl.store(out + to, found, mask=(left < m)[:, None] & (right < n)[None, :])


@op
def pairwise(queries: Rows, points: Rows, metric: int, precision: str, *, threads: int) -> NDArray[Any]:
    """See contract.py."""
    return pairwise_by(_exact_tiles, _products, queries, points, metric, precision)


def _exact_tiles(left: Side, points: Rows, metric: int, to: Tile) -> None:
    if len(left.rows) <= FEW:
        _exact(left, points, metric, to)
        return
    _tiles(exact_tile, "exact", left, _measured(points, metric), metric, to)


def _products(left: Side, right: Side, metric: int, to: Tile) -> None:
    if left.rows.dim > SHORT or unit_of(left.rows.dim) == 1:
        _by_product(left, right, metric, to)
        return
    _tiles(product_tile, "float32", left, right, metric, to)


def _tiles(kernel: Any, case: str, left: Side, right: Side, metric: int, to: Tile) -> None:
    m, n, dim = len(left.rows), len(right.rows), left.rows.dim
    tile, unit = tile_for(DISTANCES, case, capability()), unit_of(dim)
    needed = metric == (COSINE if kernel is exact_tile else L2)
    none = cupy.empty(1, np.float64 if kernel is exact_tile else np.float32)  # of the same type, so of the same code
    facts = (left.facts, right.facts) if needed else (none, none)
    depth = {"BD": tile.bytes // 4} if kernel is product_tile else {}
    launch(
        kernel, (-(-m // tile.rows), -(-n // tile.columns)), left.rows.data, right.rows.data, m, n, dim // unit, *facts,
        to.out, to.line, to.column, BM=tile.rows, BN=tile.columns, **depth, UNIT=unit, METRIC=metric, options=tile.options,
    )  # fmt: skip
