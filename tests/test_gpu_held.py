"""What the device keeps between calls, on the simulated GPU: the same bits, nothing moved twice, let go when memory is short;
and whole searches that a planner sends there."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest
from gpu_sim import gpu_fixture  # noqa: F401

from omendb_kernels import PointSet, build_graph, dispatch, knn, planner, search_graph, use_backend
from omendb_kernels.cost import Amounts, Profile
from omendb_kernels.planner import Planner

ROWS, DIM = 1200, 32  # more than are scanned without codes
NODES = 400
HOST = Profile("numpy", "cpu", Amounts(*[1e3] * len(Amounts())), "made up")
CARD = Profile("cupy", "gpu", Amounts(*[1e9] * len(Amounts())), "made up", 1e12, 1 << 40)


@pytest.fixture
def points(rng):
    return PointSet.encode(rng.normal(size=(ROWS, DIM)).astype(np.float32), "l2")


@pytest.fixture
def sent_there(gpu, monkeypatch):
    """A planner that prefers the simulated GPU."""
    monkeypatch.delenv("OMENDB_BACKEND", raising=False)
    made = Planner((HOST, CARD))
    monkeypatch.setattr(planner, "_planner", made)
    return made


def same(a, b):
    assert all(np.array_equal(x, y) for x, y in zip(a[:2], b[:2], strict=True))


def test_points_that_are_held_are_not_moved_again(gpu, points, rng):
    queries = rng.normal(size=(20, DIM)).astype(np.float32)
    with use_backend("numpy"):
        wanted = knn(queries, points, 7)
    with use_backend("cupy"):
        backend = dispatch.backend()
        gpu.moved.clear()
        same(knn(queries, points, 7), wanted)
        before = gpu.moved["up"]
        backend.hold(points, points.arrays)
        gpu.moved.clear()
        same(knn(queries, points, 7), wanted)
        after = gpu.moved["up"]
        assert before - after >= points.codes.nbytes
        assert backend.release() >= points.codes.nbytes
        assert backend.release() == 0
        gpu.moved.clear()
        same(knn(queries, points, 7), wanted)
        assert gpu.moved["up"] == before


def test_older_generations_take_the_first_rows_and_newer_ones_bring_their_own(gpu, points, rng):
    queries = rng.normal(size=(5, DIM)).astype(np.float32)
    more = points.extend(rng.normal(size=(30, DIM)).astype(np.float32), refit=False)
    with use_backend("numpy"):
        wanted = [knn(queries, one, 9) for one in (points, more)]
    with use_backend("cupy"):
        for held in (points, more):
            dispatch.backend().hold(held, held.arrays)
            for one, answer in zip((points, more), wanted, strict=True):
                same(knn(queries, one, 9), answer)
            dispatch.backend().release()


def test_what_is_held_dies_with_its_holder(gpu, rng):
    with use_backend("cupy"):
        points = PointSet.encode(rng.normal(size=(ROWS, DIM)).astype(np.float32), "l2")
        backend = dispatch.backend()
        backend.hold(points, points.arrays)
        del points
        gc.collect()
        assert backend.release() == 0


def test_a_planner_sends_searches_there_and_keeps_the_points(gpu, sent_there, points, rng):
    queries = rng.normal(size=(30, DIM)).astype(np.float32)
    nodes = points.take(np.arange(NODES))
    with use_backend("numpy"):
        wanted = knn(queries, points, 5)
        graph, _, _ = build_graph(nodes)
        mask = rng.random(NODES) < 0.6
        found = [search_graph(graph, nodes, queries, 5, beam=24, mask=given) for given in (None, mask)]
    gpu.launches.clear()
    same(knn(queries, points, 5), wanted)
    assert gpu.launches, "nothing ran on the device"
    assert sent_there.residency.holders(points) == {"cupy"}
    gpu.moved.clear()
    same(knn(queries, points, 5), wanted)
    assert gpu.moved["up"] < points.codes.nbytes
    for given, answer in zip((None, mask), found, strict=True):
        same(search_graph(graph, nodes, queries, 5, beam=24, mask=given), answer)
    assert sent_there.residency.holders(graph) == {"cupy"}
    gpu.moved.clear()
    same(search_graph(graph, nodes, queries, 5, beam=24, mask=mask), found[1])
    kept = gpu.moved["up"]
    with use_backend("cupy"):
        dispatch.backend().release()
        gpu.moved.clear()
        same(search_graph(graph, nodes, queries, 5, beam=24, mask=mask), found[1])
    assert gpu.moved["up"] - kept >= nodes.codes.nbytes + graph.neighbours.nbytes


def test_a_graph_is_built_there(gpu, sent_there, points):
    points = points.take(np.arange(NODES))
    with use_backend("numpy"):
        wanted, _, _ = build_graph(points)
    gpu.launches.clear()
    found, _, _ = build_graph(points)
    assert gpu.launches
    assert np.array_equal(found.neighbours, wanted.neighbours)
    assert (found.beam, found.recall) == (wanted.beam, wanted.recall)


def test_too_little_memory_is_answered_by_the_host(gpu, sent_there, points, rng, caplog):
    dispatch.say_once.cache_clear()
    queries = rng.normal(size=(30, DIM)).astype(np.float32)
    with use_backend("numpy"):
        wanted = knn(queries, points, 5)
    same(knn(queries[:3], points, 5), [part[:3] for part in wanted])
    gpu.memory = gpu.used + 100
    same(knn(queries, points, 5), wanted)
    assert "cupy is left for numpy" in caplog.text
    assert sent_there.residency.holders(points) == frozenset()


def test_a_profile_without_transfer_needs_none(gpu, sent_there, points):
    """A measured profile of a card may lack it."""
    sent_there.profiles = (HOST, replace(CARD, transfer=None))
    assert knn(points.vectors.data[:2], points, 1)[1].ravel().tolist() == [0, 1]
