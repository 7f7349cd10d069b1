"""Growth: builds, graph searches and certified exact searches while one size grows and the others stay; exponents fitted to it.

Rows are clustered and made (ops.clustered). Seconds of a search are those of one query, of a batch answered together. Gate: at
each point the exact answers of some queries are the oracle's, and no time is printed where they are not.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import omendb_kernels as ok
from omendb_kernels import Rows
from omendb_kernels.backends import reference

from .header import header
from .ops import Shape, clustered
from .record import Record
from .tables import table

ASKED = 3  # of the oracle, at each point
UNITS = {"n": "rows", "d": "dimensions", "k": "neighbours", "batch": "queries at once", "threads": "threads"}
CASES = ("build", "graph search", "exact search")
SEARCH_ONLY = ("k", "batch")  # a build does not know them


class Point(NamedTuple):
    """What is measured at."""

    n: int
    d: int
    k: int = 10
    batch: int = 100
    threads: int = 1


def report(
    *, base: Point, grown: Mapping[str, str], rounds: int, out: Path | None, resume: bool, unset: Mapping[str, str]
) -> int:  # fmt: skip
    """Print a table an axis and the exponents; 1 when the gate is red. grown: values of each axis, separated by commas."""
    axes = {axis: values(axis, words) for axis, words in grown.items() if words.strip()}
    options = {"base": base._asdict(), "axes": axes, "rounds": rounds}
    record = Record("scale", out, options, header(unset, sorted({base.threads, *axes.get("threads", [])})), resume=resume)
    with record.interruptible():
        for axis, sizes in axes.items():
            found = record.get(axis)
            if found is None:
                points: dict[int, dict[str, float]] = {}
                for size in sizes:
                    points[size], trouble = measured(base._replace(**{axis: size}), axis, rounds)
                    if trouble:
                        print(f"RED: {axis} {size}: {trouble}. No times.")
                        return 1
                found = growth(axis, points)
                record.put(axis, found)
            show(base, found)
        record.write(finished=True)
    return 0


def values(axis: str, words: str) -> list[int]:
    """Of a comma list, ascending. Ends the process where it is none, or has fewer than two."""
    try:
        sizes = sorted({int(word) for word in words.split(",")})
    except ValueError:
        sizes = []
    if len(sizes) < 2 or sizes[0] < 1:
        sys.exit(f"--{axis} {words!r}: give two or more whole numbers from 1 on, separated by commas")
    return sizes


def measured(point: Point, axis: str, rounds: int) -> tuple[dict[str, float], str]:
    """Seconds of each case (medians) and the recall of the graph; and what is wrong with the exact answers, else nothing."""
    n, d, k, batch, threads = point
    rows = clustered(Shape(n + batch, d))
    rows, queries = rows[:n], rows[n:]
    graph, points, _ = ok.build_graph(rows, threads=threads)
    ids = ok.knn_certified(queries, points, k, threads=threads)[1]
    if trouble := gate(rows, queries, ids, k):
        return {}, trouble
    found = ok.search_graph(graph, points, queries, k, threads=threads)[1]
    told = {
        "graph search": _median(lambda: ok.search_graph(graph, points, queries, k, threads=threads), rounds) / batch,
        "exact search": _median(lambda: ok.knn_certified(queries, points, k, threads=threads), rounds) / batch,
        "recall": float(np.mean([np.isin(a, b).mean() for a, b in zip(found, ids, strict=True)])),
    }
    if axis not in SEARCH_ONLY:
        told["build"] = _median(lambda: ok.build_graph(rows, threads=threads), max(1, rounds // 2))
    return told, ""


def gate(rows: np.ndarray, queries: np.ndarray, ids: np.ndarray, k: int) -> str:
    """How the exact answers differ from the oracle's."""
    wanted = reference.knn(Rows(queries[:ASKED], "float32"), Rows(rows, "float32"), k, ok.METRICS["l2"].code)[1]
    differ = int((ids[:ASKED] != wanted).sum())
    return f"{differ} of {wanted.size} exact neighbours are not the oracle's" if differ else ""


def _median(task: Callable[[], object], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        task()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def growth(axis: str, points: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    """For JSON: by case the points and the exponent."""
    cases = []
    for case in CASES:
        there = [{"at": size, "seconds": told[case], "recall": told["recall"]} for size, told in points.items() if case in told]
        if there:
            cases.append({"case": case, "exponent": exponent(there), "points": there})
    return {"axis": axis, "unit": UNITS[axis], "results": cases}


def exponent(points: list[dict[str, float]]) -> float:
    """e of seconds ~ size^e: least squares of the logarithms."""
    sizes, seconds = (np.log([point[key] for point in points]) for key in ("at", "seconds"))
    return float(np.polyfit(sizes, seconds, 1)[0])


def show(base: Point, found: dict[str, Any]) -> None:
    """One axis."""
    others = ", ".join(f"{name} {size:,}" for name, size in base._asdict().items() if name != found["axis"])
    print(f"\n{found['axis']} ({found['unit']}) grows; {others}; ms: a build, one query of a batch")
    sizes = [point["at"] for point in found["results"][0]["points"]]
    lines = []
    for one in found["results"]:
        times = [f"{1e3 * point['seconds']:,.4g}" for point in one["points"]]
        lines.append([one["case"], *times, f"{one['exponent']:.2f}"])
    recalls = [f"{point['recall']:.4f}" for point in found["results"][0]["points"]]
    head = ["", *(f"{size:,}" for size in sizes), "exponent"]
    print(table(head, [*lines, ["recall of the graph", *recalls, ""]]), flush=True)
