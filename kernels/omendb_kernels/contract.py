"""The ops: what every backend must give, bit for bit. Prose and types, no code.

A backend is a module of the functions below. The oracle, `backends/reference.py`, says in plain NumPy what each returns;
a backend is right when it *equals* the oracle on every input of the contract table (tests/test_contract.py).

Words
    rows, points, queries   user vectors, (n, d) and (m, d)
    codes                   int8 (n, D), D = d rounded up to a multiple of 32, padding zero (codec.py)
    norms                   int32 (n,), the squared length |c|^2 of each code row
    key                     int64, (score << 32) | uint32(id): sorts by (score, id); NO_KEY = (INT32_MAX, 0xFFFFFFFF)
    mask                    bool (n,), True = allowed; None = all allowed
    candidates              int32 (m, c) row numbers, -1 = none, no row twice in a line

Order and ties. Everything ordered is ordered by (distance, id), the smaller id first. Keys and candidates hold 32-bit row
numbers: one index has at most 2^31 - 1 rows. Row * stride is computed in 64 bits.

Arithmetic
    Codes are integers: scores are exact in any order of summation. |D| <= 255^2 * 16,384 < 2^31.
    Floats are float64 in one stated order and no fused multiply-add, anywhere:
    lane sum    eight sums, lane l adding the terms j = l, l + 8, l + 16, ... in that order, each lane starting at +0.0; then
                lanes (0+4, 1+5, 2+6, 3+7), then (0+2, 1+3), then the two.
    length      sqrt(lane sum of x * x).
    distance    l2: lane sum of (q - x) * (q - x).  cosine: max(0, 1 - dot / (|q| * |x|)).  ip: 0 - dot.
                dot = lane sum of q * x. Rounded once, to float32, a zero to +0.0; that float32 is what is compared and
                returned.
    encode      y = x (cosine: x / |x|); y = y - offset; rotate where signs are given; c = rint(y / scale) clipped to
                [-128, 127]; e = y - scale * c; error = lane sum of e * e.
    rotate      codec.rotate: two passes of sign flips and Walsh-Hadamard butterflies over blocks of a power of four.
Integers make l2 and ip exact in float64 as they are: no separate integer path is needed for equality.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .arrays import Rows

Float64s = NDArray[np.float64]
Float32s = NDArray[np.float32]
Int64s = NDArray[np.int64]
Int32s = NDArray[np.int32]
Int8s = NDArray[np.int8]

INT32_MAX = 2**31 - 1
NO_KEY = (INT32_MAX << 32) | 0xFFFFFFFF
CODE_ALIGN = 32  # codes are padded to a multiple of this many coordinates
LANES = 8


class CodeRows(NamedTuple):
    """Coded rows as the integer ops see them: codes int8 (n, D), norms int32 (n,), wide int32 (n,) or None.

    The distance of two is D(a, b) = norms[a] + norms[b] - 2 (<codes[a], codes[b]> + wide[a] * wide[b]).
    """

    codes: Int8s
    norms: Int32s
    wide: Int32s | None = None

    def take(self, rows: slice | NDArray[Any]) -> CodeRows:
        """The chosen rows."""
        return CodeRows(self.codes[rows], self.norms[rows], None if self.wide is None else self.wide[rows])


class SearchPlan(NamedTuple):
    """All that a search of a graph reads when every row is allowed and is in the graph: what `seek` prepares itself for.

    metric: the number in METRICS. vectors, lengths, residuals, max_length, codes: of the rows, codes as queries are compared
    with them. offset, signs, scale, lossless: of the codec. router, entrance: rows a search may enter by, and their codes.
    neighbours, width: of the graph. twin_heads, twin_rows: pairs of (node, further row of equal code), ordered; most_twins:
    looked at a query, or k if that is more.
    """

    metric: int
    vectors: Rows
    lengths: Float64s | None
    residuals: Float32s
    max_length: float
    codes: CodeRows
    offset: Float32s
    signs: Int8s | None
    scale: float
    lossless: bool
    router: Int32s
    entrance: CodeRows
    neighbours: Int32s
    width: int
    twin_heads: Int32s
    twin_rows: Int32s
    most_twins: int


class Backend(Protocol):
    """The functions of a backend module. `threads` never changes an answer.

    A backend may have two more. A shortcut that gives nothing new (graph/search.py composes the same of the others):
    seek(plan) -> search(queries (m, d), k, beam, threads) -> distances (m, k), ids (m, k), and the fewest rows that one of
    them found. And, where it computes on a device, resident(array) -> the array there: an op then answers on the side where the
    first of its arguments lies that is not `points`, which may lie on either, as `neighbours` and `lengths` may. With that go
    hold(holder, arrays): ops take copies on the device for these arrays of the host, as long as the holder lives; and
    release() -> bytes: they do not any more.
    """

    NAME: str

    def lengths(self, rows: Rows, *, threads: int) -> Float64s:
        """float64 (n,): the length of each row."""

    def encode(
        self, rows: Rows, lengths: Float64s | None, offset: Float32s, signs: Int8s | None, scales: Float64s, *, threads: int
    ) -> tuple[Int8s, Int32s, Float64s]:
        """Codes (n, D), norms (n,) and errors float64 (n,) of rows (n, d).

        lengths: divide each row by its length first (cosine), or None. offset (d,). signs: int8 (2, d), the two sign
        passes of the rotation, or None for no rotation. scales: float64 (1,) for all rows, or (n,), one a row.
        """

    def nearest(self, queries: CodeRows, points: CodeRows, k: int, mask: NDArray[np.bool_] | None, *, threads: int) -> Int64s:
        """int64 (m, k): each query's k smallest keys, ascending; score = D(query, point).

        Rows that the mask refuses never appear; fewer than k allowed rows leave NO_KEY at the end. Cost m * n * D.
        """

    def rerank(
        self,
        queries: Rows,
        points: Rows,
        candidates: Int32s,
        k: int,
        metric: int,
        *,
        lengths: Float64s | None,
        lower: Float64s | None,
        threads: int,
    ) -> tuple[Float32s, Int64s]:
        """The k nearest candidates of each query by final distance: float32 (m, k) and ids int64 (m, k).

        metric: the number in METRICS. lengths: the points' lengths if known (cosine; computed otherwise). lower: a proven
        lower bound of each candidate's distance, (m, c); one above the k-th distance so far may be skipped, which cannot
        change the answer. Missing places hold (inf, -1).
        """

    def pairwise(self, queries: Rows, points: Rows, metric: int, precision: str, *, threads: int) -> NDArray[Any]:
        """float32 (m, n) distances. precision "exact": the distances above, bit for bit; "float32": GEMM on centred rows,
        outside the bit promise (error bound in distances.py of the numpy backend)."""

    # ---- the graph: rows are nodes, every decision is made on D ---------------------------------------------------------

    def assign(
        self, points: CodeRows, members: Int32s, offsets: Int64s, leaders: Int32s, starts: Int64s, fanout: int, *, threads: int
    ) -> Int32s:
        """int32 (t, fanout): the nearest leaders of each member, as places among those of its item, nearest first, -1 behind.

        Item i: members[offsets[i] : offsets[i + 1]], rows in any order, and leaders[starts[i] : starts[i + 1]], rows ascending,
        none twice; either may be empty. Nearer is what has the smaller (D(member, leader), leader), a member that leads its own
        item included. Cost: D a pair of a member and a leader of its item.
        """

    def pick(self, points: CodeRows, members: Int32s, offsets: Int64s, k: int, width: int, *, threads: int) -> Int64s:
        """int64 (n, width): each row's reservoir, keys ascending, NO_KEY behind.

        Leaf i is members[offsets[i] : offsets[i + 1]], rows ascending, none twice. In each leaf every row proposes the edges
        to the k others with the smallest keys (D, id); an edge counts in both directions. A row's reservoir is the `width`
        smallest different keys proposed to it: it does not depend on any order. Cost: s^2 D for a leaf of s rows.
        """

    def prune(self, points: CodeRows, candidates: Int64s, degree: int, alpha: tuple[int, int], *, threads: int) -> Int64s:
        """int64 (r, degree): the candidates that are kept, keys ascending, NO_KEY behind (RobustPrune, DiskANN, NeurIPS 2019).

        candidates: int64 (r, c) keys (D(p, c), c) of one row p a line, ascending, none twice, p not among them, NO_KEY behind.
        In that order a candidate c is kept unless `degree` are kept already or a kept y has
        alpha[0] * D(y, c) <= alpha[1] * D(p, c), in 64 bits. Cost: c * degree * D a line at most.
        """

    def link(self, targets: Int32s, own: Int64s, sources: Int32s, kept: Int64s, width: int, *, threads: int) -> Int64s:
        """int64 (t, width): for each target its own keys and those of the edges that lead to it, the smallest `width`.

        targets: ascending, none twice. own: int64 (t, a) keys of each target. kept: int64 (s, b) keys of the lists of
        `sources`: a key (D, x) of source p is an edge p -> x and gives target x the candidate (D, p); edges to rows that are
        not targets are passed over. Different keys, ascending, NO_KEY behind. Inputs may hold NO_KEY at the end of lines.
        """

    def score(self, points: CodeRows, rows: Int32s, ids: Int32s, width: int, *, threads: int) -> Int64s:
        """int64 (r, width): the `width` smallest different keys (D(row, id), id) of each line, NO_KEY behind.

        ids: int32 (r, c), -1 = none; the row itself is passed over.
        """

    def adopt(
        self, points: CodeRows, rows: Int32s, lists: Int32s, sources: Int32s, kept: Int64s, width: int,
        alpha: tuple[int, int], *, threads: int,
    ) -> Int32s:  # fmt: skip
        """int32 (t, degree): the lists of `rows` once the edges of `sources` lead back to them, nearest first, -1 behind.

        rows: ascending, none twice. lists: int32 (t, degree), the neighbours that an earlier pruning of each row kept, -1 =
        none, anywhere in a line, none twice; the row itself is passed over. sources, kept: as for `link`, no edge leads to its
        own source. A row's neighbours and the sources of edges to it are its candidates, the `width` with the smallest keys,
        and are pruned as by `prune`, except that two neighbours of old do not strike each other out: the earlier pruning has
        seen that they need not. A source that is a neighbour already is one of old. Cost: degree distances a row, and as many
        for each new candidate.
        """

    def beam(
        self, queries: CodeRows, points: CodeRows, neighbours: Int32s, entries: Int32s, beam: int, width: int, *, threads: int
    ) -> Int64s:
        """int64 (m, beam): the pool at the end of a search of the graph, keys ascending, NO_KEY behind (GreedySearch, DiskANN).

        neighbours: int32 (n, degree), -1 = none, anywhere in a line. entries: int32 (m, e), -1 = none: scored first.
        Then, again and again, the `width` smallest nodes of the pool that were not expanded yet are expanded together: all
        their neighbours not scored before are scored, and the `beam` smallest keys of all scored stay in the pool. It ends
        when all of the pool is expanded. A node is scored once. Cost: about 12 to 20 distances a place of the pool.
        """

    def reach(self, neighbours: Int32s, start: Int32s, reached: NDArray[np.bool_], *, threads: int) -> NDArray[np.bool_]:
        """bool (n,): `reached`, `start`, and all that paths of the graph lead to from `start` through nodes not `reached` yet.

        neighbours: int32 (n, degree), -1 = none, anywhere in a line. start: int32 (s,) nodes, reached or not. reached: bool
        (n,), left as it is. Cost: a look at every edge on the way.
        """
