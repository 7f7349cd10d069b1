"""PointSet: rows with their codes, ready to be searched; each PointSet is one generation that never changes.

`extend` gives the next generation. Both share one table with room to grow: the older one sees only its own first rows, so
searches go on undisturbed while rows are added.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import codec as coding
from .arrays import MAX_DIM, Rows, aligned_empty, as_count, as_vectors, empty_rows, storage_dtype
from .codec import Codec, QueryCodes
from .contract import CodeRows, Float32s, Float64s, Int8s, Int32s
from .dispatch import backend
from .errors import InvalidInput, InvalidParameter, WrongShape
from .guests import fetched, namespace, on_host, picked
from .machine import as_threads
from .metrics import METRICS, metric_named
from .parallel import blocks

Progress = Callable[[int, int], None]

MAX_ROWS = 2**31 - 1
FIRST_FIT = 1024  # rows that arrive one batch after another are scanned without codes up to here
REFIT_FACTOR = 4  # and the codec is looked at again each time the rows have grown by this factor
OUTLIER_SHARE = 0.01  # refit when more rows than this are outliers
_BLOCK_ROWS = 16_384


class _Table:
    """Columns of equal length with spare capacity. Rows once written never change, so older readers stay valid."""

    def __init__(self, columns: dict[str, NDArray[Any]], rows: int) -> None:
        self.columns = columns
        self.rows = rows
        self.lock = threading.Lock()

    def append(self, rows: int, new: dict[str, NDArray[Any]]) -> _Table:
        """The table holding the first `rows` rows, then `new`: this one where they are its tip and fit, else a larger copy."""
        total = rows + len(next(iter(new.values())))
        with self.lock:
            if self.rows != rows or total > len(next(iter(self.columns.values()))):
                return self._grown(rows, total, new)
            self._write(rows, new)
            self.rows = total
            return self

    def _grown(self, rows: int, total: int, new: dict[str, NDArray[Any]]) -> _Table:
        capacity = max(total, rows + rows // 2)
        columns = {}
        for name, column in self.columns.items():
            columns[name] = aligned_empty((capacity, *column.shape[1:]), column.dtype)
            columns[name][:rows] = column[:rows]
        grown = _Table(columns, total)
        grown._write(rows, new)
        return grown

    def _write(self, rows: int, new: dict[str, NDArray[Any]]) -> None:
        for name, values in new.items():
            self.columns[name][rows : rows + len(values)] = values


@dataclass(frozen=True)
class Outliers:
    """Rows whose residual exceeds the cap: searched apart, by their own bounds."""

    ids: NDArray[np.int64]
    rows: CodeRows
    residuals: Float32s


class PointSet:
    """n rows of one metric and kind with their codes. Made by `encode`, `empty`, `extend`, `take`, `restore`.

    Attributes: metric, kind, dim; codec (None while there are too few rows); vectors (Rows); codes int8 (n, D),
    code_norms int32 (n,), residuals float32 (n,), all None without a codec; lengths float64 (n,) (cosine and ip, else
    None); wide int32 (n,) (ip with a codec, else None); max_length float, the longest row (ip, else 0).
    """

    def __init__(self, metric: str, kind: str, codec: Codec | None, table: _Table, rows: int, max_length: float) -> None:
        self.metric = metric
        self.kind = kind
        self.codec = codec
        self.max_length = max_length
        self._table = table
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def __repr__(self) -> str:
        return f"PointSet(rows={len(self)}, dim={self.dim}, metric={self.metric!r}, kind={self.kind!r})"

    def _column(self, name: str) -> Any:
        column = self._table.columns.get(name)
        return None if column is None else column[: self._rows]

    @property
    def dim(self) -> int:
        return int(self._table.columns["vectors"].shape[1])

    @property
    def vectors(self) -> Rows:
        return Rows(self._column("vectors"), self.kind)

    @property
    def codes(self) -> Int8s:
        return self._column("codes")  # type: ignore[no-any-return]

    @property
    def code_norms(self) -> Int32s:
        return self._column("code_norms")  # type: ignore[no-any-return]

    @property
    def residuals(self) -> Float32s:
        return self._column("residuals")  # type: ignore[no-any-return]

    @property
    def lengths(self) -> Float64s | None:
        return self._column("lengths")  # type: ignore[no-any-return]

    @property
    def wide(self) -> Int32s | None:
        return self._column("wide")  # type: ignore[no-any-return]

    @property
    def arrays(self) -> tuple[NDArray[Any] | None, ...]:
        """What searches read of these rows: what a device may keep copies of."""
        norms = None if self.codec is None else self.scanned.norms
        return self.vectors.data, self.lengths, self.codes, self.code_norms, norms, self.wide

    @functools.cached_property
    def scanned(self) -> CodeRows:
        """The codes as queries are compared with them: with their norms, but for ip, which ranks by the dot alone."""
        norms = self.code_norms if self.metric != "ip" else namespace(self.codes).zeros(len(self), np.int32)
        return CodeRows(self.codes, norms)

    @functools.cached_property
    def nodes(self) -> CodeRows:
        """The codes as they are compared with each other: for ip with the wide coordinate, which turns it into l2."""
        if self.wide is None:
            return CodeRows(self.codes, self.code_norms)
        return CodeRows(self.codes, self.code_norms + self.wide * self.wide, self.wide)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows with their codes and side columns (spare capacity not counted)."""
        return sum(int(self._column(name).nbytes) for name in self._table.columns)

    @functools.cached_property
    def outliers(self) -> Outliers:
        """The rows above the residual cap, in id order; found once, then kept."""
        assert self.codec is not None
        ids = np.flatnonzero(self.residuals > np.float32(self.codec.residual_cap))
        return Outliers(ids, CodeRows(picked(self.codes, ids), picked(self.scanned.norms, ids)), self.residuals[ids])

    # ---- making ----------------------------------------------------------------------------------------------------

    @classmethod
    def encode(
        cls, vectors: Any, metric: str = "l2", *, threads: int | None = None, progress: Progress | None = None
    ) -> PointSet:
        """Fit a codec to these rows, (n, d) with n >= 1, and code them all. The rows are copied, but for those of an iterator.

        progress(done, total) is called as rows are coded. Raises what `as_vectors` raises, WrongShape when there is no row.
        The result does not depend on `threads`. Cost: about 15 float64 operations a value, one byte a value of memory.
        """
        rows = vectors if isinstance(vectors, Rows) else as_vectors(vectors, metric=metric)
        return cls.view(rows if rows.ours else Rows(rows.data.copy(), rows.kind), metric, threads=threads, progress=progress)

    @classmethod
    def view(cls, rows: Rows, metric: str, *, threads: int | None = None, progress: Progress | None = None) -> PointSet:
        """`encode` without the copy: for rows that nobody will write to while the set lives. Those of a device stay there."""
        workers = as_threads(threads)
        if not 1 <= len(rows) <= MAX_ROWS:
            raise WrongShape("vectors", f"{len(rows)} rows", f"1 to {MAX_ROWS} rows")
        metric = metric_named(metric).name
        lengths = fetched(backend().lengths(rows, threads=workers)) if metric != "l2" else None
        longest = float(lengths.max()) if metric == "ip" and lengths is not None else 0.0
        codec = coding.fit(rows, metric, lengths, longest)
        columns = _encode_rows(codec, rows, lengths, workers, progress)
        codec = replace(codec, residual_cap=coding.residual_cap(columns["residuals"]))
        return cls(metric, rows.kind, codec, _Table(columns, len(rows)), len(rows), longest)

    @classmethod
    def empty(cls, dim: int, metric: str = "l2", kind: str = "float32") -> PointSet:
        """No rows yet. Raises InvalidParameter, UnknownMetric."""
        rows = empty_rows(as_count(dim, "dim", most=MAX_DIM), kind)
        return cls(metric_named(metric).name, kind, None, _Table(_plain_columns(rows, metric, None), 0), 0, 0.0)

    def extend(self, vectors: Any, *, refit: bool = True, threads: int | None = None) -> PointSet:
        """The next generation: these rows, then `vectors` (n, d), judged against this set's metric, dimension and kind.

        The codec is fitted, or looked at again, only where the number of rows crosses 1,024 times a power of four, on the
        rows up to there: the result depends on the rows in their order, not on how calls cut them. refit=False keeps the
        codec whatever comes: for sets with a graph, which knows rows by their codes.
        """
        rows = vectors if isinstance(vectors, Rows) else self._judge(vectors)
        workers = as_threads(threads)
        if len(self) + len(rows) > MAX_ROWS:
            raise WrongShape("vectors", f"{len(rows)} rows after {len(self)}", f"at most {MAX_ROWS} rows in one set")
        points, start = self, 0
        while start < len(rows):
            room = _next_fit(len(points)) - len(points)
            piece = rows[start : start + room]
            points = points._append(piece, workers)
            start += len(piece)
            if len(piece) == room and (refit or points.codec is None):
                points = points._refitted(workers)
        return points

    def _judge(self, vectors: Any) -> Rows:
        return as_vectors(vectors, metric=self.metric, dim=self.dim, dtype=self.kind)

    def _append(self, rows: Rows, threads: int) -> PointSet:
        lengths = backend().lengths(rows, threads=threads) if self.metric != "l2" else None
        longest = max(self.max_length, float(lengths.max())) if self.metric == "ip" and lengths is not None else 0.0
        if self.codec is None:
            new = _plain_columns(rows, self.metric, lengths)
        else:
            new = _encode_rows(self.codec, rows, lengths, threads, None)
        table = self._table.append(len(self), new)
        return PointSet(self.metric, self.kind, self.codec, table, len(self) + len(rows), longest)

    def _refitted(self, threads: int) -> PointSet:
        """Coded anew where there is no codec yet or too many rows are outliers, else itself."""
        if self.codec is not None and len(self.outliers.ids) <= OUTLIER_SHARE * len(self):
            return self
        return PointSet.view(self.vectors, self.metric, threads=threads)

    def take(self, rows: NDArray[np.int64]) -> PointSet:
        """The chosen rows in the order given, with the same codec."""
        names = self._table.columns
        columns = {}
        for name in names:
            column = self._column(name)
            columns[name] = aligned_empty((len(rows), *column.shape[1:]), column.dtype)
            np.take(column, rows, axis=0, out=columns[name])
        longest = float(columns["lengths"].max()) if self.metric == "ip" and len(rows) else 0.0
        return PointSet(self.metric, self.kind, self.codec, _Table(columns, len(rows)), len(rows), longest)

    def behind(self, start: int) -> PointSet:
        """The rows from number `start` on, under the same codec, in place."""
        columns = {name: self._column(name)[start:] for name in self._table.columns}
        rows = len(self) - start
        return PointSet(self.metric, self.kind, self.codec, _Table(columns, rows), rows, self.max_length)

    def encode_queries(self, queries: Rows, *, threads: int = 1) -> QueryCodes:
        """Queries in this set's codes. ip scales each query by itself to fill the range: its ranking ignores length."""
        assert self.codec is not None
        codec, ops = self.codec, backend()
        lengths = ops.lengths(queries, threads=threads)
        normalise = METRICS[self.metric].normalise
        whole = coding.exactly_coded(codec, queries)
        scales = np.array([codec.scale]) if self.metric != "ip" else coding.query_scales(codec, queries, whole)
        offset = np.zeros_like(codec.offset) if self.metric == "ip" else codec.offset
        divisors = lengths if normalise else None
        codes, norms, errors = ops.encode(queries, divisors, offset, codec.signs, scales, threads=threads)
        plain = replace(codec, lossless=False)
        residuals = coding.residuals(plain, errors, None if normalise else lengths, scales).astype(np.float64)
        residuals[whole] = 0.0
        if self.metric == "ip":
            norms = np.zeros_like(norms)
        return QueryCodes(codes, norms, np.broadcast_to(scales, (len(queries),)), residuals, lengths, whole)

    # ---- leaving and coming back -----------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Facts for JSON and named arrays, all that `restore` needs. Equal rows give equal bytes on every machine."""
        arrays = {name: np.ascontiguousarray(self._column(name)) for name in sorted(self._table.columns)}
        facts: dict[str, Any] = {"metric": self.metric, "kind": self.kind, "dim": self.dim, "rows": len(self)}
        facts["max_length"] = self.max_length
        if self.codec is not None:
            codec = self.codec
            arrays["offset"] = codec.offset
            if codec.signs is not None:
                arrays["signs"] = codec.signs
            facts["codec"] = {
                "scale": codec.scale,
                "lossless": codec.lossless,
                "residual_cap": codec.residual_cap,
                "max_length": codec.max_length,
            }
        return facts, arrays

    @classmethod
    def restore(cls, facts: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> PointSet:
        """The set that `state` described. Arrays, read-only memory maps included, are used in place.

        Raises ValueError where facts and arrays do not fit each other. Values inside the arrays are not read: damaged ones
        can make an answer wrong but never reach outside the arrays.
        """
        try:
            metric, kind = metric_named(facts["metric"]).name, str(facts["kind"])
            dim, rows = as_count(facts["dim"], "dim", most=MAX_DIM), as_count(facts["rows"], "rows", 0, MAX_ROWS)
            storage_dtype(kind)
            fit = facts.get("codec")
            codec = None
            if fit is not None:
                signs = arrays.get("signs")
                offset = arrays["offset"]
                codec = Codec(
                    metric, dim, offset, float(fit["scale"]), signs, bool(fit["lossless"]),
                    float(fit["residual_cap"]), float(fit["max_length"]),
                )  # fmt: skip
                if not codec.scale > 0 or not np.isfinite([codec.scale, codec.residual_cap, codec.max_length]).all():
                    raise ValueError("codec numbers out of range")
            expected = _expected_columns(metric, kind, dim, codec)
            shapes = {name: (rows, *shape) for name, (shape, _) in expected.items()}
            dtypes = {name: dtype for name, (_, dtype) in expected.items()}
            if codec is not None:
                shapes["offset"], dtypes["offset"] = (dim,), np.dtype(np.float32)
                if codec.signs is not None:
                    shapes["signs"], dtypes["signs"] = (2, dim), np.dtype(np.int8)
            for name, shape in shapes.items():
                if arrays[name].shape != shape or arrays[name].dtype != dtypes[name]:
                    raise ValueError(f"array {name!r} is {arrays[name].dtype} {arrays[name].shape}, not {dtypes[name]} {shape}")
            longest = float(facts["max_length"])
        except (KeyError, TypeError, InvalidInput) as error:
            raise ValueError(f"not the state of a PointSet: {error}") from error
        columns = {name: arrays[name] for name in expected}
        return cls(metric, kind, codec, _Table(columns, rows), rows, longest)


def as_points(points: Any, metric: str | None, stay: bool = False) -> PointSet | Rows:
    """A PointSet as it is (its metric must agree when one is named), anything else judged as rows by `as_vectors`."""
    if not isinstance(points, PointSet):
        return as_vectors(points, name="points", metric="l2" if metric is None else metric, stay=stay)
    if metric is not None and metric_named(metric).name != points.metric:
        raise InvalidParameter("metric", repr(metric), f"{points.metric!r}, the metric of these points")
    return points


def _next_fit(rows: int) -> int:
    """The first number of rows above `rows` where the codec is looked at."""
    cut = FIRST_FIT
    while cut <= rows:
        cut *= REFIT_FACTOR
    return cut


def _expected_columns(
    metric: str, kind: str, dim: int, codec: Codec | None
) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Column name -> (shape of a row, dtype)."""
    columns: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {"vectors": ((dim,), storage_dtype(kind))}
    if metric != "l2":
        columns["lengths"] = ((), np.dtype(np.float64))
    if codec is not None:
        columns["codes"] = ((codec.code_dim,), np.dtype(np.int8))
        columns["code_norms"] = ((), np.dtype(np.int32))
        columns["residuals"] = ((), np.dtype(np.float32))
        if metric == "ip":
            columns["wide"] = ((), np.dtype(np.int32))
    return columns


def _plain_columns(rows: Rows, metric: str, lengths: Float64s | None) -> dict[str, NDArray[Any]]:
    columns: dict[str, NDArray[Any]] = {"vectors": rows.data}
    if metric != "l2":
        columns["lengths"] = np.empty(0) if lengths is None else lengths
    return columns


def _encode_rows(
    codec: Codec, rows: Rows, lengths: Float64s | None, threads: int, progress: Progress | None
) -> dict[str, NDArray[Any]]:
    """All columns of these rows under this codec."""
    n = len(rows)
    columns = _plain_columns(rows, codec.metric, lengths)
    here, xp = on_host(rows.data), namespace(rows.data)
    columns["codes"] = (aligned_empty if here else xp.empty)((n, codec.code_dim), np.int8)
    columns["code_norms"] = xp.empty(n, np.int32)
    columns["residuals"] = np.empty(n, np.float32)
    scales = np.array([codec.scale])
    normalise = METRICS[codec.metric].normalise
    for start, stop in blocks(n, _BLOCK_ROWS * max(1, threads)):
        piece = rows[start:stop]
        sizes = fetched(backend().lengths(piece, threads=threads)) if lengths is None else lengths[start:stop]
        codes, norms, errors = backend().encode(
            piece, sizes if normalise else None, codec.offset, codec.signs, scales, threads=threads
        )
        columns["codes"][start:stop] = codes
        columns["code_norms"][start:stop] = norms
        columns["residuals"][start:stop] = coding.residuals(codec, fetched(errors), None if normalise else sizes, scales)
        if progress is not None:
            progress(stop, n)
    if codec.metric == "ip":
        assert lengths is not None
        columns["wide"] = coding.wide_coordinate(codec, lengths)
    return columns
