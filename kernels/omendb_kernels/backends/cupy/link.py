"""link: edges that lead to a target beside its own keys; score: keys of given pairs, by gathers, and sorted lines of them."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from ...contract import CodeRows
from ._device import NULL, give, launch, on_device, op, put, put_codes, rows_per_tile, uploaded
from ._merge import MOST_EDGES, edge_bytes, merge_edges, smallest

BLOCK = 256
PAIRS = 4  # of a team of lanes: link.cu
UPLOAD = 2**30  # bytes of the host that are brought over at a time, while those before are worked on
CHUNK = 2**28  # bytes of keys that are scored before they are sorted


@op
def link(targets: Any, own: Any, sources: Any, kept: Any, width: int, *, threads: int) -> Any:
    """See contract.py."""
    places, keys = put(targets), put(own)
    out = cupy.empty((len(targets), width), np.int64)
    lines, most = kept.shape
    if lines and most and out.size:
        piece = UPLOAD // (8 * most)
        if on_device(sources) or on_device(kept):
            sources, kept, piece = put(sources), put(kept), lines
        counts = cupy.zeros(len(targets), np.int32)
        step = rows_per_tile(edge_bytes(most, False) + 2 * (8 * most + 4), most=max(1, min(lines, piece, MOST_EDGES // most)))
        for _, _, (some, edges) in uploaded((sources, kept), step):
            merge_edges(edges, some, places, counts, keys, out)
            keys = out
    else:
        smallest(keys, None, None, out)
    return give(out, targets)


def team_of(dim: int) -> int:
    """Lanes that read a row of this many codes."""
    return 2 if dim <= 32 else 4 if dim <= 64 else 8


@op
def score(points: CodeRows, rows: Any, ids: Any, width: int, *, threads: int) -> Any:
    """See contract.py."""
    lines, most = ids.shape
    out = cupy.empty((lines, width), np.int64)
    if lines and most and width:
        if on_device(rows) or on_device(ids):
            rows, ids = put(rows), put(ids)
        device = put_codes(points)
        groups = -(-most // PAIRS)
        step = rows_per_tile(8 * most + 2 * (4 * most + 4), most=max(1, min(lines, CHUNK // (8 * most))))
        for start, stop, (some, others) in uploaded((rows, ids), step):
            keys = cupy.empty(others.shape, np.int64)
            _keys(device, some, others, groups, keys)
            smallest(keys, None, None, out[start:stop])
    else:
        smallest(cupy.empty((lines, 0), np.int64), None, None, out)
    return give(out, rows)


def _keys(points: CodeRows, rows: Any, ids: Any, groups: int, keys: Any) -> None:
    """keys (r, c): (D(row, id), id) of each pair."""
    (lines, most), dim = ids.shape, points.codes.shape[1]
    team, wide = team_of(dim), NULL if points.wide is None else points.wide
    grid = -(-lines * groups * team // BLOCK)
    args = (points.codes, points.norms, wide, np.int32(dim), rows, ids, np.int32(lines), np.int32(most), np.int32(team), keys)
    launch("link.cu", "line_keys", grid, BLOCK, *args)
