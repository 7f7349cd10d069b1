"""pairwise in precision "float32": one matrix product per tile, outside the bit promise and never used for a decision.

l2: rows are centred first, then |q'|^2 + |x'|^2 - 2 <q', x'>, clamped at 0. With u = 2^-24 the error of an entry is at most
(d + 8) u (|q'| + |x'|)^2 + 4 u (|q|^2 + |x|^2 + 2 |mean|^2); for ip (d + 2) u |q| |x|; for cosine 2 (d + 8) u.
"""

from __future__ import annotations

import numpy as np

from .arrays import Rows
from .contract import Float32s
from .parallel import blocks, run, single_threaded_blas

TILE = 4096


def gemm_distances(queries: Rows, points: Rows, metric: int, *, threads: int) -> Float32s:
    """float32 (m, n). metric: the number in METRICS. Cost: 2 m n d operations at BLAS speed."""
    shift: Float32s | None = None
    if metric == 0 and len(points):
        shift = points.float32().mean(axis=0, dtype=np.float64).astype(np.float32)
    left, left_squares = _prepared(queries, metric, shift)
    out = np.empty((len(queries), len(points)), np.float32)

    def tile(bounds: tuple[int, int]) -> None:
        start, stop = bounds
        right, right_squares = _prepared(points[start:stop], metric, shift)
        part = left @ right.T
        if metric == 0:
            part *= -2
            part += left_squares[:, None]
            part += right_squares
            np.maximum(part, 0, out=part)
        elif metric == 1:
            np.subtract(1, part, out=part)
            np.maximum(part, 0, out=part)
        else:
            np.subtract(0, part, out=part)
        out[:, start:stop] = part

    with single_threaded_blas():
        run(tile, blocks(len(points), TILE), threads)
    return out


def _prepared(rows: Rows, metric: int, shift: Float32s | None) -> tuple[Float32s, Float32s]:
    """Rows as the product wants them (centred or of length 1), and their squared lengths."""
    values = rows.float32()
    if shift is not None:
        values = values - shift
        return values, np.einsum("ij,ij->i", values, values)
    if metric == 1:
        wide = values.astype(np.float64)
        lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))
        return (wide / lengths[:, None]).astype(np.float32), np.ones(len(values), np.float32)
    return values, np.ones(len(values), np.float32)
