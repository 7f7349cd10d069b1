"""cover: nodes drawn by hash, and more where none is near."""

from __future__ import annotations

import numpy as np
import pytest

from omendb_kernels import build_graph, search_graph
from omendb_kernels.codec import hash_order
from omendb_kernels.graph.cover import covering, within


def test_steps_by_hand():
    """0 -> 1 -> 2 -> 3, and 4, which leads nowhere; row 5 is no node."""
    lists = np.array([[1, -1], [-1, 2], [3, 0], [-1, -1], [-1, -1], [3, 3]], np.int32)
    nodes, chosen = np.arange(5, dtype=np.int32), np.arange(6) == 3
    for steps, near in ((0, [3]), (1, [2, 3]), (2, [1, 2, 3]), (3, [0, 1, 2, 3]), (9, [0, 1, 2, 3])):
        assert np.flatnonzero(within(lists, nodes, chosen, steps)).tolist() == near
    assert chosen.sum() == 1  # left as it was


@pytest.mark.parametrize("share", [2, 16, 100])
def test_none_is_far(rng, share):
    """Rows that lead to 20 others of their own island of 40: those drawn, and some on each island."""
    islands, size = 50, 40
    n = islands * size
    lists = rng.integers(0, size, (n + 10, 20)) + (np.arange(n + 10) // size * size)[:, None]
    lists[rng.random(lists.shape) < 0.3] = -1
    nodes = np.setdiff1d(np.arange(n), rng.integers(0, n, 99)).astype(np.int32)
    hashes = hash_order(int(rng.integers(2**32)), 1, len(nodes))
    limit = 2**64 // share
    chosen = covering(lists.astype(np.int32), nodes, hashes, limit, n)
    assert chosen[hashes < np.uint64(limit)].all()
    assert len(np.unique(nodes[chosen] // size)) == islands
    there = np.isin(np.arange(n + 10), nodes[chosen])
    assert within(lists.astype(np.int32), nodes, there, 3).all()
    drawn = int((hashes < np.uint64(limit)).sum())
    assert chosen.sum() <= drawn + 6 * islands  # doubled until one is there: seldom more than a few


def test_no_more_than_asked_for(rng):
    n = 1000
    nobody, nodes = np.full((n, 3), -1, np.int32), np.arange(n, dtype=np.int32)
    hashes = hash_order(3, 1, n)
    assert covering(nobody, nodes, hashes, 2**64 // 16, n).all()
    some = covering(nobody, nodes, hashes, 2**64 // 16, 300)
    assert 100 < some.sum() <= 300
    assert np.array_equal(some, hashes < np.uint64(2**62))
    assert not covering(nobody, nodes, hashes, 0, n).any()


def test_only_what_is_lost_is_covered(rng):
    n = 1000
    nobody, nodes, asked = np.full((n, 3), -1, np.int32), np.arange(n, dtype=np.int32), []

    def lost(some: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        assert not np.isin(some, chosen).any()
        asked.append(len(some))
        return some < 10

    hashes = hash_order(5, 1, n)
    chosen = covering(nobody, nodes, hashes, 2**64 // 64, n, lost)
    assert np.array_equal(np.flatnonzero(chosen), np.union1d(np.flatnonzero(hashes < np.uint64(2**58)), np.arange(10)))
    assert asked == sorted(asked, reverse=True)


# In the narrowest clusters most rows share a code.
SETS = [(9_000, 0.1), (13_000, 0.1), (13_000, 1e-3), pytest.param(60_000, 0.1, marks=pytest.mark.long)]


@pytest.mark.heavy
@pytest.mark.parametrize(("n", "width"), SETS)
def test_searches_find_every_cluster(rng, n, width):
    """Each row as a query for itself, in clusters of more rows than a list has places, hard to walk between."""
    rows, cluster = rng.standard_normal((n, 64), dtype=np.float32), rng.integers(0, n // 43, n)
    rows = (rows[cluster] + width * rows).astype(np.float32)
    graph, points, _ = build_graph(rows)
    distances, ids, _ = search_graph(graph, points, rows, 1, beam=20)
    assert (cluster[ids[:, 0]] == cluster).mean() > 0.99
    assert width < 0.1 or (distances[:, 0] == 0).mean() > 0.99
    assert graph.recall > 0.95
