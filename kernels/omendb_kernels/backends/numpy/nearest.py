"""nearest by matrix products: float32 BLAS on codes, exact because every sum stays below 2^24 within 1,024 coordinates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...contract import NO_KEY, CodeRows, Int32s, Int64s
from ...keys import pack
from ...parallel import blocks, run, single_threaded_blas

SLICE = 1024  # 128 * 128 * 1024 = 2^24: the largest product sum that float32 holds exactly
TILE_VALUES = 1 << 22  # scores in flight
QUERY_BLOCK = 64


def nearest(queries: CodeRows, points: CodeRows, k: int, mask: NDArray[np.bool_] | None, *, threads: int) -> Int64s:
    """See contract.py."""
    m, n = len(queries.codes), len(points.codes)
    ids = None if mask is None else np.flatnonzero(mask)
    allowed = n if ids is None else len(ids)
    step = max(1, min(QUERY_BLOCK, -(-m // threads)))
    tile = max(1024, TILE_VALUES // step)
    best = np.full((m, k), NO_KEY, np.int64)

    def search(block: tuple[int, int]) -> None:
        here = slice(*block)
        for start, stop in blocks(allowed, tile):
            rows = slice(start, stop) if ids is None else ids[start:stop]
            scores = code_distances(queries.take(here), points.take(rows))
            keys = pack(scores, np.arange(start, stop) if ids is None else ids[start:stop])
            both = np.concatenate([best[here], keys], axis=1)
            best[here] = np.partition(both, k - 1, axis=1)[:, :k]

    with single_threaded_blas():
        run(search, blocks(m, step), threads)
    best.sort(axis=1)
    return best


def code_distances(a: CodeRows, b: CodeRows) -> Int32s:
    """int32 (m, n): D of every pair, the product a slice of coordinates at a time."""
    dots = np.zeros((len(a.codes), len(b.codes)), np.int32)
    for start, stop in blocks(a.codes.shape[1], SLICE):
        left, right = a.codes[:, start:stop].astype(np.float32), b.codes[:, start:stop].astype(np.float32)
        dots += (left @ right.T).astype(np.int32)
    if a.wide is not None and b.wide is not None:
        dots += a.wide[:, None] * b.wide
    dots *= np.int32(-2)
    dots += a.norms[:, None]
    dots += b.norms
    return dots
