"""Reservoirs on the device: to each row the `width` smallest different keys of its own and of the edges that lead to it."""

from __future__ import annotations

from typing import Any, NamedTuple

import cupy
import numpy as np

from ._device import NULL, launch, rows_per_tile

BLOCK = 256
WARPS = BLOCK // 32
BY_WARP = 96  # the largest width that a warp serves: its pool of 128 has room for 32 more
SHARED_POOL = 4096  # the most keys of a block's pool in shared memory
LEAST_POOL = 512
MOST_POOLS = 1024  # of blocks whose pool is in global memory
MOST_EDGES = 2**31 - 1  # brought together at once: they are counted in 32 bits


class Selection(NamedTuple):
    """How the smallest keys of a line are found: by a warp, or by a block with a pool of so many keys."""

    by_warp: bool
    pool: int
    shared: int  # bytes of a block; 0 for a pool in global memory


def selection(width: int) -> Selection:
    """The way for lines of this width."""
    if width <= BY_WARP:
        return Selection(True, 0, 0)
    pool = max(LEAST_POOL, 1 << (2 * width - 1).bit_length())
    return Selection(False, pool, 8 * pool if pool <= SHARED_POOL else 0)


def team_of(most: int) -> int:
    """Lanes that read a line of `most` keys."""
    return 1 << min(5, max(0, most - 1).bit_length())


def edge_bytes(most: int, both: bool) -> int:
    """Bytes that the edges of a line of `most` keys take; both: they count in both directions."""
    return 8 * most * (2 if both else 1)


def smallest(own: Any, ends: Any, edges: Any, out: Any) -> None:
    """out (t, width): the smallest different keys of own (t, a) and of edges[ends[i - 1] : ends[i]], ascending, NO_KEY behind.

    ends, edges: None if there are none. out may be `own` if its lines are ascending.
    """
    count, width = out.shape
    if count == 0 or width == 0:
        return
    way = selection(width)
    data = (own, np.int32(own.shape[1]), NULL if ends is None else ends, NULL if edges is None else edges)
    args = (*data, np.int32(count), np.int32(width), out)
    if way.by_warp:
        launch("merge.cu", "smallest_warp", -(-count // WARPS), BLOCK, *args)
        return
    if way.shared:
        launch("merge.cu", "smallest_block", count, BLOCK, *args, np.int32(way.pool), NULL, shared=way.shared)
        return
    blocks = min(count, rows_per_tile(8 * way.pool, most=MOST_POOLS))
    pools = cupy.empty((blocks, way.pool), np.int64)
    launch("merge.cu", "smallest_block", blocks, BLOCK, *args, np.int32(way.pool), pools)


def merge_edges(keys: Any, sources: Any, targets: Any, counts: Any, own: Any, out: Any) -> None:
    """out (t, width): the smallest different keys of own (t, a) and of the edges of keys (s, b) to each target.

    A key (D, x) of source p gives target x the key (D, p). targets: ascending rows; None if every row is one, and then p gets
    the key (D, x) too. counts: int32 (t,) zeros, and zeros again afterwards. out may be `own` if its lines are ascending.
    """
    lines, most = keys.shape
    team = team_of(most)
    grid = -(-lines * team // BLOCK)
    rows = (NULL, np.int32(0)) if targets is None else (targets, np.int32(len(targets)))
    args = (keys, sources, np.int32(lines), np.int32(most), np.int32(team), *rows)
    launch("merge.cu", "count_edges", grid, BLOCK, *args, counts)
    ends = cupy.cumsum(counts, dtype=np.int64)
    edges = cupy.empty(lines * edge_bytes(most, targets is None) // 8, np.int64)
    launch("merge.cu", "place_edges", grid, BLOCK, *args, ends, counts, edges)
    smallest(own, ends, edges, out)
