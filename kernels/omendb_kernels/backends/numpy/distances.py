"""pairwise: "exact" row by row of the queries, "float32" by BLAS."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import Rows
from ...gemm import gemm_distances
from ...parallel import blocks, run
from ._lanes import final_distances

BLOCK_VALUES = 1 << 18


def pairwise(queries: Rows, points: Rows, metric: int, precision: str, *, threads: int) -> NDArray[Any]:
    """See contract.py."""
    if precision == "float32":
        return gemm_distances(queries, points, metric, threads=threads)
    values = queries.float32().astype(np.float64)
    out = np.empty((len(queries), len(points)), np.float32)

    def part(bounds: tuple[int, int]) -> None:
        here = slice(*bounds)
        rows = points[here].float32().astype(np.float64)
        for i, query in enumerate(values):
            out[i, here] = final_distances(np.broadcast_to(query, rows.shape), rows, metric)

    run(part, blocks(len(points), max(1, BLOCK_VALUES // points.dim)), threads)
    return out
