"""pairwise: "exact" by distances.cu, "float32" by cuBLAS; points of the host in tiles."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
from numpy.typing import NDArray

from ...arrays import Rows
from ...metrics import METRICS
from ._device import MOST_SHARED, launch, on_device, op, put, rows_per_tile, uploaded
from .encode import kind_of, lengths, stored

BLOCK, LANES, QUERIES = 256, 8, 4
MOST_GRID = 65_535 * QUERIES  # queries of a launch
L2, COSINE = METRICS["l2"].code, METRICS["cosine"].code
NULL = np.intp(0)


@op
def pairwise(queries: Rows, points: Rows, metric: int, precision: str, *, threads: int) -> NDArray[Any]:
    """See contract.py."""
    m, n, here = len(queries), len(points), on_device(queries.data)
    xp: Any = cupy if here else np
    out: NDArray[Any] = xp.empty((m, n), np.float32)
    if not m or not n:
        return out
    shift = _mean(points) if precision == "float32" and metric == L2 else None
    wanted = Rows(put(queries.data), queries.kind)
    step = rows_per_tile(4 * m + 8 * points.dim + points.dim * points.data.itemsize)
    for start, stop, (data,) in uploaded((points.data,), step):
        rows, tile = Rows(data, points.kind), out[:, start:stop]
        found = cupy.empty((m, stop - start), np.float32)
        if precision == "float32":
            _by_product(wanted, rows, metric, shift, found)
        else:
            _exact(wanted, rows, metric, found)
        tile[...] = found if here else cupy.asnumpy(found)
    return out


def _exact(queries: Rows, points: Rows, metric: int, out: Any) -> None:
    m, n, dim = len(queries), len(points), points.dim
    own, others = (lengths(rows, threads=1) if metric == COSINE else NULL for rows in (queries, points))
    values, staged = put(queries.float32()), 8 * QUERIES * dim <= MOST_SHARED
    for start in range(0, m, MOST_GRID):
        stop = min(m, start + MOST_GRID)
        grid = (-(-n * LANES // BLOCK), -(-(stop - start) // QUERIES))
        launch(
            "distances.cu", "distances", grid, BLOCK,
            values[start:stop], np.int64(stop - start), stored(points.data), np.int64(n), np.int32(dim), np.int32(metric),
            own if metric != COSINE else own[start:stop], others, np.int32(staged), out[start:stop], np.int64(n),
            shared=8 * QUERIES * dim if staged else 0, defines=kind_of(points),
        )  # fmt: skip


def _mean(points: Rows) -> Any:
    """float32 (d,), summed in float64."""
    total = cupy.zeros(points.dim, np.float64)
    for _, _, (data,) in uploaded((points.data,), rows_per_tile(points.dim * (8 + points.data.itemsize))):
        total += Rows(data, points.kind).float32().astype(np.float64).sum(axis=0)
    return (total / len(points)).astype(np.float32)


def _by_product(queries: Rows, points: Rows, metric: int, shift: Any, out: Any) -> None:
    """gemm.py on the device: its formulas and its bound."""
    (left, left_squares), (right, right_squares) = (_prepared(rows, metric, shift) for rows in (queries, points))
    found = cupy.matmul(left, right.T)
    if metric == L2:
        found *= np.float32(-2)
        found += left_squares[:, None]
        found += right_squares
        cupy.maximum(found, np.float32(0), out=out)
    elif metric == COSINE:
        cupy.maximum(np.float32(1) - found, np.float32(0), out=out)
    else:
        cupy.subtract(np.float32(0), found, out=out)


def _prepared(rows: Rows, metric: int, shift: Any) -> tuple[Any, Any]:
    values = rows.float32()
    if metric == L2:
        values = values - shift
        return values, (values * values).sum(axis=1)
    if metric == COSINE:
        values = (values.astype(np.float64) / lengths(rows, threads=1)[:, None]).astype(np.float32)
    return values, None
