"""Certified exact search: scan codes, finish the best few in float64, prove that nothing was missed, redo what is unproved.

    keep = first_keep(k)
    loop  nearest keeps the `keep` best codes of each query; outliers (rows that coded badly) are added
          rerank gives their final distances, the k-th of them is d_k
          every row outside has a code distance >= the worst kept, so its distance is >= bound(worst, residual cap)
          bound > the float32 after d_k: proved (strictly: a tie with a smaller id must not be lost)
          else keep 8 times as many; at last scan every row in float64
The bound is codec.lower_bounds; what is returned is the same whichever round proves it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .arrays import Rows
from .codec import QueryCodes, first_keep, lower_bounds
from .contract import NO_KEY, Float32s, Float64s, Int32s, Int64s
from .dispatch import backend
from .keys import distances_of, ordered, pack, unpack
from .metrics import METRICS
from .parallel import blocks, run
from .points import PointSet

QUERY_BLOCK = 1024  # bounds the memory of one round
WIDEN = 8
SCAN_SHARE = 8  # past n / 8 kept rows a full scan is cheaper than another round
CODED_ROWS = 1024  # below this many allowed rows codes save nothing, as long as queries have together no more than
SCANNED_VALUES = 1_500_000  # to look at: what a float64 scan does while a round with codes begins, some 250 us;
SCAN_START = 90_000  # a query's own start counts as so many
ALONE = 500_000  # values of a scan in float64 that one thread does while another wakes and is waited for (parallel.py)


@dataclass
class Proof:
    """What it took to prove the answers.

    queries: how many; certified_first: proved by the first round; rounds: rounds that some query needed; full_scans: queries
    that no round proved, answered by a float64 scan of every row; rows_reranked: candidates whose own bound did not rule
    them out, over all queries and rounds (of full scans: every allowed row).
    """

    queries: int = 0
    certified_first: int = 0
    rounds: int = 0
    full_scans: int = 0
    rows_reranked: int = 0
    _per_query: list[NDArray[np.int64]] = field(default_factory=list, repr=False)

    @property
    def share_certified_first(self) -> float:
        """Of the queries, 0 to 1; 1.0 when there were none."""
        return self.certified_first / self.queries if self.queries else 1.0

    @property
    def rows_per_query(self) -> NDArray[np.int64]:
        """int64 (queries,): the rows re-ranked for each query."""
        return np.concatenate(self._per_query) if self._per_query else np.zeros(0, np.int64)

    def add_block(self, rows: NDArray[np.int64]) -> None:
        """Count one more block of queries: the rows re-ranked for each."""
        self.queries += len(rows)
        self.rows_reranked += int(rows.sum())
        self._per_query.append(rows)


def search(
    points: PointSet, queries: Rows, k: int, mask: NDArray[np.bool_] | None, *, exact: bool, threads: int
) -> tuple[Float32s, Int64s, Proof]:
    """float32 (m, k) distances, int64 (m, k) ids by (distance, id), padded with (inf, -1), and the proof.

    exact=False stops after the first round: the answer is what that round found, proved or not.
    """
    distances = np.full((len(queries), k), np.inf, np.float32)
    ids = np.full((len(queries), k), -1, np.int64)
    proof = Proof()
    allowed = len(points) if mask is None else int(np.count_nonzero(mask))
    for start, stop in blocks(len(queries), QUERY_BLOCK):
        here, block = slice(start, stop), queries[start:stop]
        if points.codec is None or (exact and _few(len(block), allowed, points.dim)):
            distances[here], ids[here] = scan(points.vectors, points.lengths, block, k, points.metric, mask, threads)
            proof.add_block(np.full(len(block), allowed, np.int64))
            proof.certified_first += len(block)
        else:
            distances[here], ids[here] = _block(points, block, k, mask, allowed, exact, threads, proof)
    return distances, ids, proof


def _few(queries: int, allowed: int, dim: int) -> bool:
    """Whether a scan in float64 is quicker than a round with codes."""
    values = queries * (allowed * dim + SCAN_START)
    return allowed == 0 or (allowed <= CODED_ROWS and values <= SCANNED_VALUES)


def _block(
    points: PointSet,
    queries: Rows,
    k: int,
    mask: NDArray[np.bool_] | None,
    allowed: int,
    exact: bool,
    threads: int,
    proof: Proof,
) -> tuple[Float32s, Int64s]:
    m = len(queries)
    coded = points.encode_queries(queries, threads=threads)
    distances, ids = np.empty((m, k), np.float32), np.empty((m, k), np.int64)
    rows = np.zeros(m, np.int64)
    pending, keep, rounds = np.arange(m), min(first_keep(k), allowed), 0
    while len(pending):
        if rounds and keep * SCAN_SHARE > allowed:
            found = scan(points.vectors, points.lengths, queries[pending], k, points.metric, mask, threads)
            distances[pending], ids[pending] = found
            proof.full_scans += len(pending)
            rows[pending] += allowed
            break
        block, block_codes = queries[pending], coded[pending]
        d, i, worst, tried = _round(points, block, block_codes, k, keep, mask, threads)
        distances[pending], ids[pending] = d, i
        rows[pending] += tried
        proved = np.ones(len(pending), np.bool_) if keep >= allowed else _certified(points, block_codes, worst, d[:, -1])
        if not rounds:
            proof.certified_first += int(proved.sum())
        rounds += 1
        if not exact:
            break
        pending, keep = pending[~proved], min(keep * WIDEN, allowed)
    proof.rounds = max(proof.rounds, rounds)
    proof.add_block(rows)
    return distances, ids


def _round(
    points: PointSet,
    queries: Rows,
    coded: QueryCodes,
    k: int,
    keep: int,
    mask: NDArray[np.bool_] | None,
    threads: int,
) -> tuple[Float32s, Int64s, Int32s, NDArray[np.int64]]:
    """One scan: distances and ids (m, k), the worst score kept, and how many rows each query had to finish."""
    assert points.codec is not None
    ops, codec, outliers = backend(), points.codec, points.outliers
    keys = ops.nearest(coded.rows, points.scanned, keep, mask, threads=threads)
    scores, candidates = unpack(keys)
    worst = scores[:, -1].copy()
    residuals = points.residuals[candidates]
    if len(outliers.ids):
        # Outliers are searched apart, with their own bounds, so that the cap holds for all rows of the main scan.
        candidates[residuals > np.float32(codec.residual_cap)] = -1
        allowed = None if mask is None else np.ascontiguousarray(mask[outliers.ids])
        apart = ops.nearest(coded.rows, outliers.rows, len(outliers.ids), allowed, threads=threads)
        apart_scores, places = unpack(apart)
        scores = np.concatenate([scores, apart_scores], axis=1)
        residuals = np.concatenate([residuals, outliers.residuals[places]], axis=1)
        apart_ids = np.where(places < 0, -1, outliers.ids[places]).astype(np.int32)
        candidates = np.concatenate([candidates, apart_ids], axis=1)
    lower = lower_bounds(codec, coded, scores, residuals.astype(np.float64), points.max_length)
    distances, ids = finish(points, queries, coded, scores, candidates, lower, k, threads)
    tried = ((candidates >= 0) & (lower <= _next_float(distances[:, -1])[:, None])).sum(axis=1)
    return distances, ids, worst, tried


def finish(
    points: PointSet,
    queries: Rows,
    coded: QueryCodes,
    scores: Int32s,
    candidates: Int32s,
    lower: Float64s | None,
    k: int,
    threads: int,
) -> tuple[Float32s, Int64s]:
    """The k nearest candidates of a scan or a search, (m, k), by final distance; scores and bounds are the candidates'."""
    assert points.codec is not None
    if points.codec.lossless and coded.exact.all():
        # The scores are the distances (of ip: twice), exact before the one rounding: no vector need be read.
        values = scores / (2.0 if points.metric == "ip" else 1.0)
        keys = pack(ordered(values.astype(np.float32)), candidates)
        keys[candidates < 0] = NO_KEY
        keys = np.sort(keys, axis=1)[:, :k]
        short = np.full((len(keys), k - keys.shape[1]), NO_KEY, np.int64)
        return distances_of(np.concatenate([keys, short], axis=1))
    metric = METRICS[points.metric].code
    return backend().rerank(
        queries, points.vectors, candidates, k, metric, lengths=points.lengths, lower=lower, threads=threads
    )


def _certified(points: PointSet, coded: QueryCodes, worst: Int32s, kth: Float32s) -> NDArray[np.bool_]:
    """bool (m,): no row outside the kept ones can be among the k nearest."""
    assert points.codec is not None
    codec = points.codec
    bound = lower_bounds(codec, coded, worst[:, None], codec.residual_cap, points.max_length)[:, 0]
    proved = bound > _next_float(kth)
    # Scores that are the distances, small enough for float32 to keep them apart: the scan's own order is the final one.
    proved |= coded.exact & (np.abs(worst) < 2**24)
    return np.asarray(proved)


def _next_float(values: Float32s) -> Float64s:
    with np.errstate(over="ignore"):
        return np.nextafter(values, np.float32(np.inf)).astype(np.float64)


def scan(
    points: Rows,
    lengths: Float64s | None,
    queries: Rows,
    k: int,
    metric: str,
    mask: NDArray[np.bool_] | None,
    threads: int,
) -> tuple[Float32s, Int64s]:
    """Exact search without codes: the final distance of every allowed row. Cost: m * n * d float64 products."""
    m = len(queries)
    allowed = np.arange(len(points), dtype=np.int32) if mask is None else np.flatnonzero(mask).astype(np.int32)
    if m * len(allowed) * points.data.shape[1] < ALONE:
        threads = 1
    parts = 1 if m >= threads else threads
    code = METRICS[metric].code
    keys = np.empty((m, parts, k), np.int64)

    def task(place: tuple[int, int]) -> None:
        query, part = place
        rows = allowed[part * len(allowed) // parts : (part + 1) * len(allowed) // parts]
        one = queries[query : query + 1]
        d, ids = backend_ops.rerank(one, points, rows[None, :], k, code, lengths=lengths, lower=None, threads=1)
        keys[query, part] = pack(ordered(d[0]), np.where(ids[0] < 0, 0xFFFFFFFF, ids[0]))

    backend_ops = backend()
    run(task, [(query, part) for query in range(m) for part in range(parts)], threads)
    merged = np.sort(keys.reshape(m, parts * k), axis=1)[:, :k]
    return distances_of(merged)
