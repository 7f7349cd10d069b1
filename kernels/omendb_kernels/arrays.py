"""The one place where arrays from users are judged: dtype, shape, finiteness, length. Nothing is ever written to.

float64 and lists of numbers are rounded to float32; float16, bfloat16, int8 and uint8 are kept as they are. Other integers
become float32 when that loses nothing, otherwise they are refused.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import guests
from .errors import InvalidParameter, NotFinite, ValueTooLarge, WrongDtype, WrongShape, ZeroVector
from .metrics import metric_named

VECTOR_KINDS = ("float32", "float16", "bfloat16", "int8", "uint8")
MAX_DIM = 16_384  # the largest code distance, 255^2 * d, stays inside int32
MAX_SQUARED_LENGTH = 2.0**125  # (|q| + |x|)^2 <= 2^127: every distance stays inside float32
CACHE_LINE = 64  # bytes
_PLAIN = {np.dtype(kind): kind for kind in VECTOR_KINDS if kind != "bfloat16"}  # arrays that are taken as they are
_PIECE = 1 << 26  # bytes: blocks as large go back to the system when they are freed
_BLOCK_VALUES = 1 << 20  # values widened at a time while checking
_DEVICE_VALUES = 1 << 24  # the same on a device


@dataclass(frozen=True)
class Rows:
    """n vectors of one kind: `data` is (n, d), C-contiguous; bfloat16 is held as its uint16 bit patterns.

    `data` may be a cupy array where a backend computes on its device. ours: it was made here, and nobody else can write to it.
    """

    data: NDArray[Any]
    kind: str
    ours: bool = False

    def __len__(self) -> int:
        return int(self.data.shape[0])

    def __getitem__(self, rows: slice | NDArray[Any]) -> Rows:
        return Rows(self.data[rows], self.kind)

    @property
    def dim(self) -> int:
        return int(self.data.shape[1])

    @property
    def integer(self) -> bool:
        return self.kind in ("int8", "uint8")

    def float32(self) -> NDArray[np.float32]:
        """The same numbers as float32 (every kind fits without rounding); `data` itself when it is float32."""
        if self.kind == "bfloat16":
            return (self.data.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return self.data.astype(np.float32, copy=False)

    def native(self) -> NDArray[Any]:
        """An array to hand to a user; bfloat16 as `ml_dtypes.bfloat16` where that is installed, else as float32."""
        if self.kind != "bfloat16":
            return self.data
        try:
            return self.data.view(importlib.import_module("ml_dtypes").bfloat16)
        except ImportError:
            return self.float32()


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """np.empty whose first byte lies on a cache line: rows of whole lines then touch no line more than they fill."""
    kind = np.dtype(dtype)
    raw = np.empty(math.prod(shape) * kind.itemsize + CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % CACHE_LINE
    array: NDArray[Any] = raw[start : raw.nbytes - CACHE_LINE + start].view(kind).reshape(shape)
    return array


def empty_rows(dim: int, kind: str) -> Rows:
    """No rows of this dimension and kind."""
    return Rows(np.empty((0, dim), storage_dtype(kind)), kind)


def storage_dtype(kind: str) -> np.dtype[Any]:
    """The NumPy dtype that holds this kind."""
    if kind not in VECTOR_KINDS:
        raise InvalidParameter("dtype", repr(kind), "one of " + ", ".join(VECTOR_KINDS))
    return np.dtype(np.uint16 if kind == "bfloat16" else kind)


def as_vectors(
    x: Any, *, name: str = "vectors", metric: str, dim: int | None = None, dtype: str | None = None, stay: bool = False
) -> Rows:
    """Judge (n, d) vectors: an array or tensor of any library (guests.py), nested lists of numbers, or an iterator of such.

    An iterator gives batches, each (n_i, d) of one kind; they are copied as they come, so that it may use its memory again.

    dim: the dimension they must have; dtype: the kind they must fit into without loss; stay: what lies on a device stays.
    Raises WrongShape, WrongDtype, NotFinite, ValueTooLarge, ZeroVector (cosine only), UnknownMetric.
    Copies only where kind or layout must change. One pass over the data.
    """
    normalise = metric_named(metric).normalise
    if hasattr(x, "__next__"):
        return _gathered(x, name, metric, dim, dtype)
    rows = _to_kind(_as_rows(x, name, stay), dtype, name)
    if rows.data.ndim != 2:
        raise WrongShape(name, f"an array of shape {rows.data.shape}", "two axes: (rows, dimensions)")
    if dim is not None and rows.dim != dim:
        raise WrongShape(name, f"{rows.dim} dimensions (shape {rows.data.shape})", f"{dim} dimensions")
    if not 1 <= rows.dim <= MAX_DIM:
        raise WrongShape(name, f"{rows.dim} dimensions", f"1 to {MAX_DIM} dimensions")
    rows = _in_order(rows.data, rows.kind)
    _check_values(rows, name, normalise)
    return rows


def _gathered(batches: Iterator[Any], name: str, metric: str, dim: int | None, kind: str | None) -> Rows:
    """All rows in one array, which is filled from pieces that are freed one by one: two copies never stand whole."""
    pieces: list[NDArray[Any]] = []
    total, room = 0, 0
    for number, batch in enumerate(batches):
        rows = as_vectors(batch, name=f"{name}, batch {number}", metric=metric, dim=dim, dtype=kind)
        dim, kind = rows.dim, rows.kind
        start = 0
        while start < len(rows):
            if room == 0:
                room = max(1, _PIECE // (dim * rows.data.itemsize))
                pieces.append(np.empty((room, dim), rows.data.dtype))
            taken = rows.data[start : start + room]
            pieces[-1][len(pieces[-1]) - room :][: len(taken)] = taken
            start, room, total = start + len(taken), room - len(taken), total + len(taken)
    if dim is None:
        raise WrongShape(name, "an iterator without a batch", "batches of shape (n, dimensions)")
    data = aligned_empty((total, dim), storage_dtype(kind or "float32"))
    pieces.reverse()
    for start in range(0, total, len(pieces[-1]) if pieces else 1):
        piece = pieces.pop()
        data[start : start + len(piece)] = piece[: total - start]
    return Rows(data, kind or "float32", ours=True)


def as_queries(x: Any, *, metric: str, dim: int, name: str = "queries", stay: bool = False) -> tuple[Rows, bool]:
    """Judge queries of shape (m, d) or (d,); the flag says that one 1-D query came. `stay` and errors as for `as_vectors`.

    Rows of this dimension were judged before and pass.
    """
    if isinstance(x, Rows) and x.dim == dim:
        return x, False
    rows = _as_rows(x, name, stay)
    single = rows.data.ndim == 1
    if rows.data.ndim not in (1, 2):
        raise WrongShape(name, f"an array of shape {rows.data.shape}", f"shape ({dim},) or (m, {dim})")
    if rows.data.shape[-1] != dim and rows.data.size == 0 and not single and rows.data.shape[0] == 0:
        return empty_rows(dim, rows.kind), False  # np.empty((0, 0)) and [] with an axis: no queries of any dimension
    if rows.data.shape[-1] != dim:
        raise WrongShape(name, f"{rows.data.shape[-1]} dimensions (shape {rows.data.shape})", f"{dim} dimensions")
    batch = rows.data[None, :] if single else rows.data
    rows = _in_order(batch, rows.kind)
    _check_values(rows, name, metric_named(metric).normalise)
    return rows, single


def as_mask(mask: Any, n: int, name: str = "mask") -> NDArray[np.bool_] | None:
    """Judge a boolean mask of allowed rows, shape (n,); None passes through. Raises WrongDtype, WrongShape."""
    if mask is None:
        return None
    array = guests.as_numpy(mask, name)
    if array.dtype != np.bool_:
        raise WrongDtype(name, f"an array of {array.dtype}", "an array of bool")
    if array.shape != (n,):
        raise WrongShape(name, f"shape {array.shape}", f"shape ({n},), one flag per row")
    return np.ascontiguousarray(array)


def as_count(value: Any, name: str, least: int = 1, most: int = 2**31 - 1) -> int:
    """An integer in least..most (no bool, no float); raises InvalidParameter."""
    if type(value) is int and least <= value <= most:
        return value
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise InvalidParameter(name, f"{value!r} ({type(value).__name__})", f"an integer of at least {least}")
    if not least <= int(value) <= most:
        raise InvalidParameter(name, str(int(value)), f"an integer from {least} to {most}")
    return int(value)


def as_recall(value: Any, name: str = "recall") -> float:
    """A share strictly between 0 and 1; raises InvalidParameter."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise InvalidParameter(name, repr(value), "a number between 0 and 1")
    return float(value)


def as_k(k: Any, name: str = "k") -> int:
    """The number of neighbours: an integer >= 1."""
    return as_count(k, name)


def _as_rows(x: Any, name: str, stay: bool) -> Rows:
    """`x` as an array of one of VECTOR_KINDS, of any shape; values are not looked at."""
    if type(x) is np.ndarray and (plain := _PLAIN.get(x.dtype)):
        return Rows(x, plain)
    array, bits = guests.read(x, name, stay)
    kind = bits or array.dtype.name
    if kind == "bfloat16":  # a guest's bits, or ml_dtypes
        return Rows(array.view(np.uint16), kind)
    if kind in VECTOR_KINDS:
        return Rows(array.astype(array.dtype.newbyteorder("="), copy=False), kind)
    if isinstance(x, (list, tuple)) and array.size == 0 and kind == "float64":
        return Rows(array.astype(np.float32), "float32")
    if kind in ("float64", "longdouble", "float128", "float96"):
        return Rows(_round_to_float32(array, name), "float32")
    if array.dtype.kind in "iu":
        if array.size and int(max(abs(int(array.min())), abs(int(array.max())))) > 2**24:
            raise WrongDtype(name, f"{kind} values beyond 2^24", "integers that float32 holds exactly, or floats")
        return Rows(array.astype(np.float32), "float32")
    wanted = "real numbers: " + ", ".join(VECTOR_KINDS) + ", float64 or lists of numbers"
    raise WrongDtype(name, f"an array of {array.dtype}", wanted)


def _in_order(data: NDArray[Any], kind: str) -> Rows:
    """Rows that kernels can read: C-contiguous and aligned."""
    if not guests.on_host(data):
        return Rows(guests.namespace(data).ascontiguousarray(data), kind)
    flags = data.flags
    return Rows(data if flags.c_contiguous and flags.aligned else np.require(data, requirements=("C", "A")), kind)


def _round_to_float32(array: NDArray[Any], name: str) -> NDArray[np.float32]:
    xp = guests.namespace(array)
    with np.errstate(over="ignore"):
        rounded: NDArray[np.float32] = array.astype(np.float32)
    overflowed = xp.isinf(rounded) & xp.isfinite(array)
    if overflowed.any():
        where = int(xp.argwhere(xp.atleast_1d(overflowed))[0][0])
        raise ValueTooLarge(name, f"a value beyond float32 in row {where}", "values that float32 can hold")
    return rounded


def _to_kind(rows: Rows, kind: str | None, name: str) -> Rows:
    """Widen `rows` to `kind` where that loses nothing; WrongDtype otherwise."""
    if kind is None or kind == rows.kind:
        return rows
    storage_dtype(kind)
    if kind == "float32":
        return Rows(rows.float32(), kind)
    if kind == "float16" and rows.integer:
        return Rows(rows.data.astype(np.float16), kind)
    if kind == "bfloat16" and rows.integer:
        return Rows((rows.float32().view(np.uint32) >> np.uint32(16)).astype(np.uint16), kind)
    raise WrongDtype(name, f"an array of {rows.kind}", f"{kind}, or a kind that fits into it without loss")


def _check_values(rows: Rows, name: str, normalise: bool) -> None:
    """Refuse NaN, infinity, rows too long for float32 distances and, for cosine, rows of length zero."""
    if rows.integer and not normalise:
        return
    if len(rows) == 1 and guests.on_host(rows.data):  # a single query: its square alone tells that all is well
        values = rows.float32()[0].astype(np.float64)
        if 0 < float(values @ values) <= MAX_SQUARED_LENGTH:
            return
    values = _BLOCK_VALUES if guests.on_host(rows.data) else _DEVICE_VALUES
    step, xp = max(1, values // rows.dim), guests.namespace(rows.data)
    for start in range(0, len(rows), step):
        block = rows[start : start + step].float32().astype(np.float64)
        squared = xp.einsum("ij,ij->i", block, block)
        if math.isfinite(squared.sum()) and squared.max() <= MAX_SQUARED_LENGTH and not (normalise and not squared.all()):
            continue
        _name_bad_row(guests.fetched(block), guests.fetched(squared), start, name, normalise)


def _name_bad_row(block: NDArray[np.float64], squared: NDArray[np.float64], start: int, name: str, normalise: bool) -> None:
    bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
    if bad.size:
        raise NotFinite(name, f"NaN or infinity in row {start + int(bad[0])}", "finite values")
    bad = np.flatnonzero(squared > MAX_SQUARED_LENGTH)
    if bad.size:
        row = int(bad[0])
        got = f"row {start + row} of length {math.sqrt(squared[row]):.3g}"
        raise ValueTooLarge(name, got, "rows of length at most 2^62.5, so that no distance overflows float32")
    bad = np.flatnonzero(squared == 0)
    if normalise and bad.size:
        raise ZeroVector(name, f"row {start + int(bad[0])} of length zero", "rows of positive length (metric 'cosine')")
