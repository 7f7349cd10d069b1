"""pick: the nearest of every row of every leaf by integer tensor cores, then both directions of the edges into reservoirs.

The kernel (pick.cu) knows sets: here those of leaves, whose rows look among themselves, and in assign.py items.
The leaves' rows are taken as many at a time as the device has room for their edges; the reservoirs stay there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cupy
import numpy as np
from numpy.typing import NDArray

from ...contract import NO_KEY, CodeRows, Int64s
from ._device import NULL, give, launch, on_device, op, put, put_codes, rows_per_tile
from ._merge import MOST_EDGES, edge_bytes, merge_edges

BLOCK = 256
OWN = 64  # rows of a block: pick.cu
OTHERS = 128  # rows of the leaf that they are compared with at a time
LINE = OTHERS + 8  # distances of a row, and a gap
TAKE = 32  # nearest that one launch finds


class Tiles(NamedTuple):
    """The blocks of all sets: the set of each, and the place of its first row among the members; then where they end."""

    sets: NDArray[np.int32]
    starts: NDArray[np.int64]


def tiles_of(offsets: Int64s) -> Tiles:
    """The blocks of sets that begin and end at these offsets."""
    counts = -(-np.diff(offsets) // OWN)
    sets = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    before = np.cumsum(counts) - counts  # blocks of the sets before
    starts = offsets[sets] + (np.arange(len(sets)) - before[sets]) * OWN
    return Tiles(sets, np.concatenate([starts, offsets[-1:]]).astype(np.int64))


class Others(NamedTuple):
    """Device arrays: the rows that each set looks among, and where these of a set begin; apart: see pick.cu."""

    rows: Any
    starts: Any
    apart: bool


def shared_bytes(take: int) -> int:
    """Shared memory of a block: distances; id, norm and wide coordinate of each row; each own list, and where it goes on."""
    return OWN * 4 * LINE + 12 * (OWN + OTHERS) + OWN * 8 + OWN * 8 * take


@op
def pick(points: CodeRows, members: Any, offsets: Any, k: int, width: int, *, threads: int) -> Any:
    """See contract.py."""
    ends = cupy.asnumpy(offsets) if on_device(offsets) else np.asarray(offsets)  # the blocks are laid out on the host
    reservoir = cupy.empty((len(points.codes), width), np.int64)
    k = min(k, int(np.diff(ends).max(initial=0)) - 1)
    if reservoir.size and k > 0:
        _fill(put_codes(points), put(members), ends, k, reservoir)
    else:
        reservoir.fill(NO_KEY)
    return give(reservoir, members)


def _fill(points: CodeRows, members: Any, offsets: Int64s, k: int, reservoir: Any) -> None:
    """The edges of all leaves into the reservoirs."""
    tiles, bounds = tiles_of(offsets), put(offsets)
    held, counts = cupy.empty((len(reservoir), 0), np.int64), cupy.zeros(len(reservoir), np.int32)
    most = rows_per_tile(8 * k + edge_bytes(k, True), least=OWN, most=MOST_EDGES // (2 * k))
    first = 0
    while first < len(tiles.sets):
        origin = int(tiles.starts[first])
        last = max(first + 1, int(np.searchsorted(tiles.starts, origin + most, side="right")) - 1)
        stop = int(tiles.starts[last])
        found = cupy.empty((stop - origin, k), np.int64)
        here = Tiles(tiles.sets[first:last], tiles.starts[first : last + 1])
        find_nearest(points, members, bounds, Others(members, bounds, False), here, found)
        merge_edges(found, members[origin:stop], None, counts, held, reservoir)
        first, held = last, reservoir


def find_nearest(points: CodeRows, members: Any, offsets: Any, others: Others, tiles: Tiles, found: Any) -> None:
    """found (rows of the tiles, k): the keys of the nearest, ascending, NO_KEY behind. All but the tiles is on the device."""
    wide, dim, k = NULL if points.wide is None else points.wide, np.int32(points.codes.shape[1]), found.shape[1]
    sets = (members, offsets, others.rows, others.starts, np.int32(others.apart))
    blocks = (put(tiles.sets), put(tiles.starts), np.int64(tiles.starts[0]))
    for start in range(0, k, TAKE):
        take = min(TAKE, k - start)
        args = (points.codes, points.norms, wide, dim, *sets, *blocks, np.int32(k), np.int32(start), np.int32(take), found)
        launch("pick.cu", "set_nearest", len(tiles.sets), BLOCK, *args, shared=shared_bytes(take))
