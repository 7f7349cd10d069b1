"""The shortcut of a backend, a whole search in one call, gives the bits of the ops one by one."""

from __future__ import annotations

import importlib
import threading
from typing import Any

import numpy as np
import pytest

import omendb_kernels as ok
from omendb_kernels.dispatch import backend

search = importlib.import_module("omendb_kernels.graph.search")
N = 3000
has_shortcut = pytest.mark.skipif(not hasattr(backend(), "seek"), reason="this backend has no shortcut")


def rows_of(rng: np.random.Generator, name: str, d: int) -> np.ndarray:
    """Rows of a shape that takes another way through the kernel."""
    rows = (rng.normal(size=(N, d)) * rng.uniform(0.2, 3, (N, 1))).astype(np.float32)
    if name == "twins":
        rows[rng.permutation(N)[: N // 2]] = rows[rng.integers(0, 40, N // 2)]
    if name == "rotated":  # a few heavy coordinates make the codec turn the rows
        rows[:, :2] *= 40
    if name in ("uint8", "int8"):
        low, high = (0, 256) if name == "uint8" else (-100, 100)
        whole = np.clip(rows * 40 + (low + high) / 2, low, high - 1).astype(name)
        whole[(whole == 0).all(axis=1)] = 1  # cosine takes no row of length zero
        return whole
    return rows.astype("float16") if name == "float16" else rows


def asked(rng: np.random.Generator, rows: np.ndarray, m: int) -> np.ndarray:
    """Queries near rows; every second one no code of integer rows."""
    near = rows[rng.integers(0, N, m)].astype(np.float32)
    near[::2] += 0.3 * rng.normal(size=near[::2].shape).astype(np.float32)
    return near


def by_ops(monkeypatch: pytest.MonkeyPatch, *args: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """A search without the shortcut."""
    with monkeypatch.context() as patch:
        patch.setattr(search, "_sought", lambda *_: None)
        return ok.search_graph(*args, **options)[:2]


def bits(distances: np.ndarray, ids: np.ndarray) -> tuple[bytes, bytes]:
    return distances.tobytes(), ids.tobytes()


@has_shortcut
@pytest.mark.parametrize("name", ["plain", "twins", "rotated", "uint8", "int8", "float16"])
@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_the_shortcut_gives_the_same_bits(rng, metric, name, monkeypatch):
    d = int(rng.choice([3, 32, 100]))
    rows = rows_of(rng, name, d)
    graph, points, _ = ok.build_graph(rows, metric, threads=2)
    assert (graph.twins is not None) >= (name == "twins")
    queries = asked(rng, rows, 70)
    for k, beam in ((1, None), (10, None), (10, 3), (10, 200), (70, None), (N + 5, None)):
        together = by_ops(monkeypatch, graph, points, queries, k, beam=beam)
        for size, threads in ((1, 1), (2, 2), (7, 1), (8, 3), (70, 1), (70, 2)):
            for start in range(0, min(70, 3 * size), size):
                here = slice(start, start + size)
                some = ok.search_graph(graph, points, queries[here], k, beam=beam, threads=threads)[:2]
                assert bits(*some) == bits(*(part[here] for part in together)), (k, beam, start, size, threads)
    assert "seek" in graph.shortcut


def test_what_was_prepared_belongs_to_its_points(rng, monkeypatch):
    """The same graph over other rows of the same codes gives the other rows' distances."""
    rows = rows_of(rng, "plain", 16)
    graph, points, _ = ok.build_graph(rows)
    queries = asked(rng, rows, 8)
    double = ok.PointSet.restore(*_scaled(points, 2.0))
    for _ in range(2):
        for owner in (points, double):
            together = by_ops(monkeypatch, graph, owner, queries, 10)
            assert bits(*ok.search_graph(graph, owner, queries[3], 10)[:2]) == bits(*(part[3:4] for part in together))


def _scaled(points: ok.PointSet, factor: float) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    facts, arrays = points.state()
    unbound = np.full_like(arrays["residuals"], 1e9)  # what is known of the old rows bounds no distance of the new
    return facts, arrays | {"vectors": arrays["vectors"] * np.float32(factor), "residuals": unbound}


@has_shortcut
def test_too_few_found_is_not_an_answer(rng, monkeypatch):
    """Where the shortcut found fewer rows than there are to find, the ops answer."""
    rows = rows_of(rng, "plain", 8)
    graph, points, _ = ok.build_graph(rows)
    expected = ok.search_graph(graph, points, rows[:4], 10)[:2]

    def poor(plan):
        return lambda queries, k, beam, threads: (np.zeros((1, k), np.float32), np.zeros((1, k), np.int64), k - 1)

    monkeypatch.setattr(backend(), "seek", poor)
    graph.shortcut.clear()
    assert bits(*ok.search_graph(graph, points, rows[2], 10)[:2]) == bits(*(part[2:3] for part in expected))


@pytest.mark.parametrize("what", ["mask", "tail"])
def test_masks_and_tails_go_another_way(rng, what, monkeypatch):
    rows = rows_of(rng, "plain", 8)
    graph, points, _ = ok.build_graph(rows)
    mask = rng.random(N) < 0.9 if what == "mask" else None
    if what == "tail":
        points = points.extend(rows[:5] + np.float32(0.1), refit=False)
    together = ok.search_graph(graph, points, rows[:6], 10, mask=mask)[:2]
    monkeypatch.setattr(search, "_sought", None)  # not callable
    assert bits(*ok.search_graph(graph, points, rows[4], 10, mask=mask)[:2]) == bits(*(part[4:5] for part in together))


def test_threads_share_what_was_prepared(rng, monkeypatch):
    """Two sets of rows under one graph, searched at once."""
    rows = rows_of(rng, "plain", 16)
    graph, points, _ = ok.build_graph(rows)
    owners = [points, ok.PointSet.restore(*_scaled(points, 3.0))]
    expected = [by_ops(monkeypatch, graph, owner, rows[:40], 5) for owner in owners]
    wrong = []

    def ask(which: int) -> None:
        for i in list(range(40)) * 5:
            found = ok.search_graph(graph, owners[which], rows[i], 5)[:2]
            if bits(*found) != bits(*(part[i : i + 1] for part in expected[which])):
                wrong.append((which, i))

    threads = [threading.Thread(target=ask, args=(i % 2,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
