"""nearest and its selection on the simulated GPU, where the contract table does not go: many queries and points, many parts."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from contract_cases import TABLE
from contract_check import check, compare_bits
from gpu_sim import gpu_fixture  # noqa: F401

from omendb_kernels.backends import numpy as oracle  # equals the reference, and is faster
from omendb_kernels.backends.numpy.nearest import code_distances
from omendb_kernels.contract import NO_KEY, CodeRows

SHAPES = [(130, 700, 12), (130, 1500, 60), (40, 3000, 12), (17, 900, 200), (3, 3000, 2049), (150, 500, 500), (1, 1500, 15)]


def module(name: str) -> Any:
    return importlib.import_module(f"omendb_kernels.backends.cupy.{name}")


def rows_of(rng: np.random.Generator, n: int, dim: int, kind: str) -> CodeRows:
    span = int(rng.choice([1, 3, 128]))  # ties among few values
    codes = rng.integers(-span, span, (n, dim)).astype(np.int8)
    norms = (codes.astype(np.int64) ** 2).sum(axis=1).astype(np.int32)
    if kind == "ip":
        return CodeRows(codes, np.zeros_like(norms))
    wide = rng.integers(0, 100, n).astype(np.int32)
    return CodeRows(codes, norms + wide * wide, wide) if kind == "wide" else CodeRows(codes, norms)


def in_order(queries: CodeRows, points: CodeRows, falling: bool) -> tuple[CodeRows, CodeRows]:
    """Points from far to near, or near to far, of queries that are all alike: lists that never, or always, take the next."""
    distances = code_distances(queries.take(slice(0, 1)), points)[0].astype(np.int64)
    order = np.argsort(-distances if falling else distances, kind="stable")
    return queries.take(np.zeros(len(queries.codes), np.int64)), points.take(order)


@pytest.fixture(params=["warps", "warpgroups"])
def multiplied_by(request, gpu, monkeypatch):
    """How 128 queries are multiplied: by any card's warps, or by the warpgroups of compute capability 9.0."""
    nearest = module("nearest")
    card = nearest._card(0)._replace(warpgroups=request.param == "warpgroups")
    monkeypatch.setattr(nearest, "_card", lambda device: card)
    return request.param


@pytest.mark.parametrize("order", ["random", "falling", "rising"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_many_of_both(rng, gpu, monkeypatch, multiplied_by, shape, order):
    (m, n, k), dim, nearest = shape, int(rng.choice([32, 96, 128, 288])), module("nearest")
    kind = str(rng.choice(["l2", "ip", "wide"]))
    queries, points = rows_of(rng, m, dim, kind), rows_of(rng, n, dim, kind)
    if order != "random":
        queries, points = in_order(queries, points, order == "falling")
    mask = None if rng.random() < 0.6 else rng.random(n) < rng.choice([0, 0.01, 0.3, 0.9])
    for name, values in (("LEAST_PART", [1, 2, 4]), ("MOST_PARTS", [1, 3, 1024]), ("ROOM", [96])):
        monkeypatch.setattr(nearest, name, int(rng.choice(values)))
    gpu.order = int(rng.integers(3))
    wanted = oracle.nearest(queries, points, k, mask, threads=2)
    compare_bits((wanted,), (nearest.nearest(queries, points, k, mask, threads=1),), f"{shape}, {kind}")


def test_the_table_by_the_large_tile(rng, gpu, monkeypatch, multiplied_by):
    monkeypatch.setattr(module("nearest"), "FEW", 0)
    cases = [case for case in TABLE if case.op == "nearest" and case.dim <= 300]
    for case in [cases[i] for i in rng.permutation(len(cases))[:60]]:
        check(importlib.import_module("omendb_kernels.backends.cupy"), case.make(rng), case, threads=(1,))


def test_warpgroups_are_of_compute_capability_9_0(gpu, monkeypatch):
    """Of the simulated H100; not of what came before or after, nor for few queries."""
    nearest, card = module("nearest"), module("nearest")._card(0)
    assert card.warpgroups
    assert nearest.plan_scan(200, 5000, 128, 10, card).defines == ("ROWS=128", "WGMMA=1")
    assert nearest.plan_scan(200, 5000, 128, 10, card._replace(warpgroups=False)).defines == ("ROWS=128",)
    assert nearest.plan_scan(20, 5000, 128, 10, card).defines == ("ROWS=16",)


def test_a_compiler_too_old_for_warpgroups_does_without(rng, gpu, monkeypatch, caplog, tmp_path):
    import cupy

    def refuse(program, options):
        raise cupy.cuda.nvrtc.NVRTCError

    native, device = module("_native"), module("_device")
    monkeypatch.setattr(cupy.cuda.nvrtc, "compileProgram", refuse)
    native.compiled.cache_clear()
    device._module.cache_clear()
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    queries, points = rows_of(rng, 70, 96, "l2"), rows_of(rng, 300, 96, "l2")
    wanted = oracle.nearest(queries, points, 9, None, threads=2)
    compare_bits((wanted,), (module("nearest").nearest(queries, points, 9, None, threads=1),), "without")
    assert "nearest.cu is compiled without warpgroups: --gpu-architecture=sm_90a" in caplog.text
    native.compiled.cache_clear()
    device._module.cache_clear()


@pytest.mark.parametrize("order", ["random", "falling"])
def test_warpgroups_watched(rng, gpu, monkeypatch, order):
    """Races, bounds and shared memory that nobody wrote, where codes end inside a piece and points inside a tile."""
    nearest = module("nearest")
    gpu.checked, gpu.preempt, gpu.order = True, 50, 2
    queries, points = rows_of(rng, 70, 160, "wide"), rows_of(rng, 300, 160, "wide")
    if order == "falling":
        queries, points = in_order(queries, points, True)
    wanted = oracle.nearest(queries, points, 20, None, threads=2)
    compare_bits((wanted,), (nearest.nearest(queries, points, 20, None, threads=1),), order)


@pytest.mark.parametrize("width", [0, 1, 31, 129, 1000, 5000])
@pytest.mark.parametrize("k", [1, 32, 33, 97, 2049])
def test_smallest(rng, gpu, width, k):
    import cupy

    m = int(rng.choice([1, 3, 40]))
    keys = (rng.integers(-1000, 1000, (m, width)).astype(np.int64) << 32) | np.arange(m * width).reshape(m, width)
    keys[rng.random(keys.shape) < 0.2] = NO_KEY
    wanted = np.full((m, k), NO_KEY, np.int64)
    ordered = np.sort(keys, axis=1)[:, :k]
    wanted[:, : ordered.shape[1]] = ordered
    compare_bits((wanted,), (module("select").smallest(cupy.asarray(keys), k).get(),), f"{m} x {width}, {k}")
