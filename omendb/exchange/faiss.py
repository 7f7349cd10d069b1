"""FAISS: the files that `write_index` writes of IndexFlat, IndexHNSWFlat, and IDMaps of these (index_write.cpp), little endian.

    id map    "IxMp" or "IxM2", header, an index, ids i64
    HNSW      "IHNf", header, shares of levels f64, places of lists up to each level i32, levels i32 (from 1), offsets of
              lists u64 (n + 1,), lists i32 (-1: unused), then i32: entry, top level, efConstruction, efSearch, 1; a flat index
    flat      "IxF2" (l2), "IxFI" (ip) or "IxFl", header, float32 values
    header    d i32, n i64, 2^20 i64 twice, trained u8, metric i32 (0 ip, 1 l2)

Each array stands behind its length, u64.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from omendb_kernels import Hnsw

from ..errors import InvalidInput
from ..generation import Generation
from ..publish import check_target, published
from .contents import BLOCK, Contents
from .source import MAX_ROWS, Ids, Rows, Source, numbered

HEADER = np.dtype([("dim", "<i4"), ("rows", "<i8"), ("unused", "<i8", (2,)), ("trained", "u1"), ("metric", "<i4")])
METRICS = ("ip", "l2")  # by FAISS's numbers
EF_CONSTRUCTION = 200  # of the rows that FAISS adds later
ID_MAPS, HNSW, FLAT = ("IxM2", "IxMp"), "IHNf", ("IxF2", "IxFI", "IxFl")


def write_faiss(now: Generation, path: Path, *, overwrite: bool, threads: int) -> None:
    """See `DB.to_faiss`."""
    check_target(path, overwrite)
    contents = Contents.of(now, "to_faiss", threads=threads)
    with published(path, overwrite=overwrite) as file:
        _write(file, contents)


def _write(file: BinaryIO, contents: Contents) -> None:
    points, ids = contents.points, contents.ids
    metric = "l2" if points.metric == "l2" else "ip"
    header = np.array((points.dim, len(points), (1 << 20, 1 << 20), 1, METRICS.index(metric)), HEADER).tobytes()
    plain = np.array_equal(ids, np.arange(len(ids)))
    if not plain:
        file.write(ID_MAPS[0].encode() + header)
    file.write(HNSW.encode() + header)
    _write_hnsw(file, contents.hnsw, contents.beam)
    file.write(FLAT[METRICS[::-1].index(metric)].encode() + header + _length(len(points) * points.dim))
    for _, rows in contents.blocks():
        file.write(rows.astype("<f4", copy=False).data)
    if not plain:
        _write_array(file, ids, "<i8")


def _write_hnsw(file: BinaryIO, hnsw: Hnsw, beam: int) -> None:
    n, shares, levels = len(hnsw), np.array(hnsw.level_shares), hnsw.levels.astype(np.int64)
    places = np.arange(len(shares) + 1) * hnsw.m + hnsw.m
    places[0] = 0
    offsets = np.concatenate([[0], np.cumsum(places[levels + 1])])
    _write_array(file, shares.astype(np.float32), "<f8")  # FAISS rounds them so
    _write_array(file, places, "<i4")
    _write_array(file, levels + 1, "<i4")
    _write_array(file, offsets, "<u8")
    file.write(_length(int(offsets[-1])))
    for start in range(0, n, BLOCK):
        file.write(_lists(hnsw, offsets[start : start + BLOCK + 1], start).data)
    for number in (hnsw.entry, len(hnsw.layers) - 1, EF_CONSTRUCTION, beam, 1):
        file.write(np.array(number, "<i4").tobytes())


def _lists(hnsw: Hnsw, offsets: NDArray[np.int64], first: int) -> NDArray[np.int32]:
    """The lists of the rows from `first` on, all layers of a row behind each other."""
    lists = np.full(int(offsets[-1] - offsets[0]), -1, "<i4")
    for level, layer in enumerate(hnsw.layers):
        start, stop = np.searchsorted(layer.rows, [first, first + len(offsets) - 1])
        places = offsets[layer.rows[start:stop] - first] - offsets[0] + (level + 1) * hnsw.m * (level > 0)
        lists[places[:, None] + np.arange(layer.lists.shape[1])] = layer.lists[start:stop]
    return lists


def _length(count: int) -> bytes:
    return count.to_bytes(8, "little")


def _write_array(file: BinaryIO, values: NDArray[np.generic], kind: str) -> None:
    file.write(_length(len(values)) + values.astype(kind).tobytes())


def read_faiss(path: Path) -> tuple[Rows, Ids | None, str]:
    """Rows float32 (n, d), their ids, None where they are numbered, and the metric; see `DB.from_faiss`."""
    source = Source(path)
    kind = _kind(source, *ID_MAPS, HNSW, *FLAT)
    mapped = kind in ID_MAPS
    n, dim, metric = shape = _header(source)
    if mapped:
        kind = _kind(source, HNSW, *FLAT)
        _same(source, shape)
    if kind == HNSW:
        _skip_hnsw(source)
        _kind(source, *FLAT)
        _same(source, shape)
    rows = _vector(source, "<f4", "values", n * dim).reshape(n, dim)
    ids = _vector(source, "<i8", "ids", n) if mapped else np.arange(n)
    source.end()
    return *numbered(source, rows, ids), metric


def _kind(source: Source, *kinds: str) -> str:
    """The next index's kind, which must be one of these."""
    found = source.array("u1", 4, "letters").tobytes().decode("latin-1")
    if found not in kinds:
        wanted = "IndexFlat, IndexHNSWFlat or an IndexIDMap of either"
        raise InvalidInput("path", f"{source.path}, in which an index of kind {found!r} stands", wanted)
    return found


def _header(source: Source) -> tuple[int, int, str]:
    """Rows, dimension, metric."""
    header = source.array(HEADER, 1, "header")[0]
    n, dim, metric = int(header["rows"]), int(header["dim"]), int(header["metric"])
    if not 0 <= n <= MAX_ROWS or dim < 1:
        raise source.damaged(f"its header tells of {n} rows of {dim} dimensions")
    if not 0 <= metric < len(METRICS):
        raise InvalidInput("path", f"{source.path}, of FAISS's metric {metric}", "0 (inner product) or 1 (l2)")
    return n, dim, METRICS[metric]


def _same(source: Source, shape: tuple[int, int, str]) -> None:
    """The header of an index inside an index, which must be of as many rows, of the same kind."""
    found = _header(source)
    if found != shape:
        raise source.damaged(f"an index of {shape} holds one of {found} (rows, dimensions, metric)")


def _vector(source: Source, dtype: str, what: str, count: int | None = None) -> NDArray[Any]:
    """An array behind its length, which must be `count` where that is known."""
    length = source.number("<u8", f"length of {what}")
    if count not in (None, length):
        raise source.damaged(f"{length} {what}, not {count}")
    return source.array(dtype, length, what)


def _skip_hnsw(source: Source) -> None:
    for dtype, what in (("<f8", "shares"), ("<i4", "places"), ("<i4", "levels"), ("<u8", "offsets"), ("<i4", "links")):
        _vector(source, dtype, what)
    source.array("<i4", 5, "numbers of HNSW")
