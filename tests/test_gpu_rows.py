"""Ops on users' vectors on the simulated GPU, where the contract table does not go: many rows and dimensions, wide lists,
little memory."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from contract_check import compare_bits
from contract_rows import make_rows
from gpu_sim import gpu_fixture  # noqa: F401

from omendb_kernels.arrays import Rows
from omendb_kernels.backends import numpy as oracle  # equals the reference, and is faster
from omendb_kernels.codec import rotation_signs


def module(name: str) -> Any:
    return importlib.import_module(f"omendb_kernels.backends.cupy.{name}")


def on_device(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same arguments, arrays on the device."""
    import cupy

    def moved(value: Any) -> Any:
        if isinstance(value, Rows):
            return Rows(cupy.asarray(value.data), value.kind)
        return cupy.asarray(value) if isinstance(value, np.ndarray) else value

    return {name: moved(value) for name, value in arguments.items()}


@pytest.mark.parametrize(("dim", "n"), [(64, 70), (1000, 6), (3072, 3), (6000, 2), (6200, 3), (16384, 2), (33, 5000)])
@pytest.mark.parametrize("turned", [True, False])
def test_encode(rng, gpu, dim, n, turned):
    """Rows of a few values share a block, rows beyond shared memory go through global."""
    encode, kind = module("encode").encode, str(rng.choice(["float32", "int8", "float16", "bfloat16"]))
    rows = make_rows(rng, kind, n, dim)
    sizes = oracle.lengths(rows, threads=1) if turned else None
    wide = rows.float32().astype(np.float64)
    y = wide if sizes is None else wide / sizes[:, None]
    scales = np.abs(y).max(axis=1) / 100 if turned else np.array([np.abs(y).max() / 127])
    args = (rows, sizes, wide.mean(axis=0).astype(np.float32), rotation_signs(dim) if turned else None, scales)
    gpu.order = 2
    compare_bits(oracle.encode(*args, threads=1), encode(*args, threads=1), f"{kind}, {dim} dimensions")


def candidates_of(rng: np.random.Generator, m: int, n: int, width: int, k: int, metric: int) -> dict[str, Any]:
    dim = int(rng.choice([5, 16, 33]))
    points, queries = make_rows(rng, "float32", n, dim), make_rows(rng, "float32", m, dim)
    chosen = np.array([rng.permutation(n)[:width] for _ in range(m)], np.int32)
    chosen[rng.random(chosen.shape) < 0.1] = -1
    true = oracle.pairwise(queries, points, metric, "exact", threads=1).astype(np.float64)
    lower = np.take_along_axis(true, np.maximum(chosen, 0).astype(np.int64), 1)
    lower -= np.abs(lower) * rng.choice([1e-6, 0.1], lower.shape)
    lengths = oracle.lengths(points, threads=1) if metric == 1 else None
    args: dict[str, Any] = {"queries": queries, "points": points, "candidates": chosen, "k": k}
    return args | {"metric": metric, "lengths": lengths, "lower": lower}


@pytest.mark.parametrize("shape", [(3, 3000, 2500, 10), (2, 2600, 2600, 1500), (300, 400, 60, 10), (1, 600, 600, 300)], ids=str)
@pytest.mark.parametrize("metric", [0, 1, 2])
def test_rerank(rng, gpu, shape, metric):
    """Lists of many slices, and enough queries that bounds are used; on the host, the device, and with points on the host."""
    rerank, args = module("rerank").rerank, candidates_of(rng, *shape, metric)
    wanted = oracle.rerank(**args, threads=1)
    gpu.order = 2
    compare_bits(wanted, rerank(**args, threads=1), "host")
    placed = on_device(args)
    gpu.syncs.clear()
    found = rerank(**placed, threads=1)
    assert not gpu.syncs
    compare_bits(wanted, tuple(part.get() for part in found), "device")
    placed |= {"points": args["points"], "lengths": args["lengths"]}
    compare_bits(wanted, tuple(part.get() for part in rerank(**placed, threads=1)), "points on the host")


@pytest.mark.parametrize("free", [40_000, 200_000])
def test_rerank_in_little_memory(rng, gpu, monkeypatch, free):
    rerank, args = module("rerank"), candidates_of(rng, 20, 500, 60, 10, 0)
    monkeypatch.setattr(rerank, "free_bytes", lambda: free)
    monkeypatch.setattr(rerank, "rows_per_tile", lambda size, least=1, most=2**31 - 1: max(least, min(most, free // 2 // size)))
    compare_bits(oracle.rerank(**args, threads=1), rerank.rerank(**args, threads=1), f"{free} bytes")


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_rows_that_begin_at_no_word(rng, gpu, kind):
    import cupy

    whole = make_rows(rng, kind, 50, 7)
    view = Rows(cupy.asarray(whole.data)[3:], kind)
    wanted = oracle.lengths(whole[3:], threads=1)
    compare_bits((wanted,), (module("encode").lengths(view, threads=1).get(),), kind)
