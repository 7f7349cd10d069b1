"""Searches on the simulated GPU, from the shortcut up to the database: the bits of the CPU."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np
import pytest
from gpu_sim import gpu_fixture  # noqa: F401

import omendb
import omendb_kernels as kernels
from omendb_kernels import dispatch
from omendb_kernels.codec import query_scales
from omendb_kernels.dispatch import backend

N = 500
search = importlib.import_module("omendb_kernels.graph.search")


def rows_of(rng: np.random.Generator, name: str, d: int) -> np.ndarray:
    rows = (rng.normal(size=(N, d)) * rng.uniform(0.2, 3, (N, 1))).astype(np.float32)
    if name == "twins":
        rows[rng.permutation(N)[: N // 2]] = rows[rng.integers(0, 20, N // 2)]
    if name == "uint8":
        return np.clip(rows * 40 + 128, 1, 255).astype(np.uint8)
    return rows.astype(np.float16) if name == "float16" else rows


@pytest.mark.parametrize("name", ["plain", "twins", "uint8", "float16"])
@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_the_shortcut_gives_the_same_bits(rng, gpu, metric, name, monkeypatch):
    rows = rows_of(rng, name, int(rng.choice([3, 32, 70])))
    graph, points, _ = kernels.build_graph(rows, metric)
    queries = rows[:40].astype(np.float32)
    queries[::2] += rng.normal(size=queries[::2].shape).astype(np.float32)

    def found(k: int, beam: int) -> list[bytes]:
        return [part.tobytes() for part in kernels.search_graph(graph, points, queries, k, beam=beam)[:2]]

    for k, beam, most in ((1, 1, 4096), (7, 20, 4096), (1, 12, 7), (60, 90, 4096)):
        monkeypatch.setattr(search, "MAX_TWINS", most)
        graph.shortcut.clear()
        wanted = found(k, beam)
        with kernels.use_backend("cupy"):
            graph.shortcut.clear()
            assert found(k, beam) == wanted, (k, beam, most)


def test_own_scales_of_queries(rng, gpu):
    """Under ip each query is coded with a scale of its own, rounded up."""
    rows = rng.normal(size=(300, 45)).astype(np.float32)
    graph, points, _ = kernels.build_graph(rows, "ip")
    queries = kernels.as_queries(rng.normal(size=(64, 45)) * rng.uniform(1e-30, 1e9, (64, 1)), metric="ip", dim=45)[0]
    with kernels.use_backend("cupy"):
        searcher = importlib.import_module("omendb_kernels.backends.cupy.seek")._Searcher(search._plan(graph, points))
        assert points.codec is not None
        wanted = query_scales(points.codec, queries, np.zeros(64, np.bool_))
        assert searcher._own_scales(queries).get().tobytes() == wanted.tobytes()


def test_vectors_may_stay_on_the_host(rng, gpu):
    """A device that holds the codes and not the vectors."""
    rows = rng.normal(size=(2_000, 64)).astype(np.float32)
    graph, points, _ = kernels.build_graph(rows)
    wanted = kernels.search_graph(graph, points, rows[:20], 5)
    graph.shortcut.clear()
    gpu.memory = gpu.used + rows.nbytes + 400_000
    with kernels.use_backend("cupy"):
        found = kernels.search_graph(graph, points, rows[:20], 5)
    assert [part.tobytes() for part in found[:2]] == [part.tobytes() for part in wanted[:2]]


def test_a_database_gives_the_same_answers(rng, gpu):
    rows = rng.normal(size=(1_500, 24)).astype(np.float32)

    def life() -> list[Any]:
        db = omendb.DB(metric="cosine", build_threshold=100)
        db.build(rows[:1_200], ids=range(1_200))
        db.add_batch(rows[1_200:], ids=range(1_200, 1_500))
        db.delete(range(0, 1_500, 7))
        exact = db.search(rows[:30], k=12, exact=True)
        near = db.search(rows[:30], k=12)
        return [part.tobytes() for answer in (exact, near) for part in (answer.distances, np.asarray(answer.ids, np.int64))]

    wanted = life()
    with kernels.use_backend("cupy"):
        assert backend().NAME == "cupy"
        assert life() == wanted


def test_a_full_device_stops_a_build_with_a_typed_error(rng, gpu):
    from omendb_kernels.errors import OutOfDeviceMemory

    rows = rng.normal(size=(3_000, 64)).astype(np.float32)
    gpu.memory = gpu.used + 100_000
    with kernels.use_backend("cupy"), pytest.raises(OutOfDeviceMemory):
        kernels.build_graph(rows)


def test_without_a_device_there_is_a_reason(gpu):
    gpu.devices = 0
    reason = kernels.list_backends()["cupy"]
    assert reason is not None
    assert "cannot compute" in reason
    with pytest.raises(kernels.UnknownBackend, match="cannot compute"), kernels.use_backend("cupy"):
        pass
    assert kernels.backend_name() in ("numba", "numpy")


def test_without_the_library_there_is_a_reason(monkeypatch):
    monkeypatch.setattr(dispatch, "_loaded", {})
    for name in [name for name in sys.modules if name.startswith("omendb_kernels.backends.cupy")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "cupy" in str(kernels.list_backends()["cupy"])


def test_ops_run_on_the_device_of_their_arguments(rng, gpu, monkeypatch):
    """Two devices, the second not the current one."""
    import cupy

    ops = importlib.import_module("omendb_kernels.backends.cupy")
    entered: list[int] = []
    monkeypatch.setattr(cupy.cuda.Device, "__enter__", lambda self: entered.append(self.id) or self)
    gpu.devices = 2
    data = cupy.asarray(rng.normal(size=(9, 5)).astype(np.float32))
    monkeypatch.setattr(type(data), "device", property(lambda _: cupy.cuda.Device(1)))
    ops.lengths(kernels.Rows(data, "float32"), threads=1)
    assert entered[:1] == [1]
    entered.clear()
    ops.lengths(kernels.Rows(np.ones((2, 2), np.float32), "float32"), threads=1)
    assert set(entered) <= {0}
