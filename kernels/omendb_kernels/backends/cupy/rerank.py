"""rerank: a block a query, or a slice of its candidates (rerank.cu).

Points of the host are uploaded whole where they are no more rows than candidates and take no more than their share of the
device's memory; else the rows that a tile of queries asks for are brought together on the host and sent, each once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import cupy
import numpy as np

from ...arrays import Rows
from ...contract import Float32s, Float64s, Int32s, Int64s
from ...parallel import blocks
from ._device import NULL, SHARE, free_bytes, launch, on_device, op, power_of_two, put, put_rows, rows_per_tile, uploaded
from ._merge import smallest
from .encode import read_as, whole_words

CU = "rerank.cu"
TEAM, PAIR = 8, 2  # threads that compare a query with so many rows at a time (rows.cuh)
THREADS = (64, 256)  # of a block, the fewest and the most
SLICES = (256, 2048)  # candidates of a block: worth one of its own, and the most
FEW = 264  # blocks that leave a large device idle: two for each multiprocessor
EARLY = 16  # candidates that come before the others, at least, where bounds are known
TILE = 2**20  # queries at a time, at most


class RerankPlan(NamedTuple):
    """A launch. slices: of a query's candidates, `width` wide each; early: of them, that come before the others; keep: keys of
    a slice that matter; room: keys that it has places for; shared: bytes of a block."""

    threads: int
    slices: int
    width: int
    early: int
    keep: int
    room: int
    shared: int


def plan_rerank(m: int, width: int, k: int, bounded: bool) -> RerankPlan:
    """The launch for m > 0 queries of `width` > 0 candidates. bounded: with lower bounds."""
    slices = max(-(-width // SLICES[1]), min(-(-width // SLICES[0]), FEW // m), 1)
    own = -(-width // slices)
    slices = -(-width // own)
    early = own
    if bounded and m * slices >= FEW:  # with fewer blocks all rows at once are there sooner
        early = min(own, max(EARLY, -(-k // EARLY) * EARLY))
    threads = min(THREADS[1], max(THREADS[0], power_of_two(-(-early // PAIR) * TEAM)))
    room = power_of_two(own)
    return RerankPlan(threads, slices, own, early, min(k, own) if slices > 1 else k, room, 8 * room + 4 * own)


class Points(NamedTuple):
    """What candidates are numbers of, on the device. names: int32, the row numbers of these rows, ascending; None for all."""

    rows: Rows
    lengths: Any
    names: Any


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


def rerank_by(
    answer_of: Any, queries: Rows, points: Rows, candidates: Int32s, k: int, metric: int, lengths: Any, lower: Any
) -> tuple[Float32s, Int64s]:
    """`rerank` with the kernels of answer_of(queries, pieces, k, metric, near), as `_answer` below."""
    (m, width), here = candidates.shape, on_device(queries.data)
    xp: Any = cupy if here else np
    answer = xp.empty((m, k), np.float32), xp.empty((m, k), np.int64)
    if not (m and width and len(points)):
        answer[0].fill(np.inf)
        answer[1].fill(-1)
        return answer
    columns: tuple[Any, ...] = (queries.data, candidates, lower)
    if any(map(on_device, columns)):
        columns = tuple(map(put, columns))
    parts = _tiles if on_device(points.data) or _worth_sending(points, m * width) else _gathered
    for start, stop, data, pieces in parts(columns, points, lengths, k):
        near = [part[start:stop] if here else cupy.empty((stop - start, k), part.dtype) for part in answer]
        answer_of(Rows(data, queries.kind).float32(), pieces, k, metric, near)
        if not here:
            for part, own in zip(answer, near, strict=True):
                part[start:stop] = cupy.asnumpy(own)
    return answer


def _worth_sending(points: Rows, places: int) -> bool:
    """Whether points of the host are sent whole: no more rows than places that ask for some, and they fit."""
    return len(points) <= places and points.data.nbytes <= SHARE * free_bytes()


def _tiles(columns: tuple[Any, ...], points: Rows, lengths: Any, k: int) -> Iterator[tuple[int, int, Any, Any]]:
    """(start, stop, queries, pieces) of tiles of queries; a piece has points, candidates by their number, and bounds."""
    data, candidates, _ = columns
    whole = Points(put_rows(points), put(lengths), None)
    each = data.shape[1] * (data.itemsize + 4) + 36 * candidates.shape[1] + 28 * k
    for start, stop, (part, *piece) in uploaded(columns, min(TILE, rows_per_tile(each))):
        yield start, stop, part, [(whole, *piece)]


def _gathered(columns: tuple[Any, ...], points: Rows, lengths: Any, k: int) -> Iterator[tuple[int, int, Any, Any]]:
    """The same with the rows that are asked for, and pieces of the candidates where those of one query are too many.

    The host must know which rows to send: for candidates of the device it waits. Ascending names keep ties as they were.
    """
    data, candidates, lower = columns
    wanted = cupy.asnumpy(candidates)
    m, width = wanted.shape
    room = rows_per_tile(2 * points.dim * points.data.itemsize + 64)  # places, each of another row at worst

    def piece(rows: slice, first: int, last: int) -> tuple[Points, Any, Any]:
        return _piece(points, lengths, wanted[rows, first:last], None if lower is None else lower[rows, first:last])

    for start, stop in blocks(m, min(TILE, max(1, room // width))):
        rows, cuts = slice(start, stop), list(blocks(width, room))
        pieces = (piece(rows, *cut) for cut in cuts)  # one after the other
        yield start, stop, put(data[rows]), list(pieces) if len(cuts) == 1 else pieces


def _piece(points: Rows, lengths: Any, wanted: Any, lower: Any) -> tuple[Points, Any, Any]:
    names, places = np.unique(wanted, return_inverse=True)
    none = int(np.searchsorted(names, 0))  # -1 is no row
    names = names[none:].astype(np.int32) if none < len(names) else np.zeros(1, np.int32)
    numbers = (places.reshape(wanted.shape) - none).astype(np.int32)
    known = lengths[put(names)] if on_device(lengths) else None if lengths is None else put(lengths[names])
    return Points(Rows(put(points.data[names]), points.kind), known, put(names)), put(numbers), put(lower)


def _answer(queries: Any, pieces: Any, k: int, metric: int, near: Any) -> None:
    """Distances and ids of the k nearest of all pieces' candidates into near, all on the device."""
    keys = []
    for points, candidates, lower in pieces:
        plan = plan_rerank(len(queries), candidates.shape[1], k, lower is not None)
        if plan.slices == 1 and isinstance(pieces, list):  # a list is of one piece
            _launch(plan, queries, points, candidates, lower, metric, k, None, near)
            return
        keys.append(cupy.empty((len(queries), plan.slices * plan.keep), np.int64))
        _launch(plan, queries, points, candidates, lower, metric, k, keys[-1], near)
    least = cupy.empty((len(queries), k), np.int64)
    smallest(keys[0] if len(keys) == 1 else cupy.concatenate(keys, axis=1), None, None, least)
    launch(CU, "unpack", -(-least.size // THREADS[1]), THREADS[1], least, np.int64(least.size), *near)


def _launch(
    plan: RerankPlan, queries: Any, points: Points, candidates: Any, lower: Any, metric: int, k: int, keys: Any, near: Any
) -> None:  # fmt: skip
    """The smallest keys of each slice into keys, or into near what they say."""
    rows, width = points.rows, candidates.shape[1]
    sizes = (width, plan.slices, plan.width, plan.early)
    launch(
        CU, "rerank", len(queries) * plan.slices, plan.threads,
        queries, rows.data, np.int32(rows.dim), whole_words(rows), candidates, NULL if lower is None else lower,
        *map(np.int32, sizes), NULL if points.lengths is None else points.lengths,
        NULL if points.names is None else points.names, np.int32(metric), np.int32(k), np.int32(plan.keep),
        np.int32(plan.room), NULL if keys is None else keys, *near, shared=plan.shared, defines=read_as(rows),
    )  # fmt: skip
