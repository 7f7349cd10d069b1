"""The matrix of all distances, of what was judged: by the planned backend, and for compute_distances by the quickest method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from .arrays import Rows
from .choice import adaptive
from .cost import Sizes
from .dispatch import backend
from .planner import nothing, planned, planner
from .points import PointSet

Judged = tuple[Rows, Rows, int, int, "PointSet | None"]


def matrix(queries: Rows, rows: Rows, metric: int, precision: str, threads: int, base: PointSet | None) -> NDArray[Any]:
    """`pairwise` by the planned backend. base: the PointSet that the rows are of, if they came in one."""

    def run() -> NDArray[Any]:
        return backend().pairwise(queries, rows, metric, precision, threads=threads)

    arrays = nothing if base is None else lambda: base.arrays
    return planned(_matrix_sizes(queries, rows, precision), run, holder=base, arrays=arrays, threads=threads)


def _matrix_sizes(queries: Rows, rows: Rows, precision: str) -> Sizes:
    op = "exact_pairwise" if precision == "exact" else "pairwise"
    return Sizes(op, len(queries), len(rows), rows.dim, item=rows.data.itemsize)


@adaptive
def by_the_quickest(queries: Rows, rows: Rows, metric: int, threads: int, base: PointSet | None) -> Judged:
    """compute_distances, of what was judged."""
    return queries, rows, metric, threads, base


by_the_quickest.__name__ = "compute_distances"  # in plans


def _cost_of(precision: str) -> Callable[..., float]:
    def cost(queries: Rows, rows: Rows, metric: int, threads: int, base: PointSet | None) -> float:
        return planner().seconds(_matrix_sizes(queries, rows, precision), threads)

    return cost


@by_the_quickest.implementation("direct", cost=_cost_of("exact"))
def _direct(queries: Rows, rows: Rows, metric: int, threads: int, base: PointSet | None) -> NDArray[Any]:
    return matrix(queries, rows, metric, "exact", threads, base)


@by_the_quickest.implementation("product", cost=_cost_of("float32"))
def _product(queries: Rows, rows: Rows, metric: int, threads: int, base: PointSet | None) -> NDArray[Any]:
    return matrix(queries, rows, metric, "float32", threads, base)
