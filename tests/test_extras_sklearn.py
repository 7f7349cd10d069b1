"""The transformer for scikit-learn: its own estimator checks, and the answers of the transformer that it stands for."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.cluster import DBSCAN
from sklearn.manifold import TSNE, trustworthiness
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neighbors import KNeighborsTransformer as Theirs
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from omendb import InvalidInput
from omendb.sklearn import METRICS, KNeighborsTransformer


@parametrize_with_checks([KNeighborsTransformer(), KNeighborsTransformer(mode="connectivity", n_neighbors=3, exact=True)])
@pytest.mark.filterwarnings("ignore:SCIPY_ARRAY_API")
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def same_graph(ours: Any, theirs: Any) -> None:
    assert (type(ours).__name__, ours.shape, ours.nnz) == (type(theirs).__name__, theirs.shape, theirs.nnz)
    assert ours.indptr.tolist() == theirs.indptr.tolist()
    np.testing.assert_allclose(ours.toarray(), theirs.toarray(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mode", ["distance", "connectivity"])
def test_the_same_graph_as_scikit_learn(rng, metric, mode):
    rows, others = (rng.standard_normal((n, 7), dtype=np.float32) for n in (300, 40))
    ours = KNeighborsTransformer(n_neighbors=6, metric=metric, mode=mode)
    theirs = Theirs(n_neighbors=6, metric=metric, mode=mode, algorithm="brute")
    same_graph(ours.fit_transform(rows), theirs.fit_transform(rows))
    same_graph(ours.transform(others), theirs.transform(others))
    same_graph(ours.kneighbors_graph(), theirs.kneighbors_graph())
    same_graph(ours.kneighbors_graph(others, 3, "distance"), theirs.kneighbors_graph(others, 3, "distance"))
    for x in (None, others):
        for found, wanted in zip(ours.kneighbors(x, 4), theirs.kneighbors(x, 4), strict=True):
            assert found.dtype == (np.int64 if wanted.dtype.kind == "i" else np.float64)
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        assert (ours.kneighbors(x, 4, return_distance=False) == theirs.kneighbors(x, 4, return_distance=False)).all()
    names = ours.get_feature_names_out()
    assert (len(names), names[0]) == (300, "kneighborstransformer0")


def test_no_row_is_its_own_neighbour_even_among_duplicates():
    rows = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    found = KNeighborsTransformer(n_neighbors=3).fit(rows).kneighbors(return_distance=False)
    assert (found // 5 == np.arange(15)[:, None] // 5).all()
    assert (found != np.arange(15)[:, None]).all()
    assert found[4].tolist() == [0, 1, 2]


def test_through_the_graph(rng):
    rows = rng.standard_normal((3_000, 8), dtype=np.float32)
    exact = KNeighborsTransformer(n_neighbors=10, exact=True, build_threshold=1_000).fit(rows)
    assert exact._db.stats().index == "graph"
    fast = clone(exact).set_params(exact=False).fit(rows)
    truth, found = exact.kneighbors(return_distance=False), fast.kneighbors(return_distance=False)
    assert np.mean([len(set(a) & set(b)) for a, b in zip(truth, found, strict=True)]) > 8.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("omendb.DB.build", None)  # a pickle holds the index and builds nothing
        again = pickle.loads(pickle.dumps(fast))
    assert again._db.stats().index == "graph"
    same_graph(again.transform(rows[:50]), fast.transform(rows[:50]))


def test_what_is_refused(rng):
    rows = rng.standard_normal((10, 3))
    for options in ({"metric": "manhattan"}, {"mode": "weights"}, {"n_jobs": 0}, {"recall": 2}):
        with pytest.raises(InvalidInput, match=next(iter(options)) if "n_jobs" not in options else "threads"):
            KNeighborsTransformer(**options).fit(rows)
    fitted = KNeighborsTransformer().fit(rows)
    for count, kind in ((0, ValueError), (2.5, TypeError), (True, TypeError), (11, ValueError)):
        with pytest.raises(kind, match="n_neighbors"):
            fitted.kneighbors(rows, count)
    with pytest.raises(ValueError, match="n_neighbors < n_samples_fit"):
        fitted.kneighbors(n_neighbors=10)
    with pytest.raises(InvalidInput, match="mode"):
        fitted.kneighbors_graph(rows, mode="weights")


def test_as_neighbours_of_other_estimators(rng):
    rows = np.concatenate([rng.normal(centre, 0.3, (40, 5)) for centre in (-3, 0, 3)])
    labels = np.repeat([0, 1, 2], 40)
    graph = KNeighborsTransformer(n_neighbors=45, n_jobs=1).fit_transform(rows)
    flat = TSNE(metric="precomputed", init="random", perplexity=10, random_state=0).fit_transform(graph)
    assert flat.shape == (120, 2)
    assert trustworthiness(rows, flat, n_neighbors=5) > 0.85
    assert len(set(DBSCAN(eps=2.0, metric="precomputed").fit_predict(graph))) == 3
    chain = make_pipeline(KNeighborsTransformer(n_neighbors=6), KNeighborsClassifier(n_neighbors=5, metric="precomputed"))
    assert chain.fit(rows, labels).score(rows, labels) == 1
