"""insert: rows enter the graph in batches (ParlayANN, PPoPP 2024, Algorithm 3): all of a batch search the frozen graph, then
lists are pruned and linked together. No order inside a batch shows, and batches are cut at row numbers that depend on nothing
but themselves: the same rows give the same graph however calls brought them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..contract import NO_KEY, Backend, CodeRows, Int32s, Int64s
from .graph import FEW, PER_ENTRANCE, Graph, ids_of, no_lists
from .place import fetched, placed_codes, taken
from .repair import repair
from .router import router_of
from .search import entries_of
from .settings import Settings
from .twins import heads_of

FIRST_CUT, LEAST_BATCH, MOST_BATCH, BATCH_SHARE = 1024, 256, 65_536, 50


def insert_due(graph: Graph, points: CodeRows, ops: Backend, threads: int) -> Graph:
    """The graph with all full batches of its tail inside; itself while the tail holds none.

    Cost: a search of beam `insert_beam` a row, and the pruning of every list that a new row links to.
    """
    rows, total = graph.rows, len(points.codes)
    cut = FIRST_CUT
    while True:
        while cut <= rows:
            cut += min(max(LEAST_BATCH, cut // BATCH_SHARE), MOST_BATCH)
        if cut > total:
            return graph
        graph, rows = insert(graph, points, np.arange(rows, cut, dtype=np.int32), ops, threads), cut


def insert(graph: Graph, points: CodeRows, rows: Int32s, ops: Backend, threads: int) -> Graph:
    """The graph with these rows (ascending, all behind its own) inside."""
    total = int(rows[-1]) + 1
    neighbours = no_lists(total, graph.settings)
    neighbours[: graph.rows] = graph.neighbours
    heads = np.arange(total, dtype=np.int32)
    if graph.heads is not None:
        heads[: graph.rows] = graph.heads
    heads[rows] = heads_of(points, rows)
    new = rows[heads[rows] == rows]
    points = placed_codes(points, ops)
    pools = pools_of(graph, points, new, ops, threads)
    # A row of the same code as a node is not a node of its own.
    known = (pools[:, 0] >> 32) == 0
    moved = heads.copy()
    moved[new[known]] = ids_of(pools[known, 0])
    heads[rows] = moved[heads[rows]]
    new, pools = new[~known], pools[~known]
    attach(points, neighbours, new, pools, graph.settings, ops, threads)
    nodes = np.flatnonzero(heads == np.arange(total)).astype(np.int32)
    router = _renewed(graph, points, neighbours, nodes, ops, threads)
    repair(points, neighbours, router, nodes, ops, threads)
    return replace(graph, neighbours=neighbours, router=router, heads=None if len(nodes) == total else heads)


def _renewed(graph: Graph, points: CodeRows, neighbours: Int32s, nodes: Int32s, ops: Backend, threads: int) -> Int32s:
    """The router, of full size again where the graph has outgrown a smaller one or was too small for a choice (build.py)."""
    most, count = graph.settings.router, len(graph.router)
    outgrown = len(nodes) > 2 * PER_ENTRANCE * count or graph.rows < FEW
    if count >= most or not outgrown:
        return graph.router
    return router_of(points, neighbours, nodes, most, graph.settings, ops, threads)


def pools_of(graph: Graph, points: CodeRows, rows: Int32s, ops: Backend, threads: int) -> Int64s:
    """int64 (r, insert_beam): what a search of the graph as it is finds for each row."""
    queries, settings = taken(points, rows, ops), graph.settings
    entries = entries_of(graph, queries, points, ops, threads)
    known = points.take(slice(0, graph.rows))
    pools = ops.beam(queries, known, graph.neighbours, entries, settings.insert_beam, settings.width, threads=threads)
    return fetched(pools)


def attach(
    points: CodeRows, neighbours: Int32s, rows: Int32s, pools: Int64s, settings: Settings, ops: Backend, threads: int
) -> None:
    """Give `rows` (ascending) lists made of their pools and of each other, and link what they chose back to them, in place."""
    if not len(rows):
        return
    queries = taken(points, rows, ops)
    near = fetched(ops.nearest(queries, queries, settings.batch_k + 1, None, threads=threads))
    places = ids_of(near)
    near = np.where(places < 0, NO_KEY, (near & np.int64(-(2**32))) | rows[places])
    near[places == np.arange(len(rows))[:, None]] = NO_KEY
    candidates = np.sort(np.concatenate([pools, near], axis=1), axis=1)[:, : settings.reservoir]
    kept = ops.prune(points, candidates, settings.degree, settings.alpha, threads=threads)
    neighbours[rows, :-1] = ids_of(kept)
    link_back(points, neighbours, rows, kept, settings, ops, threads)


def link_back(
    points: CodeRows, neighbours: Int32s, rows: Int32s, kept: Int64s, settings: Settings, ops: Backend, threads: int
) -> None:
    """Link what `rows` (ascending) chose, keys (r, degree) that are their lists, back to them: lists change in place."""
    targets = np.union1d(kept[kept != NO_KEY] & 0xFFFFFFFF, rows).astype(np.int32)
    lists = neighbours[targets, :-1]
    neighbours[targets, :-1] = ops.adopt(
        points, targets, lists, rows, kept, settings.reservoir, settings.alpha, threads=threads
    )  # fmt: skip
