"""remove: dead nodes leave the graph, and their neighbours take over what they led to (FreshDiskANN, arXiv 2105.09613)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..contract import NO_KEY, Backend, CodeRows, Int32s, Int64s
from ..parallel import blocks
from .build import fresh_lists
from .graph import Graph, ids_of, no_lists, nodes_of
from .insert import link_back
from .place import placed_codes
from .repair import repair
from .router import router_of

BLOCK = 2048  # lists mended at a time: each may bring degree^2 candidates
MANY = 8  # where more than one node in so many leaves, making all lists anew costs no more than mending them, and is better


def consolidate(graph: Graph, points: CodeRows, live: NDArray[np.bool_], ops: Backend, threads: int) -> Graph | None:
    """The graph without the rows that are not `live` (rows,); None when nothing is left.

    A node stays while a live row stands behind it. Every list that held a dead node is pruned anew from its live members and
    the live members of the dead nodes' lists, and linked back; where many nodes leave, all lists are made anew. Cost: about
    degree^2 / 2 distances a mended list, that of a build at most.
    """
    heads = np.arange(graph.rows, dtype=np.int32) if graph.heads is None else graph.heads
    heads = np.where(live, heads, -1).astype(np.int32)
    needed = np.zeros(graph.rows, np.bool_)
    needed[heads[heads >= 0]] = True
    heads[needed] = np.flatnonzero(needed)  # of twins that live, though it may be dead itself
    nodes = nodes_of(heads, graph.rows)
    if not len(nodes):
        return None
    points = placed_codes(points, ops)
    neighbours = _without(graph, points, nodes, needed, ops, threads)
    router = router_of(points, neighbours, nodes, min(len(graph.router), graph.settings.router), graph.settings, ops, threads)
    repair(points, neighbours, router, nodes, ops, threads)
    return replace(graph, neighbours=neighbours, router=router, heads=heads)


def _without(
    graph: Graph, points: CodeRows, nodes: Int32s, needed: NDArray[np.bool_], ops: Backend, threads: int
) -> Int32s:
    """The lists of the `nodes` that stay."""
    if MANY * len(nodes) < (MANY - 1) * len(graph.nodes):
        return fresh_lists(points.take(slice(0, graph.rows)), nodes, graph.settings, ops, threads)
    neighbours = no_lists(graph.rows, graph.settings)
    neighbours[:] = graph.neighbours
    neighbours[~needed] = -1
    slots = neighbours[:, -1]
    slots[(slots >= 0) & ~needed[slots]] = -1
    lists = graph.neighbours[:, :-1]
    lost = np.zeros(len(nodes), np.bool_)
    for start, stop in blocks(len(nodes), BLOCK * 8):
        line = lists[nodes[start:stop]]
        lost[start:stop] = ((line >= 0) & ~needed[line]).any(axis=1)
    mended = nodes[lost]
    kept = np.full((len(mended), graph.settings.degree), NO_KEY, np.int64)
    for start, stop in blocks(len(mended), BLOCK):
        kept[start:stop] = _mended(graph, points, mended[start:stop], needed, ops, threads)
        neighbours[mended[start:stop], :-1] = ids_of(kept[start:stop])
    link_back(points, neighbours, mended, kept, graph.settings, ops, threads)
    return neighbours


def _mended(
    graph: Graph, points: CodeRows, rows: Int32s, needed: NDArray[np.bool_], ops: Backend, threads: int
) -> Int64s:
    lists, settings = graph.neighbours[:, :-1], graph.settings
    own = lists[rows]
    there = own >= 0
    dead = there & ~needed[own]
    beyond = np.where(dead[:, :, None], lists[own], -1).reshape(len(rows), -1)
    beyond = np.where((beyond >= 0) & needed[beyond], beyond, -1)
    ids = np.concatenate([np.where(dead, -1, own), beyond], axis=1)
    candidates = ops.score(points, rows, ids, settings.reservoir, threads=threads)
    return ops.prune(points, candidates, settings.degree, settings.alpha, threads=threads)
