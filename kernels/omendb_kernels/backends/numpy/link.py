"""link and score: pairs of (row, key), sorted and cut for all rows at once."""

from __future__ import annotations

import numpy as np

from ...contract import NO_KEY, CodeRows, Int32s, Int64s
from ...keys import pack
from ...parallel import blocks, run
from ._keys import smallest_of_groups

BLOCK_VALUES = 1 << 20


def link(targets: Int32s, own: Int64s, sources: Int32s, kept: Int64s, width: int, *, threads: int) -> Int64s:
    """See contract.py."""
    line, place = np.nonzero(own != NO_KEY)
    source, edge = np.nonzero(kept != NO_KEY)
    edges = kept[source, edge]
    wanted = (edges & 0xFFFFFFFF).astype(np.int32)
    found = np.searchsorted(targets, wanted)
    known = found < len(targets)
    known[known] = targets[found[known]] == wanted[known]
    back = (edges & np.int64(-(2**32))) | sources[source]
    rows = np.concatenate([line, found[known]]).astype(np.int32)
    return smallest_of_groups(rows, np.concatenate([own[line, place], back[known]]), len(targets), width)


def score(points: CodeRows, rows: Int32s, ids: Int32s, width: int, *, threads: int) -> Int64s:
    """See contract.py."""
    line, place = np.nonzero((ids >= 0) & (ids != rows[:, None]))
    a, b = rows[line], ids[line, place]
    keys = np.empty(len(a), np.int64)

    def part(bounds: tuple[int, int]) -> None:
        here = slice(*bounds)
        keys[here] = pack(_pair_distances(points, a[here], b[here]), b[here])

    run(part, blocks(len(a), max(1, BLOCK_VALUES // points.codes.shape[1])), threads)
    return smallest_of_groups(line.astype(np.int32), keys, len(rows), width)


def _pair_distances(points: CodeRows, a: Int32s, b: Int32s) -> Int32s:
    """int32 (t,): D of each pair."""
    left, right = points.take(a), points.take(b)
    dots = np.einsum("ij,ij->i", left.codes, right.codes, dtype=np.int32)
    if left.wide is not None and right.wide is not None:
        dots += left.wide * right.wide
    total: Int32s = left.norms + right.norms - np.int32(2) * dots
    return total
