"""One call of each op at a shape, with the work that it must do: what a measured time is held against.

Calls of the graph's ops are those of a real build and search, the largest of each op. Work is the least that the op's contract
allows: a pair of rows once, a row read once, so that a fraction of the roofline flatters nobody.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import omendb_kernels as ok
from omendb_kernels import Rows, dispatch
from omendb_kernels.contract import CodeRows

from .build import in_child
from .gpu import Recorder, in_force

QUERIES, K, CANDIDATES, PLACES = 256, 10, 64, 64
ALIKE = 50  # rows of a cluster
SEED = 7


class Shape(NamedTuple):
    """n rows of d dimensions."""

    n: int
    d: int

    def __str__(self) -> str:
        return f"{self.n}x{self.d}"


class Work(NamedTuple):
    """bytes moved at least; multiplications and additions of int8, float32 and float64 values, each one operation."""

    bytes: float
    int8: float = 0.0
    float32: float = 0.0
    float64: float = 0.0


@dataclass
class Call:
    """An op with its arguments, `threads` apart. work: from the arguments and the answer."""

    name: str
    op: str
    args: tuple[Any, ...] = field(repr=False)
    options: dict[str, Any] = field(repr=False)
    work: Callable[[Any], Work] = field(repr=False)

    def on(self, backend: Any, threads: int) -> Any:
        return getattr(backend, self.op)(*self.args, **self.options, threads=threads)


OPS = ("lengths", "encode", "nearest", "rerank", "pairwise exact", "pairwise float32", "assign", "pick", "prune", "link",
       "score", "adopt", "beam", "reach")  # fmt: skip


def shapes(words: str) -> list[Shape]:
    """Of a comma list. Ends the process where it is none."""
    found = [re.fullmatch(r"(\d+)x(\d+)", word.strip()) for word in words.split(",")]
    wanted = [Shape(int(one[1]), int(one[2])) for one in found if one]
    if len(wanted) < len(found) or not all(shape.n >= QUERIES and shape.d >= 1 for shape in wanted):
        sys.exit(f"--shape {words!r}: give ROWSxDIMENSIONS, separated by commas, of at least {QUERIES} rows")
    return wanted


def calls(shape: Shape, wanted: list[str]) -> dict[str, Call]:
    """A call of each op that is wanted, by its name in OPS; without one that a build of that shape does not call."""
    rows = clustered(shape)
    graph_too = bool({*FORMULAS, "score"} & set(wanted))
    codes, lists, played = in_child(_played, shape, graph_too)  # there, so that nothing is compiled here
    made = {**_over_rows(rows), **_over_codes(codes, lists)}
    for op, (args, options) in played.items():
        made[op] = Call(op, op, args, options, partial(_work, op, args, options))
    return {op: made[op] for op in OPS if op in wanted and op in made}


def _played(shape: Shape, graph_too: bool) -> tuple[CodeRows, Any, dict[str, Any]]:
    """Codes of the rows, neighbours, and of each op of FORMULAS the largest call of a build and a search."""
    rows = clustered(shape)
    if not graph_too:
        return ok.PointSet.encode(rows, "l2").scanned, None, {}
    recorder = Recorder(dispatch.first_of("cpu"))
    with in_force(recorder):
        graph, points, _ = ok.build_graph(rows, "l2")
        ok.search_graph(graph, points, rows[:QUERIES] + np.float32(0.01), K)
    largest = {op: _largest(op, recorder.calls) for op in FORMULAS}
    return points.scanned, graph.neighbours[: shape.n], {op: one for op, one in largest.items() if one}


def _largest(op: str, recorded: list[tuple[str, tuple[Any, ...], dict[str, Any]]]) -> tuple[Any, Any] | None:
    """The call with the largest arguments; None where there was none."""
    some = [(args, {key: value for key, value in options.items() if key != "threads"})
            for name, args, options in recorded if name == op]  # fmt: skip
    sizes = [sum(part.size for part in args if isinstance(part, np.ndarray)) for args, _ in some]
    return some[int(np.argmax(sizes))] if some else None


def clustered(shape: Shape) -> np.ndarray:
    """float32 (n, d), the same each time."""
    random = np.random.default_rng(SEED)
    centres = random.standard_normal((max(2, shape.n // ALIKE), shape.d), dtype=np.float32)
    noise = random.standard_normal(shape, dtype=np.float32)
    return centres[random.integers(0, len(centres), shape.n)] + noise * np.float32(0.7)


def _over_rows(rows: np.ndarray) -> dict[str, Call]:
    """Ops over users' vectors: float64 but for the matrix product."""
    n, d = rows.shape
    vectors, queries = Rows(rows, "float32"), Rows(rows[:QUERIES] + np.float32(0.01), "float32")
    lines = (np.arange(QUERIES * CANDIDATES, dtype=np.int64).reshape(QUERIES, -1) * 104_729 % n).astype(np.int32)
    offset, l2 = rows.mean(axis=0, dtype=np.float64).astype(np.float32), ok.METRICS["l2"].code
    scales = np.array([float(np.abs(rows - offset).max()) / 127])
    looked = QUERIES * CANDIDATES

    def matrix(queries: Rows, precision: str) -> Call:
        m = len(queries)
        flops = {"float64" if precision == "exact" else "float32": (3.0 if precision == "exact" else 2.0) * m * n * d}
        work = Work(4.0 * d * (m + n) + 4.0 * m * n, **flops)
        return Call(f"pairwise {precision}", "pairwise", (queries, vectors, l2, precision), {}, lambda found: work)

    own = {"lengths": None, "lower": None}
    reranked = Work(4.0 * d * (len(np.unique(lines)) + QUERIES) + 12 * QUERIES * K, float64=3.0 * looked * d)
    found = [
        Call("lengths", "lengths", (vectors,), {}, lambda found: Work(4.0 * n * d + 8 * n, float64=2.0 * n * d)),
        Call("encode", "encode", (vectors, None, offset, None, scales), {},
             lambda found: Work(4.0 * n * d + sum(part.nbytes for part in found), float64=6.0 * n * d)),
        Call("rerank", "rerank", (queries, vectors, lines, K, l2), own, lambda found: reranked),
        matrix(queries[:16], "exact"),
        matrix(queries, "float32"),
    ]  # fmt: skip
    return {call.name: call for call in found}


def _over_codes(codes: CodeRows, lists: Any) -> dict[str, Call]:
    """The scan; and distances of the graph's lists, where there is one."""
    n, wide = codes.codes.shape
    asked = codes.take(slice(0, QUERIES))
    scanned = Work(float(n * (wide + 4) + QUERIES * (wide + 8 * K)), int8=2.0 * QUERIES * n * wide)
    found = {"nearest": Call("nearest", "nearest", (asked, codes, K, None), {}, lambda found: scanned)}
    if lists is not None:
        rows, pairs = np.arange(n, dtype=np.int32), float((lists >= 0).sum())
        lists = np.ascontiguousarray(lists)

        def scored(found: Any) -> Work:
            return Work(n * (wide + 4.0) + lists.nbytes + found.nbytes, int8=2 * wide * pairs)

        found["score"] = Call("score", "score", (codes, rows, lists, 24), {}, scored)
    return found


# ---- work of the graph's ops, from the answer and the arguments ---------------------------------------------------------


def _rows_bytes(points: CodeRows, rows: Any) -> float:
    """Codes and norms of the rows that are named, each read once."""
    return float(len(np.unique(rows[rows >= 0])) * (points.codes.shape[1] + 4))


def _ids(keys: Any) -> Any:
    """Row numbers of keys, -1 for NO_KEY."""
    return np.where(keys >> 32 == ok.contract.INT32_MAX, -1, keys & 0xFFFFFFFF)


def _assign(found: Any, points: Any, members: Any, offsets: Any, leaders: Any, starts: Any, fanout: int) -> Work:
    pairs = float((np.diff(offsets).astype(np.float64) * np.diff(starts)).sum())
    read = _rows_bytes(points, members) + members.nbytes + leaders.nbytes + found.nbytes
    return Work(read, int8=2 * pairs * points.codes.shape[1])


def _pick(found: Any, points: Any, members: Any, offsets: Any, k: int, width: int) -> Work:
    sizes = np.diff(offsets).astype(np.float64)
    pairs = float((sizes * (sizes - 1)).sum()) / 2
    return Work(_rows_bytes(points, members) + members.nbytes + found.nbytes, int8=2 * pairs * points.codes.shape[1])


def _prune(found: Any, points: Any, candidates: Any, degree: int, alpha: Any) -> Work:
    """Products at least: those of each two that are kept."""
    kept = (_ids(found) >= 0).sum(axis=1).astype(np.float64)
    read = _rows_bytes(points, _ids(candidates)) + candidates.nbytes + found.nbytes
    return Work(read, int8=float((kept * (kept - 1)).sum()) * points.codes.shape[1])


def _link(found: Any, targets: Any, own: Any, sources: Any, kept: Any, width: int) -> Work:
    return Work(float(targets.nbytes + own.nbytes + sources.nbytes + kept.nbytes + found.nbytes))


def _adopt(found: Any, points: Any, rows: Any, lists: Any, sources: Any, kept: Any, width: int, alpha: Any) -> Work:
    """Products at least: of each edge that came with its target's list."""
    edges = float(np.isin(_ids(kept), rows).sum())
    read = _rows_bytes(points, rows) + _rows_bytes(points, lists) + lists.nbytes + kept.nbytes + found.nbytes
    return Work(read, int8=2 * edges * lists.shape[1] * points.codes.shape[1])


def _beam(found: Any, queries: Any, points: Any, neighbours: Any, entries: Any, beam: int, width: int) -> Work:
    """Products at least: all of a pool is expanded in the end, so all their neighbours were scored."""
    scored = 0
    for pool, first in zip(_ids(found), entries, strict=True):
        seen = np.unique(np.concatenate([neighbours[pool[pool >= 0]].ravel(), first]))
        scored += int((seen >= 0).sum())
    dim = points.codes.shape[1]
    return Work(scored * (dim + 4.0) + 4 * (_ids(found) >= 0).sum() * neighbours.shape[1], int8=2.0 * scored * dim)


def _reach(found: Any, neighbours: Any, start: Any, reached: Any) -> Work:
    walked = int((found & ~reached).sum())
    return Work(4.0 * walked * neighbours.shape[1] + 2 * found.nbytes)


FORMULAS: dict[str, Callable[..., Work]] = {"assign": _assign, "pick": _pick, "prune": _prune, "link": _link, "adopt": _adopt,
                                            "beam": _beam, "reach": _reach}  # fmt: skip


def _work(op: str, args: tuple[Any, ...], options: dict[str, Any], found: Any) -> Work:
    return FORMULAS[op](found, *args, **options)
