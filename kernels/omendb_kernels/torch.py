"""The array ops as operators of torch, which `torch.compile` keeps whole in its graph. Importing it registers them:

    import torch
    import omendb_kernels.torch

    @torch.compile(fullgraph=True)
    def nearest_values(queries, keys, values):
        distances, rows = torch.ops.omendb.knn(queries, keys, 8, "cosine")
        return values[rows].mean(dim=1)

    torch.ops.omendb.pairwise, .compute_distances       -> Tensor (m, n)
    torch.ops.omendb.knn, .rerank                       -> (Tensor (m, k) distances, Tensor (m, k) rows)

They are the functions of the same names in omendb_kernels, with their arguments (OPERATORS) where points are a tensor: the same
answers and errors, on the device of the queries. Those functions call them by themselves in code that is being compiled. No
operator has a gradient: a backward pass that reaches one raises. They look at values on the host, so that no CUDA graph can
record them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from . import ops

omendb = torch.ops.omendb


def _pairwise(
    queries: Any, points: Any, metric: str = "l2", *, precision: str = "float32", threads: int | None = None
) -> Any:
    return ops.pairwise(queries.detach(), points.detach(), metric, precision=precision, threads=threads)


def _compute_distances(queries: Any, points: Any, metric: str = "l2", *, threads: int | None = None) -> Any:
    return ops.compute_distances(queries.detach(), points.detach(), metric, threads=threads)


def _knn(
    queries: Any, points: Any, k: int = 10, metric: str | None = None, mask: Any = None, *,
    exact: bool = True, threads: int | None = None,
) -> Any:  # fmt: skip
    return ops.knn(queries, points, k, metric, mask=mask, exact=exact, threads=threads)


def _matrix(queries: Any, points: Any, *_: Any, **__: Any) -> Any:
    """What `pairwise` gives, without values."""
    return queries.new_empty((_count(queries), points.shape[0]), dtype=torch.float32)


def _lists(queries: Any, k: int) -> tuple[Any, Any]:
    """What `knn` gives, without values."""
    shape = (_count(queries), k)
    return queries.new_empty(shape, dtype=torch.float32), queries.new_empty(shape, dtype=torch.int64)


def _fake_knn(queries: Any, points: Any, k: int = 10, *_: Any, **__: Any) -> Any:
    return _lists(queries, k)


def _fake_rerank(queries: Any, points: Any, candidates: Any, k: int = 10, *_: Any, **__: Any) -> Any:
    return _lists(queries, k)


def _count(queries: Any) -> Any:
    return 1 if queries.dim() == 1 else queries.shape[0]


_POINTS, _LISTS = "(Tensor queries, Tensor points", "(Tensor distances, Tensor rows)"
OPERATORS: dict[str, tuple[Callable[..., Any], Callable[..., Any], str]] = {  # name -> what computes, its fake, the schema
    "pairwise": (
        _pairwise, _matrix,
        f'{_POINTS}, str metric="l2", *, str precision="float32", int? threads=None) -> Tensor',
    ),
    "compute_distances": (_compute_distances, _matrix, f'{_POINTS}, str metric="l2", *, int? threads=None) -> Tensor'),
    "knn": (
        _knn, _fake_knn,
        f"{_POINTS}, int k=10, str? metric=None, Tensor? mask=None, *, bool exact=True, int? threads=None) -> {_LISTS}",
    ),
    "rerank": (
        ops.rerank, _fake_rerank,
        f"{_POINTS}, Tensor candidates, int k=10, str? metric=None, *, int? threads=None) -> {_LISTS}",
    ),
}  # fmt: skip

for _name, (_compute, _fake, _schema) in OPERATORS.items():
    torch.library.custom_op(f"omendb::{_name}", _compute, mutates_args=(), schema=_schema).register_fake(_fake)
