"""Certified search against the oracle on sets that try to make it lie, and proof that these sets would show a lie."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from certificate_sets import SETS, N, Trial, trial
from contract_check import USABLE, compare_bits, in_force
from contract_rows import floats, make_rows, wide

from omendb_kernels import METRICS, PointSet, Proof, codec, exact, knn, knn_certified
from omendb_kernels.arrays import Rows
from omendb_kernels.backends import reference

KS = (1, 10, 100)


def masks_of(rng: np.random.Generator, tried: Trial) -> list[np.ndarray | None]:
    n = len(tried.rows)
    nearest_refused = np.ones(n, np.bool_)
    nearest_refused[tried.truth(20)[1].ravel()] = False
    return [None, rng.random(n) < 0.85, nearest_refused, rng.random(n) < 0.02]


def search(points: PointSet, queries: Rows, k: int, mask: np.ndarray | None, threads: int = 2) -> tuple[Any, Any, Proof]:
    found = exact.search(points, queries, k, mask, exact=True, threads=threads)
    assert_consistent(found[2], len(queries), len(points) if mask is None else int(mask.sum()))
    return found


def assert_consistent(proof: Proof, m: int, allowed: int) -> None:
    assert proof.queries == m
    assert 0 <= proof.certified_first <= m
    assert 0 <= proof.full_scans <= m - proof.certified_first
    assert proof.rows_per_query.shape == (m,)
    assert proof.rows_per_query.dtype == np.int64
    assert proof.rows_per_query.sum() == proof.rows_reranked
    assert (proof.rows_per_query >= 0).all()
    assert proof.share_certified_first == (proof.certified_first / m if m else 1.0)
    assert (proof.rounds > 1 or proof.full_scans > 0) == (proof.certified_first < m)
    if proof.full_scans:
        assert proof.rows_per_query.max() >= allowed


def compare(tried: Trial, points: PointSet, k: int, mask: np.ndarray | None, where: str) -> Proof:
    *found, proof = search(points, tried.queries, k, mask)
    compare_bits(tried.truth(k, mask), tuple(found), where)
    return proof


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", SETS)
def test_search_is_the_oracles(rng, name, metric):
    tried = trial(rng, name, metric)
    compare_bits(reference.knn(tried.queries, tried.rows, 10, METRICS[metric].code), tried.truth(10), "the test itself")
    points = PointSet.encode(tried.rows, metric)
    for backend, module in USABLE.items():
        with in_force(module):
            for k in KS:
                for place, mask in enumerate(masks_of(rng, tried)):
                    compare(tried, points, k, mask, f"{backend}, k={k}, mask {place}")


def test_most_is_proved_by_codes_where_nothing_is_hostile(rng):
    """Else the tests above would only test the full scan."""
    for name in ("plain, d=24", "outlier dimensions", "duplicates", "uint8, d=24"):
        tried = trial(rng, name, "l2")
        proof = search(PointSet.encode(tried.rows, "l2"), tried.queries, 10, None)[2]
        assert proof.certified_first >= proof.queries // 2, name
        assert proof.rows_per_query.min() < N // 8


def test_some_sets_need_more_than_one_round(rng):
    needed = [
        search(PointSet.encode(tried.rows, "l2"), tried.queries, 10, None)[2]
        for tried in (trial(rng, name, "l2") for name in ("near ties", "hidden ties", "ties at the k-th place", "all equal"))
    ]
    assert all(proof.certified_first < proof.queries for proof in needed)
    assert any(proof.full_scans for proof in needed)


def test_a_middle_round_can_prove_it(rng):
    """A tie wider than the first round and narrower than the second."""
    rows = rng.standard_normal((6_000, 16))
    rows[rng.permutation(6_000)[:150]] = 0
    queries = floats(np.full((3, 16), 1e-3))
    tried = Trial(floats(rows), queries, "l2", reference.pairwise(queries, floats(rows), 0, "exact"))
    proof = compare(tried, PointSet.encode(floats(rows), "l2"), 10, None, "middle round")
    assert (proof.certified_first, proof.full_scans) == (0, 0)
    assert proof.rounds > 1


# ---- generations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", ["plain, d=24", "spread, d=3", "outlier rows", "duplicates", "int8 rows, float queries"])
def test_after_extend_in_pieces_and_take(rng, name, metric):
    tried = trial(rng, name, metric)
    points, start = PointSet.empty(tried.rows.dim, metric, tried.rows.kind), 0
    while start < N:
        stop = min(N, start + int(rng.integers(1, 700)))
        points = points.extend(tried.rows[start:stop])
        start = stop
    assert points.codec is not None
    chosen = np.sort(rng.permutation(N)[:1300])
    taken = points.take(chosen)
    small = Trial(tried.rows[chosen], tried.queries, metric, tried.matrix[:, chosen])
    for k in KS:
        compare(tried, points, k, None, f"extended, k={k}")
        compare(tried, points, k, rng.random(N) < 0.9, f"extended, k={k}, mask")
        compare(small, taken, k, None, f"taken, k={k}")


@pytest.mark.parametrize("metric", METRICS)
def test_outliers_that_come_after_the_fit(rng, metric):
    rows = rng.standard_normal((1600, 16))
    rows[1100::7] = rng.standard_normal(rows[1100::7].shape) * 1e4
    rows[1101::50] = 1e-6
    queries = floats(np.r_[rows[1100:1102] * 1.01, rows[:2], rng.standard_normal((2, 16)) * 1e4])
    data = floats(rows)
    points = PointSet.empty(16, metric).extend(data[:1024]).extend(data[1024:1200]).extend(data[1200:])
    if metric != "cosine":  # to which long rows are no outliers
        assert len(points.outliers.ids) > 50
    tried = Trial(data, queries, metric, reference.pairwise(queries, data, METRICS[metric].code, "exact"))
    for k in KS:
        for mask in masks_of(rng, tried):
            compare(tried, points, k, mask, f"k={k}")


@pytest.mark.parametrize("metric", METRICS)
def test_pieces_do_not_matter(rng, metric):
    rows = make_rows(rng, "float32", 4500, 6)
    whole = PointSet.empty(6, metric).extend(rows).state()
    for _ in range(2):
        points = PointSet.empty(6, metric)
        cuts = np.sort(rng.integers(0, 4500, 5))
        for piece in np.split(rows.data, cuts):
            points = points.extend(piece)
        facts, arrays = points.state()
        assert facts == whole[0]
        assert {key: value.tobytes() for key, value in arrays.items()} == {k: v.tobytes() for k, v in whole[1].items()}


@pytest.mark.parametrize("metric", METRICS)
def test_public_calls_agree(rng, metric):
    tried = trial(rng, "plain, d=24", metric)
    points = PointSet.encode(tried.rows, metric)
    wanted = tried.truth(10)
    for base, name in ((points, None), (points, metric), (tried.rows.data, metric)):
        compare_bits(wanted, knn(tried.queries.data, base, 10, name), "knn")
        distances, ids, proof = knn_certified(tried.queries.data, base, 10, name, threads=3)
        compare_bits(wanted, (distances, ids), "knn_certified")
        assert proof.queries == len(tried.queries)
    assert knn_certified(tried.queries.data[:0], points)[2].share_certified_first == 1.0


def test_recall_without_proof_is_high_and_ordered(rng):
    tried = trial(rng, "plain, d=24", "l2")
    points = PointSet.encode(tried.rows, "l2")
    distances, ids, proof = knn_certified(tried.queries.data, points, 10, exact=False)
    assert (np.diff(distances, axis=1) >= 0).all()
    assert proof.full_scans == 0
    np.testing.assert_array_equal(np.take_along_axis(tried.matrix, ids, axis=1), distances)
    assert (ids == tried.truth(10)[1]).mean() > 0.9


# ---- the sets are strong enough ------------------------------------------------------------------------------------

Bound = Callable[..., np.ndarray]


def infinite(*args: Any) -> np.ndarray:
    return np.full(HONEST(*args).shape, np.inf)


def without_row_residuals(spec: Any, queries: Any, scores: Any, row_residuals: Any, max_length: float) -> np.ndarray:
    return HONEST(spec, queries, scores, np.asarray(row_residuals) * 0.0, max_length)


def without_any_residual(spec: Any, queries: Any, scores: Any, row_residuals: Any, max_length: float) -> np.ndarray:
    plain = type(queries)(**{**vars(queries), "residuals": queries.residuals * 0})
    return HONEST(spec, plain, scores, np.asarray(row_residuals) * 0.0, max_length)


def too_large(spec: Any, queries: Any, scores: Any, row_residuals: Any, max_length: float) -> np.ndarray:
    """Codes taken for twice as far apart as they are (ip: the product for smaller)."""
    if spec.metric != "ip":
        return HONEST(spec, queries, scores.astype(np.float64) * 4, row_residuals, max_length)
    bound = HONEST(spec, queries, scores, row_residuals, max_length)
    return bound + 3 * np.abs(bound)


def ties_given_away(*args: Any) -> np.ndarray:
    """As if >= were enough: a row whose distance equals the k-th is taken for farther."""
    bound = HONEST(*args)
    return bound + np.maximum(np.abs(bound) * 1e-6, 1e-6)


HONEST: Bound = codec.lower_bounds
LIES: dict[str, Bound] = {
    lie.__name__.replace("_", " "): lie
    for lie in (infinite, without_row_residuals, without_any_residual, too_large, ties_given_away)
}


def wrong_answers(rng: np.random.Generator, metric: str, names: list[str]) -> int:
    wrong = 0
    for name in names:
        tried = trial(rng, name, metric)
        points = PointSet.encode(tried.rows, metric)
        for k in (1, 10):
            wanted = tried.truth(k)
            found = exact.search(points, tried.queries, k, None, exact=True, threads=1)  # on the backend in force
            wrong += int((wanted[1] != found[1]).any(axis=1).sum())
    return wrong


FAST = [name for name in SETS if "d=1536" not in name and "d=3072" not in name and name != "large whole queries"]


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("lie", LIES)
def test_a_dishonest_bound_gives_a_wrong_answer(rng, monkeypatch, lie, metric, backend):
    """With numba, which skips rows by their bounds, and with numpy, where only the certificate believes them."""
    for module in [module for name, module in sys.modules.items() if name.startswith("omendb_kernels")]:
        if getattr(module, "lower_bounds", None) is HONEST:
            monkeypatch.setattr(module, "lower_bounds", LIES[lie])
    with in_force(USABLE[backend]):
        assert any(wrong_answers(rng, metric, FAST) for _ in range(5))  # most often the first draw shows it


def test_an_honest_bound_gives_none(rng):
    assert wrong_answers(rng, "l2", ["near ties", "hidden ties", "outlier rows"]) == 0


def test_rows_are_exact_in_the_sets(rng):
    """The sets are what their names say, in the places where that is easy to get wrong."""
    near = trial(rng, "near ties", "l2").matrix[0]
    assert np.ptp(near[200:]) <= 60 * np.spacing(near[200])
    assert len(np.unique(near[200:])) < 200
    hidden = trial(rng, "hidden ties", "l2").matrix[0]
    assert (hidden[::3] == hidden[0]).all()
    spread = np.linalg.norm(wide(trial(rng, "spread, d=24", "l2").rows), axis=1)
    assert spread.min() < 1e-15 < 1e15 < spread.max()
