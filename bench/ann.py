"""Approximate search through a graph: build time, and queries a second at equal recall, beside other libraries in one run."""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

import omendb_kernels as ok
from omendb.db import RECALL
from omendb_kernels.graph import DEFAULT

from .peers import BUILDERS, Index, as_floats
from .sets import DataSet, load, shipped
from .timing import in_turn

K = 10
EFFORTS = (10, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
LEVELS = (0.90, 0.95, 0.99)
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMENDB_NUM_THREADS")


def report(folder: Path | None, peers: list[str], threads: int, rounds: int, out: Path | None, unset: dict[str, str]) -> int:
    """Print a table a set; 1 when the gate is red: an id of ours that is no row, or twice in an answer."""
    print(f"machine: {ok.facts()}")
    print(f"threads: {threads} for all; unset for all: {unset or 'nothing'}; { {v: os.environ.get(v) for v in VARIABLES} }")
    print(f"ours: {DEFAULT.facts()}, beam tuned to {RECALL}; peers: M 16, ef 200 while building", flush=True)
    results = []
    for data in load(folder) if folder else [shipped()]:
        truth, _ = ok.knn(data.queries, data.base, K, data.metric, threads=threads)
        built, seconds = build_all(data, ["ours", *peers], threads)
        if not gate(data, built["ours"], threads):
            print("RED: an id of ours is out of range or named twice. No times.")
            return 1
        curves = {name: curve(data, index, truth, threads, rounds) for name, index in built.items()}
        result = {"set": data.name, "metric": data.metric, "threads": threads, "build": seconds, "curves": curves}
        results.append(result)
        show(result)
    if out:
        out.write_text(json.dumps({"machine": ok.facts(), "settings": DEFAULT.facts(), "results": results}, indent=1))
    return 0


def build_all(data: DataSet, names: list[str], threads: int) -> tuple[dict[str, Index], dict[str, float]]:
    """Each index, and the seconds its build took from the rows as they lie in the set."""
    BUILDERS["ours"](data.base[:5000], data.metric, threads)  # compiles, where the cache is cold
    built, seconds = {}, {}
    for name in names:
        start = time.perf_counter()
        built[name] = BUILDERS[name](data.base, data.metric, threads)
        seconds[name] = time.perf_counter() - start
    return built, seconds


def gate(data: DataSet, index: Index, threads: int) -> bool:
    """Ids that exist, none twice in an answer."""
    ids = index.search(data.queries, K, max(EFFORTS), threads)
    return bool(ids.min() >= 0 and ids.max() < len(data.base) and (np.diff(np.sort(ids, axis=1), axis=1) > 0).all())


def curve(data: DataSet, index: Index, truth: np.ndarray, threads: int, rounds: int) -> list[dict[str, float]]:
    """Recall and queries a second by effort; recall from the ids, by exact distances, outside the timer."""
    queries = data.queries if index.native else as_floats(data.queries, data.metric)
    points = []
    for effort in EFFORTS:
        ids = index.search(queries, K, effort, threads)
        distances, _ = ok.rerank(data.queries, data.base, ids, K, data.metric)
        recall = float((distances <= truth[:, -1:]).mean())
        seconds = in_turn({"search": lambda effort=effort: index.search(queries, K, effort, threads)}, rounds)["search"]
        points.append({"effort": effort, "recall": recall, "qps": len(queries) / float(np.median(seconds))})
        if recall > 0.9985:
            break
    return points


def at_recall(points: list[dict[str, float]], level: float) -> float | None:
    """Queries a second at a recall, between two points of the curve; at the first point where even that is above; else None."""
    if points[0]["recall"] >= level:
        return points[0]["qps"]
    for low, high in itertools.pairwise(points):
        if low["recall"] <= level <= high["recall"]:
            share = (level - low["recall"]) / max(high["recall"] - low["recall"], 1e-12)
            return low["qps"] + share * (high["qps"] - low["qps"])
    return None


def show(result: dict[str, Any]) -> None:
    """One line for ours and each peer: build, queries a second at each level, and the ratios to ours."""
    print(f"\n{result['set']} ({result['metric']}), {result['threads']} threads")
    own = result["curves"]["ours"]
    for name, points in result["curves"].items():
        cells = []
        for level in LEVELS:
            found, best = at_recall(points, level), at_recall(own, level)
            ratio = f" ({best / found:.2f}x)" if found and best and name != "ours" else ""
            cells.append(f"{f'{found:,.0f}' if found else '-':>8}{ratio:9}")
        build = result["build"][name]
        ratio = f" ({build / result['build']['ours']:.1f}x)" if name != "ours" else ""
        print(f"  {name:8} build {build:7.2f} s{ratio:9} QPS at {', '.join(map(str, LEVELS))}: {'  '.join(cells)}", flush=True)

