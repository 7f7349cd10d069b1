"""Vectors in files of others, read batch by batch: a file of any size needs the memory of one batch.

    .npy                             NumPy; mapped
    .fvecs .bvecs .ivecs             each row: int32 d, then d float32, uint8, int32
    .fbin .u8bin .i8bin .ibin        uint32 n, uint32 d, then n x d float32, uint8, int8, int32
    .hdf5 .h5                        ann-benchmarks: the dataset "train", or "test" for queries (h5py)
    .parquet  .arrow .feather .ipc   a column of lists of one length (pyarrow)

A file is hostile until proven otherwise: what its header says is compared with its size before anything is allocated, and what
contradicts itself raises CorruptFile. Nothing in it is executed.
"""

from __future__ import annotations

import json
import os
import stat
import tokenize
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import as_path
from .errors import CorruptFile, InvalidParameter, NotFound, OmenError, StorageError, WrongShape
from .extras import needed

BATCH = 1 << 24  # bytes that are read at a time
MOST_SQUEEZED = 1_100  # times that a compressed HDF5 dataset is larger than its file at most: deflate's limit is 1,032
_VECS = {".fvecs": "<f4", ".bvecs": "u1", ".ivecs": "<i4"}
_BIN = {".fbin": "<f4", ".u8bin": "u1", ".i8bin": "i1", ".ibin": "<i4"}
_DAMAGE = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RuntimeError, NotImplementedError, MemoryError,
    SyntaxError, tokenize.TokenError, EOFError, OSError,
)  # fmt: skip  # what the libraries raise at damaged files


@dataclass(frozen=True)
class VectorFile:
    """Vectors of a file: how many rows, how many dimensions; None where only reading all of it tells."""

    path: Path
    rows: int | None
    dim: int | None
    _read: Callable[[int], Iterator[Any]]  # the batches of the first rows, so many of them

    def batches(self, limit: int | None = None) -> Iterator[Any]:
        """The rows in order, or the first `limit`, as arrays (n_i, d), for `DB.build`. Raises CorruptFile, StorageError."""
        with _honest(self.path):
            yield from self._read(2**62 if limit is None else limit)


def open_vectors(path: str | os.PathLike[str], column: str | None = None, *, queries: bool = False) -> VectorFile:
    """The vectors of a file, by its suffix; sizes are checked, rows are not read yet.

    column: of a Parquet or Arrow file, the dataset of an HDF5 file; None takes the only one that can be vectors, in HDF5 files
    "train", or "test" with queries=True. Raises NotFound, StorageError, CorruptFile, WrongShape, MissingLibrary, and
    InvalidParameter for an unknown suffix or column.
    """
    source = as_path(path)
    opener = FORMATS.get(source.suffix.lower())
    if opener is None:
        raise InvalidParameter("path", f"{source.name!r}", "a file whose name ends in one of " + " ".join(FORMATS))
    try:
        facts = source.stat()
    except FileNotFoundError as error:
        raise NotFound(f"no file {source}") from error
    except OSError as error:
        raise StorageError(f"cannot read {source}: {error.strerror or error}") from error
    if not stat.S_ISREG(facts.st_mode):
        raise StorageError(f"cannot read {source}: it is not a file")
    if facts.st_size == 0:
        raise CorruptFile(f"{source} is empty")
    with _honest(source):
        return opener(source, column, queries)


@contextmanager
def _honest(path: Path) -> Iterator[None]:
    """Whatever is raised inside because of what a file holds is a CorruptFile; what the system refuses is a StorageError."""
    try:
        with np.errstate(all="ignore"):
            yield
    except OmenError:
        raise
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CorruptFile(f"{path} is damaged: {reason[:200]}") from error


def _steps(rows: int, limit: int, row_bytes: int) -> Iterator[slice]:
    rows, step = min(rows, limit), max(1, BATCH // max(1, row_bytes))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _refuse_column(path: Path, column: str | None) -> None:
    if column is not None:
        raise InvalidParameter("column", repr(column), f"none: {path.suffix} files have no columns")


# --- raw files ---------------------------------------------------------------------------------------------------


def _npy(path: Path, column: str | None, queries: bool) -> VectorFile:
    _refuse_column(path, column)
    with open(path, "rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise CorruptFile(f"{path} does not begin as a .npy file does")
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    if mapped.ndim != 2:
        raise WrongShape(str(path), f"an array of shape {mapped.shape}", "two axes: (rows, dimensions)")
    n, d = mapped.shape
    return VectorFile(path, n, d, lambda limit: (mapped[rows] for rows in _steps(n, limit, d * mapped.itemsize)))


def _vecs(path: Path, column: str | None, queries: bool) -> VectorFile:
    _refuse_column(path, column)
    kind = np.dtype(_VECS[path.suffix.lower()])
    size = path.stat().st_size
    dim = int(_head(path, "<i4", 1)[0])
    stride = 4 + dim * kind.itemsize
    if dim < 1 or size % stride:
        raise CorruptFile(f"{path} is damaged: {size} bytes are not rows of {dim} dimensions")
    mapped = np.memmap(path, np.uint8, "r", shape=(size // stride, stride))

    def read(limit: int) -> Iterator[NDArray[Any]]:
        for rows in _steps(len(mapped), limit, stride):
            block = np.array(mapped[rows])
            wrong = np.flatnonzero(block[:, :4].copy().view("<i4")[:, 0] != dim)
            if wrong.size:
                raise CorruptFile(f"{path} is damaged: row {rows.start + int(wrong[0])} has another dimension than the first")
            yield block[:, 4:].copy().view(kind)

    return VectorFile(path, len(mapped), dim, read)


def _bin(path: Path, column: str | None, queries: bool) -> VectorFile:
    _refuse_column(path, column)
    kind = np.dtype(_BIN[path.suffix.lower()])
    size = path.stat().st_size
    n, d = map(int, _head(path, "<u4", 2))
    if size != 8 + n * d * kind.itemsize:
        raise CorruptFile(f"{path} is damaged: {size} bytes are not {n} rows of {d} dimensions")
    if n == 0 or d == 0:
        raise WrongShape(str(path), f"{n} rows of {d} dimensions", "at least one row")
    mapped = np.memmap(path, kind, "r", offset=8, shape=(n, d))
    return VectorFile(path, n, d, lambda limit: (mapped[rows] for rows in _steps(n, limit, d * kind.itemsize)))


def _head(path: Path, kind: str, count: int) -> NDArray[Any]:
    with open(path, "rb") as file:
        head = file.read(4 * count)
    if len(head) < 4 * count:
        raise CorruptFile(f"{path} is damaged: it ends inside its header")
    return np.frombuffer(head, kind)


# --- files of libraries --------------------------------------------------------------------------------------------


def _hdf5(path: Path, column: str | None, queries: bool) -> VectorFile:
    h5py = needed("h5py", "hdf5")
    file = h5py.File(path, "r")
    tables = [name for name in file if isinstance(file.get(name), h5py.Dataset) and file[name].ndim == 2]
    usual = "test" if queries else "train"
    table = file[_chosen(path, column or (usual if usual in tables else None), tables)]
    n, d = table.shape
    size = n * d * table.dtype.itemsize
    squeezed = table.chunks is not None and table.compression is not None
    if table.is_virtual or table.external or size > path.stat().st_size * (MOST_SQUEEZED if squeezed else 1):
        raise CorruptFile(f"{path} is damaged: it cannot hold {n} rows of {d} dimensions")
    return VectorFile(path, n, d, lambda limit: (table[rows] for rows in _steps(n, limit, d * table.dtype.itemsize)))


def _parquet(path: Path, column: str | None, queries: bool) -> VectorFile:
    file = needed("pyarrow.parquet", "arrow").ParquetFile(path)
    name, dim = _vector_column(path, column, file.schema_arrow)

    def read(limit: int) -> Iterator[Any]:
        return _columns(file.iter_batches(max(1, BATCH // (4 * (dim or 1_024))), columns=[name]), name, limit)

    return VectorFile(path, int(file.metadata.num_rows), dim, read)


def _ipc(path: Path, column: str | None, queries: bool) -> VectorFile:
    pyarrow = needed("pyarrow", "arrow")
    source = pyarrow.memory_map(str(path))
    if source.read(6) != b"ARROW1":
        source.seek(0)
        stream = pyarrow.ipc.open_stream(source)
        name, dim = _vector_column(path, column, stream.schema)
        stream.close()
        return VectorFile(path, None, dim, lambda limit: _columns(pyarrow.ipc.open_stream(str(path)), name, limit))
    file = pyarrow.ipc.open_file(source)
    name, dim = _vector_column(path, column, file.schema)
    every = range(file.num_record_batches)
    return VectorFile(path, None, dim, lambda limit: _columns((file.get_batch(i) for i in every), name, limit))


def _columns(batches: Any, name: str, limit: int) -> Iterator[Any]:
    """The first rows of a column, of every batch that has rows; what the batch says of itself is checked."""
    for batch in batches:
        vectors = batch.column(name)[:limit]
        vectors.validate(full=True)
        limit -= len(vectors)
        if len(vectors):
            yield vectors
        if limit == 0:
            return


def _vector_column(path: Path, column: str | None, schema: Any) -> tuple[str, int | None]:
    """Its name, and its dimension where the schema tells."""
    types = needed("pyarrow", "arrow").types
    kinds = {field.name: getattr(field.type, "storage_type", field.type) for field in schema}
    fixed = {name: types.is_fixed_size_list(kind) for name, kind in kinds.items()}
    lists = [name for name, kind in kinds.items() if fixed[name] or types.is_list(kind) or types.is_large_list(kind)]
    name = _chosen(path, column, lists)
    return name, kinds[name].list_size if fixed[name] else None


def _chosen(path: Path, column: str | None, names: list[str]) -> str:
    """The column asked for, or the only one."""
    if column is None and len(names) == 1:
        return names[0]
    if column is None or column not in names:
        listed = ", ".join(map(repr, names)) or "nothing"
        raise InvalidParameter("column", repr(column), f"one that can be vectors; {path} has {listed}")
    return column


FORMATS: dict[str, Callable[[Path, str | None, bool], VectorFile]] = {
    ".npy": _npy,
    **dict.fromkeys(_VECS, _vecs),
    **dict.fromkeys(_BIN, _bin),
    **dict.fromkeys((".hdf5", ".h5"), _hdf5),
    ".parquet": _parquet,
    **dict.fromkeys((".arrow", ".feather", ".ipc"), _ipc),
}


# --- what stands beside vectors ------------------------------------------------------------------------------------


def read_ids(path: Path) -> Any:
    """Integers of a .npy file, else the lines of a text in UTF-8. Raises NotFound, CorruptFile, StorageError."""
    if path.suffix.lower() == ".npy":
        with _honest(path):
            return np.load(path, allow_pickle=False)
    return _lines(path)


def _lines(path: Path) -> list[str]:
    with _honest(path):
        text = path.read_text(encoding="utf-8-sig")
    return text.removesuffix("\n").split("\n") if text else []  # splitlines would cut at more than line ends


def read_metadata(path: Path) -> list[Any]:
    """A JSON value a line. Raises NotFound, CorruptFile, StorageError."""
    return [_parsed(line, f"{path}, line {number}") for number, line in enumerate(_lines(path), 1)]


def _parsed(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{place}: not JSON: {error}") from error
