"""The contract table: every op with every metric, kind and dimension, on plain and on hostile inputs.

A case says what to make; `make` gives the call. tests/test_contract.py runs each on every backend that is usable here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import contract_graph
import numpy as np
from contract_check import Call, frozen, poisoned
from contract_rows import COSINE, IP, KINDS, L2, as_kind, code_rows, edge_rows, final64, make_rows, wide

from omendb_kernels import METRICS
from omendb_kernels.arrays import Rows
from omendb_kernels.backends import reference
from omendb_kernels.codec import rotation_signs

DIMS = (1, 2, 3, 7, 8, 9, 31, 32, 33, 127, 128, 300, 1023, 1024, 1025, 1536, 3072)
SMALL_DIMS = (1, 2, 3, 7, 8, 9, 31, 32, 33)
STYLES = ("ties", "duplicates", "zeros", "offset", "spread", "denormal")
SETTINGS: dict[str, Callable[[Call], Call]] = {"as it is": lambda call: call, "read-only": frozen, "poison": poisoned}
MASKS = ("all masked", "one allowed", "first allowed", "last allowed", "half mask", "sparse mask", "nothing masked")
Generator = np.random.Generator


@dataclass(frozen=True)
class Case:
    """One line of the table. metric and kind are "-" where the op has none."""

    op: str
    name: str
    metric: str
    kind: str
    dim: int
    setting: str = "as it is"

    def __str__(self) -> str:
        return f"{self.op}: {self.name}, {self.metric}, {self.kind}, d={self.dim}, {self.setting}"

    def make(self, rng: Generator) -> Call:
        return SETTINGS[self.setting](MAKERS[self.op](rng, self))


def mask_of(rng: Generator, name: str, n: int) -> np.ndarray | None:
    """The mask that a case's name asks for; None for most."""
    if name not in MASKS:
        return None
    mask = np.full(n, name == "nothing masked")
    chosen: Any = {
        "one allowed": rng.integers(0, n, 1), "first allowed": [0], "last allowed": [n - 1],
        "half mask": rng.permutation(n)[: n // 2], "sparse mask": rng.permutation(n)[: n // 20],
    }.get(name, [])  # fmt: skip
    mask[np.array(chosen, np.int64)] = True
    return mask


def counts_of(rng: Generator, case: Case, n: int) -> tuple[int, int, int]:
    """(n, m, k) of a case with `n` rows at hand."""
    if case.name == "one row":
        n = 1
    m = {"no queries": 0, "one query": 1}.get(case.name, 5 if case.dim <= 300 else 2)
    k = {"k over": n + 3, "k all": n, "k one": 1}.get(case.name, int(rng.integers(1, 12)))
    return n, m, k


def rows_for(dim: int) -> int:
    """Few rows of many dimensions: the oracle is slow."""
    return 90 if dim <= 33 else 30 if dim <= 300 else 8


def points_and_queries(rng: Generator, case: Case, n: int, m: int) -> tuple[Rows, Rows]:
    if case.name == "edges":
        queries, points = edge_rows(rng, METRICS[case.metric].code, n, case.dim)
        return points, Rows(np.repeat(queries.data, m, axis=0), "float32")
    style = case.name if case.name in STYLES else "plain"
    points = make_rows(rng, case.kind, n, case.dim, style)
    queries = make_rows(rng, case.kind if rng.random() < 0.7 else "float32", m, case.dim, style)
    if style == "ties" and n:
        points.data[rng.integers(0, n, n // 2)] = points.data[rng.integers(0, n)]
    return points, queries


def make_lengths(rng: Generator, case: Case) -> Call:
    n = {"one row": 1, "no rows": 0}.get(case.name, rows_for(case.dim))
    return Call("lengths", {"rows": points_and_queries(rng, case, n, 0)[0]})


def make_encode(rng: Generator, case: Case) -> Call:
    d = case.dim
    n = {"one row": 1, "no rows": 0}.get(case.name, 40 if d <= 128 else 6)
    rows = points_and_queries(rng, case, n, 0)[0]
    values = wide(rows)
    lengths = np.sqrt((values * values).sum(axis=1)) if case.name in ("unit", "everything") else None
    offset = values.mean(axis=0).astype(np.float32) if n else np.zeros(d, np.float32)
    peak = float(np.abs(values - offset).max(initial=0.0)) or 1.0
    spread = 1.0 if lengths is None else 1 / float(lengths.min(initial=1.0))
    scales = np.array([peak * spread / 127])
    signs = rotation_signs(d) if case.name in ("rotated", "everything") else None
    if case.name == "clipped":
        scales /= 50
    if case.name in ("row scales", "everything"):
        scales = scales * rng.uniform(0.1, 3, n)
    if case.name == "halves":  # y / scale is exactly half-way between two codes
        scales, offset = rng.integers(1, 128, n) * 2 / 64 + 1 / 64, np.full(d, 1.5, np.float32)
        rows = as_kind((rng.integers(-140, 140, (n, d)) + 0.5) * scales[:, None] + 1.5, "float32")
    return Call("encode", {"rows": rows, "lengths": lengths, "offset": offset, "signs": signs, "scales": scales})


def make_nearest(rng: Generator, case: Case) -> Call:
    sizes = {"no rows": 0, "tile": int(rng.choice([63, 64, 65, 255, 256, 257, 511, 513, 1025, 2049, 4097])), "largest": 6}
    n, m, k = counts_of(rng, case, sizes.get(case.name, 150 if case.dim <= 300 else 12))
    queries, points = code_rows(rng, case, m), code_rows(rng, case, n)
    if case.name == "largest":
        queries.codes[:, : case.dim] = 127
    return Call("nearest", {"queries": queries, "points": points, "k": k, "mask": mask_of(rng, case.name, n)})


def make_rerank(rng: Generator, case: Case) -> Call:
    n, m, k = counts_of(rng, case, 64 if case.name == "edges" else rows_for(case.dim))
    points, queries = points_and_queries(rng, case, n, m)
    metric = METRICS[case.metric].code
    width = n if case.name in ("k all", "edges") or rng.random() < 0.5 else int(rng.integers(1, n + 1))
    k = width if case.name in ("k all", "edges") else k
    candidates = np.array([rng.permutation(n)[:width] for _ in range(m)], np.int32).reshape(m, width)
    if case.name == "no candidates":
        candidates = candidates[:, :0].copy()
    if case.name in ("holes", "lower"):
        candidates[rng.random(candidates.shape) < 0.5] = -1
    if case.name == "all holes":
        candidates[:] = -1
    lower = None
    if case.name in ("lower", "ties", "duplicates", "edges") and not (case.name == "edges" and rng.random() < 0.5):
        lower = honest_bounds(rng, final64(wide(queries), wide(points), metric), candidates)
    lengths = reference.lengths(points) if case.metric == "cosine" and rng.random() < 0.5 else None
    arguments = {"queries": queries, "points": points, "candidates": candidates, "k": k, "metric": metric}
    return Call("rerank", {**arguments, "lengths": lengths, "lower": lower})


def honest_bounds(rng: Generator, distances: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Bounds that are the distance itself, a little below it, or nothing; holes hold anything."""
    lower = np.take_along_axis(distances, np.maximum(candidates, 0).astype(np.int64), axis=1)
    share = rng.choice([0.0, 1e-9, 0.1, 2.0], lower.shape, p=[0.5, 0.2, 0.2, 0.1])
    loosened = np.where(share > 1, -np.inf, lower - np.abs(lower) * share)
    loosened[candidates < 0] = np.inf
    return loosened


def make_pairwise(rng: Generator, case: Case, precision: str) -> Call:
    n, m, _ = counts_of(rng, case, 64 if case.name == "edges" else 0 if case.name == "no rows" else rows_for(case.dim))
    if case.name == "largest":
        size = 2.0**62.49 / case.dim**0.5
        points, queries = (as_kind(rng.choice([-size, size], (count, case.dim)), case.kind) for count in (n, m))
        points.data[1:] = points.data[0]
        points.data[1:2] = queries.data[:1]
    else:
        points, queries = points_and_queries(rng, case, n, m)
    return Call("pairwise", {"queries": queries, "points": points, "metric": METRICS[case.metric].code, "precision": precision})


def make_knn(rng: Generator, case: Case) -> Call:
    """The composed search. Above 1,024 allowed rows it goes through codes."""
    few = {"few rows": 50, "no codes": 1024}
    n, m, k = counts_of(rng, case, few.get(case.name, 1100 if case.dim > 33 else 1300))
    m = 3 if m > 1 else m
    k = int(rng.choice([1, 10, 40])) if k < n else k
    points, queries = points_and_queries(rng, case, n, m)
    mask = mask_of(rng, case.name, n)
    if case.name == "wide mask":
        mask = rng.random(n) < 0.9
    return Call("knn", {"queries": queries, "points": points, "k": k, "metric": METRICS[case.metric].code, "mask": mask})


MAKERS: dict[str, Callable[[Generator, Case], Call]] = {
    "lengths": make_lengths,
    "encode": make_encode,
    "nearest": make_nearest,
    "rerank": make_rerank,
    "pairwise": lambda rng, case: make_pairwise(rng, case, "exact"),
    "pairwise float32": lambda rng, case: make_pairwise(rng, case, "float32"),
    "knn": make_knn,
    **contract_graph.MAKERS,
}

NAMES: dict[str, tuple[str, ...]] = {  # the hostile cases; each op has "plain" too, over every dimension
    "lengths": (*STYLES, "one row", "no rows"),
    "encode": (*STYLES, "one row", "no rows", "unit", "rotated", "row scales", "everything", "clipped", "halves"),
    "nearest": ("ties", "duplicates", "zeros", "largest", "one row", "no rows", "no queries", "one query", "k over", "k all",
                "k one", "tile", *MASKS),
    "rerank": (*STYLES, "edges", "one row", "no queries", "one query", "k over", "k all", "k one", "holes", "all holes",
               "no candidates", "lower"),
    "pairwise": (*STYLES, "edges", "one row", "no rows", "no queries", "one query"),
    "pairwise float32": (*STYLES, "largest", "one row", "no rows", "no queries", "one query"),
    "knn": (*STYLES, "one row", "no queries", "one query", "k over", "k all", "few rows", "no codes", "wide mask", *MASKS),
    **contract_graph.NAMES,
}  # fmt: skip
DIMS_OF = {
    "edges": (11, 17, 32, 33, 300), "rotated": (7, 9, 31, 33, 300), "everything": (7, 9, 31, 33, 300),
    "most kept": (33, 160, 300),
}  # fmt: skip
EVERY_DIM = ("edges", "halves")
LARGEST = {"nearest": (33, 1025, 16_384), "pairwise float32": (2, 9, 33), "link": (33,)}
CODE_OPS = ("nearest", *contract_graph.MAKERS)  # their metrics are ways to make codes: see code_rows


def build() -> list[Case]:
    """All cases: "plain" over every dimension, the hostile ones over every metric and kind, dimensions and settings in turn."""
    table = []
    for op in MAKERS:
        metrics, kinds = axes(op)
        longest = 300 if op == "knn" else DIMS[-1]
        turn = itertools.count()
        for dim, metric, kind in itertools.product([d for d in DIMS if d <= longest], metrics, kinds):
            if op != "knn" or dim in (1, 8, 33) or kind == KINDS[dim % 5]:
                table.append(Case(op, "plain", metric, kind, dim, settings(next(turn))))
        for name, metric, (draw, kind) in itertools.product(NAMES[op], metrics, enumerate(kinds)):
            if sensible(name, metric, kind) and not (draw and name in contract_graph.HEAVY):
                place = next(turn)
                table += [Case(op, name, metric, kind, dim, settings(place)) for dim in dims_of(op, name, place)]
    return table


def dims_of(op: str, name: str, place: int) -> tuple[int, ...]:
    """The dimensions of a hostile case; one of a few in turn for most."""
    if name == "largest":
        return LARGEST.get(op, LARGEST["nearest"])
    dims = DIMS_OF.get(name, SMALL_DIMS)
    return dims if name in EVERY_DIM else (dims[place % len(dims)],)


def axes(op: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The metrics and the kinds that an op knows apart."""
    if op in CODE_OPS:
        return contract_graph.METRICS_OF.get(op, ("l2", "ip", "wide")), ("-",) * 4  # four draws of each
    return (("-",) if op in ("lengths", "encode") else tuple(METRICS)), KINDS


def sensible(name: str, metric: str, kind: str) -> bool:
    if name in ("edges", "halves", "largest"):
        return kind in ("float32", "-")
    return not (name == "zeros" and metric == "cosine")


def settings(place: int) -> str:
    return tuple(SETTINGS)[place // 2 % 3]


TABLE = build()
assert {L2, COSINE, IP} == {metric.code for metric in METRICS.values()}
