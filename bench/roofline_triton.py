"""Triton's kernels counted, as their heads state them; the numbers of a build and a search are those of roofline_kernels.py."""

from __future__ import annotations

import math

from .roofline import Work
from .roofline_kernels import COUNTED, LOOKED, SECTOR, WIDENED, Counts, Step, padded, rows_kind

NEW = 6.0  # integer results a column and round of insertion (_pool.py): minimum, equality, place, selection
HELD = 5.0  # and a place of the pool
PLAIN = 3.0  # results a score that is not inserted
LINES = 128  # of a tile of many queries
IN_TURN = frozenset({"int8 tensor", "integer"})


def rounds(lines: float, tiles: float, cols: float, k: float) -> float:
    """Rounds of insertion over all tiles of random order: a tile takes as many as the busiest of its lines has newcomers.

    Of a line's k nearest so far, each is in the t-th tile with a chance of 1 / t. The busiest of many lines: about whether
    there is any newcomer, where they are fewer than lines; else the mean and what large ones of a binomial number deviate.
    """
    total, t = 0.0, 1.0
    while t <= tiles:
        step = max(1.0, t * 0.05)
        mean = min(k, cols) / t
        deviation = math.sqrt(2 * mean * (1 - 1 / t) * math.log(max(lines, 2)))
        busiest = 1 - math.exp(-lines * mean) if lines * mean < 2 else mean + deviation
        total += min(step, tiles - t + 1) * min(k, cols, busiest)
        t += step
    return total


def inserted(lines: float, n: float, cols: float, k: float, pool: float) -> float:
    """Integer results of all insertions of `lines` lines that see n columns."""
    return rounds(lines, math.ceil(n / cols), cols, k) * lines * (cols * NEW + pool * HELD)


def nearest(m: float, n: float, d: int, k: int) -> Work:
    """nearest.py: products, three results a score, rounds of insertion; queries again for each tile where codes are long."""
    dim, few = padded(d), m <= 32 or k > 64
    pool = next(size for size in ((64, 256) if few else (16, 64)) if k <= size)
    lines, cols = (16, 128) if few else (LINES, 64 if dim <= 128 else 128)
    again = 0.0 if dim <= 128 else m * n * dim / cols
    return Work(
        {
            "int8 tensor": 2 * m * n * dim,
            "integer": PLAIN * m * n + math.ceil(m / lines) * inserted(lines, n, cols, k, pool),
            "l2": math.ceil(m / lines) * n * (dim + 4) + again,
            "stream": n * (dim + 4) + m * (dim + 24 * k),
        },
        2,
        IN_TURN,
    )


def assign(n: float, d: int, counts: Counts = COUNTED) -> Work:
    """assign.py: as pick, each row with the leaders of its items."""
    dim, pairs = padded(d), n * counts.leaders
    met = inserted(64, counts.leaders / max(1.0, counts.members), 64, 10, 16) / 64
    return Work(
        {
            "int8 tensor": 2 * pairs * dim,
            "integer": PLAIN * pairs + n * counts.members * met,
            "l2": pairs * dim * 2 / 64,
            rows_kind(dim): n * counts.members * (dim + SECTOR),
            "stream": n * 16 * counts.places,
        },
        2 * counts.assign_calls * n / 1e6,
        IN_TURN,
    )


def leaf_nearest(n: float, d: int, counts: Counts = COUNTED) -> Work:
    """pick.py: tiles of 64 x 64 (64 x 128 where codes are long), rounds of insertion into pools of 8."""
    dim = padded(d)
    cols = 64 if dim <= 128 else 128
    pairs = n * counts.leaves_of_row / counts.leaf * math.ceil(counts.leaf / 64) * 64 * math.ceil(counts.leaf / cols) * cols
    met = inserted(64, counts.leaf, cols, counts.pick_k, 8) / 64
    return Work(
        {
            "int8 tensor": 2 * pairs * dim,
            "integer": PLAIN * pairs + n * counts.leaves_of_row * met,
            "l2": pairs * dim * (1 / 64 + (0 if dim <= 128 else 1 / cols)),
            rows_kind(dim): n * counts.leaves_of_row * dim,
            "stream": 8 * counts.pick_k * n * counts.leaves_of_row,
        },
        1,
        IN_TURN,
    )


def prune(lines: float, candidates: float, d: int, degree: int) -> Work:
    """prune.py: all 64 x 64 products of a line, a word of 64 bits a candidate, rounds of the greedy independent set."""
    dim = padded(d)
    return Work(
        {
            "int8 tensor": 2 * lines * 4096 * dim,
            "integer": lines * (4096 * 6 + 64 * 70 + 8 * 64 * 8),
            rows_kind(dim): lines * candidates * (dim + SECTOR),
            "stream": 8 * lines * (candidates + degree),
        },
        1,
        IN_TURN,
    )


def rerank(m: float, c: float, d: int, k: int, item: int = 4) -> Work:
    """rerank.py: values widened twice, keys written and read; select.cu ends it."""
    row, looked = d * item, max(float(k), LOOKED * c)
    amounts = {
        rows_kind(row): m * looked * (row + SECTOR),
        "fp64": m * d * looked * (2 * WIDENED + 3),
        "stream": m * (28 * c + 12 * k + 4 * d),
    }
    return Work(amounts, 6 if m * c > 32_768 else 4)


def encode(n: float, d: int, item: int = 4) -> Work:
    """encode.py: widened once, then 12 results a value."""
    return Work({"stream": n * (d * item + padded(d) + 12), "fp64": (WIDENED + 12) * n * d})


def pairwise(m: float, n: float, d: int, item: int = 4) -> Work:
    """distances.py, "exact": three results a value and pair, one of eight widened."""
    read = item * d * m * n / 8
    return Work({"fp64": (3 + WIDENED / 8) * m * n * d, "stream": 4 * m * n, "l2": read}, 2)


def steps(n: int, d: int, m: int, counts: Counts = COUNTED) -> list[Step]:
    """What Triton has, at the sizes of a build of n rows, of m certified searches, and of a small matrix."""
    c, keep = counts, 52
    return [
        Step("encode", "encode.py", f"{n:,} rows", encode(n, d)),
        Step("assign", "assign.py", f"{c.leaders:,.0f} leaders a row", assign(n, d, c)),
        Step("pick", "pick.py", f"{c.leaves_of_row:.0f} leaves a row of {c.leaf:.0f}", leaf_nearest(n, d, c)),
        Step("prune", "prune.py", f"lines of {c.first_candidates:.0f}", prune(n, c.first_candidates, d, c.degree)),
        Step("nearest", "nearest.py", f"{m:,} x {n:,}, k 10", nearest(m, n, d, 10)),
        Step("nearest", "nearest.py", f"{m:,} x {n:,}, k {keep}", nearest(m, n, d, keep)),
        Step("rerank", "rerank.py", f"{m:,} x {keep}", rerank(m, keep, d, 10)),
        Step("pairwise", "distances.py", "1,000 x 100,000, exact", pairwise(1000, 100_000, d)),
    ]
