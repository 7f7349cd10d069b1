"""Rows for the tests of kernels: every kind, friendly and hostile, and rows on the edge between two float32 numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from omendb_kernels.arrays import Rows
from omendb_kernels.backends import reference
from omendb_kernels.codec import MAX_WIDE, padded_dim
from omendb_kernels.contract import CodeRows

KINDS = ("float32", "float16", "bfloat16", "int8", "uint8")
L2, COSINE, IP = 0, 1, 2


def as_kind(values: Any, kind: str) -> Rows:
    """The nearest rows of this kind (bfloat16: cut, not rounded)."""
    values = np.ascontiguousarray(values, np.float64)
    if kind == "float16":
        return Rows(np.clip(values, -6e4, 6e4).astype(np.float16), kind)
    if kind == "bfloat16":
        return Rows((values.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16), kind)
    if kind == "float32":
        return Rows(values.astype(np.float32), kind)
    limits = np.iinfo(kind)
    return Rows(np.clip(np.rint(values), limits.min, limits.max).astype(kind), kind)


def floats(values: Any) -> Rows:
    return as_kind(values, "float32")


def make_rows(rng: np.random.Generator, kind: str, n: int, d: int, style: str = "plain") -> Rows:
    """n rows of d dimensions; only "zeros" holds rows of length zero."""
    whole, half = kind in ("int8", "uint8"), kind == "float16"
    plain = rng.standard_normal((n, d)) * (40 if whole else 1) + (128 if kind == "uint8" else 0)
    if style == "ties":
        values = rng.integers(0, 3, (n, d)).astype(float)
    elif style == "duplicates":
        values = plain[rng.integers(0, max(1, n // 10), n)] if n else plain
    elif style == "offset":
        values = plain + (0 if whole else 1e3 if half else 1e6)
    elif style == "spread":
        powers = rng.uniform(-7, 4, (n, 1)) if half else rng.uniform(-18, 18, (n, 1))
        values = rng.choice([-128.0, 255.0, 0.0], (n, d)) if whole else rng.standard_normal((n, d)) * 10.0**powers / d**0.5
    elif style == "denormal":
        values = plain * (1 if whole else 1e-6 if half else 1e-40)
    else:
        values = plain
    if style == "zeros":
        values[rng.random(n) < 0.4] = 0
        return as_kind(values, kind)
    rows = as_kind(values, kind)
    empty = ~rows.float32().any(axis=1)
    rows.data[empty, 0] = as_kind([[1.0]], kind).data[0, 0]
    return rows


def make_codes(rng: np.random.Generator, case: Any, n: int, d: int) -> np.ndarray:
    low, high = {"ties": (0, 2), "largest": (-128, -127), "duplicates": (-3, 4)}.get(case.name, (-128, 128))
    codes = np.zeros((n, padded_dim(d)), np.int8)
    codes[:, :d] = rng.integers(low, high, (n, d))
    if case.name == "duplicates" and n:
        codes = codes[rng.integers(0, max(1, n // 10), n)]
    if case.name == "zeros":
        codes[rng.random(n) < 0.4] = 0
    return codes


def code_rows(rng: np.random.Generator, case: Any, n: int) -> CodeRows:
    """Codes with their norms (l2), without any (ip), or with a wide coordinate (the rows of an ip graph)."""
    codes = make_codes(rng, case, n, case.dim)
    norms = (codes.astype(np.int64) ** 2).sum(axis=1).astype(np.int32)
    if case.metric == "wide":
        most = 2 if case.name == "ties" else MAX_WIDE
        wide = np.full(n, most, np.int32) if case.name == "largest" else rng.integers(0, most + 1, n).astype(np.int32)
        return CodeRows(codes, norms + wide * wide, wide)
    return CodeRows(codes, norms if case.metric == "l2" else np.zeros_like(norms))


def wide(rows: Rows) -> np.ndarray:
    return rows.float32().astype(np.float64)


def final64(queries: np.ndarray, points: np.ndarray, metric: int) -> np.ndarray:
    """float64 (m, n): final distances before they are rounded to float32, in the order that contract.py states."""
    out = np.empty((len(queries), len(points)))
    for i, query in enumerate(queries):
        if metric == L2:
            out[i] = reference._lane_sum((query - points) ** 2)
            continue
        dots = reference._lane_sum(query * points)
        if metric == IP:
            out[i] = 0.0 - dots
        else:
            lengths = np.sqrt(reference._lane_sum(points * points)) * np.sqrt(reference._lane_sum((query * query)[None]))
            out[i] = np.maximum(0.0, 1.0 - dots / lengths)
    return out


def edge_rows(rng: np.random.Generator, metric: int, n: int, d: int) -> tuple[Rows, Rows]:
    """One query and n rows whose distance lies within a few float64 steps of the middle between two float32 numbers.

    There one different rounding on the way, of another order or of a fused multiply-add, shows in the float32.
    """
    assert d >= 11
    query = rng.standard_normal(d).astype(np.float32)
    rows = rng.standard_normal((n, d)).astype(np.float32)
    if metric == L2:  # differences of numbers of unlike size fill all of float64, so that their squares must be rounded
        rows *= np.exp2(-rng.integers(0, 26, (n, d))).astype(np.float32)
    first, second = d - 3, d - 9  # two lanes; the second one corrects what the first cannot reach
    query[[first, second]] = 0 if metric == L2 else 1
    rows[:, [first, second]] = 0
    sign = 1 if metric == L2 else -1  # so that the value grows with the coordinate

    def value() -> np.ndarray:
        return sign * final64(query.astype(np.float64)[None], rows.astype(np.float64), metric)[0]

    start = value()
    below = start.astype(np.float32)
    target = start
    for _ in range(2):
        above = np.nextafter(below, np.float32(np.inf))
        middle = (below.astype(np.float64) + above) / 2
        target = np.where((middle > start) & (target == start), middle, target)
        below = above
    for column, most in ((first, 2.0**-6), (second, 2.0**-18)):
        low, high = np.zeros(n, np.float32), np.full(n, most, np.float32)
        for _ in range(44):
            rows[:, column] = (low + high) / 2
            under = value() <= target
            low, high = np.where(under, rows[:, column], low), np.where(under, high, rows[:, column])
        rows[:, column] = low
    rows[::2, second] = high[::2]
    return Rows(query[None], "float32"), Rows(rows, "float32")


def edge_share(queries: Rows, points: Rows, metric: int) -> float:
    """The share of `points` whose distance is within 8 float64 steps of the middle between two float32 numbers."""
    exact = final64(wide(queries), wide(points), metric)[0]
    near = exact.astype(np.float32)
    other = np.nextafter(near, np.where(exact > near, np.float32(np.inf), np.float32(-np.inf)))
    middle = (near.astype(np.float64) + other) / 2
    return float((np.abs(exact - middle) <= 8 * np.spacing(np.maximum(np.abs(exact), 0.5))).mean())
