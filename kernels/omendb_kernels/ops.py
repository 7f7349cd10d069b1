"""The public ops on arrays: they judge what comes in, then a backend computes: the one that was told to, that of the device
where arrays lie, or the one that is planned for these sizes (planner.py). Usable without the database.

Arrays may be of any library (guests.py). An op computes where the first of queries and points lies that is on a CUDA device,
and answers in the library of its queries, on their device.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import exact as exact_search
from . import guests
from .arrays import Rows, as_count, as_k, as_mask, as_queries, as_recall
from .contract import Float32s, Int32s, Int64s
from .cost import Sizes
from .dispatch import backend, beside_the_data
from .errors import InvalidParameter, WrongDtype, WrongShape
from .exact import Proof
from .graph import DEFAULT, BuildFacts, Graph, GraphSearch, Hnsw, build, consolidate, insert_due, layered
from .graph import search as search_lists
from .graph.build import Progress
from .graph.graph import MAX_BEAM
from .graph.search import beam_for
from .machine import as_threads
from .matrix import by_the_quickest, matrix
from .metrics import METRICS
from .planner import nothing, planned
from .points import PointSet, as_points

PRECISIONS = ("float32", "exact")
FEW_QUERIES = 3  # for fewer, coding all rows first costs more than scanning them in float64
HOSTED = frozenset({np.ndarray, Rows, PointSet, list})  # what nobody needs to ask where it lies

Op = TypeVar("Op", bound=Callable[..., Any])


def _for_guests(op: Op) -> Op:
    """The op, computed where its arrays lie and answered in the kind of its queries."""
    names = list(inspect.signature(op).parameters)
    query, point = names.index("queries"), names.index("points")

    @functools.wraps(op)
    def served(*args: Any, **kwargs: Any) -> Any:
        queries = args[query] if query < len(args) else kwargs.get("queries")
        points = args[point] if point < len(args) else kwargs.get("points")
        if type(queries) in HOSTED and type(points) in HOSTED:
            return op(*args, **kwargs)
        if guests.traced(queries):
            return _operator(op.__name__)(*args, **kwargs)
        with _where_they_lie(queries, points):
            return guests.given(op(*args, **kwargs), queries)

    return served  # type: ignore[return-value]


def _operator(name: str) -> Any:
    """The op as torch.compile can keep it in its graph."""
    from . import torch

    return getattr(torch.omendb, name)


@contextmanager
def _where_they_lie(*arrays: Any) -> Iterator[None]:
    """A backend of the device in force where one of the arrays lies there, on the stream of whoever brought it."""
    first = next((array for array in arrays if guests.on_cuda(array)), None)
    if first is None:
        yield
        return
    with beside_the_data() as there:
        if not there:
            yield
            return
        with guests.visiting(first):
            yield


def _stays() -> bool:
    """Whether what lies on a device need not leave it."""
    return hasattr(backend(), "resident")


@_for_guests
def pairwise(queries: Any, points: Any, metric: str = "l2", *, precision: str = "float32", threads: int | None = None) -> Any:
    """The batched distance matrix, float32 (m, n), of queries (m, d) and points (n, d); smaller is nearer.

    l2 is squared, cosine is 1 - cos, ip is the negated dot product. precision "float32" (default): one matrix product on
    centred rows, error bound in gemm.py, bits differ between machines. "exact": float64 in a stated order, rounded once, the
    same bits on every backend and machine. Raises what `as_vectors` and `as_queries` raise, InvalidParameter; WrongDtype for a
    tensor that requires a gradient, which no distance carries. Cost: 2 m n d operations, 4 m n bytes.
    """
    rows, found, base = _points_and_queries(points, queries, metric)
    if precision not in PRECISIONS:
        raise InvalidParameter("precision", repr(precision), "one of " + ", ".join(map(repr, PRECISIONS)))
    return matrix(found, rows, METRICS[metric].code, precision, as_threads(threads), base)


@_for_guests
def compute_distances(queries: Any, points: Any, metric: str = "l2", *, threads: int | None = None) -> Any:
    """`pairwise`, by what is quicker for the sizes at hand: a direct exact loop, as for small ones, or a matrix product.

    Shapes and errors as for `pairwise`; accurate to its "float32" bound.
    """
    rows, found, base = _points_and_queries(points, queries, metric)
    out: NDArray[Any] = by_the_quickest(found, rows, METRICS[metric].code, as_threads(threads), base)
    return out


@_for_guests
def knn(
    queries: Any,
    points: Any,
    k: int = 10,
    metric: str | None = None,
    *,
    mask: Any = None,
    exact: bool = True,
    threads: int | None = None,
) -> tuple[Any, Any]:
    """The k nearest points of each query: distances float32 (m, k) and row numbers int64 (m, k), ordered by (distance, id).

    points: (n, d) rows or a `PointSet` (made once, searched often). metric: "l2" (default for rows), "cosine", "ip"; a
    PointSet knows its own. mask: bool (n,), the rows allowed. Fewer than k allowed rows: padded with inf and -1.
    exact=True (default): certified, the true neighbours, the same bits on every backend and for any `threads`;
    exact=False: one scan of the codes and a re-ranking, not proved. Never materialises m x n. Raises what `as_vectors`,
    `as_queries`, `as_mask` raise, InvalidParameter. No gradient is followed. Cost: m n d int8 products, and for rows that are
    not a PointSet their coding.
    """
    return _knn(queries, points, k, metric, mask, exact, threads)[:2]


@_for_guests
def knn_certified(
    queries: Any,
    points: Any,
    k: int = 10,
    metric: str | None = None,
    *,
    mask: Any = None,
    exact: bool = True,
    threads: int | None = None,
) -> tuple[Any, Any, Proof]:
    """`knn` with the `Proof`: how many answers the first scan proved and how many rows had to be finished in float64."""
    return _knn(queries, points, k, metric, mask, exact, threads)


def _knn(
    queries: Any, points: Any, k: int, metric: str | None, mask: Any, exact: bool, threads: int | None
) -> tuple[Float32s, Int64s, Proof]:
    k, workers = as_k(k), as_threads(threads)
    base = points if isinstance(points, PointSet) and metric is None else as_points(points, metric, stay=_stays())
    name = base.metric if isinstance(base, PointSet) else "l2" if metric is None else metric
    found, _ = as_queries(queries, metric=name, dim=base.dim)
    allowed = as_mask(mask, len(base))
    if isinstance(base, Rows):
        if not guests.on_host(base.data):
            workers = 1  # other threads are not on the caller's stream
        return _knn_of_rows(base, found, k, name, allowed, exact, workers)

    def run() -> tuple[Float32s, Int64s, Proof]:
        return exact_search.search(base, found, k, allowed, exact=exact, threads=workers)

    sizes = Sizes("knn", len(found), len(base), base.dim, k, item=base.vectors.data.itemsize, allowed=_count(allowed))
    return planned(sizes, run, holder=base, arrays=lambda: base.arrays, threads=workers)


def _knn_of_rows(
    base: Rows, queries: Rows, k: int, metric: str, mask: NDArray[np.bool_] | None, exact: bool, threads: int
) -> tuple[Float32s, Int64s, Proof]:
    """Few queries scan the rows; for more these are coded first."""
    direct = len(base) == 0 or (len(queries) < FEW_QUERIES and exact)

    def run() -> tuple[Float32s, Int64s, Proof]:
        if direct:
            return _scanned(base, queries, k, metric, mask, threads)
        points = PointSet.view(base, metric, threads=threads)
        return exact_search.search(points, queries, k, mask, exact=exact, threads=threads)

    op, item = "scan" if direct else "knn", base.data.itemsize
    sizes = Sizes(op, len(queries), len(base), base.dim, k, item=item, coded=False, allowed=_count(mask))
    return planned(sizes, run, threads=threads)


def _count(mask: NDArray[np.bool_] | None) -> int:
    """Rows that are allowed, about: calls of like masks are calls of the same sizes."""
    return -1 if mask is None else 1 << int(np.count_nonzero(mask)).bit_length() >> 1


def _scanned(
    base: Rows, queries: Rows, k: int, metric: str, mask: NDArray[np.bool_] | None, threads: int
) -> tuple[Float32s, Int64s, Proof]:
    distances, ids = exact_search.scan(base, None, queries, k, metric, mask, threads)
    proof = Proof(certified_first=len(queries))
    allowed = len(base) if mask is None else int(np.count_nonzero(mask))
    proof.add_block(np.full(len(queries), allowed, np.int64))
    return distances, ids, proof


def build_graph(
    points: Any,
    metric: str | None = None,
    *,
    recall: float = 0.95,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[Graph, PointSet, BuildFacts]:
    """A graph for approximate search over rows (n, d), n >= 1, or a `PointSet`; the PointSet it belongs to; what was done.

    recall: the recall@10 that the default beam of `search_graph` is tuned to, on rows held back. The same rows give the same
    graph, byte for byte, on every backend and for any `threads`. Raises what `as_vectors` raises, InvalidParameter,
    WrongShape for no rows. Cost: about 12 leaves of 240 rows a row, then prunings of 64 candidates (docs/design.md).
    """
    wanted = as_recall(recall)
    given, workers = as_points(points, metric), as_threads(threads)
    rows = given if isinstance(given, Rows) else given.vectors

    def run() -> tuple[Graph, PointSet, BuildFacts]:
        base = given
        if isinstance(base, Rows) or base.codec is None:
            name = base.metric if isinstance(base, PointSet) else metric or "l2"
            base = PointSet.view(Rows(rows.data.copy(), rows.kind), name, threads=workers)
        graph, facts = build(base, wanted, DEFAULT, threads=workers, progress=progress)
        return graph, base, facts

    coded = isinstance(given, PointSet) and given.codec is not None
    sizes = Sizes("build_graph", 0, len(rows), rows.dim, item=rows.data.itemsize, coded=coded)
    return planned(sizes, run, threads=workers)


def extend_graph(graph: Graph, points: PointSet, *, threads: int | None = None) -> Graph:
    """The graph with the rows of its tail inside, batch by batch; itself while the tail is shorter than a batch.

    points: a later generation of the graph's PointSet, made by `extend(refit=False)`. Batches are cut at fixed row numbers, so
    that the same rows give the same graph however calls brought them. Cost: a search and two prunings a row.
    """
    return insert_due(graph, _points_of(graph, points).nodes, backend(), as_threads(threads))


def consolidate_graph(graph: Graph, points: PointSet, live: Any, *, threads: int | None = None) -> Graph | None:
    """The graph without the rows that are not `live`, bool (graph.rows,), mended; None when no row is left.

    A row that is not live stays as a node while a live row of equal code stands behind it: search with a mask of the live
    rows, or `take` them.
    Cost: about degree^2 / 4 distances for each list that held a dead row.
    """
    kept = as_mask(live, graph.rows, "live")
    codes = _points_of(graph, points).nodes
    return graph if kept is None else consolidate(graph, codes, kept, backend(), as_threads(threads))


def layer_graph(graph: Graph, points: PointSet, *, threads: int | None = None) -> Hnsw:
    """The graph as an HNSW hierarchy over all of `points`, rows of its tail included: what files of other libraries hold.

    The same rows give the same lists on every machine. Raises InvalidParameter where rows have left the graph: `take` others.
    Cost: building a graph of a fifteenth of the rows, and a pass over all lists.
    """
    codes = _points_of(graph, points).nodes
    if graph.present < graph.rows:
        raise InvalidParameter("graph", f"{graph.rows - graph.present} rows that have left it", "the `take` of those that stay")
    return layered(graph, codes, backend(), as_threads(threads))


def _points_of(graph: Graph, points: PointSet) -> PointSet:
    if not isinstance(points, PointSet) or points.codec is None or len(points) < graph.rows:
        raise InvalidParameter("points", repr(points), f"the PointSet of this graph of {graph.rows} rows")
    return points


@_for_guests
def search_graph(
    graph: Graph,
    points: PointSet,
    queries: Any,
    k: int = 10,
    *,
    beam: int | None = None,
    mask: Any = None,
    threads: int | None = None,
) -> tuple[Any, Any, GraphSearch]:
    """The k nearest rows that a search of the graph finds: distances float32 (m, k), ids int64 (m, k) by (distance, id).

    points: the PointSet of the graph, or a later generation of it: rows that the graph does not know yet are scanned. beam:
    places of the search's pool, at least k are used; None takes the tuned one. mask: bool (n,), the rows allowed: min(k,
    allowed) rows are always found, then inf and -1. Distances are exact. Raises what `as_queries` and `as_mask` raise,
    InvalidParameter.
    """
    k, workers = as_k(k), as_threads(threads)
    places = None if beam is None else as_count(beam, "beam", most=MAX_BEAM)
    points = _points_of(graph, points)
    found, _ = as_queries(queries, metric=points.metric, dim=points.dim, stay=_stays())
    allowed = as_mask(mask, len(points))

    def run() -> tuple[Float32s, Int64s, GraphSearch]:
        return search_lists(graph, points, found, k, allowed, places, threads=workers)

    width = beam_for(graph, k, places)
    item = points.vectors.data.itemsize
    sizes = Sizes("search_graph", len(found), len(points), points.dim, k, width, item, allowed=_count(allowed))
    return planned(sizes, run, holder=graph, arrays=lambda: _arrays_of(graph, points), threads=workers)


def _arrays_of(graph: Graph, points: PointSet) -> tuple[Any, ...]:
    """What searches read again and again."""
    return *points.arrays, graph.neighbours, *graph.entrance(points.scanned)


@_for_guests
def rerank(
    queries: Any, points: Any, candidates: Any, k: int = 10, metric: str | None = None, *, threads: int | None = None
) -> tuple[Any, Any]:
    """The k nearest of each query's candidates: distances float32 (m, k) and ids int64 (m, k), ordered by (distance, id).

    points: rows (n, d) or a `PointSet`. candidates: integers (m, c), row numbers, -1 for none; a row named twice counts once.
    Missing places hold inf and -1. Distances are those of `pairwise(precision="exact")`, bit for bit.
    Raises WrongShape, WrongDtype, InvalidParameter and what `as_vectors` and `as_queries` raise. Cost: m c d float64 products.
    """
    k, workers, stay = as_k(k), as_threads(threads), _stays()
    base = as_points(points, metric, stay=stay)
    name = base.metric if isinstance(base, PointSet) else "l2" if metric is None else metric
    rows, lengths = (base.vectors, base.lengths) if isinstance(base, PointSet) else (base, None)
    found, _ = as_queries(queries, metric=name, dim=rows.dim, stay=stay)
    chosen = _as_candidates(candidates, len(found), len(rows), stay)

    def run() -> tuple[Any, Any]:
        return backend().rerank(found, rows, chosen, k, METRICS[name].code, lengths=lengths, lower=None, threads=workers)

    sizes = Sizes("rerank", len(found), len(rows), rows.dim, k, chosen.shape[1], rows.data.itemsize)
    holder, arrays = (base, lambda: base.arrays) if isinstance(base, PointSet) else (None, nothing)
    return planned(sizes, run, holder=holder, arrays=arrays, threads=workers)


def _as_candidates(candidates: Any, m: int, n: int, stay: bool) -> Int32s:
    """int32 (m, c), each line without repeats."""
    array = guests.plain(candidates, "candidates", stay)
    if array.dtype.kind not in "iu":
        raise WrongDtype("candidates", f"an array of {array.dtype}", "an array of integers")
    if array.ndim != 2 or len(array) != m:
        raise WrongShape("candidates", f"shape {array.shape}", f"shape ({m}, c), one line per query")
    if array.size and not (int(array.min()) >= -1 and int(array.max()) < n):
        raise InvalidParameter("candidates", f"values from {array.min()} to {array.max()}", f"rows from 0 to {n - 1}, or -1")
    lines: Int32s = guests.namespace(array).sort(array.astype(np.int32), axis=1)
    lines[:, 1:][lines[:, 1:] == lines[:, :-1]] = -1
    return lines


def _points_and_queries(points: Any, queries: Any, metric: str) -> tuple[Rows, Rows, PointSet | None]:
    """Rows, queries, and the PointSet that the rows are of, if they came in one."""
    for array, name in ((queries, "queries"), (points, "points")):
        guests.refuse_gradient(array, name)
    base = as_points(points, metric, stay=_stays())
    rows = base.vectors if isinstance(base, PointSet) else base
    found, _ = as_queries(queries, metric=metric, dim=rows.dim, stay=_stays())
    return rows, found, base if isinstance(base, PointSet) else None
