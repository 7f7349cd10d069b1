"""Certified exact search on whole data sets: first equality with the oracle, then cost, then speed beside FAISS Flat."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import omendb_kernels as ok
from omendb_kernels import Rows
from omendb_kernels.backends import reference

from . import cdist
from .hnsw import Flat
from .peers import chosen
from .record import save
from .sets import DataSet, load, shipped
from .timing import in_turn, spread

KS = (1, 10, 100)


def report(folder: Path | None, oracle: int, rounds: int, out: Path | None, unset: dict[str, str]) -> int:
    """Print the tables; 1 when any answer differs from the oracle (then no time is printed)."""
    sets = load(folder) if folder else [shipped()]
    print(f"machine: {ok.facts()}\nunset for all: {unset or 'nothing'}; threads: 1; oracle queries a set and metric: {oracle}")
    good = True
    for data in sets:
        for metric in ok.METRICS:
            good &= gate(data, metric, oracle)
    if not good:
        print("RED: an answer differs from the oracle. No times.")
        return 1
    save(out, "exact", {"results": [{"set": data.name, "metric": data.metric, **race(data, rounds)} for data in sets]})
    return 0


def gate(data: DataSet, metric: str, oracle: int) -> bool:
    """Ids and distance bits of a sample of queries equal to the oracle's; the certificate's cost over all queries."""
    points = ok.PointSet.encode(data.base, metric)
    rows = ok.as_queries(data.queries, metric=metric, dim=points.dim)[0]
    chosen = np.random.default_rng().choice(len(rows), min(oracle, len(rows)), replace=False)
    expected = oracle_answers(points, rows[chosen], max(KS))
    same = True
    for k in KS:
        distances, ids, proof = ok.knn_certified(data.queries, points, k)
        equal = np.array_equal(ids[chosen], expected[1][:, :k]) and np.array_equal(
            distances[chosen].view(np.int32), expected[0][:, :k].view(np.int32)
        )
        same &= equal
        cost = proof.rows_per_query
        print(
            f"{data.name:18} {metric:6} k {k:3}: {'equal' if equal else 'DIFFERENT'}; proved at first try "
            f"{proof.share_certified_first:.1%}, full scans {proof.full_scans}; rows re-ranked median {np.median(cost):.0f}, "
            f"p95 {np.quantile(cost, 0.95):.0f}, worst {cost.max()} of {len(points)}",
            flush=True,
        )
    return same


def oracle_answers(points: ok.PointSet, queries: Rows, k: int) -> tuple[Any, Any]:
    """reference.knn, a few rows at a time so that its float64 copies stay small."""
    parts, step = [], 50_000
    code = ok.METRICS[points.metric].code
    for start in range(0, len(points), step):
        distances, ids = reference.knn(queries, points.vectors[start : start + step], k, code)
        parts.append((distances, np.where(ids < 0, -1, ids + start)))
    distances, ids = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    order = np.lexsort((ids, distances), axis=1)[:, :k]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(ids, order, 1)


def race(data: DataSet, rounds: int) -> dict[str, Any]:
    """One query and a batch of 1,000, one thread: seconds of FAISS Flat and of torch.cdist and topk over ours, in turn."""
    measured: dict[str, Any] = {}
    peers: dict[str, Callable[[int], Any]] = {}
    if chosen("flat"):
        flat = Flat.build(Flat.form(data.base, data.metric), data.metric, 1)
        flat.tune(0, 1)
        asked = Flat.form(data.queries, data.metric)
        peers["FAISS Flat"] = lambda m: flat.search(asked[:m], 10)
    if cdist.installed():
        matrix = cdist.Cdist(data.base, data.metric)
        peers["torch cdist and topk"] = lambda m: matrix.search(data.queries[:m], 10)
    points = ok.PointSet.encode(data.base, data.metric)
    ids = ok.knn(data.queries, points, 10)[1]
    for name, search in peers.items():
        print(f"{data.name:18} {data.metric:6} k 10: ids of {name} as ours {np.mean(search(len(ids)) == ids):.2%}")
    for label, m, turns in (("one query", 1, rounds), ("1,000 queries", 1000, max(3, rounds // 5))):
        contestants = {name: functools.partial(search, m) for name, search in peers.items()}
        contestants["ours"] = functools.partial(ok.knn, data.queries[:m], points, 10, threads=1)
        seconds = in_turn(contestants, turns)
        measured[label] = {name: {"seconds": float(np.median(taken))} for name, taken in seconds.items()}
        ratios = [f"{name} / ours {spread(seconds[name] / seconds['ours'])}" for name in peers]
        told = "; ".join([*ratios, f"ours {1e3 * np.median(seconds['ours']):.2f} ms"])
        print(f"{data.name:18} {data.metric:6} k 10, {label}: {told}", flush=True)
    return measured
