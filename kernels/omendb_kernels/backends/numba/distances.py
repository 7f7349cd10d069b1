"""pairwise: the full distance matrix. "exact" is a direct loop here; "float32" is BLAS and shared with the numpy backend's
formula through `gemm_distances`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ...arrays import Rows
from ...gemm import gemm_distances
from ...parallel import blocks, run
from ._rows import JIT, distance, lane_dot, readable


def pairwise(queries: Rows, points: Rows, metric: int, precision: str, *, threads: int) -> NDArray[Any]:
    """See contract.py."""
    if precision == "float32":
        return gemm_distances(queries, points, metric, threads=threads)
    data = readable(points)
    values = queries.float32().astype(np.float64)
    lengths = np.empty(len(points))
    out = np.empty((len(queries), len(points)), np.float32)
    rows = max(64, -(-len(points) // (4 * threads)))
    run(lambda part: _pairwise(values, data, lengths, metric, part[0], part[1], out), blocks(len(points), rows), threads)
    return out


@njit(**JIT)
def _pairwise(queries: Any, data: Any, lengths: Any, metric: Any, first: Any, last: Any, out: Any) -> None:
    query_length = 1.0
    if metric == 1:
        for i in range(first, last):
            lengths[i] = np.sqrt(lane_dot(data[i], data[i]))
    for q in range(len(queries)):
        if metric == 1:
            query_length = np.sqrt(lane_dot(queries[q], queries[q]))
        for i in range(first, last):
            out[q, i] = distance(queries[q], data[i], metric, query_length, lengths[i])
