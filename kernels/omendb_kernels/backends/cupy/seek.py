"""seek: the whole search of a graph on the device: encode, router, beam, exact distances, with one way there and one back.

It composes the ops as graph/search.py does, so it gives their bits; all that a search reads is uploaded once, when it is
prepared. Vectors that would take more than their share of the device's memory stay on the host, where rerank fetches rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cupy
import numpy as np

from ...arrays import Rows
from ...codec import rotation_blocks
from ...contract import CodeRows, Float32s, Int64s, SearchPlan
from ...metrics import METRICS
from ._device import MOST_SHARED, SHARE, free_bytes, give, launch, on_device, op, put, put_codes, put_rows, uploaded
from .beam import BeamPlan, plan_beam, rows_at_once, search_lists
from .encode import encode, lengths
from .nearest import nearest
from .rerank import rerank

COSINE, IP = METRICS["cosine"].code, METRICS["ip"].code
CU, WARPS = "seek.cu", 4  # of a block


@op
def seek(plan: SearchPlan) -> Callable[[Rows, int, int, int], tuple[Float32s, Int64s, int]]:
    """See contract.py."""
    searcher, rows = _Searcher(plan), len(plan.vectors)

    @op
    def search(queries: Rows, k: int, beam: int, threads: int) -> tuple[Float32s, Int64s, int]:
        m, here = len(queries), on_device(queries.data)
        xp: Any = cupy if here else np
        distances, ids = xp.empty((m, k), np.float32), xp.empty((m, k), np.int64)
        fewest = rows
        if not m:
            return distances, ids, fewest
        step = min(m, searcher.rows_at_once(queries, k, beam))
        for start, stop, (data,) in uploaded((queries.data,), step):
            near, found_ids, found = searcher.search(Rows(data, queries.kind), k, beam)
            distances[start:stop], ids[start:stop] = give(near, queries.data), give(found_ids, queries.data)
            fewest = min(fewest, int(found.min()))
        return distances, ids, fewest

    return search


class _Searcher:
    """A plan on the device."""

    def __init__(self, plan: SearchPlan) -> None:
        dim = plan.offset.size
        self.metric, self.dim, self.width, self.most_twins = plan.metric, dim, plan.width, plan.most_twins
        self.scale, self.lossless, self.max_length = plan.scale, plan.lossless, plan.max_length
        self.furthest = float(np.abs(plan.offset).max())
        self.offset = put(np.zeros_like(plan.offset) if plan.metric == IP else plan.offset)
        self.signs, self.scales = put(plan.signs), put(np.array([plan.scale]))
        self.codes, self.lists = put_codes(plan.codes), put(plan.neighbours)
        self.router, self.entrance = put(plan.router), put_codes(plan.entrance)
        self.heads, self.twins = put(plan.twin_heads), put(plan.twin_rows)
        self.residuals = put(plan.residuals)
        fits = on_device(plan.vectors.data) or plan.vectors.data.nbytes <= SHARE * free_bytes()
        self.vectors = put_rows(plan.vectors) if fits else plan.vectors
        self.lengths = put(plan.lengths) if fits else plan.lengths

    def rows_at_once(self, queries: Rows, k: int, beam: int) -> int:
        """How many queries are searched for together."""
        rows = beam + (max(self.most_twins, k) if len(self.heads) else 0)
        coded = self.dim * (queries.data.itemsize + 1 + (12 if self.metric == IP else 0)) + 128
        return rows_at_once(self._plan_beam(beam), coded + 8 * beam + 12 * rows + 24 * k)

    def _plan_beam(self, beam: int) -> BeamPlan:
        n, code_dim = self.codes.codes.shape
        return plan_beam(n, code_dim, self.lists.shape[1], 1, beam, self.width)

    def search(self, queries: Rows, k: int, beam: int) -> tuple[Any, Any, Any]:
        """Distances (m, k), ids (m, k), and how many rows each query found (m,), all on the device."""
        coded, errors, sizes, scales = self._encoded(queries)
        pools = cupy.empty((len(queries), beam), np.int64)
        search_lists(coded, self.codes, self.lists, self._entries(coded), self._plan_beam(beam), pools)
        rows, lower, found = self._candidates(pools, (errors, sizes, scales), max(self.most_twins, k))
        near, ids = rerank(queries, self.vectors, rows, k, self.metric, lengths=self.lengths, lower=lower, threads=1)
        return near, ids, found

    def _encoded(self, queries: Rows) -> tuple[CodeRows, Any, Any, Any]:
        """Codes, squared errors, lengths and scales: PointSet.encode_queries."""
        sizes = lengths(queries, threads=1)
        scales = self._own_scales(queries) if self.metric == IP else self.scales
        divisors = sizes if self.metric == COSINE else None
        codes, norms, errors = encode(queries, divisors, self.offset, self.signs, scales, threads=1)
        return CodeRows(codes, cupy.zeros_like(norms) if self.metric == IP else norms), errors, sizes, scales

    def _own_scales(self, queries: Rows) -> Any:
        m, scales = len(queries), cupy.empty(len(queries), np.float64)
        size, (first, second) = rotation_blocks(self.dim) if self.signs is not None else (0, [[0], [0]])
        large = 8 * self.dim > MOST_SHARED - 64
        scratch = cupy.empty((m, self.dim) if large else 1, np.float64)
        launch(
            CU, "query_scales", m, 32 * WARPS,
            put(queries.float32()), np.int32(self.dim), self.offset.view(np.int8) if self.signs is None else self.signs,
            np.int32(size), np.float64(size**-0.5 if size else 1.0), np.int32(first[0]), np.int32(len(first)),
            np.int32(second[0]), np.int32(len(second)), np.int32(self.lossless), scratch, np.int32(large), scales,
            shared=0 if large else 8 * self.dim,
        )  # fmt: skip
        return scales

    def _entries(self, coded: CodeRows) -> Any:
        """int32 (m, 1): the router's node nearest to each query."""
        m, keys = len(coded.codes), nearest(coded, self.entrance, 1, None, threads=1)
        entries = cupy.empty((m, 1), np.int32)
        launch(CU, "enter", -(-m // 256), 256, keys, self.router, np.int32(m), entries)
        return entries

    def _candidates(self, pools: Any, sides: tuple[Any, Any, Any], most: int) -> tuple[Any, Any, Any]:
        """Rows int32 (m, c) of the pools and at most `most` twins of each query, lower bounds (m, c), and their number (m,)."""
        m, beam = pools.shape
        found = cupy.empty(m, np.int32)
        room, pairs = 0, len(self.heads)

        def run(counting: bool) -> tuple[Any, Any]:
            shape = (1, 1) if counting else (m, beam + room)
            rows, lower = cupy.empty(shape, np.int32), cupy.empty(shape, np.float64)
            launch(
                CU, "candidates", -(-m // WARPS), 32 * WARPS,
                pools, np.int32(m), np.int32(beam), self.heads, self.twins, np.int32(pairs), np.int32(most),
                np.int32(counting), self.residuals, *sides, np.int32(len(sides[2]) > 1), np.int32(self.metric),
                np.float64(self.scale), np.float64(math.sqrt(self.dim)), np.float64(self.furthest),
                np.float64(self.max_length), np.int32(beam + room), rows, lower, found,
            )  # fmt: skip
            return rows, lower

        if pairs:
            run(counting=True)
            room = int(found.max())  # the one word from the device: how wide the candidates are is not known before
        return *run(counting=False), found
