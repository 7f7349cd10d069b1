"""Recall and speed of built indexes: batches by effort, and queries one at a time. Contestants always in turn."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

import omendb_kernels as ok

from .index import Index
from .peers import KINDS
from .sets import DataSet
from .timing import in_turn

K = 10
EFFORTS = (10, 12, 14, 16, 20, 24, 28, 32, 36, 40, 48, 56, 64, 96, 128, 192, 256, 384, 512)
LEVELS = (0.90, 0.95, 0.99)
ENOUGH = 0.9985  # recall where a curve ends
PERCENTILES = (50, 99, 99.9)
SETTLE = 0.02  # seconds; without it, on two cores and two threads, whoever follows SVS is timed at half its speed

Curve = list[dict[str, float]]


def recall_of(data: DataSet, queries: np.ndarray, ids: np.ndarray, worst: np.ndarray) -> float:
    """Recall of ids (m, K) by exact distances; worst: the true K-th distance (m, 1). Ids below 0 count as missed."""
    distances, _ = ok.rerank(queries, data.base, ids.astype(np.int64), K, data.metric)
    return float(((distances <= worst) & np.isfinite(distances)).mean())


def curves(
    data: DataSet,
    queries: np.ndarray,
    indexes: dict[str, Index],
    threads: int,
    rounds: int,
    *,
    efforts: Iterable[int] = EFFORTS,
    enough: float = ENOUGH,
) -> dict[str, Curve]:
    """Recall and queries a second (median of rounds) of each index by effort, until its recall is above `enough`."""
    truth, _ = ok.knn(queries, data.base, K, data.metric, threads=threads)
    asked = {name: KINDS[name].form(queries, data.metric) for name in indexes}
    points: dict[str, Curve] = {name: [] for name in indexes}
    for effort in efforts:
        racing = [name for name, curve in points.items() if not curve or curve[-1]["recall"] <= enough]
        contestants = {}
        for name in racing:
            indexes[name].tune(effort, threads)
            ids = indexes[name].search(asked[name], K)
            points[name].append({"effort": effort, "recall": recall_of(data, queries, ids, truth[:, -1:])})
            contestants[name] = lambda name=name: indexes[name].search(asked[name], K)
        for name, seconds in in_turn(contestants, rounds, SETTLE).items():
            points[name][-1]["qps"] = len(queries) / float(np.median(seconds))
    return points


def at_recall(points: Curve, level: float) -> float | None:
    """Queries a second at a recall, between two points of the curve; at the first point where even that is above; else None."""
    if points[0]["recall"] >= level:
        return points[0]["qps"]
    for low, high in itertools.pairwise(points):
        if low["recall"] <= level <= high["recall"]:
            share = (level - low["recall"]) / max(high["recall"] - low["recall"], 1e-12)
            return low["qps"] + share * (high["qps"] - low["qps"])
    return None


def effort_for(points: Curve, level: float) -> dict[str, float]:
    """The first point of a curve with that recall; its last where none has it."""
    return next((point for point in points if point["recall"] >= level), points[-1])


def singles(
    data: DataSet, indexes: dict[str, Index], found: dict[str, Curve], level: float = 0.95, rounds: int = 3
) -> dict[str, Any]:
    """Microseconds of one query at a time, one thread, at each index's `effort_for` the level.

    Percentiles over the queries of a round, medians over the rounds: one hiccup of the machine decides nothing.
    """
    asked = {name: KINDS[name].form(data.queries, data.metric) for name in indexes}
    chosen = {name: effort_for(found[name], level) for name in indexes}
    taken: dict[str, list[np.ndarray]] = {name: [] for name in indexes}
    for round_, (name, index) in itertools.product(range(rounds + 1), indexes.items()):
        index.tune(int(chosen[name]["effort"]), 1)
        times = _each(index, asked[name])
        if round_:  # the first is not counted
            taken[name].append(np.percentile(times / 1e3, PERCENTILES))
    return {
        name: {**{key: chosen[name][key] for key in ("effort", "recall")}, "us": np.median(rows, axis=0).tolist()}
        for name, rows in taken.items()
    }


def _each(index: Index, queries: np.ndarray) -> np.ndarray:
    """Nanoseconds (m,) of each query."""
    taken = np.empty(len(queries), np.int64)
    for at, query in enumerate(queries):
        start = time.perf_counter_ns()
        index.single(query, K)
        taken[at] = time.perf_counter_ns() - start
    return taken
