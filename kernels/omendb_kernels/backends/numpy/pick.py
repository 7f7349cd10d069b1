"""pick: a Gram matrix per leaf, the k smallest by partition, then all edges sorted by row and key."""

from __future__ import annotations

import numpy as np

from ...contract import NO_KEY, CodeRows, Int32s, Int64s
from ...keys import pack
from ...parallel import run, single_threaded_blas
from ._keys import smallest_of_groups
from .nearest import code_distances

CHUNK = 1 << 18  # memberships whose edges are merged at a time


def pick(points: CodeRows, members: Int32s, offsets: Int64s, k: int, width: int, *, threads: int) -> Int64s:
    """See contract.py."""
    n = len(points.codes)
    reservoir = np.full((n, width), NO_KEY, np.int64)
    sizes = np.diff(offsets)
    leaf = 0
    while leaf < len(sizes):
        last = max(leaf + 1, int(np.searchsorted(offsets, offsets[leaf] + CHUNK, side="right")) - 1)
        found: dict[int, tuple[Int32s, Int64s]] = {}

        def find(i: int, found: dict[int, tuple[Int32s, Int64s]] = found) -> None:
            found[i] = _edges(points, members[offsets[i] : offsets[i + 1]], k)

        with single_threaded_blas():
            run(find, range(leaf, last), threads)
        rows = np.concatenate([found[i][0] for i in range(leaf, last)])
        keys = np.concatenate([found[i][1] for i in range(leaf, last)])
        back = (keys & np.int64(-(2**32))) | rows
        here, held = np.nonzero(reservoir != NO_KEY)
        rows = np.concatenate([rows, (keys & 0xFFFFFFFF).astype(np.int32), here.astype(np.int32)])
        reservoir = smallest_of_groups(rows, np.concatenate([keys, back, reservoir[here, held]]), n, width)
        leaf = last
    return reservoir


def _edges(points: CodeRows, ids: Int32s, k: int) -> tuple[Int32s, Int64s]:
    """Rows and keys of the edges that the rows of one leaf propose."""
    leaf = points.take(ids)
    keys = pack(code_distances(leaf, leaf), ids)
    np.fill_diagonal(keys, NO_KEY)
    k = min(k, len(ids) - 1)
    if k < 1:
        return np.empty(0, np.int32), np.empty(0, np.int64)
    return np.repeat(ids, k), np.partition(keys, k - 1, axis=1)[:, :k].ravel()
