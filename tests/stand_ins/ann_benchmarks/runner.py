"""What their runner does with one algorithm."""

from __future__ import annotations

import time

import numpy as np


def distance(kind: str, a, b) -> float:
    if kind == "euclidean":
        return float(np.sum((a - b) ** 2) ** 0.5)
    return float(1 - np.dot(a, b) / (np.sum(a**2) ** 0.5 * np.sum(b**2) ** 0.5))


def build_index(algo, X_train):
    start, before = time.time(), algo.get_memory_usage()
    algo.fit(X_train)
    return time.time() - start, algo.get_memory_usage() - before


def run_individual_query(algo, X_train, X_test, distance_kind: str, count: int, run_count: int, batch: bool):
    for _ in range(run_count):
        if batch:
            algo.batch_query(X_test, count)
            found = algo.get_batch_results()
        else:
            found = [algo.query(query, count) for query in X_test]
        results = []
        for query, ids in zip(X_test, found, strict=True):
            assert len(ids) == len(set(ids)), "Implementation returned duplicated candidates"
            results.append((0.0, [(int(i), distance(distance_kind, query, X_train[i])) for i in ids]))
    attrs = {"batch_mode": batch, "name": str(algo), "run_count": run_count, "count": count, **algo.get_additional()}
    return attrs, results
