"""Our kernels counted: bytes, products, instructions, launches, as the heads of the .cu files state them.

How often a step happens (leaves a row, candidates a line, distances a search) was counted on a CPU, with the same ops on
photographs' SIFT descriptors, 200,000 x 128, and for the partition on a million made of them: a graph has the same bytes
whichever backend builds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .roofline import Device, Work, estimate

ASSIGN_LAUNCHES = 2  # of a call: the kernel, and places out of its keys
SECTOR = 32  # bytes: the least that a read at random moves
WARP = 32


@dataclass(frozen=True)
class Counts:
    """What was counted on a CPU."""

    leaves_of_row: float = 20.0  # memberships a row
    leaf: float = 285.0  # rows of a leaf, as a member sees it
    leaders: float = 1_750.0  # pairs of a row and a leader, over all levels of the partition
    members: float = 22.5  # times that a row looks for leaders
    places: float = 41.5  # that it is told
    lines: float = 30.2  # of up to 128 leaders that it looks at
    many_lines: float = 8.0  # of them, those of the first level, where ten leaders are kept
    products: float = 2_250.0  # pairs, leaders in groups of 32 as warps have them
    fetched: float = 27.4  # rows of leaders that blocks of 64 bring, for each row
    assign_calls: int = 84  # for a million rows
    carve_host: float = 1.9  # seconds of one core beside these calls, for a million rows
    first_candidates: float = 54.0  # of a line of prune, before links
    linked_candidates: float = 37.0  # after
    kept: float = 27.0
    pick_k: int = 4
    reservoir: int = 64
    degree: int = 31
    fronts: int = 16  # launches of a walk over the graph
    held: int = 256  # rows held back
    tries: int = 6  # beams tried by tuning


COUNTED = Counts()
# pool -> distances, nodes expanded, steps and recall@10 of a search, width 2
SEARCHES = {32: (666, 34.2, 17.9, 0.952), 40: (788, 41.8, 21.8, 0.967), 64: (1134, 65.2, 33.5, 0.985)}
WIDENED = 4  # results of float64 that one conversion to it costs (16 a clock and SM on the H100: from memory)
CHOSEN = 3  # instructions of a lane for a score, counted in the machine code for sm_90: 190 for 64, by two pipes (nearest.cu)
LISTED, PER_LISTED = 25, 25 * WARP  # keys that a scan lists for each of k, instructions of each (nearest.cu)
FEW = 32  # queries that warps multiply on any card
LOOKED = 20 / 64  # of candidates, those whose bound does not rule them out (rerank.cu)
TWICE = 1.05  # nodes scored again where the table forgot them (beam.cu)


def padded(d: int) -> int:
    """Codes of a row."""
    return -(-d // 32) * 32


def rows_kind(nbytes: float) -> str:
    """The kind of reading rows of so many bytes at random."""
    return "rows" if nbytes >= 192 else "short rows"


def _tiles(size: float, tile: int) -> float:
    return math.ceil(size / tile) * tile


# ---- each kernel ----------------------------------------------------------------------------------------------------------


def lengths(n: float, d: int, item: int = 4) -> Work:
    """encode.cu: a value made float64, a multiplication, an addition."""
    return Work({"stream": n * (d * item + 8), "fp64": (WIDENED + 2) * n * d})


def encode(n: float, d: int, item: int = 4) -> Work:
    """encode.cu, no rotation: widened once, then 11 results a value: offset, code by the reciprocal, error, its sum."""
    return Work({"stream": n * (d * item + padded(d) + 12), "fp64": (WIDENED + 11) * n * d})


def nearest(m: float, n: float, d: int, k: int, chosen: float = CHOSEN) -> Work:
    """nearest.cu: products, `chosen` instructions a score; codes once for each 128 queries, copied from the L2 meanwhile; keys
    listed and chosen. By warps products and choice go in turn; by warpgroups (more than 32 queries, pieces of 128 bytes) the
    share is one that was reached beside other instructions."""
    pairs, dim = m * n, padded(d)
    choice = {"issue": chosen * pairs + PER_LISTED * LISTED * k * m}
    moved = {
        "l2": math.ceil(m / 128) * n * (dim + 4),
        "stream": n * (dim + 4) + m * (dim + 8 * k + 16 * LISTED * k),
    }
    pieces = {"warpgroups": 2 * pairs * 128 * math.ceil(dim / 128)}
    wide = Work({**pieces, **choice, **moved}, launches=3) if m > FEW else None
    return Work({"int8 tensor": 2 * pairs * dim, **choice, **moved}, 3, frozenset({"int8 tensor", "issue"}), wide)


def rerank(m: float, c: float, d: int, k: int, item: int = 4) -> Work:
    """rerank.cu: rows that their bounds do not rule out; a value made float64 and three results; a sort of the keys."""
    row, looked = d * item, max(float(k), LOOKED * c)
    places = 1 << math.ceil(math.log2(max(2.0, c)))
    sort = places * math.log2(places) * (math.log2(places) + 1) / 4 * 12
    return Work(
        {
            rows_kind(row): m * looked * (row + SECTOR),
            "fp64": m * d * (looked * (WIDENED + 3) + WIDENED),
            "integer": m * sort,
            "stream": m * (12 * c + 12 * k + 4 * d),
        }
    )


def pairwise(m: float, n: float, d: int, item: int = 4) -> Work:
    """distances.cu, precision "exact": three results a value and pair, 2 of 32 widened; the matrix written."""
    return Work({"fp64": (3 + WIDENED / 16) * m * n * d, "stream": 4 * m * n + item * d * (m + n)})


def candidates(m: float, c: float) -> Work:
    """seek.cu: rows of pools and lower bounds."""
    return Work({"fp64": 20 * m * c, "stream": 20 * m * c, "short rows": SECTOR * m * c})


def assign(n: float, d: int, counts: Counts = COUNTED) -> Work:
    """pick.cu, each row with the leaders of its items: products, 65 warp instructions a line of 128, twice that for ten."""
    dim, c = padded(d), counts
    return Work(
        {
            "int8 tensor": 2 * n * c.products * dim,
            "integer": 65 * WARP * n * (c.lines + c.many_lines),
            "l2": n * (c.lines + c.fetched) * dim,
            rows_kind(dim): n * c.members * (dim + SECTOR),
            "stream": n * (4 * c.members + 20 * c.places),
        },
        launches=ASSIGN_LAUNCHES * c.assign_calls * n / 1e6,
        in_turn=frozenset({"int8 tensor", "integer", "l2"}),
    )


def leaf_nearest(n: float, d: int, counts: Counts = COUNTED) -> Work:
    """pick.cu: tiles of 64 x 128 rows, products, 65 warp instructions for each line of 128."""
    dim = padded(d)
    pairs = n * counts.leaves_of_row / counts.leaf * _tiles(counts.leaf, 64) * _tiles(counts.leaf, 128)
    read = n * counts.leaves_of_row * dim
    return Work(
        {
            "int8 tensor": 2 * pairs * dim,
            "integer": 65 * WARP * pairs / 128,
            "l2": pairs * dim * (1 / 64 + 1 / 128),
            rows_kind(dim): read,
            "stream": 8 * counts.pick_k * n * counts.leaves_of_row,
        },
        in_turn=frozenset({"int8 tensor", "integer", "l2"}),
    )


def merge_edges(edges: float, targets: float, width: int) -> Work:
    """merge.cu: 50 bytes an edge, two atomics in the second cache, a sort of 128 keys for each 32 to 64 new ones."""
    sorts = targets + edges / 64
    return Work(
        {"stream": 50 * edges + 8 * width * targets, "l2": 2 * SECTOR * edges, "integer": 600 * WARP * sorts},
        launches=4,
    )


def prune(lines: float, candidates: float, d: int, degree: int) -> Work:
    """prune.cu: 1,900 products of codes a line of 64; codes beyond 128 bytes come again for each 8 rows, from the L2."""
    dim, share = padded(d), (candidates / 64) ** 2
    again = max(0, math.ceil(degree / 8) - 1) * 0.5 * candidates * dim if dim > 128 else 0.0
    return Work(
        {
            "dp4a": lines * 1900 * share * dim / 4,
            rows_kind(dim): lines * candidates * (dim + SECTOR),
            "l2": lines * again,
            "stream": 8 * lines * (candidates + degree),
        }
    )


def score(pairs: float, d: int) -> Work:
    """link.cu: a row at random and a key a pair."""
    dim = padded(d)
    return Work({rows_kind(dim): pairs * (dim + SECTOR), "stream": 20 * pairs, "dp4a": pairs * dim / 4})


def adopt(lines: float, new: float, d: int, degree: int) -> Work:
    """prune.cu: a line of old neighbours and a few newcomers."""
    dim = padded(d)
    products = 8 * math.ceil(new / 8) * (degree + new)
    return Work(
        {"dp4a": lines * products * dim / 4, rows_kind(dim): lines * (degree + new) * (dim + SECTOR), "stream": 400 * lines}
    )


def beam(m: float, d: int, pool: int, degree: int = 32) -> Work:
    """beam.cu: rows and norms at random, lists of the expanded; some 350 instructions a thread and step."""
    distances, expanded, steps, _ = SEARCHES[pool]
    dim, scored = padded(d), distances * TWICE
    threads = min(256, max(64, dim // 32 * 16))
    return Work(
        {
            rows_kind(dim): m * (scored * (dim + SECTOR) + expanded * degree * 4),
            "dp4a": m * scored * dim / 4,
            "integer": 350 * m * steps * threads,
            "stream": m * (dim + 8 * pool),
        }
    )


def reach(n: float, degree: int, fronts: int) -> Work:
    """reach.cu: the lists once, an atomic an edge."""
    return Work({"stream": 4 * n * (degree + 2), "l2": SECTOR * n * degree}, launches=fronts)


# ---- what is made of them -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One kernel at the size that is told: op and file for the table."""

    op: str
    kernel: str
    size: str
    work: Work


def build(n: int, d: int, item: int = 4, counts: Counts = COUNTED) -> list[Step]:
    """The kernels of a whole build under l2, in order."""
    c, million = counts, f"{n:,} rows"
    picked, linked = 2 * c.pick_k * c.leaves_of_row * n, c.kept * n
    tuning = c.held * c.tries
    return [
        Step("encode", "encode.cu", million, encode(n, d, item)),
        Step("assign", "pick.cu", f"partition, {c.leaders:,.0f} leaders a row", assign(n, d, c)),
        Step("pick", "pick.cu", f"{c.leaves_of_row:.0f} leaves a row of {c.leaf:.0f}", leaf_nearest(n, d, c)),
        Step("pick", "merge.cu", f"{picked / 1e6:.0f} M edges", merge_edges(picked, n, c.reservoir)),
        Step("prune", "prune.cu", f"lines of {c.first_candidates:.0f}", prune(n, c.first_candidates, d, c.degree)),
        Step("link", "merge.cu", f"{linked / 1e6:.0f} M edges", merge_edges(linked, n, c.reservoir)),
        Step("prune", "prune.cu", f"lines of {c.linked_candidates:.0f}", prune(n, c.linked_candidates, d, c.degree)),
        Step("reach", "reach.cu", f"{c.fronts} fronts, twice", reach(2 * n, c.degree + 1, 2 * c.fronts)),
        Step("beam", "beam.cu", f"tuning, {tuning:,} searches", beam(tuning, d, 40)),
        Step("nearest", "nearest.cu", f"truth of {c.held} rows", nearest(c.held, n, d, 52)),
        Step("adopt", "prune.cu", f"{c.held} rows linked", adopt(c.held * c.kept, 1, d, c.degree)),
    ]


def certified(m: int, n: int, d: int, k: int = 10, item: int = 4) -> list[Step]:
    """Certified exact search: scan of all codes, exact distances of 2 k + 32 rows, the proof."""
    keep = 2 * k + 32
    return [
        Step("encode", "encode.cu", f"{m:,} queries", encode(m, d, item)),
        Step("nearest", "nearest.cu", f"{m:,} x {n:,}, k {keep}", nearest(m, n, d, keep)),
        Step("rerank", "rerank.cu", f"{m:,} x {keep}", rerank(m, keep, d, k, item)),
    ]


def search(m: int, d: int, pool: int, k: int = 10, router: int = 2048, item: int = 4) -> list[Step]:
    """A batch of graph searches: codes, router, beam, exact distances."""
    return [
        Step("encode", "encode.cu", f"{m:,} queries", encode(m, d, item)),
        Step("nearest", "nearest.cu", f"router of {router:,}", nearest(m, router, d, 1)),
        Step("beam", "beam.cu", f"{m:,} searches, pool {pool}", beam(m, d, pool)),
        Step("seek", "seek.cu", f"bounds of {m:,} x {pool}", candidates(m, pool)),
        Step("rerank", "rerank.cu", f"{m:,} x {pool}", rerank(m, pool, d, k, item)),
    ]


def others(n: int, d: int) -> list[Step]:
    """Kernels that no build and no search under l2 has, or at sizes of their own."""
    return [
        Step("lengths", "encode.cu", f"{n:,} rows", lengths(n, d)),
        Step("pairwise", "distances.cu", "1,000 x 100,000, exact", pairwise(1000, 100_000, d)),
        Step("score", "link.cu", "1 M lines of 64", score(64e6, d)),
        Step("adopt", "prune.cu", "1 M lines, 4 new", adopt(1e6, 4, d, COUNTED.degree)),
    ]


def seconds(steps: list[Step], device: Device) -> float:
    """All of them, one after another."""
    return sum(estimate(step.work, device).seconds for step in steps)


def per_op(n: int, d: int, device: Device) -> dict[str, float]:
    """Predicted seconds of each op in a build, 10,000 searches and 10,000 certified ones: beside what bench/gpu.py times."""
    found: dict[str, float] = {}
    for step in [*build(n, d), *search(10_000, d, 40), *certified(10_000, n, d)]:
        found[step.op] = found.get(step.op, 0.0) + estimate(step.work, device).seconds
    return found


WORKS: dict[str, Callable[[float], Work]] = {  # by rows, for tests
    "lengths": lambda n: lengths(n, 128),
    "encode": lambda n: encode(n, 128),
    "nearest": lambda n: nearest(1000, n, 128, 52),
    "rerank": lambda n: rerank(n, 52, 128, 10),
    "pairwise": lambda n: pairwise(1000, n, 128),
    "assign": lambda n: assign(n, 128),
    "leaf_nearest": lambda n: leaf_nearest(n, 128),
    "merge_edges": lambda n: merge_edges(160 * n, n, 64),
    "prune": lambda n: prune(n, 54, 128, 31),
    "score": lambda n: score(n, 128),
    "adopt": lambda n: adopt(n, 4, 128, 31),
    "beam": lambda n: beam(n, 128, 40),
    "reach": lambda n: reach(n, 32, 16),
}
