"""pairwise: "exact" by distances.cu, "float32" by cuBLAS with what comes before and after it there; all in tiles."""

from __future__ import annotations

from typing import Any, NamedTuple

import cupy
import numpy as np
from numpy.typing import NDArray

from ...arrays import Rows
from ...metrics import METRICS
from ._device import NULL, SHARE, free_bytes, launch, on_device, op, put_rows, rows_per_tile, uploaded
from .encode import measure, read_as, rows_at_once, whole_words

CU, THREADS = "distances.cu", 256  # of a block
TILE = 2**14  # queries at a time, at most
FEW = 4  # queries that are compared with all points one after another: a tile of the other kernel has 32
SIDE, TEAM_ROWS, OF_THREAD = 32, 64, 4  # of a block: queries and points of `exact`, points of `exact_few`; pairs of a thread
L2, COSINE = METRICS["l2"].code, METRICS["cosine"].code


class Side(NamedTuple):
    """Rows on the device as one side of a tile. facts: their lengths or squared lengths, or a null pointer."""

    rows: Rows
    facts: Any


class Tile(NamedTuple):
    """Where distances go: an array with a line of so many places for each query, from a column on."""

    out: Any
    line: int
    column: int

    @property
    def args(self) -> tuple[Any, np.int64, np.int64]:
        """As kernels take it."""
        return self.out, np.int64(self.line), np.int64(self.column)


@op
def pairwise(queries: Rows, points: Rows, metric: int, precision: str, *, threads: int) -> NDArray[Any]:
    """See contract.py."""
    return pairwise_by(_exact, _by_product, queries, points, metric, precision)


def pairwise_by(exact: Any, by_product: Any, queries: Rows, points: Rows, metric: int, precision: str) -> NDArray[Any]:
    """`pairwise` with the kernels of exact(left, points, metric, to) and by_product(left, right, metric, to), as below."""
    m, n, here = len(queries), len(points), on_device(queries.data)
    out: NDArray[Any] = (cupy if here else np).empty((m, n), np.float32)
    if not out.size:
        return out
    if not on_device(points.data) and points.data.nbytes <= SHARE * free_bytes():
        points = put_rows(points)
    mean = _mean(points) if precision == "float32" and metric == L2 else NULL
    tall = min(TILE, rows_per_tile(24 * queries.dim))
    wide = rows_per_tile((2 * points.data.itemsize + 4) * points.dim + 8 * min(m, tall) + 16)
    for top, bottom, (data,) in uploaded((queries.data,), tall):
        side = Rows(data, queries.kind)
        left = _prepared(side, metric, mean) if precision == "float32" else _measured(Rows(side.float32(), "float32"), metric)
        for start, stop, (some,) in uploaded((points.data,), wide):
            right = Rows(some, points.kind)
            own = None if here else cupy.empty((bottom - top, stop - start), np.float32)
            to = Tile(out[top:bottom], n, start) if own is None else Tile(own, stop - start, 0)
            if precision == "float32":
                by_product(left, _prepared(right, metric, mean), metric, to)
            else:
                exact(left, right, metric, to)
            if own is not None:
                out[top:bottom, start:stop] = cupy.asnumpy(own)
    return out


def _measured(rows: Rows, metric: int) -> Side:
    """Rows, for cosine with their lengths."""
    if metric != COSINE:
        return Side(rows, NULL)
    found = cupy.empty(len(rows), np.float64)
    measure(rows, found)
    return Side(rows, found)


def _exact(left: Side, points: Rows, metric: int, to: Tile) -> None:
    """The tile by the contract's arithmetic."""
    m, n, queries = len(left.rows), len(points), left.rows.data
    sizes = (np.int32(n), np.int32(points.dim), whole_words(points), np.int32(metric))
    if m <= FEW:
        args: tuple[Any, ...] = (queries, points.data, *sizes, *to.args)
        launch(CU, "exact_few", (-(-n // TEAM_ROWS), m), THREADS, *args, defines=read_as(points))
        return
    right = _measured(points, metric)
    args = (queries, np.int32(m), points.data, *sizes, left.facts, right.facts, *to.args)
    launch(CU, "exact", (-(-n // SIDE), -(-m // SIDE)), THREADS, *args, defines=read_as(points))


def _mean(points: Rows) -> Any:
    """float32 (d,), summed in float64."""
    total = cupy.zeros(points.dim, np.float64)
    for _, _, (data,) in uploaded((points.data,), rows_at_once(points, points.dim * (2 * points.data.itemsize + 4))):
        total += Rows(data, points.kind).float32().sum(axis=0, dtype=np.float64)
    return (total / len(points)).astype(np.float32)


def _prepared(rows: Rows, metric: int, mean: Any) -> Side:
    """float32 rows as the product wants them: gemm.py."""
    n, dim = len(rows), rows.dim
    if metric not in (L2, COSINE) and rows.kind == "float32":
        return Side(rows, NULL)
    values = cupy.empty((n, dim), np.float32)
    squares = cupy.empty(n, np.float32) if metric == L2 else NULL
    args = (rows.data, np.int32(n), np.int32(dim), whole_words(rows), np.int32(metric), mean, values, squares)
    launch(CU, "prepare", -(-n * 8 // THREADS), THREADS, *args, defines=read_as(rows))
    return Side(Rows(values, "float32"), squares)


def _by_product(left: Side, right: Side, metric: int, to: Tile) -> None:
    """The tile by cuBLAS."""
    m, n = len(left.rows), len(right.rows)
    products = cupy.matmul(left.rows.data, right.rows.data.T)
    blocks = -(-n // (THREADS * OF_THREAD))
    launch(CU, "finish", (blocks, m), THREADS, products, np.int32(n), np.int32(metric), left.facts, right.facts, *to.args)
