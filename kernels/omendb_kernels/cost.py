"""What an op costs, in amounts of a few kinds of work, and in seconds on a backend whose rates are known. Pure.

seconds = sum over kinds of amount / rate, and what has to be brought to a device. It is coarse on purpose: it only has to
tell which of two backends is quicker, is fitted to what a machine does (calibration.py) and corrected while it runs
(planner.py, choice.py).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from .codec import first_keep
from .contract import CODE_ALIGN

QUERY_TILE = 64  # queries that share one reading of the codes
FINISHED = 0.4  # of the rows that a scan or a search keeps, those that are looked at in float64
# Counted on 200,000 SIFT descriptors (docs/kernels.md): rows a search scores for each place of its pool; leaves and leaders
# that a row of a build is compared with, candidates of both of its prunings; rows of a build for each call of an op.
SCORED, ROWS_A_CALL = 18.0, 5_000.0
LEAF_ROWS, LEADERS, PRUNED = 5_700.0, 1_770.0, 91.0
MATRIX_CALLS = 4.0  # what a matrix product with its passes is beside other calls
LATENCY = 256.0  # of a row read at random, in bytes
ENCODED = 4.0  # coding a value, in values of an exact distance


class Sizes(NamedTuple):
    """A call, as far as its cost depends on it.

    op: pairwise (by a matrix product), exact_pairwise, rerank, scan (every row in float64), knn, search_graph, build_graph.
    m queries, n points of d dimensions, `item` bytes a value; k wanted; width: candidates of a re-ranking, places of a search's
    pool. coded: the points have codes. allowed: rows that a mask allows, -1 without one.
    """

    op: str
    m: int
    n: int
    d: int
    k: int = 10
    width: int = 0
    item: int = 4
    coded: bool = True
    allowed: int = -1

    @property
    def scanned(self) -> int:
        """Points that are looked at where all that are allowed are."""
        return self.n if self.allowed < 0 else self.allowed

    @property
    def code_dim(self) -> int:
        """Bytes of a row's codes."""
        return -(-self.d // CODE_ALIGN) * CODE_ALIGN

    @property
    def point_bytes(self) -> int:
        """What a device has to hold of the points: vectors, codes, three numbers a row; of a graph 32 neighbours."""
        row = self.d * self.item
        if self.op not in ("pairwise", "exact_pairwise", "rerank"):
            row += self.code_dim + 16 + (128 if self.op in ("search_graph", "build_graph") else 0)
        return self.n * row

    @property
    def query_bytes(self) -> int:
        """What comes to a device for this call only, and goes back."""
        answer = 4 * self.m * self.n if self.op in ("pairwise", "exact_pairwise") else 12 * self.m * self.k
        return self.m * (self.d * self.item + 4 * self.width) + answer + (0 if self.allowed < 0 else self.n)


class Amounts(NamedTuple):
    """calls of a backend; nodes that searches look at; bytes of codes and of floats read in order, and of rows read at random;
    operations of float32 products; values of exact float64 distances; operations of int8 products; scores looked at; keys
    listed as among the nearest.
    """

    calls: float = 1.0
    walked: float = 0.0
    codes: float = 0.0
    streamed: float = 0.0
    gathered: float = 0.0
    float32: float = 0.0
    float64: float = 0.0
    int8: float = 0.0
    scores: float = 0.0
    listed: float = 0.0

    def __add__(self, other: Amounts) -> Amounts:  # type: ignore[override]
        return Amounts(*(a + b for a, b in zip(self, other, strict=True)))


KINDS = Amounts._fields
SERIAL = frozenset({"calls"})
MEMORY_CORES = {"codes": 4, "streamed": 4, "gathered": 16}  # so many read as fast as all; the rest grows with threads


@dataclass(frozen=True)
class Profile:
    """What a backend does on a device. rates: of KINDS, a second, on a processor of one core.

    device: "cpu" or "gpu". transfer: bytes a second to and from the device, None where there is none. room: bytes it has
    free, None where that does not matter. threads: cores that a call may use. source: where the numbers are from.
    """

    backend: str
    device: str
    rates: Amounts
    source: str
    transfer: float | None = None
    room: int | None = None
    threads: int = 1

    def rate(self, kind: str) -> float:
        """Of the threads together."""
        one: float = getattr(self.rates, kind)
        return one if kind in SERIAL else one * min(self.threads, MEMORY_CORES.get(kind, self.threads))

    def with_threads(self, threads: int) -> Profile:
        """The same for calls of so many threads; a card does not change."""
        return self if self.device == "gpu" else replace(self, threads=threads)

    def json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "rates": self.rates._asdict()}


def scan(m: float, n: float, code_dim: float, k: float) -> Amounts:
    """`nearest` of m queries among n rows."""
    products, readings = 2.0 * m * n * code_dim, -(-m // QUERY_TILE)
    return Amounts(codes=n * code_dim * readings, int8=products, scores=m * n, listed=m * min(k, n))


def finish(m: float, candidates: float, d: float, item: float) -> Amounts:
    """`rerank` of so many candidates a query, all looked at."""
    return Amounts(gathered=m * candidates * (d * item + LATENCY), float64=m * candidates * d)


def coding(n: float, d: float, item: float) -> Amounts:
    """`encode` of n rows."""
    return Amounts(streamed=n * d * (item + 1), float64=ENCODED * n * d)


def amounts(sizes: Sizes) -> Amounts:
    """What a call does. ValueError for an op that is not known."""
    op, m, n, d, k, width, item, coded, allowed = sizes
    if op == "pairwise":
        passes = Amounts(calls=MATRIX_CALLS, streamed=12.0 * m * n + 3.0 * item * d * (m + n))
        return passes._replace(float32=2.0 * m * n * d)
    if op == "exact_pairwise":
        return Amounts(streamed=4.0 * m * n, float64=float(m) * n * d)
    if op == "rerank":
        return finish(m, width, d, item)
    if op == "scan":
        return finish(m, sizes.scanned, d, item)
    if op == "knn":
        kept = first_keep(k)
        prepared = coding(m if coded else m + n, d, item)
        return prepared + scan(m, sizes.scanned, sizes.code_dim, kept) + finish(m, FINISHED * kept, d, item)
    if op == "search_graph":
        if 0 < allowed < n:  # the pool is made larger
            width = min(n, width * n // allowed)
        looked = SCORED * width * m
        walk = Amounts(walked=looked, gathered=looked * (sizes.code_dim + 4 + LATENCY))
        return walk + coding(m, d, item) + finish(m, FINISHED * width, d, item)
    if op == "build_graph":
        compared = LEAF_ROWS + LEADERS
        made = Amounts(
            calls=60.0 + n / ROWS_A_CALL, codes=20.0 * n * sizes.code_dim, gathered=PRUNED * n * (sizes.code_dim + 4 + LATENCY),
            int8=2.0 * n * sizes.code_dim * compared, scores=n * compared,
        )  # fmt: skip
        return made if coded else made + coding(n, d, item)
    raise ValueError(f"no costs are known of {op!r}")


def seconds(work: Amounts, profile: Profile) -> float:
    """How long a backend takes for it, all at hand."""
    return sum(amount / profile.rate(kind) for kind, amount in zip(KINDS, work, strict=True) if amount)
