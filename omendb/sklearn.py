"""A transformer for scikit-learn: the graph of nearest neighbours, by omendb. The extra "sklearn" brings scikit-learn.

    from omendb.sklearn import KNeighborsTransformer

    graph = KNeighborsTransformer(n_neighbors=15).fit_transform(X)    # CSR, as scikit-learn's own gives
    TSNE(metric="precomputed", init="random").fit_transform(graph)
"""

from __future__ import annotations

import numbers
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from .db import BUILD_THRESHOLD, DB, RECALL
from .errors import InvalidParameter
from .generation import Generation
from .snapshot import Snapshot, encoded

METRICS = {"euclidean": "l2", "l2": "l2", "minkowski": "l2", "sqeuclidean": "l2", "cosine": "cosine"}  # scikit-learn's: ours
MODES = ("distance", "connectivity")


class KNeighborsTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """`sklearn.neighbors.KNeighborsTransformer` over an omendb index: exact below `build_threshold` rows, from there a graph.

    n_neighbors: of each row; mode "distance" adds one, because a row is its own neighbour. mode: "distance" or
    "connectivity", what the transformed graph holds. metric: "euclidean", "l2" and "minkowski" (p = 2), "sqeuclidean",
    "cosine". exact: search without the graph, certified. recall: what the graph's beam is tuned to. build_threshold: as for
    `DB`. n_jobs: threads; None and -1: all cores of this process.

    After `fit`: effective_metric_, n_samples_fit_, n_features_in_. Rows are kept as float32, and distances are as exact as
    that (they come as float64, as scikit-learn's do). Equal distances come in the order of the rows. Sparse input is refused.
    A pickle holds the index.
    """

    def __init__(
        self,
        *,
        mode: str = "distance",
        n_neighbors: int = 5,
        metric: str = "euclidean",
        exact: bool = False,
        recall: float = RECALL,
        build_threshold: int = BUILD_THRESHOLD,
        n_jobs: int | None = None,
    ) -> None:
        self.mode = mode
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.exact = exact
        self.recall = recall
        self.build_threshold = build_threshold
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any = None) -> KNeighborsTransformer:
        """Index the rows of X, (n, d). y is ignored. Raises ValueError, of which ours are kinds."""
        if self.metric not in METRICS:
            raise InvalidParameter("metric", repr(self.metric), "one of " + ", ".join(METRICS))
        if self.mode not in MODES:
            raise InvalidParameter("mode", repr(self.mode), " or ".join(map(repr, MODES)))
        rows = validate_data(self, X, dtype=(np.float32, np.float64), order="C")
        db = DB(metric=METRICS[self.metric], build_threshold=self.build_threshold, threads=_threads(self.n_jobs))
        db.build(rows, recall=self.recall)
        self._db = db
        self.effective_metric_ = "euclidean" if self.metric in ("l2", "minkowski") else self.metric
        self.n_samples_fit_ = self._n_features_out = len(rows)
        return self

    def transform(self, X: Any) -> Any:
        """The graph from the rows of X, (m, d), to the rows fitted: CSR (m, n), nearest first within a row.

        Its rows hold n_neighbors distances and one more, or as many ones, by `mode`.
        """
        check_is_fitted(self)
        return self.kneighbors_graph(X, self.n_neighbors + (self.mode == "distance"), self.mode)

    def kneighbors(self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True) -> Any:
        """Distances float64 and rows int64, both (m, n_neighbors), nearest first; the rows alone without `return_distance`.

        X: None stands for the rows fitted, none of which is then its own neighbour. Raises ValueError for too few rows.
        """
        check_is_fitted(self)
        count = _count(self.n_neighbors if n_neighbors is None else n_neighbors)
        known = self.n_samples_fit_ - (X is None)
        if count > known:
            asked, sign = (self.n_samples_fit_, "<") if X is None else (len(X), "<=")
            got = f"n_neighbors = {count}, n_samples_fit = {self.n_samples_fit_}, n_samples = {asked}"
            raise ValueError(f"Expected n_neighbors {sign} n_samples_fit, but {got}")
        if X is None:
            distances, rows = _without_selves(*self._search(self._rows(), count + 1))
        else:
            queries = validate_data(self, X, dtype=(np.float32, np.float64), order="C", reset=False)
            distances, rows = self._search(queries, count)
        if not return_distance:
            return rows
        return _lengths(distances, self.effective_metric_), rows

    def kneighbors_graph(self, X: Any = None, n_neighbors: int | None = None, mode: str = "connectivity") -> Any:
        """`kneighbors` as a CSR matrix (m, n): ones, or distances, by `mode`."""
        check_is_fitted(self)
        if mode not in MODES:
            raise InvalidParameter("mode", repr(mode), " or ".join(map(repr, MODES)))
        distances, rows = self.kneighbors(X, n_neighbors)
        values = distances if mode == "distance" else np.ones(rows.shape)
        starts = np.arange(0, rows.size + 1, rows.shape[1])
        return csr_matrix((values.ravel(), rows.ravel(), starts), shape=(len(rows), self.n_samples_fit_))

    def _search(self, queries: Any, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        found = self._db.search(queries, count, exact=self.exact, threads=_threads(self.n_jobs))
        return found.distances, found.ids

    def _rows(self) -> NDArray[Any]:
        """The rows fitted, where they lie."""
        points = self._db._now.points
        assert points is not None
        return points.vectors.data

    def __getstate__(self) -> Any:
        state = dict(super().__getstate__())
        if "_db" in state:
            now = self._db._now
            state["_db"] = bytes(encoded(*now.state(threads=self._db._workers)))
        return state

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        if "_db" not in state:
            return
        file = Snapshot.parse(state["_db"], Path("a pickled index"))
        file.verify()
        self._db = DB(metric=METRICS[self.metric], build_threshold=self.build_threshold, threads=_threads(self.n_jobs))
        self._db._publish(Generation.restore(file.facts, file.arrays))


def _threads(jobs: Any) -> int | None:
    return None if jobs in (None, -1) else jobs


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"n_neighbors does not take {type(value)} value, enter integer value")
    if value <= 0:
        raise ValueError(f"Expected n_neighbors > 0. Got {value}")
    return int(value)


def _lengths(distances: NDArray[np.float32], metric: str) -> NDArray[np.float64]:
    """Our distances as scikit-learn's: not squared where the metric is Euclidean."""
    wide = distances.astype(np.float64)
    return np.sqrt(wide) if metric == "euclidean" else wide


def _without_selves(distances: NDArray[np.float32], rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The same without each row itself; where it was not found, being one of many duplicates, without the last."""
    others = rows != np.arange(len(rows))[:, None]
    others[others.all(axis=1), -1] = False
    shape = (len(rows), rows.shape[1] - 1)
    return distances[others].reshape(shape), rows[others].reshape(shape)
