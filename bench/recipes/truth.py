"""Exact neighbours, as the files of a set tell them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from omendb_kernels import knn

RANKS, SPARE = 100, 28  # the spare ones may tie with the last


def neighbours(queries: NDArray[Any], base: NDArray[Any], metric: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """ids int32 and distances float32, (m, 100): those of `knn`, equal float32 distances ordered by the float64 ones."""
    distances, ids = knn(queries, base, min(RANKS + SPARE, len(base)), metric)
    for row in np.flatnonzero((distances[:, 1:] == distances[:, :-1]).any(axis=1)):
        fine = distances64(queries[row], base[ids[row]], metric)
        ids[row] = ids[row][np.lexsort((ids[row], fine, distances[row]))]
    return ids[:, :RANKS].astype(np.int32), np.ascontiguousarray(distances[:, :RANKS])


def distances64(query: NDArray[Any], rows: NDArray[Any], metric: str) -> NDArray[np.float64]:
    """The distances of one query in float64."""
    one, many = query.astype(np.float64), rows.astype(np.float64)
    if metric == "l2":
        return ((many - one) ** 2).sum(axis=1)
    if metric == "ip":
        return -(many @ one)
    return 1 - (many @ one) / np.linalg.norm(many, axis=1) / np.linalg.norm(one)
