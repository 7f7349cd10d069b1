"""The public ops on arrays: what they refuse and in which words, shapes, and which backend answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from conftest import NUMBA_BLOCKED
from contract_check import USABLE, Call, compare_bits, compare_bound
from contract_rows import make_rows

import omendb_kernels as kernels
from omendb_kernels import (
    METRICS,
    PointSet,
    backend_name,
    compute_distances,
    dispatch,
    knn,
    knn_certified,
    list_backends,
    pairwise,
    rerank,
    use_backend,
)
from omendb_kernels.backends import reference

POINTS = np.arange(12, dtype=np.float32).reshape(4, 3) + 1
QUERIES = np.ones((2, 3), np.float32)
LINES = [[0, 1], [2, -1]]
OPS: dict[str, Callable[..., Any]] = {
    "pairwise": pairwise,
    "compute_distances": compute_distances,
    "knn": knn,
    "knn_certified": knn_certified,
    "rerank": lambda queries, points, **more: rerank(queries, points, LINES, **more),
}


def refuse(call: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(kernels.InvalidInput, match=words) as caught:
        call()
    assert type(caught.value) is error


BAD_ARRAYS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "points of one axis": ({"points": POINTS[0]}, kernels.WrongShape, r"points: got an array of shape \(3,\); wanted two axes"),
    "points of no dimension": ({"points": np.ones((3, 0))}, kernels.WrongShape, "points: got 0 dimensions"),
    "points of text": ({"points": [["a", "b", "c"]]}, kernels.WrongDtype, "points: got an array of <U1; wanted real numbers"),
    "points with NaN": ({"points": [[1, 2, np.nan]]}, kernels.NotFinite, "points: got NaN or infinity in row 0; wanted"),
    "points too long": ({"points": [[0, 0, 0], [0, 0, 1e20]]}, kernels.ValueTooLarge, "points: got row 1 of length 1e[+]20"),
    "points beyond float32": ({"points": [[0, 0, 1e200]]}, kernels.ValueTooLarge, "points: got a value beyond float32"),
    "queries of another dimension": ({"queries": np.ones((2, 4))}, kernels.WrongShape, "queries: got 4 .*wanted 3"),
    "queries of three axes": ({"queries": np.ones((1, 2, 3))}, kernels.WrongShape, r"queries: got .*\(1, 2, 3\)"),
    "queries with infinity": ({"queries": [[1, np.inf, 2], [0, 0, 0]]}, kernels.NotFinite, "queries: got NaN or"),
    "queries of complex numbers": ({"queries": QUERIES * 1j}, kernels.WrongDtype, "queries: got an array of complex"),
    "unknown metric": ({"metric": "dot"}, kernels.UnknownMetric, "metric: got 'dot'; wanted one of 'l2', 'cosine', 'ip'"),
    "metric of no letters": ({"metric": ""}, kernels.UnknownMetric, "metric: got ''"),
    "metric by number": ({"metric": 0}, kernels.UnknownMetric, "metric: got 0"),
    "zero query": ({"queries": np.zeros((2, 3)), "metric": "cosine"}, kernels.ZeroVector, "queries: got row 0 of length zero"),
    "zero point": ({"points": np.zeros((4, 3)), "metric": "cosine"}, kernels.ZeroVector, "points: got row 0 of length zero"),
    "no threads": ({"threads": 0}, kernels.InvalidParameter, "threads: got 0; wanted an integer from 1 to 1024"),
    "too many threads": ({"threads": 1025}, kernels.InvalidParameter, "threads: got 1025"),
    "threads by name": ({"threads": "2"}, kernels.InvalidParameter, r"threads: got '2' \(str\)"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
@pytest.mark.parametrize("op", OPS)
def test_bad_arrays(op, case):
    arguments, error, words = BAD_ARRAYS[case]
    refuse(lambda: OPS[op](**({"queries": QUERIES, "points": POINTS} | arguments)), error, words)


@pytest.mark.parametrize("op", OPS)
def test_points_know_their_metric(op):
    points = PointSet.encode(POINTS, "cosine")
    refuse(lambda: OPS[op](QUERIES, points, metric="ip"), kernels.InvalidParameter, "got 'ip'; wanted 'cosine', the metric")
    OPS[op](QUERIES, points, metric="cosine")


def test_one_query_is_a_batch_of_one():
    assert pairwise(QUERIES[0], POINTS).shape == (1, 4)
    assert knn(QUERIES[0], POINTS, 2)[1].shape == (1, 2)
    assert rerank(QUERIES[0], POINTS, [[0]], 1)[1].shape == (1, 1)
    for empty in (np.empty((0, 3)), np.empty((0, 0))):
        assert pairwise(empty, POINTS).shape == (0, 4)
        assert knn(empty, POINTS, 2)[0].shape == (0, 2)


@pytest.mark.parametrize("op", ["knn", "knn_certified", "rerank"])
@pytest.mark.parametrize("k", [0, -1, 1.0, True, None, "1", 2**31])
def test_bad_k(op, k):
    refuse(lambda: OPS[op](QUERIES, POINTS, k=k), kernels.InvalidParameter, "k: got ")


BAD_MASKS: dict[str, tuple[Any, type[Exception], str]] = {
    "short": (np.ones(3, bool), kernels.WrongShape, r"mask: got shape \(3,\); wanted shape \(4,\), one flag per row"),
    "of two axes": (np.ones((4, 1), bool), kernels.WrongShape, "mask"),
    "of numbers": ([0, 1, 1, 0], kernels.WrongDtype, "mask: got an array of int64; wanted an array of bool"),
}


@pytest.mark.parametrize("case", BAD_MASKS)
def test_bad_masks(case):
    mask, error, words = BAD_MASKS[case]
    for points in (POINTS, PointSet.encode(POINTS)):
        refuse(lambda points=points: knn(QUERIES, points, 1, mask=mask), error, words)


BAD_CANDIDATES: dict[str, tuple[Any, type[Exception], str]] = {
    "floats": ([[0.0], [1.0]], kernels.WrongDtype, "candidates: got an array of float64; wanted an array of integers"),
    "flags": ([[True], [False]], kernels.WrongDtype, "candidates: got an array of bool"),
    "one axis": ([0, 1], kernels.WrongShape, r"candidates: got shape \(2,\); wanted shape \(2, c\), one line per query"),
    "three lines": ([[0], [1], [2]], kernels.WrongShape, r"shape \(3, 1\)"),
    "beyond the rows": ([[0], [4]], kernels.InvalidParameter, "got values from 0 to 4; wanted rows from 0 to 3, or -1"),
    "below": ([[-2], [1]], kernels.InvalidParameter, "values from -2 to 1"),
    "far beyond": (np.array([[2**40], [0]]), kernels.InvalidParameter, "to 1099511627776"),
    "unsigned": (np.array([[2**63], [0]], np.uint64), kernels.InvalidParameter, "to 9223372036854775808"),
}


@pytest.mark.parametrize("case", BAD_CANDIDATES)
def test_bad_candidates(case):
    candidates, error, words = BAD_CANDIDATES[case]
    refuse(lambda: rerank(QUERIES, POINTS, candidates), error, words)


def test_precision_is_named():
    words = "precision: got 'float64'; wanted one of 'float32', 'exact'"
    refuse(lambda: pairwise(QUERIES, POINTS, precision="float64"), kernels.InvalidParameter, words)


def test_rerank_counts_a_row_once():
    distances, ids = rerank(QUERIES[:1], POINTS, [[2, 0, 2, -1, 0, 2]], 4)
    assert ids.tolist() == [[0, 2, -1, -1]]
    assert distances[0, 2:].tolist() == [np.inf, np.inf]
    for points in (POINTS, PointSet.encode(POINTS)):
        assert rerank(QUERIES[:1], points, np.array([[3, 1]], np.uint8), 1)[1].tolist() == [[1]]


@pytest.mark.parametrize("metric", METRICS)
def test_distances_are_of_the_promised_precision(rng, metric):
    for n in (5, 900):  # by a loop, by a matrix product
        points, queries = make_rows(rng, "float32", n, 70), make_rows(rng, "float32", 7, 70)
        code = METRICS[metric].code
        call = Call("pairwise", {"queries": queries, "points": points, "metric": code})
        for found in (compute_distances(queries.data, points.data, metric), pairwise(queries.data, points.data, metric)):
            compare_bound(call, found, metric)
        wanted = reference.pairwise(queries, points, code, "exact")
        compare_bits((wanted,), (pairwise(queries.data, points.data, metric, precision="exact"),), metric)
        compare_bits((wanted,), (pairwise(queries.data, PointSet.encode(points, metric), metric, precision="exact"),), metric)


def test_no_points():
    none = np.empty((0, 3), np.float32)
    for k, mask in ((1, None), (5, np.ones(0, bool))):
        distances, ids, proof = knn_certified(QUERIES, none, k, mask=mask)
        assert ids.tolist() == [[-1] * k] * 2
        assert np.isinf(distances).all()
        assert (proof.queries, proof.certified_first) == (2, 2)
    assert pairwise(QUERIES, none).shape == (2, 0)
    assert knn(QUERIES, PointSet.empty(3), 2)[1].tolist() == [[-1, -1]] * 2


@pytest.mark.parametrize("exact", [True, False])
def test_input_is_never_written_to(rng, frozen, exact):
    points, queries = frozen(rng.standard_normal((1200, 9))), frozen(rng.standard_normal((4, 9)))
    before = points.tobytes(), queries.tobytes()
    for metric in METRICS:
        knn(queries, points, 3, metric, mask=frozen(np.arange(1200) > 3), exact=exact)
        pairwise(queries, points, metric)
        rerank(queries, points, frozen(np.zeros((4, 2), np.int64)), 2, metric)
    assert (points.tobytes(), queries.tobytes()) == before


# ---- backends ------------------------------------------------------------------------------------------------------


def test_use_backend_holds_inside_the_block_only(monkeypatch):
    monkeypatch.delenv("OMENDB_BACKEND", raising=False)
    first = backend_name()
    assert first == next(iter(USABLE))
    with use_backend("numpy"):
        assert backend_name() == "numpy"
        with use_backend(first):
            assert backend_name() == first
        assert backend_name() == "numpy"
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(backend_name).result() == first, "another thread has its own choice"
    with pytest.raises(ZeroDivisionError), use_backend("numpy"):
        raise ZeroDivisionError
    assert backend_name() == first


def test_the_environment_chooses(monkeypatch):
    monkeypatch.setenv("OMENDB_BACKEND", "numpy")
    assert backend_name() == "numpy"
    with use_backend(next(iter(USABLE))):
        assert backend_name() == next(iter(USABLE)), "use_backend goes before the environment"
    monkeypatch.setenv("OMENDB_BACKEND", "cuda")
    refuse(backend_name, kernels.UnknownBackend, "OMENDB_BACKEND: got 'cuda'; wanted one of 'numba', 'numpy'")
    refuse(lambda: knn(QUERIES, POINTS), kernels.UnknownBackend, "OMENDB_BACKEND")
    monkeypatch.setenv("OMENDB_BACKEND", "")
    assert backend_name() == next(iter(USABLE))


@pytest.mark.parametrize("name", ["cuda", "", None, 3, ["numpy"], "Numpy"])
def test_unknown_backends(name):
    def use() -> None:
        with use_backend(name):
            pass

    refuse(use, kernels.UnknownBackend, "backend: got .*; wanted one of 'numba', 'numpy'")


def test_the_reason_against_a_backend_is_told():
    listed = list_backends()
    assert list(listed) == list(dispatch.BACKENDS)
    assert listed["numpy"] is None
    if NUMBA_BLOCKED:
        assert "numba" in listed["numba"]
        words = r"backend: got 'numba', unusable here \(ModuleNotFoundError: .*\); wanted a usable backend"
        refuse(lambda: use_backend("numba").__enter__(), kernels.UnknownBackend, words)


def test_no_backend_at_all(monkeypatch):
    monkeypatch.setattr(dispatch, "_loaded", dict.fromkeys(dispatch.BACKENDS, "ImportError: none"))
    monkeypatch.delenv("OMENDB_BACKEND", raising=False)
    refuse(backend_name, kernels.UnknownBackend, "device: got 'cpu', where nothing can compute")
    assert list_backends() == dict.fromkeys(dispatch.BACKENDS, "ImportError: none")


def test_absent_numba_is_no_error():
    code = (
        "import sys; sys.modules['numba'] = None; import omendb_kernels as k; "
        "print(k.backend_name(), k.knn([[1.0, 2.0]], [[1.0, 2.0], [0.0, 0.0]], 1)[1].tolist(), k.list_backends()['numba'])"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("numpy [[0]] ModuleNotFoundError: ")


def test_facts_are_for_json():
    facts = kernels.facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["libraries"]["numpy"] == np.__version__
