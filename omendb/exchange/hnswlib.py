"""hnswlib: the files that `save_index` of hnswlib 0.8 writes (hnswalg.h), little endian.

    header    96 bytes, below
    records   of each element: number of links u16, flags u8 (1 = deleted), unused u8, links u32 (maxM0,), vector, label u64
    layers    of each element: bytes u32, then for each of its layers from 1 on: number of links u32, links u32 (maxM,)
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from omendb_kernels import Hnsw, as_count

from ..errors import InvalidParameter
from ..generation import Generation
from ..publish import check_target, published
from .contents import Contents
from .source import MAX_ROWS, Ids, Rows, Source, numbered

HEADER = np.dtype(
    [
        ("offset_level0", "<u8"),
        ("max_elements", "<u8"),
        ("elements", "<u8"),
        ("record_bytes", "<u8"),
        ("label_offset", "<u8"),
        ("vector_offset", "<u8"),
        ("max_level", "<i4"),
        ("entry", "<u4"),
        ("max_m", "<u8"),
        ("max_m0", "<u8"),
        ("m", "<u8"),
        ("mult", "<f8"),
        ("ef_construction", "<u8"),
    ]
)
EF_CONSTRUCTION = 200  # of the rows that hnswlib adds later; its default
DELETED = 1
MAX_LINKS = 2**16 - 1  # their number is an u16


def write_hnswlib(now: Generation, path: Path, *, overwrite: bool, threads: int) -> None:
    """See `DB.to_hnswlib`."""
    check_target(path, overwrite)
    contents = Contents.of(now, "to_hnswlib", threads=threads)
    with published(path, overwrite=overwrite) as file:
        _write(file, contents)


def _write(file: BinaryIO, contents: Contents) -> None:
    hnsw, n, m = contents.hnsw, len(contents.hnsw), contents.hnsw.m
    vector = 4 + 4 * 2 * m
    label = vector + 4 * contents.points.dim
    top, mult = len(hnsw.layers) - 1, 1 / math.log(m)
    header = (0, n, n, label + 8, label, vector, top, hnsw.entry, m, 2 * m, m, mult, EF_CONSTRUCTION)
    file.write(np.array(header, HEADER).tobytes())
    kind = np.dtype([("count", "<u4"), ("links", "<u4", (2 * m,)), ("vector", "<f4", (contents.points.dim,)), ("label", "<u8")])
    for here, rows in contents.blocks():
        records = np.zeros(len(rows), kind)
        lists = hnsw.layers[0].lists[here]
        records["count"] = (lists >= 0).sum(axis=1)
        records["links"] = np.maximum(lists, 0)
        records["vector"], records["label"] = rows, contents.ids[here]
        file.write(records.data)
    file.write(_upper_layers(hnsw).data)


def _upper_layers(hnsw: Hnsw) -> NDArray[np.uint32]:
    """The last part of the file."""
    levels, width = hnsw.levels.astype(np.int64), 1 + hnsw.m
    starts = np.cumsum(1 + levels * width) - levels * width - 1
    words = np.zeros(len(levels) + int(levels.sum()) * width, "<u4")
    words[starts] = levels * width * 4
    for level, layer in enumerate(hnsw.layers[1:]):
        places = starts[layer.rows] + 1 + level * width
        words[places] = (layer.lists >= 0).sum(axis=1)
        words[places[:, None] + 1 + np.arange(hnsw.m)] = np.maximum(layer.lists, 0)
    return words


def read_hnswlib(path: Path, *, dim: int | None) -> tuple[Rows, Ids | None]:
    """Rows float32 (n, d), and their ids, None where they are numbered; see `DB.from_hnswlib`."""
    wanted = None if dim is None else as_count(dim, "dim")
    source = Source(path)
    header = source.array(HEADER, 1, "header")[0]
    n, record, label, vector, max_m, max_m0 = (
        int(header[name]) for name in ("elements", "record_bytes", "label_offset", "vector_offset", "max_m", "max_m0")
    )
    nbytes = label - vector
    fits = vector == 4 + 4 * max_m0 and record == label + 8 and header["offset_level0"] == 0
    if not fits or nbytes < 1 or max_m0 > MAX_LINKS or not 0 < max_m <= MAX_LINKS or n > MAX_ROWS:
        raise source.damaged("it does not begin as hnswlib's files do")
    if nbytes % 4 or wanted not in (None, nbytes // 4):
        raise InvalidParameter("dim", f"{dim}", f"{nbytes / 4:g}: {path} has vectors of {nbytes} bytes, and float32 takes 4")
    records = source.array("u1", n * record, "bytes of records").reshape(n, record)
    _skip_layers(source, n, max_m)
    rows, labels = records[:, vector:label].view("<f4"), records[:, label:].view("<u8")[:, 0]
    there = records[:, 2] & DELETED == 0
    return numbered(source, *((rows, labels) if there.all() else (rows[there], labels[there])))


def _skip_layers(source: Source, n: int, max_m: int) -> None:
    """Go over the last part of the file, which must end with it."""
    if source.left % 4:
        raise source.damaged(f"{source.left} bytes of upper layers, which are numbers of 4 bytes")
    words = source.array("<u4", source.left // 4, "numbers").astype(np.uint32, copy=False).data
    place = 0
    for _ in range(n):
        size = words[place] if place < len(words) else -1
        if size < 0 or size % (4 + 4 * max_m):
            raise source.damaged("its upper layers are cut off, or not what its header tells")
        place += 1 + size // 4
    if place != len(words):
        raise source.damaged("it does not end with the upper layers of its last element")
