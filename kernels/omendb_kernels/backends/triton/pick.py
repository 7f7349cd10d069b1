"""pick: the k nearest others of every row of every leaf, on int8 tensor cores; merge.cu makes reservoirs of the edges.

The kernel knows sets: here those of leaves, whose rows look among themselves, and in assign.py items.

          rows of a leaf, BN at a time         a program: BM rows of one leaf, against all of it
             +------+------+------+
    BM rows  | dots | dots | dots |  --> norm - 2 dot, itself left out --> pool (BM, POOL) --> k keys a row --> _merge.py
    of it    +------+------+------+                                        _pool.py
                 \\                        rows are gathered by `members`, 128 bits a lane, D bytes a code, BK at a time
                  `- places of a leaf ascend as ids do: of equal scores the first place stays, and ties go to the smaller id

It is nearest.py with both sides gathered from one array, and with many small problems instead of one: a leaf of 512 is eight
programs. The pools' order does not matter, for an edge goes into two reservoirs whatever its place in a line.

Operations and bytes of a leaf of s rows: 2 s^2 D on the tensor cores, 3 integer results a score, s^2 D (1/BM + 1/s) bytes from
the second cache. A million rows in 20 leaves of 512, D = 128, H100: 2.6 T operations, 1.3 ms at peak; 3.1 x 10^10 integer
results for the minima, 4 ms at half the rate, and as much again for some 12 rounds of newcomers a line: the limiter.

As batched products of leaves: PiPNN (arXiv 2602.21247), which writes the matrices to memory; no GPU version of it is known.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cupy
import numpy as np
import triton.language as tl

from ...contract import NO_KEY, CodeRows, Int64s
from ..cupy import pick as wide_pick
from ..cupy._device import give, on_device, op, put, put_codes, rows_per_tile
from ..cupy._merge import MOST_EDGES, edge_bytes, merge_edges
from ..cupy.pick import OWN, tiles_of
from ._launch import INT32_MAX, INT32_MIN, capability, jit, launch
from ._launch import NO_KEY as NONE
from ._pool import empty_pool, found_in, insert
from ._tuning import PICK, tile_for
from .nearest import SHORT, codes_at

POOLS = (8, 16, 64)  # places of a pool; where more are wanted it is left to cupy


class Others(NamedTuple):
    """Device arrays: the rows that each set looks among, and where these of a set begin; apart: see `set_nearest`."""

    rows: Any
    starts: Any
    apart: bool


@jit("points")
def set_nearest(
    points, norms, wide, pieces, members, offsets, others, other_starts, apart, sets, starts, k, out,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, POOL: tl.constexpr, ONE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """out (rows of the launch's tiles, k): the keys of each member's nearest, in no order, NO_KEY in what places are left.

    Set s: members[offsets[s] : offsets[s + 1]] look among others[other_starts[s] : other_starts[s + 1]], which ascend. apart: 0
    where both are the same rows, which do not find themselves; else keys hold places among the others instead of rows.
    """
    dim, steps = pieces * 32, tl.cdiv(pieces * 32, BK)
    which, start = tl.load(sets + tl.program_id(0)), tl.load(starts + tl.program_id(0))
    places = (start - tl.load(offsets + which)).to(tl.int32) + tl.arange(0, BM)
    here = start + tl.arange(0, BM) < tl.load(offsets + which + 1)
    lines = tl.load(members + start + tl.arange(0, BM), mask=here, other=0)
    begin = tl.load(other_starts + which)
    size = (tl.load(other_starts + which + 1) - begin).to(tl.int32)
    own = points + lines[:, None].to(tl.int64) * dim
    if WIDE:
        own_wide = tl.load(wide + lines, mask=here, other=0)
    if ONE:
        a = codes_at(own, 0, dim, here, BK)
    pool, limit = empty_pool(k, BM, POOL), tl.where(here, INT32_MAX, INT32_MIN)
    dots = tl.zeros((BM, BN), tl.int32)
    for step in range(tl.cdiv(size, BN) * steps):
        tile, piece = step // steps, step % steps
        column = tile * BN + tl.arange(0, BN)
        there = column < size
        rows = tl.load(others + begin + column, mask=there, other=0)
        if not ONE:
            a = codes_at(own, piece * BK, dim, here, BK)
        b = codes_at(points + rows[:, None].to(tl.int64) * dim, piece * BK, dim, there, BK)
        dots = tl.dot(a, tl.trans(b), dots, out_dtype=tl.int32)
        if piece == steps - 1:
            if WIDE:
                dots += own_wide[:, None] * tl.load(wide + rows, mask=there, other=0)[None, :]
            # Of a place beyond the set the product is 0, and its score no score.
            scores = tl.load(norms + rows, mask=there, other=INT32_MAX)[None, :] - 2 * dots
            scores = tl.where((places[:, None] == column[None, :]) & (apart == 0), INT32_MAX, scores)
            pool, limit = insert(pool, limit, scores, tile * BN)
            dots = tl.zeros((BM, BN), tl.int32)
    found, score, place = found_in(pool)
    ids = place if apart else tl.load(others + begin + place, mask=found, other=0)
    norm = tl.load(norms + lines, mask=here, other=0)
    keys = tl.where(found, ((score + norm[:, None]).to(tl.int64) << 32) | ids.to(tl.int64), NONE)
    slot = tl.arange(0, POOL)[None, :]
    to = (start - tl.load(starts) + tl.arange(0, BM))[:, None] * k + slot
    tl.store(out + to, keys, mask=here[:, None] & (slot < k))


@op
def pick(points: CodeRows, members: Any, offsets: Any, k: int, width: int, *, threads: int) -> Any:
    """See contract.py."""
    ends = cupy.asnumpy(offsets) if on_device(offsets) else np.asarray(offsets)  # the programs are laid out on the host
    k = min(k, int(np.diff(ends).max(initial=0)) - 1)
    if k > POOLS[-1]:
        return wide_pick(points, members, offsets, k, width, threads=threads)
    reservoir = cupy.empty((len(points.codes), width), np.int64)
    if reservoir.size and k > 0:
        _fill(put_codes(points), put(members), ends, k, reservoir)
    else:
        reservoir.fill(NO_KEY)
    return give(reservoir, members)


def _fill(points: CodeRows, members: Any, offsets: Int64s, k: int, reservoir: Any) -> None:
    """The edges of all leaves into the reservoirs, as many leaves at a time as there is room for edges of."""
    (leaves, starts), bounds = tiles_of(offsets), put(offsets)
    held, counts = cupy.empty((len(reservoir), 0), np.int64), cupy.zeros(len(reservoir), np.int32)
    most = rows_per_tile(8 * k + edge_bytes(k, True), least=OWN, most=MOST_EDGES // (2 * k))
    first = 0
    while first < len(leaves):
        origin = int(starts[first])
        last = max(first + 1, int(np.searchsorted(starts, origin + most, side="right")) - 1)
        stop = int(starts[last])
        found = cupy.empty((stop - origin, k), np.int64)
        tiles = put(leaves[first:last]), put(starts[first:last])
        find_nearest(points, members, bounds, Others(members, bounds, False), tiles, found)
        merge_edges(found, members[origin:stop], None, counts, held, reservoir)
        first, held = last, reservoir


def find_nearest(points: CodeRows, members: Any, offsets: Any, others: Others, tiles: tuple[Any, Any], found: Any) -> None:
    """found (rows of the tiles, k): see `set_nearest`. tiles: device arrays, each program's set and its first row's place."""
    k, code_dim = found.shape[1], points.codes.shape[1]
    pool, one = next(size for size in POOLS if k <= size), code_dim <= SHORT
    tile = tile_for(PICK, f"{'short' if one else 'long'} {pool}", capability())
    wide = points.norms if points.wide is None else points.wide
    launch(
        set_nearest, (len(tiles[0]),), points.codes, points.norms, wide, code_dim // 32, members, offsets,
        others.rows, others.starts, int(others.apart), *tiles, k, found,
        BM=tile.rows, BN=tile.columns, BK=tile.bytes, POOL=pool, ONE=one, WIDE=points.wide is not None, options=tile.options,
    )  # fmt: skip
