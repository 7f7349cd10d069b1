"""Rows for the tests of the graph, and what must hold of every graph: checked here by its own walk."""

from __future__ import annotations

import json

import numpy as np

from omendb_kernels import Graph, PointSet, knn, rerank, search_graph
from omendb_kernels.contract import CodeRows
from omendb_kernels.graph.build import LEAST_ROUTER
from omendb_kernels.graph.graph import FEW, PER_ENTRANCE
from omendb_kernels.graph.router import MOST_COVER

Generator = np.random.Generator


def gaussian(rng: Generator, n: int, d: int) -> np.ndarray:
    return rng.standard_normal((n, d), dtype=np.float32)


def clustered(rng: Generator, n: int, d: int, clusters: int = 60, spread: float = 0.3) -> np.ndarray:
    """Gaussian clusters of unlike size around Gaussian centres."""
    centres = rng.standard_normal((clusters, d))
    shares = rng.dirichlet(np.full(clusters, 2.0))
    rows = centres[rng.choice(clusters, n, p=shares)] + spread * rng.standard_normal((n, d))
    return rows.astype(np.float32)


def whole(rows: np.ndarray) -> np.ndarray:
    """The rows as uint8."""
    return np.clip(np.rint(rows * 40 + 128), 0, 255).astype(np.uint8)


def state_bytes(graph: Graph) -> dict[str, bytes]:
    """All of a graph, to be compared."""
    facts, arrays = graph.state()
    found = {name: f"{array.dtype}{array.shape}".encode() + array.tobytes() for name, array in arrays.items()}
    return found | {"facts": json.dumps(facts, sort_keys=True).encode()}


def assert_sound(
    graph: Graph, points: PointSet, live: np.ndarray | None = None, *, connected: bool = False, renumbered: bool = False
) -> None:
    """Lists of nodes only, nearest first, nothing twice; every node is reached; every live row has a node.

    connected: from wherever a search enters; else from some entry (lists of a tight cluster may hold nobody else).
    renumbered: equal distances may stand in any order.
    """
    n, codes = graph.rows, points.nodes
    lists, slots = graph.neighbours[:, :-1], graph.neighbours[:, -1]
    heads = np.arange(n) if graph.heads is None else graph.heads
    is_node = heads == np.arange(n)
    assert graph.neighbours.dtype == graph.router.dtype == np.int32
    assert (graph.neighbours >= -1).all()
    assert (graph.neighbours < n).all()
    assert is_node[graph.neighbours[graph.neighbours >= 0]].all(), "a list names a row that is no node"
    assert (graph.neighbours[~is_node] == -1).all(), "a row that is no node has a list"
    assert (np.diff(graph.router) > 0).all()
    most = int(is_node.sum())
    least = most - most // 50  # rows held back when the router was chosen
    smallest = min(graph.settings.router, least) if n < FEW else max(LEAST_ROUTER, least // (2 * PER_ENTRANCE))
    assert smallest <= len(graph.router) <= min(MOST_COVER * graph.settings.router, most)
    assert is_node[graph.router].all()
    everyone = np.arange(n)
    assert not (graph.neighbours == everyone[:, None]).any(), "a node in its own list"
    assert ((lists[:, 1:] < 0) | (lists[:, :-1] >= 0)).all(), "a hole inside a list"
    assert_ordered(codes, lists, renumbered)
    assert reached_from(graph, graph.router)[is_node].all(), "a node that is not reached from the router"
    some = graph.router[:: max(1, len(graph.router) // 8)] if connected else graph.router  # a search enters at one of them
    everywhere = (reached_from(graph, entry[None])[is_node].all() for entry in some)
    assert all(everywhere) if connected else any(everywhere), "an entry from which not all nodes are reached"
    assert ((slots < 0) | is_node[slots]).all()
    behind = heads >= 0
    assert is_node[heads[behind]].all()
    own = codes.take(everyone[behind])
    of_head = codes.take(heads[behind])
    assert (own.codes == of_head.codes).all()
    assert own.wide is None or (own.wide == of_head.wide).all()
    if live is None:
        assert behind.all()
    else:
        assert (behind >= live).all(), "a live row that has left"
        assert (is_node | ~behind | live).all(), "a dead row that is still known"
        stood_for = np.zeros(n, np.bool_)
        stood_for[heads[live]] = True
        assert (stood_for == is_node).all(), "a node that no live row needs"


def assert_ordered(codes: CodeRows, lists: np.ndarray, any_ties: bool, block: int = 2048) -> None:
    """Ascending by (distance, id), so no row twice. any_ties: by distance, and no row twice."""
    if any_ties:
        ids = np.sort(lists, axis=1)
        assert not ((ids[:, 1:] == ids[:, :-1]) & (ids[:, 1:] >= 0)).any(), "a repeat"
    for start in range(0, len(lists), block):
        line, place = np.nonzero(lists[start : start + block] >= 0)
        ids = lists[start + line, place]
        own, other = codes.take(start + line), codes.take(ids)
        dots = np.einsum("ij,ij->i", own.codes, other.codes, dtype=np.int64)
        if own.wide is not None and other.wide is not None:
            dots += own.wide.astype(np.int64) * other.wide
        keys = (own.norms.astype(np.int64) + other.norms - 2 * dots) * 2**32 + (place if any_ties else ids)
        assert (keys[1:] > keys[:-1])[line[1:] == line[:-1]].all(), "a list that is not nearest first, or a repeat"


def reached_from(graph: Graph, front: np.ndarray) -> np.ndarray:
    """bool (rows,): what a walk from these nodes meets."""
    met = np.zeros(graph.rows + 1, np.bool_)  # the last one stands for -1
    met[front] = True
    while len(front):
        near = np.unique(graph.neighbours[front])
        front = near[(near >= 0) & ~met[near]].astype(np.int64)
        met[front] = True
    return met[:-1]


def truth_of(points: PointSet, queries: np.ndarray, k: int = 10, mask: np.ndarray | None = None) -> np.ndarray:
    return knn(queries, points, k, mask=mask)[0]


def recall_of(
    graph: Graph, points: PointSet, queries: np.ndarray, k: int = 10, mask: np.ndarray | None = None, beam: int | None = None
) -> float:
    """The share of the true k nearest that a search finds (equal distances count), every answer checked on the way."""
    truth = truth_of(points, queries, k, mask)
    found, ids, _ = search_graph(graph, points, queries, k, beam=beam, mask=mask)
    assert_answers(points, queries, k, mask, found, ids)
    there = np.isfinite(truth)  # fewer than k where fewer are allowed, and those few were all found
    last = np.where(there, truth, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    return float((found <= last)[there].mean()) if there.any() else 1.0


def assert_answers(
    points: PointSet, queries: np.ndarray, k: int, mask: np.ndarray | None, found: np.ndarray, ids: np.ndarray
) -> None:
    """min(k, allowed) different allowed rows by (distance, id) with their true distances, then inf and -1."""
    allowed = np.ones(len(points), np.bool_) if mask is None else mask
    count = min(k, int(allowed.sum()))
    assert found.shape == ids.shape == (len(queries), k)
    assert (ids[:, count:] == -1).all()
    assert np.isposinf(found[:, count:]).all()
    near, rows = found[:, :count], ids[:, :count]
    assert (rows >= 0).all(), "fewer rows than there are"
    assert allowed[rows].all(), "a row that the mask refuses"
    keys = list(zip(near.ravel().tolist(), rows.ravel().tolist(), strict=True))
    lines = [keys[i * count : (i + 1) * count] for i in range(len(queries))]
    assert all(line == sorted(set(line)) for line in lines)
    assert all(len({row for _, row in line}) == count for line in lines)
    if count:
        assert (rerank(queries, points, rows, count)[0] == near).all(), "a distance that is not the row's"


