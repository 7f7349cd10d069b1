"""400 rows built and searched with the triton backend in force, byte for byte as on the CPU; and how much code that takes."""

from __future__ import annotations

import importlib
import itertools

import numpy as np
import pytest
import triton_sim  # before Triton is imported  # noqa: F401
from test_gpu_graph import SMALL, words
from triton_budgets import KINDS, variants
from triton_sim import triton_fixture  # noqa: F401

import omendb_kernels as kernels
from omendb_kernels import ops, use_backend
from omendb_kernels.arrays import VECTOR_KINDS
from omendb_kernels.contract import CodeRows
from omendb_kernels.dispatch import backend

MOST_CODE = 12  # variants that a normal workload compiles
LINES = 64  # of a program of prune: interpreted, a program costs the same whatever it has


def built_and_searched(rows: np.ndarray, metric: str) -> dict[str, bytes]:
    """What a build and its searches are made of."""
    graph, points, facts = kernels.build_graph(rows, metric)
    queries = rows[:: len(rows) // 20] + np.float32(0.01)
    out = {name: array.tobytes() for name, array in graph.state()[1].items()}
    out["facts"] = repr((graph.beam, graph.recall, facts.repaired)).encode()
    out["codes"] = points.codes.tobytes()
    for mask in (None, np.arange(len(rows)) % 3 > 0):
        answers = kernels.search_graph(graph, points, queries, 10, mask=mask)[:2]
        out[f"{'all' if mask is None else 'masked'}"] = b"".join(part.tobytes() for part in answers)
    out["scanned"] = b"".join(part.tobytes() for part in kernels.knn(queries, points, 10))
    return out


def many_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = importlib.import_module("omendb_kernels.backends.triton._tuning")
    for row, tile in tuning.PRUNE.items():
        monkeypatch.setitem(tuning.PRUNE, row, tile._replace(rows=LINES))


@pytest.mark.parametrize("metric", ["l2", "ip", pytest.param("cosine", marks=pytest.mark.long)])
def test_400_rows(gpu, monkeypatch, metric):
    monkeypatch.setattr(ops, "DEFAULT", SMALL)
    many_lines(monkeypatch)
    rows = words(400)
    wanted = built_and_searched(rows, metric)
    with use_backend("triton"):
        found = built_and_searched(rows, metric)
    assert [part for part in wanted if wanted[part] != found[part]] == []
    assert {"set_nearest", "prune_lines", "row_codes"} <= set(gpu.launches), gpu.launches


def test_a_workload_of_many_shapes_is_of_little_code(rng, gpu, monkeypatch):
    """Builds and searches of several numbers of rows, of queries and of neighbours; the gate knows all the code that takes."""
    seen = importlib.import_module("triton_sim.interpreter").SEEN
    monkeypatch.setattr(ops, "DEFAULT", SMALL)
    seen.clear()
    with use_backend("triton"):
        for rows, k in ((130, 3), (180, 11)):
            built_and_searched(words(rows), "l2")
            vectors = rng.standard_normal((rows, 32), dtype=np.float32)
            codes = CodeRows(np.zeros((rows, 32), np.int8), np.zeros(rows, np.int32))
            for m in (1, 40):
                backend().nearest(codes.take(slice(0, m)), codes, k, None, threads=1)
                kernels.knn(vectors[:m] + 1, vectors, k)
                kernels.pairwise(vectors[:m], vectors, precision="exact")
    assert {"nearest.scan", "pick.set_nearest", "prune.prune_lines", "rerank.final_keys"} <= {kernel for kernel, *_ in seen}
    assert len(seen) <= MOST_CODE, "\n".join(map(str, sorted(seen, key=str)))
    known = [(one.kernel, one.constants, one.options) for one in variants()]
    for kernel, _, constants, options in seen:
        ours = [constant for name, constant, option in known if name == kernel and option == options]
        assert dict(constants) in ours, f"{kernel} {constants} {options} is not among what the gate compiles"


@pytest.mark.parametrize("kind", VECTOR_KINDS)
def test_the_gate_knows_the_types_of_every_kind(rng, gpu, kind):
    """Rows of each kind through encode and rerank: pointers are of the types that the gate compiles for."""
    from contract_rows import make_rows

    seen = importlib.import_module("triton_sim.interpreter").SEEN
    seen.clear()
    triton = importlib.import_module("omendb_kernels.backends.triton")
    rows = make_rows(rng, kind, 9, 16)
    triton.encode(rows, None, np.zeros(16, np.float32), None, np.ones(1), threads=1)
    triton.rerank(rows, rows, np.tile(np.arange(9, dtype=np.int32), (9, 1)), 3, 0, lengths=None, lower=None, threads=1)
    triton.pairwise(rows, rows, 0, "exact", threads=1)
    triton.lengths(rows, threads=1)
    known = {(one.kernel, tuple(sorted(one.pointers.items()))) for one in variants()}
    for kernel, types, _, _ in seen:
        assert (kernel, tuple(sorted((name, type_.removeprefix("*")) for name, type_, _ in types))) in known, (kernel, types)
    assert len(KINDS) == len(VECTOR_KINDS)
    assert len({kernel for kernel, *_ in seen}) == 4


def test_launches_are_pure_functions_of_sizes(gpu):
    """Over many shapes and cards: parts within the tiles, pools that hold k, and the tile that the table has."""
    nearest = importlib.import_module("omendb_kernels.backends.triton.nearest")
    sizes = (1, 2, 31, 33, 1000, 10**6)
    cards = (80, 86, 90, 100, 120)
    for m, n, code_dim, k, arch in itertools.product(sizes, sizes, (32, 128, 160, 768), (1, 16, 17, 200), cards):
        plan = nearest.plan_scan(m, n, code_dim, k, arch, 108)
        assert plan == nearest.plan_scan(m, n, code_dim, k, arch, 108)
        assert plan.pool >= k
        assert plan.parts == 1 or plan.parts * nearest.LEAST_PART <= -(-n // plan.tile.columns)
        assert not plan.one or code_dim <= plan.tile.bytes
    assert nearest.plan_scan(5, 100, 32, 257, 90, 132) is None
