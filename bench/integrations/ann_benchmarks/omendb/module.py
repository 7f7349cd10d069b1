"""omendb in ann-benchmarks: one class; config.yml names its three kinds."""

from typing import Any

import numpy as np

import omendb

from ..base.module import BaseANN

METRICS = {"euclidean": "l2", "angular": "cosine"}
NEVER = 2**31 - 1  # rows, before there is a graph


class OmenDB(BaseANN):
    """kind: "graph", whose beam is the query argument; "tuned", whose beam the build chose for `recall`; "certified", exact."""

    def __init__(self, metric: str, kind: str, recall: float = 0.95) -> None:
        if kind not in ("graph", "tuned", "certified"):
            raise ValueError(f"unknown kind of index {kind!r}: graph, tuned or certified")
        self.metric, self.kind, self.recall = METRICS[metric], kind, recall
        self.beam: int | None = None
        self.name = f"omendb ({kind}{f', recall {recall}' if kind == 'tuned' else ''})"
        self._compile()

    def _compile(self) -> None:
        """Kernels are compiled, or loaded from their cache, when they are first called: a library's install, not its build."""
        rows = np.random.default_rng(0).standard_normal((6_000, 16), dtype=np.float32)
        with omendb.DB.build_from_numpy(rows, metric=self.metric, build_threshold=1) as db:
            for exact in (False, True):
                db.search(rows[0], k=10, exact=exact, threads=1)
                db.search(rows[:100], k=10, exact=exact)

    def fit(self, X: np.ndarray) -> None:
        """Index rows (n, d) as 0 .. n-1. Under angular, rows of zeros have no direction: they are left out, and never found."""
        ids = None
        if self.metric == "cosine" and not (there := X.any(axis=1)).all():
            X, ids = X[there], np.flatnonzero(there)
        threshold = NEVER if self.kind == "certified" else 1
        self.db = omendb.DB.build_from_numpy(X, ids=ids, metric=self.metric, recall=self.recall, build_threshold=threshold)

    def set_query_arguments(self, beam: int) -> None:
        """beam: rows that a search keeps in view."""
        self.beam = beam
        self.name = f"omendb ({self.kind}, beam {beam})"

    def _search(self, queries: np.ndarray, n: int, threads: int | None) -> np.ndarray:
        """Ids (n,) of one query (d,), or (m, n) of (m, d); what the nearest rows of a query of zeros are is chance."""
        try:
            return self.db.search(queries, n, beam=self.beam, threads=threads).ids
        except omendb.ZeroVector:
            some = np.where(queries.any(axis=-1, keepdims=True), queries, np.ones_like(queries))
            return self.db.search(some, n, beam=self.beam, threads=threads).ids

    def query(self, q: np.ndarray, n: int) -> np.ndarray:
        """Ids (n,), nearest first; by one thread."""
        return self._search(q, n, 1)

    def batch_query(self, X: np.ndarray, n: int) -> None:
        """All queries in one call, by all cores; `get_batch_results` gives the ids (m, n)."""
        self.res = self._search(X, n, None)

    def get_batch_results(self) -> np.ndarray:
        """What the last `batch_query` found."""
        return self.res

    def get_additional(self) -> dict[str, Any]:
        """Kept with each result: the beam in use, 0 for an exact scan, and what the index itself holds, in kilobytes."""
        facts = self.db.stats()
        return {"beam": (self.beam or facts.graph["beam"]) if facts.graph else 0, "index_kilobytes": facts.nbytes / 1024}

    def done(self) -> None:
        """Let go of the rows; also where `fit` failed."""
        if hasattr(self, "db"):
            self.db.close()
