"""Rows of equal codes are one node: duplicates are common in real data, and would fill each other's lists."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..codec import hash_order
from ..contract import CodeRows, Int32s
from ..parallel import blocks

ITEM = 3  # numbers the hash of the multipliers
BLOCK = 1 << 16  # rows hashed at a time


def heads_of(points: CodeRows, rows: Int32s) -> Int32s:
    """int32 (r,): for each of `rows` (ascending) the smallest of them with equal code and wide coordinate."""
    hashes = _hashes(points, rows)
    order = np.argsort(hashes, kind="stable")
    sorted_ = hashes[order]
    first = np.ones(len(rows), np.bool_)
    first[1:] = sorted_[1:] != sorted_[:-1]
    heads = rows.copy()
    heads[order] = rows[order][np.maximum.accumulate(np.where(first, np.arange(len(rows)), 0))]
    for i in np.flatnonzero(heads != rows):
        if not _equal(points, rows[i], heads[i]):  # a collision of hashes: settle this group by its bytes
            _settle(points, rows, heads, np.flatnonzero(hashes == hashes[i]))
    return heads


def _hashes(points: CodeRows, rows: Int32s) -> NDArray[np.uint64]:
    """uint64 (r,): a linear hash of each row's code bytes."""
    words = points.codes.shape[1] // 8
    multipliers = hash_order(0, ITEM, words + 1) | np.uint64(1)
    out = np.empty(len(rows), np.uint64)
    for start, stop in blocks(len(rows), BLOCK):
        chosen = points.take(rows[start:stop])
        out[start:stop] = (np.ascontiguousarray(chosen.codes).view(np.uint64) * multipliers[:-1]).sum(axis=1, dtype=np.uint64)
        if chosen.wide is not None:
            out[start:stop] += chosen.wide.astype(np.uint64) * multipliers[-1]
    return out


def _equal(points: CodeRows, a: int, b: int) -> bool:
    same_wide = points.wide is None or points.wide[a] == points.wide[b]
    return bool(same_wide and np.array_equal(points.codes[a], points.codes[b]))


def _settle(points: CodeRows, rows: Int32s, heads: Int32s, group: NDArray[np.int64]) -> None:
    first: dict[tuple[bytes, int], int] = {}
    for i in group.tolist():
        row = int(rows[i])
        wide = 0 if points.wide is None else int(points.wide[row])
        heads[i] = first.setdefault((points.codes[row].tobytes(), wide), row)
