"""rerank: a block a query (rerank.cu). Rows of points on the host are fetched there, those of the candidates and no others."""

from __future__ import annotations

from typing import Any, NamedTuple

import cupy
import numpy as np

from ...arrays import Rows
from ...contract import Float32s, Float64s, Int32s, Int64s
from ._device import MOST_SHARED, launch, on_device, op, put, rows_per_tile
from .encode import kind_of, stored

BLOCK = 256
SORTED = 2048  # candidates that a block sorts itself
NULL = np.intp(0)


class RerankPlan(NamedTuple):
    """A launch. places: of the keys that a block sorts, 0 if they are sorted behind it; staged: the query is in shared memory."""

    places: int
    staged: bool
    shared: int


def plan_rerank(dim: int, width: int) -> RerankPlan:
    """The launch for `width` candidates of this dimension."""
    places = 1 << max(0, width - 1).bit_length() if 0 < width <= SORTED else 0
    staged = 8 * (dim + places) <= MOST_SHARED - 64
    return RerankPlan(places, staged, 8 * (places + (dim if staged else 0)))


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
    (m, width), here = candidates.shape, on_device(queries.data)
    xp: Any = cupy if here else np
    distances, ids = xp.empty((m, k), np.float32), xp.empty((m, k), np.int64)
    if not m or not width or not len(points):
        distances.fill(np.inf)
        ids.fill(-1)
        return distances, ids
    row = points.dim * points.data.itemsize
    fetched = 0 if on_device(points.data) else width * row
    step = min(m, rows_per_tile(fetched + width * 28 + points.dim * 12 + k * 12))
    for start in range(0, m, step):
        some = slice(start, min(m, start + step))
        rows, known, chosen, names = _reached(points, lengths, candidates[some])
        bounds = None if lower is None else put(lower[some])
        near, found = _nearest(queries[some], rows, known, chosen, bounds, names, k, metric)
        distances[some], ids[some] = (near, found) if here else (cupy.asnumpy(near), cupy.asnumpy(found))
    return distances, ids


def _reached(points: Rows, lengths: Any, candidates: Any) -> tuple[Rows, Any, Any, Any]:
    """Points, lengths and candidates on the device, and the true row numbers where only rows that are asked for were sent.

    They are ascending, so that ties fall as among the rows' own numbers. Candidates on the device must be read for it: the host
    waits.
    """
    if on_device(points.data):
        return points, put(lengths), put(candidates), None
    wanted = candidates if isinstance(candidates, np.ndarray) else cupy.asnumpy(candidates)
    names, places = np.unique(wanted, return_inverse=True)
    missing = int(np.searchsorted(names, 0))  # -1 is not a row
    names = names[missing:].astype(np.int32)
    if not len(names):
        names = np.zeros(1, np.int32)
    places = (places.reshape(wanted.shape) - missing).clip(-1).astype(np.int32)
    known = None if lengths is None else put(lengths[names] if isinstance(lengths, np.ndarray) else lengths[put(names)])
    return Rows(put(points.data[names]), points.kind), known, put(places), put(names)


def _nearest(
    queries: Rows, points: Rows, lengths: Any, candidates: Any, lower: Any, names: Any, k: int, metric: int
) -> tuple[Any, Any]:
    (m, width), dim = candidates.shape, points.dim
    plan = plan_rerank(dim, width)
    distances, ids = cupy.empty((m, k), np.float32), cupy.empty((m, k), np.int64)
    scratch = NULL if plan.staged else cupy.empty((m, dim), np.float64)
    keys = cupy.empty((1, 1) if plan.places else (m, width), np.int64)
    renamed = NULL if names is None else names
    launch(
        "rerank.cu", "rerank", m, BLOCK,
        put(queries.float32()), stored(points.data), NULL if lengths is None else lengths, np.int32(dim), candidates,
        NULL if lower is None else lower, np.int32(width), np.int32(k), np.int32(metric), np.int32(plan.places > 0),
        np.int32(plan.places), scratch, keys, renamed, distances, ids, shared=plan.shared, defines=kind_of(points),
    )  # fmt: skip
    if not plan.places:
        keys = cupy.ascontiguousarray(cupy.sort(keys, axis=1)[:, : min(k, width)])
        args = (keys, np.int64(m), np.int32(keys.shape[1]), np.int32(k), renamed, distances, ids)
        launch("rerank.cu", "unpack", -(-m * k // BLOCK), BLOCK, *args, defines=kind_of(points))
    return distances, ids
