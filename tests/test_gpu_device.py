"""The GPU backends on a real GPU, CuPy's and Triton's: the contract table, arrays of the device, other streams, large offsets,
whole searches.

Skipped, with the reason, where there is none; `ci/gpu` runs it. tests/gpu_sim and tests/triton_sim prove the same kernels
without a device.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

import numpy as np
import pytest
from contract_cases import TABLE, Case
from contract_check import Call, as_tuple, check, compare_bits, in_force, map_arrays
from gpu_budgets import BUDGETS, VARIANTS
from gpu_gate import sources

from omendb_kernels import build_graph, dispatch, knn_certified, list_backends, search_graph
from omendb_kernels.contract import CodeRows
from omendb_kernels.errors import OutOfDeviceMemory

GROUPS = list(dict.fromkeys((case.op, case.name) for case in TABLE))
ABSENT = list_backends().get("cupy", "this version knows no backend of that name")
ROUNDS = 3  # other orders of threads, and other rows

if ABSENT is not None:
    pytest.skip(f"no cupy backend: {ABSENT}", allow_module_level=True)


@pytest.fixture(scope="module", params=dispatch.DEVICES["gpu"])
def backend(request) -> Any:
    if why := list_backends()[request.param]:
        pytest.skip(f"no {request.param} backend: {why}")
    return importlib.import_module(dispatch.BACKENDS[request.param])


@pytest.fixture(scope="module")
def cupy() -> Any:
    return pytest.importorskip("cupy")


@pytest.fixture(scope="module")
def cpu() -> Any:
    """The fastest other backend."""
    name = next(name for name in ("numba", "numpy") if list_backends()[name] is None)
    return importlib.import_module(dispatch.BACKENDS[name])


def of_group(op: str, name: str) -> list[Case]:
    return [case for case in TABLE if (case.op, case.name) == (op, name)]


@pytest.mark.parametrize(("op", "name"), GROUPS, ids=map(" ".join, GROUPS))
def test_table(rng, backend, op, name):
    for _ in range(ROUNDS):
        for case in of_group(op, name):
            check(backend, case.make(rng), case, threads=(1,))


@pytest.mark.parametrize(("op", "name"), [group for group in GROUPS if group[0] not in ("knn", "pairwise float32")])
def test_arrays_of_the_device_stay_there(rng, backend, cupy, op, name):
    for case in of_group(op, name):
        call = case.make(rng)
        there = {key: map_arrays(value, cupy.asarray) for key, value in call.args.items()}
        found = as_tuple(getattr(backend, op)(**there, threads=1))
        assert all(isinstance(part, cupy.ndarray) for part in found)
        compare_bits(call.wanted, tuple(map(cupy.asnumpy, found)), f"{case} on the device")


def test_another_stream(rng, backend, cupy):
    with cupy.cuda.Stream(non_blocking=True):
        for case in [TABLE[i] for i in rng.permutation(len(TABLE))[:200]]:
            check(backend, case.make(rng), case, threads=(1,))


def shapes(rng: np.random.Generator) -> list[tuple[str, dict[str, Any]]]:
    """Calls of more than one tile, block and wave, which the oracle would take minutes for."""

    def rows(n: int, dim: int) -> CodeRows:
        codes = rng.integers(-128, 128, (n, dim), dtype=np.int8)
        return CodeRows(codes, (codes.astype(np.int32) ** 2).sum(axis=1, dtype=np.int32))

    points, n = rows(60_000, 128), 60_000
    wide = rows(3_000, 1024)
    ids = rng.integers(-1, n, (5_000, 90)).astype(np.int32)
    lists, starts = rng.integers(-1, n, (n, 32)).astype(np.int32), rng.integers(0, n, (2_000, 1)).astype(np.int32)
    members = np.sort([rng.permutation(n)[:400] for _ in range(300)], axis=1).astype(np.int32).ravel()
    items = {"points": points, "members": members, "offsets": np.arange(301) * 400}
    graph = {"points": points, "neighbours": lists}
    return [
        ("nearest", {"queries": rows(3_000, 128), "points": points, "k": 52, "mask": rng.random(n) < 0.9}),
        ("nearest", {"queries": rows(1, 1024), "points": wide, "k": 300, "mask": None}),
        ("score", {"points": points, "rows": np.arange(5_000, dtype=np.int32), "ids": ids, "width": 64}),
        ("assign", {**items, "leaders": members.reshape(300, 400)[:, ::45].ravel(), "starts": np.arange(301) * 9, "fanout": 9}),
        ("pick", {**items, "k": 4, "width": 64}),
        ("beam", {"queries": rows(2_000, 128), **graph, "entries": starts, "beam": 64, "width": 2}),
        ("reach", {"neighbours": lists, "start": np.zeros(1, np.int32), "reached": np.zeros(n, np.bool_)}),
    ]


def test_large_shapes_equal_the_cpu(rng, backend, cpu):
    for op, args in shapes(rng):
        wanted, found = (as_tuple(getattr(one, op)(**args, threads=2)) for one in (cpu, backend))
        compare_bits(wanted, found, f"large {op}")


def test_rows_behind_two_to_the_31_bytes(rng, backend, cupy):
    n, dim = 2**31 // 128 + 1_000, 128
    if cupy.cuda.runtime.memGetInfo()[0] < 3 * n * dim:
        pytest.skip("the device has too little memory for codes of 2 GB")
    codes, last = cupy.zeros((n, dim), np.int8), np.arange(n - 3, n, dtype=np.int32)
    codes[-3:] = 1
    norms = (codes[-3:].astype(np.int32) ** 2).sum(axis=1)
    points = CodeRows(codes, cupy.concatenate([cupy.zeros(n - 3, np.int32), norms.astype(np.int32)]))
    query = CodeRows(cupy.full((1, dim), 1, np.int8), cupy.full(1, dim, np.int32))
    assert cupy.asnumpy(backend.nearest(query, points, 4, None, threads=1)).tolist()[0] == [n - 3, n - 2, n - 1, dim << 32]
    keys = backend.score(points, cupy.asarray(last), cupy.asarray(np.roll(last, 1)[:, None]), 1, threads=1)
    assert cupy.asnumpy(keys).ravel().tolist() == np.roll(last, 1).tolist()


def test_too_little_memory_is_said(rng, backend, cupy):
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.get_limit()
    pool.set_limit(size=1 << 20)
    try:
        call = Case("lengths", "plain", "l2", "float32", 64).make(rng)
        rows = call.args["rows"]
        large = type(rows)(np.ones((1 << 17, 64), np.float32), "float32")
        with pytest.raises(OutOfDeviceMemory, match="lengths"):
            backend.lengths(large, threads=1)
    finally:
        pool.set_limit(size=before)
    check(backend, call, "after it", threads=(1,))


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_graphs_and_searches_are_the_cpus(rng, backend, cpu, metric):
    centres = rng.standard_normal((300, 48))
    rows = (centres[rng.integers(0, 300, 20_000)] + 0.4 * rng.standard_normal((20_000, 48))).astype(np.float32)
    queries = rows[rng.permutation(len(rows))[:300]] + 0.1
    answers = []
    for one in (cpu, backend):
        with in_force(one):
            graph, points, _ = build_graph(rows, metric)
            found = search_graph(graph, points, queries, 10)[:2] + knn_certified(queries, points, 10)[:2]
            answers.append((graph.neighbours, graph.router, *found, np.array(graph.beam)))
    compare_bits(*answers, f"build and search, {metric}")


@pytest.mark.parametrize("file", [path.name for path in sources()])
def test_kernels_are_as_the_gate_saw_them(backend, file):
    device = importlib.import_module("omendb_kernels.backends.cupy._device")
    text = (device.HERE / file).read_text()
    for name in [name for name in BUDGETS if re.search(rf"__global__[^;{{]{{0,200}}\b{name}\(", text)]:
        for defines in VARIANTS.get(file, ((),)):
            kernel = device.kernel(file, name, *defines)
            assert kernel.local_size_bytes == 0, f"{name} spills"
            assert kernel.num_regs <= BUDGETS[name].registers, f"{name} takes {kernel.num_regs} registers"


def test_calls_can_be_repeated(rng, backend):
    """The same call again and again: what differs is a race."""
    call = Call("beam", Case("beam", "plain", "l2", "float32", 96).make(rng).args)
    for _ in range(20):
        check(backend, call, threads=(1,))
