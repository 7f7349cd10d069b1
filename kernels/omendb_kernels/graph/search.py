"""search: router, beam, exact distances of the pool; masks with a full k; rows that are not in the graph yet.

The graph is walked whatever a mask allows; what it refuses is dropped from the pool, which is made larger for it. Where so few
rows are allowed that a scan is cheaper, and for queries whose pool held too few of them, the answer comes from the certified
scan: k rows are found whenever k are allowed. An answer depends on the query alone, never on its batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .. import exact as exact_search
from ..arrays import Rows
from ..codec import QueryCodes, lower_bounds
from ..contract import NO_KEY, Backend, CodeRows, Float32s, Int32s, Int64s, SearchPlan
from ..dispatch import backend
from ..keys import unpack
from ..metrics import METRICS
from ..parallel import blocks
from .graph import MAX_BEAM, Graph, Twins
from .place import fetched, taken
from .router import nearest_of

if TYPE_CHECKING:
    from ..points import PointSet

QUERY_BLOCK = 1024
SCAN_PER_PLACE = 60  # rows that a masked scan passes in the time of one place of a pool (docs/decisions.md)
ENOUGH = 0.5  # of the pool that was asked for: fewer allowed rows found, and the query is scanned
BOUNDED = 1 << 17  # values of all candidates: for fewer, computing their bounds costs more than it saves
MAX_TWINS = 4096  # rows of equal code that one query for fewer looks at


@dataclass
class GraphSearch:
    """What a search of the graph did. beam: places of the pool; scanned: queries that were answered by the certified scan."""

    beam: int
    scanned: int = 0


def entries_of(graph: Graph, queries: CodeRows, points: CodeRows, ops: Backend, threads: int) -> Int32s:
    """int32 (m, 1): the router's node nearest to each query."""
    entrance = graph.entrance(points) if isinstance(points.codes, np.ndarray) else taken(points, graph.router, ops)
    return nearest_of(graph.router, queries, entrance, ops, threads)


def beam_for(graph: Graph, k: int, beam: int | None) -> int:
    """The places that a search for k rows needs: those given, else the tuned ones and one more for each k past ten."""
    wanted = graph.beam + max(0, k - 10) if beam is None else beam
    return min(max(wanted, k), MAX_BEAM, graph.rows)


def search(
    graph: Graph, points: PointSet, queries: Rows, k: int, mask: NDArray[np.bool_] | None, beam: int | None, *, threads: int
) -> tuple[Float32s, Int64s, GraphSearch]:
    """float32 (m, k) distances and int64 (m, k) rows by (distance, row), padded with (inf, -1), and what was done.

    mask: bool (n,) of allowed rows, the tail's included. beam: None for the tuned one. Distances are the true ones (those of
    `pairwise(precision="exact")`); which rows are found is approximate, but in the tail and where the scan answered.
    Queries may lie on the backend's device.
    """
    m = len(queries)
    wanted = beam_for(graph, k, beam)
    report = GraphSearch(wanted)
    if mask is None and len(points) == graph.rows:
        found = _sought(graph, points, queries, k, wanted, threads)
        if found is not None:
            return *found, report
    queries = Rows(fetched(queries.data), queries.kind)
    allowed = None if mask is None else mask[: graph.rows]
    count = graph.present if allowed is None else int(np.count_nonzero(allowed))
    if mask is not None and count <= math.sqrt(SCAN_PER_PLACE * wanted * graph.present):
        distances, ids, _ = exact_search.search(points, queries, k, mask, exact=True, threads=threads)
        report.scanned = m
        return distances, ids, report
    report.beam = max(1, min(-(-wanted * graph.present // max(1, count)), MAX_BEAM, graph.rows))
    distances, ids = np.empty((m, k), np.float32), np.empty((m, k), np.int64)
    for start, stop in blocks(m, QUERY_BLOCK):
        here = slice(start, stop)
        distances[here], ids[here] = _block(graph, points, queries[start:stop], k, allowed, count, wanted, report, threads)
    if len(points) > graph.rows:
        tail = points.behind(graph.rows)
        late = None if mask is None else mask[graph.rows :]
        near, places, _ = exact_search.search(tail, queries, k, late, exact=True, threads=threads)
        distances, ids = _merged(distances, ids, near, np.where(places < 0, -1, places + graph.rows))
    return distances, ids, report


def _sought(
    graph: Graph, points: PointSet, queries: Rows, k: int, beam: int, threads: int
) -> tuple[Float32s, Int64s] | None:
    """The answer by the backend's shortcut; None where it has none, or a query found too few rows."""
    ops = backend()
    if not hasattr(ops, "seek"):
        return None
    known, owner, search = graph.shortcut.get("seek", (None, None, None))
    if known is not points or owner is not ops:
        search = ops.seek(_plan(graph, points))
        graph.shortcut["seek"] = (points, ops, search)
    distances, ids, fewest = search(queries, k, beam, threads)
    return (distances, ids) if fewest >= min(k, graph.present) else None


def _plan(graph: Graph, points: PointSet) -> SearchPlan:
    codec, twins, none = points.codec, graph.twins, np.empty(0, np.int32)
    assert codec is not None
    return SearchPlan(
        METRICS[points.metric].code, points.vectors, points.lengths, points.residuals, points.max_length, points.scanned,
        codec.offset, codec.signs, codec.scale, codec.lossless, graph.router, graph.entrance(points.scanned), graph.neighbours,
        graph.settings.width, none if twins is None else twins.heads, none if twins is None else twins.rows, MAX_TWINS,
    )  # fmt: skip


def _block(
    graph: Graph,
    points: PointSet,
    queries: Rows,
    k: int,
    allowed: NDArray[np.bool_] | None,
    count: int,
    wanted: int,
    report: GraphSearch,
    threads: int,
) -> tuple[Float32s, Int64s]:
    ops, coded, codes = backend(), points.encode_queries(queries, threads=threads), points.scanned
    entries = entries_of(graph, coded.rows, codes, ops, threads)
    known = codes.take(slice(0, graph.rows))
    pool = ops.beam(coded.rows, known, graph.neighbours, entries, report.beam, graph.settings.width, threads=threads)
    scores, candidates = unpack(pool)
    if graph.twins is not None:
        twins = graph.twins if allowed is None else graph.twins.among(allowed)
        scores, candidates = _with_twins(twins, scores, candidates, max(MAX_TWINS, k))
    if allowed is not None:
        candidates[(candidates >= 0) & ~allowed[candidates]] = -1
    distances, ids = _finished(points, queries, coded, scores, candidates, k, threads)
    found = (candidates >= 0).sum(axis=1)
    needed = min(k, count) if allowed is None else min(max(k, math.ceil(ENOUGH * wanted)), count)
    poor = np.flatnonzero(found < needed)
    if len(poor):
        mask = np.zeros(len(points), np.bool_)
        mask[: graph.rows] = True if allowed is None else allowed
        distances[poor], ids[poor], _ = exact_search.search(points, queries[poor], k, mask, exact=True, threads=threads)
        report.scanned += len(poor)
    return distances, ids


def _finished(
    points: PointSet, queries: Rows, coded: QueryCodes, scores: Int32s, candidates: Int32s, k: int, threads: int
) -> tuple[Float32s, Int64s]:
    """The k nearest candidates by true distance; rows whose own bound is beyond the k-th are not looked at."""
    assert points.codec is not None
    lower = None
    if candidates.size * points.dim > BOUNDED and not coded.exact.all():  # bounds spare re-ranking, where it is worth them
        residuals = points.residuals[candidates].astype(np.float64)
        lower = lower_bounds(points.codec, coded, scores, residuals, points.max_length)
    return exact_search.finish(points, queries, coded, scores, candidates, lower, k, threads)


def _with_twins(twins: Twins, scores: Int32s, candidates: Int32s, most: int) -> tuple[Int32s, Int32s]:
    """Scores and candidates with the further rows of each node behind them, at most `most` a query."""
    first = np.searchsorted(twins.heads, candidates, side="left")
    more = np.searchsorted(twins.heads, candidates, side="right") - first
    more[candidates < 0] = 0
    before = np.cumsum(more, axis=1) - more
    more = np.clip(most - before, 0, more)
    room = int(more.sum(axis=1).max(initial=0))
    if room == 0:
        return scores, candidates
    m, width = candidates.shape
    out = np.full((m, width + room), -1, np.int32)
    bounds = np.full((m, width + room), NO_KEY >> 32, np.int32)
    out[:, :width], bounds[:, :width] = candidates, scores
    line, place = np.nonzero(more)
    counts = more[line, place]
    step = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    row, start = np.repeat(line, counts), np.repeat(first[line, place], counts)
    target = width + np.repeat(before[line, place], counts) + step
    out[row, target] = twins.rows[start + step]
    bounds[row, target] = np.repeat(scores[line, place], counts)
    return bounds, out


def _merged(a: Float32s, a_ids: Int64s, b: Float32s, b_ids: Int64s) -> tuple[Float32s, Int64s]:
    """The nearest of two lists of equal length, by (distance, row)."""
    distances, ids = np.concatenate([a, b], axis=1), np.concatenate([a_ids, b_ids], axis=1)
    order = np.lexsort((np.where(ids < 0, np.iinfo(np.int64).max, ids), distances), axis=1)[:, : a.shape[1]]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(ids, order, 1)
