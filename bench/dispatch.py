"""Regret of dispatch: over a grid of sizes, the time of what was chosen over that of the best choice; and what choosing costs.

Contestants of a size run in turn, each told to compute by its backend or method; what the planner would choose is asked before.
Gate: all of them give the same bits, but for the matrix product of compute_distances, which has an error bound, and for a graph
beside the scan, whose recall is printed.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import omendb_kernels as ok
from omendb_kernels.cost import Sizes
from omendb_kernels.planner import planned

from .header import counts, header
from .record import save
from .tables import number, table
from .timing import in_turn

BACKENDS = ("numba", "numpy")
graph_search = importlib.import_module("omendb_kernels.graph.search")  # the package has a function of that name
WIDE = 1e-3  # relative error of a matrix product that the gate lets pass
OVERHEAD_CALLS = 20_000


@dataclass
class Case:
    """call: with what was chosen, `choices` by name: told. gate: "bits", "bound" or "recall". chosen: "" to ask the planner."""

    name: str
    call: Callable[[], Any]
    choices: dict[str, Callable[[], Any]]
    gate: str = "bits"
    chosen: str = ""


def report(*, threads: str, rounds: int, out: Path | None, quick: bool, unset: Mapping[str, str]) -> int:
    """Print regret by size, its median and worst, and the overhead of a call."""
    (workers, *_), facts = counts(threads), header(unset, counts(threads))
    print(f"profiles: {', '.join(f'{one.backend}: {one.source}' for one in ok.machine_profiles())}")
    found = [measured(case, rounds) for case in cases(workers, quick)]
    lines = [
        [one["case"], one["chosen"], one["best"], *(number(one[key], ".2f") for key in ("regret", "predicted", "recall"))]
        for one in found
    ]
    print(table(["call", "chosen", "best", "chosen / best", "predicted / measured", "recall"], lines))
    regrets = np.array([one["regret"] for one in found])
    cost = overhead()
    print(f"\nregret: median {np.median(regrets):.2f}, worst {regrets.max():.2f} of {len(regrets)} calls")
    print(f"choosing takes {cost * 1e6:.1f} us a call", flush=True)
    save(out, "dispatch", {**facts, "calls": found, "overhead": {"seconds": cost}})
    return 0


def measured(case: Case, rounds: int) -> dict[str, Any]:
    """One line. The planner is asked after two calls of its own: the first loads and compiles."""
    recall = gated(case)
    case.call()
    with ok.explained() as plans:
        case.call()
    plan = next((plan for plan in reversed(plans) if plan.backend in case.choices), plans[-1])
    chosen = case.chosen or plan.backend
    seconds = {name: float(np.median(taken)) for name, taken in in_turn(case.choices, rounds).items()}
    best = min(seconds, key=lambda name: seconds[name])
    return {
        "case": case.name,
        "chosen": chosen,
        "best": best,
        "regret": seconds[chosen] / seconds[best],
        "predicted": plan.seconds / seconds[chosen],
        "recall": recall,
        "seconds": seconds,
    }


def gated(case: Case) -> float | None:
    """Ends the process where the choices do not agree; the recall of the first by the second, where that is what counts."""
    first, *others = (_arrays(choice()) for choice in case.choices.values())
    if case.gate == "recall":
        found, wanted = first[1], others[0][1]
        return float(np.mean([len(set(a) & set(b)) / len(set(b)) for a, b in zip(found, wanted, strict=True)]))
    for other in others:
        for a, b in zip(first, other, strict=True):
            close = np.allclose(a, b, rtol=WIDE, atol=WIDE * float(np.abs(a).max(initial=1)))
            if not (np.array_equal(a, b) if case.gate == "bits" else close):
                raise SystemExit(f"{case.name}: the choices {', '.join(case.choices)} do not agree: nothing is timed")
    return None


def _arrays(answer: Any) -> tuple[Any, ...]:
    parts = answer if isinstance(answer, tuple) else (answer,)
    return tuple(part for part in parts if isinstance(part, np.ndarray))


def cases(threads: int, quick: bool) -> list[Case]:
    """The grid; quick: its small sizes."""
    random = np.random.default_rng(5)
    most = 20_000 if quick else 100_000
    rows = (random.normal(size=(100, 16))[random.integers(0, 100, most)] @ random.normal(size=(16, 768))).astype(np.float32)
    rows += random.normal(size=rows.shape).astype(np.float32)
    found: list[Case] = []
    for m, n, d in ((1, 10, 8), (4, 100, 64), (32, 1000, 128), (256, 4000, 256), (1000, 2000, 768)):
        a, b = np.ascontiguousarray(rows[:m, :d]), np.ascontiguousarray(rows[:n, :d])
        found += [_distances(a, b, threads), _both(f"pairwise exact {m} x {n} x {d}", _exact(a, b, threads))]
    for m, n, d in ((1, 2000, 128), (1, most, 128), (10, 20_000, 32), (100, 20_000, 768), (500, 20_000, 128)):
        points = ok.PointSet.encode(np.ascontiguousarray(rows[:n, :d]), "l2")
        queries = np.ascontiguousarray(rows[:m, :d]) + np.float32(0.01)
        found.append(_both(f"knn {m} x {n} x {d}", _knn(queries, points, threads)))
        found.append(_both(f"rerank {m} x 100 x {d}", _rerank(queries, points, random.integers(0, n, (m, 100)), threads)))
    for n, d in ((2000, 64), (10_000, 128)):
        base = np.ascontiguousarray(rows[:n, :d])
        graph, points, _ = ok.build_graph(base, threads=threads)
        if n <= 2000:
            found.append(_both(f"build_graph {n} x {d}", lambda base=base: ok.build_graph(base, threads=threads)[0].neighbours))
        for m, k in ((1, 10), (100, 10), (100, 100)):
            queries = base[:m] + np.float32(0.01)
            found.append(_both(f"search_graph {m} of {n} x {d}, k {k}", _search(graph, points, queries, k, threads)))
            for share in (1, 0.5, 0.1, 0.01):
                mask = None if share == 1 else random.random(n) < share
                found.append(_graph_or_scan(f"{m} of {n} x {d}, k {k}, {share:.0%} allowed", graph, points, queries, k, mask))
    return found


def _exact(a: Any, b: Any, threads: int) -> Callable[[], Any]:
    return lambda: ok.pairwise(a, b, precision="exact", threads=threads)


def _knn(queries: Any, points: Any, threads: int) -> Callable[[], Any]:
    return lambda: ok.knn(queries, points, 10, threads=threads)


def _rerank(queries: Any, points: Any, lines: Any, threads: int) -> Callable[[], Any]:
    return lambda: ok.rerank(queries, points, lines, 10, threads=threads)


def _search(graph: Any, points: Any, queries: Any, k: int, threads: int) -> Callable[[], Any]:
    return lambda: ok.search_graph(graph, points, queries, k, threads=threads)


def _graph_or_scan(name: str, graph: Any, points: Any, queries: Any, k: int, mask: Any) -> Case:
    """What a search does by its own rule, which knows only sizes: the graph or the scan of what is allowed."""

    def search() -> Any:
        return ok.search_graph(graph, points, queries, k, mask=mask)

    def walk() -> Any:
        rule, graph_search.SCAN_PER_PLACE = graph_search.SCAN_PER_PLACE, 0
        try:
            return search()
        finally:
            graph_search.SCAN_PER_PLACE = rule

    choices = {"graph": walk, "scan": lambda: ok.knn(queries, points, k, mask=mask)}
    scanned = search()[2].scanned == len(queries)
    return Case(f"search {name}", search, choices, "recall", "scan" if scanned else "graph")


def _both(name: str, call: Callable[[], Any]) -> Case:
    """One op by each usable backend."""

    def told(backend: str) -> Callable[[], Any]:
        def run() -> Any:
            with ok.use_backend(backend):
                return call()

        return run

    usable = [backend for backend in BACKENDS if ok.list_backends()[backend] is None]
    return Case(name, call, {backend: told(backend) for backend in usable})


def _distances(a: Any, b: Any, threads: int) -> Case:
    """compute_distances by each of its methods."""
    methods = {"direct": "exact", "product": "float32"}
    choices = {
        name: (lambda precision=precision: ok.pairwise(a, b, precision=precision, threads=threads))
        for name, precision in methods.items()
    }
    name = f"compute_distances {len(a)} x {len(b)} x {a.shape[1]}"
    return Case(name, lambda: ok.compute_distances(a, b, threads=threads), choices, "bound")


def overhead() -> float:
    """Seconds that a planned call takes longer than a plain one."""

    def nothing() -> None:
        return None

    class Holder:
        """Of points."""

    holder = Holder()
    taken = []
    for call in (nothing, lambda: planned(Sizes("search_graph", 1, 10**6, 128, 10, 40), nothing, holder=holder)):
        call()
        start = time.perf_counter()
        for _ in range(OVERHEAD_CALLS):
            call()
        taken.append((time.perf_counter() - start) / OVERHEAD_CALLS)
    return taken[1] - taken[0]
