"""Databases to exchange, and foreign files that are spoiled in one place each."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import omendb
from omendb import DB

METRICS, IDS, DIM = ("l2", "ip", "cosine"), ("row", "int"), 10


def database(rng: np.random.Generator, metric: str, ids: str) -> DB:
    """1,950 live rows with a graph: twins, rows deleted from it, rows that are not in it yet."""
    rows = rng.standard_normal((1900, DIM)) + 1
    rows[300:360] = rows[7]
    fresh = rng.standard_normal((110, DIM)) + 1
    fresh[:5] = rows[9]
    names = rng.choice(10**12, 2010, replace=False) if ids == "int" else None
    db = DB(metric=metric, build_threshold=1)
    db.build(rows, ids=None if names is None else names[:1900])
    db.delete(db.ids[np.r_[300, 340:350, 1000:1049]])
    db.add_batch(fresh, ids=None if names is None else names[1900:])
    assert db.stats().graph["tail"] > 0
    return db


def honest(way: str, rows: int = 12, ids: Any = None, metric: str = "l2") -> bytes:
    """A small file."""
    with tempfile.TemporaryDirectory(prefix="omendb-exchange-") as home:
        db = DB.build_from_numpy(np.arange(rows * 4, dtype=np.float32).reshape(rows, 4) % 7 + 1, ids=ids, metric=metric)
        getattr(db, f"to_{way}")(Path(home) / "a")
        return (Path(home) / "a").read_bytes()


def put(data: bytes, place: int, form: str, *values: Any) -> bytes:
    """The data with these values written over it."""
    changed = bytearray(data)
    struct.pack_into("<" + form, changed, place, *values)
    return bytes(changed)


Case = tuple[Callable[[], bytes], type[omendb.OmenError], str]
INT = [10 + 3 * i for i in range(12)]
RECORD, VALUES = 140 + 16, 12 * 16


def spoiled() -> dict[str, Case]:
    """By name: what makes the file, the error, words of its message."""
    corrupt, invalid = omendb.CorruptFile, omendb.InvalidInput

    def hnswlib(place: int, form: str, value: Any) -> Callable[[], bytes]:
        return lambda: put(honest("hnswlib"), place, form, value)

    def faiss(place: int, form: str, value: Any, ids: Any = None) -> Callable[[], bytes]:
        def make() -> bytes:
            data = honest("faiss", ids=ids)
            return put(data, place if place >= 0 else len(data) + place, form, value)

        return make

    flat = -4 - 33 - 8 - VALUES  # from the end: kind, header, length, values
    cases: dict[str, Case] = {
        "empty": (lambda: b"", corrupt, "is empty"),
        "header": (lambda: honest("hnswlib")[:95], corrupt, "95 bytes are left"),
        "records": (lambda: honest("hnswlib")[:500], corrupt, "bytes are left"),
        "layers": (lambda: honest("hnswlib")[:-4], corrupt, "upper layers are cut off"),
        "layers, odd": (lambda: honest("hnswlib")[:-1], corrupt, "numbers of 4 bytes"),
        "more": (lambda: honest("hnswlib") + bytes(4), corrupt, "does not end"),
        "level 0": (hnswlib(0, "Q", 8), corrupt, "does not begin"),
        "elements": (hnswlib(16, "Q", 13), corrupt, "bytes are left"),
        "elements, huge": (hnswlib(16, "Q", 2**63), corrupt, "does not begin"),
        "no elements": (lambda: put(honest("hnswlib"), 16, "Q", 0)[:96], invalid, "without rows"),
        "record": (hnswlib(24, "Q", 2**40), corrupt, "does not begin"),
        "label": (hnswlib(32, "Q", 2**64 - 1), corrupt, "does not begin"),
        "M": (hnswlib(56, "Q", 0), corrupt, "does not begin"),
        "level of 60 bytes": (hnswlib(96 + 12 * RECORD, "I", 60), corrupt, "upper layers"),
        "level of many": (hnswlib(96 + 12 * RECORD, "I", 68 << 20), corrupt, "upper layers"),
        "not a number": (hnswlib(96 + 132, "f", np.nan), omendb.NotFinite, "row 0"),
        "label twice": (lambda: put(honest("hnswlib", ids=INT), 96 + 148, "Q", 13), invalid, "id 13 twice"),
        "label too large": (lambda: put(honest("hnswlib", ids=INT), 96 + 148, "Q", 2**63), invalid, "2\\^63 - 1"),
        "all deleted": (lambda: _deleted(honest("hnswlib")), invalid, "without rows"),
    }
    cases = {f"hnswlib: {name}": case for name, case in cases.items()}
    cases |= {
        "empty": (lambda: b"", corrupt, "is empty"),
        "kind": (lambda: b"IwFl" + bytes(100), invalid, "'IwFl'"),
        "of ours": (lambda: b'{"__metadata__"', invalid, "IndexFlat"),
        "kind, cut off": (lambda: b"Ix", corrupt, "letters"),
        "cut off": (lambda: honest("faiss")[:-1], corrupt, "bytes are left"),
        "more": (lambda: honest("faiss") + b"x", corrupt, "behind its end"),
        "dim": (faiss(4, "i", 5), corrupt, "an index of"),
        "no dim": (faiss(4, "i", 0), corrupt, "0 dimensions"),
        "rows": (faiss(8, "q", 13), corrupt, "an index of"),
        "rows below 0": (faiss(8, "q", -1), corrupt, "-1 rows"),
        "rows, huge": (faiss(8, "q", 2**62), corrupt, "rows of"),
        "metric": (faiss(33, "i", 4), invalid, "metric 4"),
        "shares": (faiss(4 + 33, "Q", 2**61), corrupt, "shares"),
        "links of null storage": (faiss(flat, "4s", b"null"), invalid, "'null'"),
        "graph in a graph": (faiss(flat, "4s", b"IHNf"), invalid, "'IHNf'"),
        "values": (faiss(-VALUES - 8, "Q", 47), corrupt, "47 values, not 48"),
        "map of a map": (lambda: honest("faiss", ids=INT)[:37] * 2, invalid, "'IxM2'"),
        "ids": (faiss(-12 * 8 - 8, "Q", 11, INT), corrupt, "11 ids"),
        "id below 0": (faiss(-8, "q", -1, INT), invalid, "from -1"),
        "id twice": (faiss(-8, "q", 10, INT), invalid, "id 10 twice"),
        "infinite": (faiss(-VALUES, "f", np.inf), omendb.NotFinite, "row 0"),
    }
    return {name if ":" in name else f"faiss: {name}": case for name, case in cases.items()}


def _deleted(data: bytes) -> bytes:
    for row in range(12):
        data = put(data, 96 + RECORD * row + 2, "B", 1)
    return data
