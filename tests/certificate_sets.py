"""Sets that try to make the certificate lie: each gives rows, queries and the metrics it is meant for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from contract_rows import as_kind, floats, make_rows, wide

from omendb_kernels import METRICS, PointSet
from omendb_kernels.arrays import Rows
from omendb_kernels.backends import reference

Generator = np.random.Generator
N = 1500  # above the 1,024 rows below which nothing is coded


@dataclass(frozen=True)
class Trial:
    """Rows, queries, and every true distance: one pass of the oracle serves each k and mask."""

    rows: Rows
    queries: Rows
    metric: str
    matrix: np.ndarray

    def truth(self, k: int, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """What reference.knn gives, from the matrix."""
        allowed = np.arange(len(self.rows)) if mask is None else np.flatnonzero(mask)
        distances = np.full((len(self.queries), k), np.inf, np.float32)
        ids = np.full((len(self.queries), k), -1, np.int64)
        for place, line in enumerate(self.matrix[:, allowed]):
            order = np.argsort(line, kind="stable")[:k]
            distances[place, : len(order)], ids[place, : len(order)] = line[order], allowed[order]
        return distances, ids


def trial(rng: Generator, name: str, metric: str) -> Trial:
    rows, queries = SETS[name](rng)
    if metric == "cosine":
        rows, queries = nowhere_zero(rows), nowhere_zero(queries)
    return Trial(rows, queries, metric, reference.pairwise(queries, rows, METRICS[metric].code, "exact"))


def nowhere_zero(rows: Rows) -> Rows:
    data = rows.data.copy()
    data[~rows.float32().any(axis=1), 0] = as_kind([[1.0]], rows.kind).data[0, 0]
    return Rows(data, rows.kind)


def picked(rng: Generator, rows: np.ndarray, m: int, noise: float = 0.0) -> np.ndarray:
    """m of the rows, moved a little: queries that have near neighbours."""
    return rows[rng.integers(0, len(rows), m)] * (1 + noise * rng.standard_normal((m, rows.shape[1])))


def styled(style: str, d: int, kind: str = "float32") -> Callable[[Generator], tuple[Rows, Rows]]:
    def make(rng: Generator) -> tuple[Rows, Rows]:
        rows = make_rows(rng, kind, N, d, style)
        return rows, floats(np.r_[picked(rng, wide(rows), 3, 1e-3), wide(make_rows(rng, "float32", 2, d, style))])

    return make


def far_queries(rng: Generator) -> tuple[Rows, Rows]:
    rows = rng.standard_normal((N, 16))
    return floats(rows), floats(rng.standard_normal((6, 16)) * 10.0 ** np.array([[1], [3], [6], [9], [12], [-9]]))


def outlier_dimensions(rng: Generator) -> tuple[Rows, Rows]:
    rows = rng.standard_normal((N, 64))
    rows[:, [3, 40]] *= 500
    return floats(rows), floats(picked(rng, rows, 5, 0.01))


def outlier_rows(rng: Generator) -> tuple[Rows, Rows]:
    rows = rng.standard_normal((N, 24))
    rows[rng.integers(0, N, 6)] *= 1e5
    return floats(rows), floats(np.r_[picked(rng, rows, 4, 0.01), rows[np.argmax(np.abs(rows[:, 0]))][None] * 1.001])


def near_ties(rng: Generator) -> tuple[Rows, Rows]:
    """Distances that differ by less than one float32 step: their order is decided by rounding, then by id."""
    query = rng.standard_normal(20)
    away = rng.standard_normal((N, 20))
    away *= 3 / np.linalg.norm(away, axis=1, keepdims=True)
    rows = query + away * (1 + rng.uniform(-4e-8, 4e-8, (N, 1)))
    rows[:200] = query + away[:200] * rng.uniform(1.5, 2, (200, 1))
    return floats(rows), floats(query[None])


def hidden_ties(rng: Generator) -> tuple[Rows, Rows]:
    """Rows at exactly the same distance everywhere in the order of ids, with codes that look farther than others' do."""
    d = 12
    query = np.zeros(d)
    rows = rng.integers(-40, 41, (N, d)) / 8.0
    rows[:, 0] = np.sign(rows[:, 0] + 0.1) * 30
    rows[0] = rng.integers(-10, 11, d) / 8.0
    for i in range(0, N, 3):  # permutations and sign flips of one row: equal distances to the zero query
        rows[i] = rng.permutation(rows[0]) * rng.choice([-1, 1], d)
    others = picked(rng, rows, 2)
    return floats(rows), floats(np.r_[query[None], np.ones((1, d)), others])


def ties_at_the_kth_place(rng: Generator) -> tuple[Rows, Rows]:
    """The k nearest, then many equals of the k-th: the smallest ids among them come last in the scan's order."""
    query = rng.standard_normal(8)
    ring = rng.standard_normal((N, 8))
    ring /= np.linalg.norm(ring, axis=1, keepdims=True)
    rows = np.round(ring * 64) / 64
    rows[::2] = rows[0]
    rows[1::4] = -rows[0]
    return floats(rows), floats(np.r_[np.zeros((1, 8)) + 1 / 64, query[None], rows[:1], -rows[:1]])


def parallel_rows(rng: Generator) -> tuple[Rows, Rows]:
    """Cosines that agree in their first seven digits."""
    direction = rng.standard_normal(32)
    rows = (direction + 1e-5 * rng.standard_normal((N, 32))) * 10.0 ** rng.uniform(-3, 3, (N, 1))
    return floats(rows), floats(np.r_[direction[None], picked(rng, rows, 3, 1e-6), -direction[None]])


def heap(radius: float) -> Callable[[Generator], tuple[Rows, Rows]]:
    """Most rows within a step or two of the codes, and queries that are codes themselves: all of the error is the rows'."""

    def make(rng: Generator) -> tuple[Rows, Rows]:
        rows = rng.standard_normal((N, 6))
        rows[20:] = rows[0] + radius * rng.standard_normal((N - 20, 6))
        queries = []
        for metric in METRICS:
            points = PointSet.encode(floats(rows), metric)
            assert points.codec is not None
            decoded = points.codec.offset + points.codec.scale * points.codes[20:, :6].astype(float)
            order = np.argsort(np.abs(np.linalg.norm(decoded, axis=1) - 1) if metric == "cosine" else rng.random(N - 20))
            queries.append(decoded[order[:8]])
        return floats(rows), floats(np.concatenate(queries))

    return make


def zero_and_tiny_queries(rng: Generator) -> tuple[Rows, Rows]:
    rows = rng.standard_normal((N, 10))
    rows[rng.random(N) < 0.2] = 0
    return floats(rows), floats(np.r_[np.zeros((1, 10)), np.full((1, 10), 1e-42), rng.standard_normal((2, 10))])


def one_number(rng: Generator) -> tuple[Rows, Rows]:
    rows = np.round(rng.standard_normal((N, 1)) * 100) / 100
    return floats(rows), floats([[0.0], [0.005], [1.0], [-50.0], [1e6]])


def codes_of_float_queries(kind: str) -> Callable[[Generator], tuple[Rows, Rows]]:
    """Integer rows, which code without loss, and queries that do not."""

    def make(rng: Generator) -> tuple[Rows, Rows]:
        limits = np.iinfo(kind)
        rows = rng.integers(limits.min, limits.max + 1, (N, 20))
        rows[::5] = rows[0]
        queries = picked(rng, rows, 6).astype(float) + np.array([[0], [0.5], [0.25], [300], [1e6], [0]])
        queries[5] = rows[3]
        return as_kind(rows, kind), floats(queries)

    return make


def whole_queries(kind: str) -> Callable[[Generator], tuple[Rows, Rows]]:
    def make(rng: Generator) -> tuple[Rows, Rows]:
        rows = as_kind(rng.integers(0, 3, (N, 6)), kind)
        return rows, as_kind(rng.integers(0, 4, (4, 6)), kind)

    return make


def large_whole_queries(rng: Generator) -> tuple[Rows, Rows]:
    """Integer distances beyond 2^24, where float32 no longer tells neighbours apart: the scan's order is not final."""
    rows = rng.choice([-128, 127], (N, 1024)).astype(float)
    rows[:, :40] = rng.integers(-128, 128, (N, 40))
    return as_kind(rows, "int8"), as_kind(-rows[:3], "int8")


SETS: dict[str, Callable[[Generator], tuple[Rows, Rows]]] = {
    **{f"{style}, d={d}": styled(style, d) for style in ("plain", "offset", "spread") for d in (1, 2, 3, 24)},
    **{f"{kind}, d=24": styled("plain", 24, kind) for kind in ("float16", "bfloat16", "uint8", "int8")},
    "plain, d=1536": styled("plain", 1536),
    "plain, d=3072": styled("plain", 3072),
    "duplicates": styled("duplicates", 16),
    "denormal": styled("denormal", 9),
    "small integers": styled("ties", 5),
    "all equal": lambda rng: (floats(np.repeat(rng.standard_normal((1, 7)), N, axis=0)), floats(rng.standard_normal((3, 7)))),
    "far queries": far_queries,
    "outlier dimensions": outlier_dimensions,
    "outlier rows": outlier_rows,
    "near ties": near_ties,
    "hidden ties": hidden_ties,
    "ties at the k-th place": ties_at_the_kth_place,
    "parallel rows": parallel_rows,
    "dense heap": heap(0.02),
    "tight heap": heap(0.005),
    "zero and tiny queries": zero_and_tiny_queries,
    "one number": one_number,
    "uint8 rows, float queries": codes_of_float_queries("uint8"),
    "int8 rows, float queries": codes_of_float_queries("int8"),
    "whole queries, uint8": whole_queries("uint8"),
    "whole queries, int8": whole_queries("int8"),
    "large whole queries": large_whole_queries,
}
