"""Run by tests/test_bench_integrations.py: our module through ann-benchmarks' definitions and runner, or the stand-ins.

python integration_ann.py OUT.json
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import ann_benchmarks
import numpy as np
from ann_benchmarks.algorithms.base.module import BaseANN
from ann_benchmarks.definitions import get_definitions, instantiate_algorithm
from ann_benchmarks.runner import build_index, run_individual_query

ROWS, DIM, QUERIES, K = 4_000, 24, 40, 10
KINDS = Path(ann_benchmarks.__file__).parent / "algorithms"


def points(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    centres = rng.standard_normal((30, DIM))
    found = centres[rng.integers(0, 30, ROWS + QUERIES)] + rng.standard_normal((ROWS + QUERIES, DIM)) / 2
    return found[QUERIES:].astype(np.float32), found[:QUERIES].astype(np.float32)


def truth(metric: str, base: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Ids (m, k), by float64."""
    base, queries = base.astype(np.float64), queries.astype(np.float64)
    if metric == "angular":
        base, queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (base, queries))
    distances = (base**2).sum(axis=1) - 2 * queries @ base.T
    return np.argsort(distances, axis=1, kind="stable")[:, :K]


def definitions(metric: str) -> list[Any]:
    return [one for one in get_definitions(DIM, "float", metric, K, base_dir=str(KINDS)) if one.algorithm == "omendb"]


def measured(metric: str) -> list[dict[str, Any]]:
    base, queries = points(np.random.default_rng())
    right, found = truth(metric, base, queries), []
    for definition in definitions(metric):
        algo = instantiate_algorithm(definition)
        assert str(algo).startswith("omendb")
        build_index(algo, base)
        for arguments in definition.query_argument_groups or [[]]:
            if arguments:
                algo.set_query_arguments(*arguments)
            facts = {"arguments": definition.arguments, "asked": arguments}
            for batch in (False, True):
                attrs, results = run_individual_query(algo, base, queries, metric, K, 1, batch)
                ids = [[row for row, _ in result] for _, result in results]
                hits = sum(len(set(one) & set(true)) for one, true in zip(ids, right.tolist(), strict=True))
                facts |= {f"ids{batch:d}": ids, "recall": hits / right.size, "name": attrs["name"], "beam": attrs["beam"]}
            found.append(facts)
        algo.done()
    return found


def zeros() -> list[list[int]]:
    """Under angular, a set with rows of zeros asked by a query of zeros, alone and in a batch, and by its own first row."""
    base, queries = points(np.random.default_rng())
    base[[3, 70]] = queries[1] = 0
    queries[0] = base[5]
    algo = instantiate_algorithm(definitions("angular")[0])
    algo.fit(base)
    algo.batch_query(queries, K)
    return [algo.query(queries[1], K).tolist(), *algo.get_batch_results().tolist()]


if __name__ == "__main__":
    methods = inspect.getmembers(BaseANN, inspect.isfunction)
    report: dict[str, Any] = {"methods": {name: list(inspect.signature(method).parameters) for name, method in methods}}
    report |= {"zeros": zeros(), **{metric: measured(metric) for metric in ("euclidean", "angular")}}
    Path(sys.argv[1]).write_text(json.dumps(report), encoding="utf-8")
