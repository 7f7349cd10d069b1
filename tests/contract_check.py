"""The checker of the contract table: calls a backend and the oracle, and wants the same bits."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from contract_rows import COSINE, L2, wide

from omendb_kernels import METRICS, dispatch, knn, list_backends
from omendb_kernels.arrays import Rows
from omendb_kernels.backends import reference
from omendb_kernels.contract import CodeRows

THREADS = (1, 2, 3, 5)
USABLE = {name: importlib.import_module(dispatch.BACKENDS[name]) for name, why in list_backends().items() if why is None}
RAN: Counter[str] = Counter()  # op -> calls compared


def facts() -> str:
    """Of the table, for the line at the end of a run."""
    cases = sys.modules["contract_cases"].TABLE if "contract_cases" in sys.modules else ()
    return f"{len(cases)} cases over {len(USABLE)} backends ({', '.join(USABLE)})"


class Mismatch(AssertionError):
    """A backend does not do what the contract says."""


@dataclass
class Call:
    """An op with its arguments by name, `threads` apart; and what the oracle makes of it."""

    op: str
    args: dict[str, Any] = field(repr=False)

    @cached_property
    def wanted(self) -> tuple[np.ndarray, ...]:
        return as_tuple(getattr(reference, self.op)(**self.args))


def as_tuple(found: Any) -> tuple[np.ndarray, ...]:
    return found if isinstance(found, tuple) else (found,)


def map_arrays(value: Any, change: Any) -> Any:
    if isinstance(value, Rows):
        return Rows(change(value.data), value.kind)
    if isinstance(value, CodeRows):
        return CodeRows(*(map_arrays(part, change) for part in value))
    return change(value) if isinstance(value, np.ndarray) else value


def frozen(call: Call) -> Call:
    """The same call on read-only copies."""

    def freeze(array: np.ndarray) -> np.ndarray:
        copy = array.copy()
        copy.setflags(write=False)
        return copy

    return Call(call.op, {name: map_arrays(value, freeze) for name, value in call.args.items()})


def poisoned(call: Call) -> Call:
    """The same call on views inside larger arrays, which hold what would spoil an answer: NaN, huge numbers, True."""

    def surround(array: np.ndarray) -> np.ndarray:
        poison: Any = {"f": np.nan, "b": True}.get(array.dtype.kind)
        if poison is None:
            poison = 0x7FC0 if array.dtype == np.uint16 else np.iinfo(array.dtype).max
        room = np.full((len(array) + 5, *array.shape[1:]), poison, array.dtype)
        room[3:-2] = array
        return room[3:-2]

    return Call(call.op, {name: map_arrays(value, surround) for name, value in call.args.items()})


def bytes_of(args: dict[str, Any]) -> list[bytes]:
    found: list[bytes] = []
    for value in args.values():
        map_arrays(value, lambda array: found.append(array.tobytes()))
    return found


def check(backend: Any, call: Call, label: object = "", threads: tuple[int, ...] = THREADS) -> None:
    """Raise Mismatch unless `backend` gives the oracle's bits for every number of threads and leaves its input alone."""
    before, approximate = bytes_of(call.args), call.args.get("precision") == "float32"
    wanted = () if approximate else call.wanted  # asked before the backend can spoil the input
    for count in threads:
        found = as_tuple(run_op(backend, call, count))
        where = f"{label or call.op} on {backend.NAME}, {count} threads"
        if approximate:
            compare_bound(call, found[0], where)
        else:
            compare_bits(wanted, found, where)
        RAN[call.op] += 1
    if bytes_of(call.args) != before:
        raise Mismatch(f"{label}: {backend.NAME} wrote into its input")


def run_op(backend: Any, call: Call, threads: int) -> Any:
    if call.op != "knn":
        return getattr(backend, call.op)(**call.args, threads=threads)
    args = dict(call.args)
    points, queries = args.pop("points").native(), args.pop("queries").native()
    args["metric"] = next(name for name, metric in METRICS.items() if metric.code == args["metric"])
    with in_force(backend):
        return knn(queries, points, **args, threads=threads)


@contextmanager
def in_force(backend: Any) -> Iterator[None]:
    """`use_backend` for a module that BACKENDS need not know."""
    token = dispatch.chosen.set(backend)
    try:
        yield
    finally:
        dispatch.chosen.reset(token)


def compare_bits(wanted: tuple[np.ndarray, ...], found: tuple[np.ndarray, ...], where: str) -> None:
    if len(wanted) != len(found):
        raise Mismatch(f"{where}: {len(found)} arrays, not {len(wanted)}")
    for place, (want, got) in enumerate(zip(wanted, found, strict=True)):
        if (want.dtype, want.shape) != (got.dtype, got.shape):
            raise Mismatch(f"{where}: array {place} is {got.dtype} {got.shape}, not {want.dtype} {want.shape}")
        whole = np.dtype(f"u{want.dtype.itemsize}")
        differ = np.ascontiguousarray(want).view(whole) != np.ascontiguousarray(got).view(whole)
        if differ.any():
            first = tuple(int(i) for i in np.argwhere(differ)[0])
            what = f"differs in {differ.sum()} places, at {first}: {got[first]!r}, not {want[first]!r}"
            raise Mismatch(f"{where}: array {place} {what}")


def compare_bound(call: Call, found: np.ndarray, where: str) -> None:
    """The error bound that gemm.py states."""
    queries, points, metric = wide(call.args["queries"]), wide(call.args["points"]), call.args["metric"]
    if found.dtype != np.float32 or found.shape != (len(queries), len(points)):
        raise Mismatch(f"{where}: {found.dtype} {found.shape}")
    unit, d = 2.0**-24, queries.shape[1]
    dots = queries @ points.T
    lengths, sizes = np.linalg.norm(queries, axis=1)[:, None], np.linalg.norm(points, axis=1)[None, :]
    if metric == L2:
        true = np.array([((query - points) ** 2).sum(axis=1) for query in queries]).reshape(dots.shape)
        mean = points.mean(axis=0) if len(points) else np.zeros(d)
        spans = np.linalg.norm(queries - mean, axis=1)[:, None] + np.linalg.norm(points - mean, axis=1)[None, :]
        bound = (d + 8) * unit * spans**2 + 4 * unit * (lengths**2 + sizes**2 + 2 * mean @ mean)
    elif metric == COSINE:
        true, bound = 1 - dots / (lengths * sizes), np.full(dots.shape, 2 * (d + 8) * unit)
    else:
        true, bound = -dots, (d + 2) * unit * lengths * sizes
    excess = np.abs(found - true) - bound * (1 + 1e-6) - underflow(d)
    if not (excess <= 0).all():
        worst = tuple(int(i) for i in np.argwhere(~(excess <= 0))[0])
        raise Mismatch(f"{where}: {found[worst]!r} at {worst} is not within {bound[worst]:.3g} of {true[worst]!r}")


def underflow(d: int) -> float:
    """What products below the smallest normal float32 may lose."""
    return 4 * d * 2.0**-149


TUNABLE = {
    "TILE", "TILE_VALUES", "SLICE", "SPARSE", "FEW", "LEAST_PART", "CHUNK_BYTES", "CHUNK", "LEAVES", "MERGE_ROWS",
    "QUERY_BLOCK", "BLOCK", "BLOCK_VALUES", "_BLOCK_ROWS", "_BLOCK_VALUES", "LEAST_PRODUCTS",
    "LEAST_VALUES", "ALONE",
}  # fmt: skip
FILES = ("distances", "encode", "nearest", "rerank", "assign", "pick", "prune", "link", "beam")
TUNED = ("arrays", "exact", "gemm", "points", *(f"backends.{{}}.{name}" for name in FILES))


def set_blocks(patch: pytest.MonkeyPatch, backend: str, size: int) -> list[str]:
    """Set every block size to `size`; the names that were found. Those which a compiled kernel has read are left alone."""
    found = []
    for path in TUNED:
        module = importlib.import_module("omendb_kernels." + path.format(backend))
        kernels = [value.py_func for value in vars(module).values() if hasattr(value, "py_func")]
        baked_in = {name for kernel in kernels for name in kernel.__code__.co_names}
        for name in sorted((TUNABLE & set(vars(module))) - baked_in):
            patch.setattr(module, name, size)
            found.append(f"{module.__name__}.{name}")
    return found


def mutant(name: str, **replaced: Any) -> SimpleNamespace:
    """The oracle as a backend, some functions replaced."""
    ops = ("lengths", "encode", "nearest", "rerank", "pairwise", "assign", "pick", "prune", "link", "score", "adopt", "beam",
           "reach")  # fmt: skip
    return SimpleNamespace(NAME=name, **{op: replaced.get(op, getattr(reference, op)) for op in ops})
