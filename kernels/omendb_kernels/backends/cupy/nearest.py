"""nearest: scores by integer tensor cores, the few that count in lists, of which the k smallest are selected (nearest.cu).

A launch has all points, or as many as the device holds at a time where they come from the host, and as many queries as there is
memory for lists of.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import cupy
import numpy as np
from numpy.typing import NDArray

from ...contract import INT32_MAX, NO_KEY, CodeRows, Int64s
from ._device import NULL, SHARE, WGMMA, free_bytes, launch, on_device, op, put, rows_per_tile, uploaded
from .select import allowed_ids, smallest, smallest_of_parts, sort_bytes

BLOCK = 256
POINTS, PIECE = 128, 128  # of a tile: nearest.cu
FEW = 32  # queries that blocks of 16 have; more go to blocks of 128
LEAST_PART = 2  # tiles that are worth a block of their own
MOST_PARTS = 1024
COLD = 4  # a block's start takes as long as so many tiles
ROOM = 96  # places of a list beside a tile and twice k: how many are listed before it is cut
LITTLE = 2**26  # bytes that are taken without asking what the device has: that takes longer than a small call


class Card(NamedTuple):
    """What a launch depends on: multiprocessors, bytes of shared memory that a block may have, and that one of them has, and
    whether warpgroups multiply (wgmma)."""

    multiprocessors: int
    shared: int
    shared_of_each: int
    warpgroups: bool = False


@dataclass(frozen=True)
class Plan:
    """A launch. rows: queries of a block, 128 or 16; parts: of the points, a block each; capacity: places of a list; bins: of a
    query, 0 for none; resident: the block's queries stay in shared memory, of which it takes `shared` bytes; defines: of the
    compiler."""

    rows: int
    parts: int
    capacity: int
    bins: int
    resident: bool
    shared: int
    defines: tuple[str, ...]

    def list_bytes(self, k: int) -> int:
        """Of the lists and bins of a query, with what it takes to select from them."""
        keys = self.parts * self.capacity
        return 8 * keys + 4 * (self.parts + self.bins) + sort_bytes(keys, k)


def plan_scan(m: int, n: int, code_dim: int, k: int, card: Card, most_parts: int = MOST_PARTS) -> Plan:
    """The launch for m > 0 queries and n > 0 points.

    An H100's multiprocessor takes about 0.5 us for 128 x 128 scores of 128 dimensions, and the memory as long for their codes:
    while memory is the bound, 128 queries cost what 16 do. But blocks of 16 are more at a time, so are their reads, and a few
    queries waste less. Blocks of 128 where the card's shared memory allows; queries that stay there come before bins.
    """
    tiles = -(-n // POINTS)
    for rows in (128, 16) if m > FEW else (16,):
        for resident in (True, False):
            for bins in (bins_of(k, rows), 0):
                shared = shared_bytes(rows, code_dim, bins, resident)
                if shared <= card.shared:
                    blocks = min(2 if rows == 128 else 3, max(1, card.shared_of_each // (shared + 1024)))
                    parts = parts_of(-(-m // rows), tiles, card.multiprocessors * blocks, most_parts)
                    defines = (f"ROWS={rows}", *([WGMMA] if rows == 128 and card.warpgroups else ()))
                    return Plan(rows, parts, capacity_of(k, -(-tiles // parts)), bins, resident, shared, defines)
    raise AssertionError("16 queries take 41 KB")


def bins_of(k: int, rows: int) -> int:
    """Bins of a query, a power of two for each of the lanes that have it; 0 where they would bound nothing."""
    bins, most = (16, 64) if rows == 128 else (32, 128)
    while 8 * k > 7 * bins:
        bins *= 2
    return bins if bins <= most else 0


def shared_bytes(rows: int, code_dim: int, bins: int, resident: bool) -> int:
    """Of a block: two pieces of points, norms and wide coordinates of two tiles, five numbers a query, bins, queries."""
    pieces = -(-code_dim // PIECE) if resident else 2
    return 2 * POINTS * PIECE + 4 * (4 * POINTS + 5 * rows + 4 + (rows * (bins + 4) if bins else 0)) + pieces * rows * PIECE


def parts_of(columns: int, tiles: int, slots: int, most: int = MOST_PARTS) -> int:
    """Into how many parts the tiles go for so many columns of blocks, of which `slots` run at a time.

    The last of the waves of blocks is to be full, and no part so short that its start is what takes the time.
    """
    most = max(1, min(most, tiles // LEAST_PART))

    def cost(parts: int) -> tuple[int, int]:
        return -(-columns * parts // slots) * (-(-tiles // parts) + COLD), parts

    return min({max(1, min(most, waves * slots // columns)) for waves in range(9)}, key=cost)


def capacity_of(k: int, tiles: int) -> int:
    """Places of a list: all points of a part of so many tiles, or else enough that a tile fits behind what is left by a cut."""
    return POINTS * min(tiles, -(-(2 * k + ROOM) // POINTS) + 1)


@functools.cache
def _card(device: int) -> Card:
    told = cupy.cuda.Device(device).attributes
    return Card(
        int(told["MultiProcessorCount"]),
        int(told["MaxSharedMemoryPerBlockOptin"]),
        int(told["MaxSharedMemoryPerMultiprocessor"]),
        (told["ComputeCapabilityMajor"], told["ComputeCapabilityMinor"]) == (9, 0),
    )


@op
def nearest(queries: CodeRows, points: CodeRows, k: int, mask: NDArray[np.bool_] | None, *, threads: int) -> Int64s:
    """See contract.py."""
    m, n = len(queries.codes), len(points.codes)
    xp: Any = cupy if on_device(queries.codes) else np
    if not (m and n and k):
        return xp.full((m, k), NO_KEY, np.int64)  # type: ignore[no-any-return]
    if queries.wide is None or points.wide is None:
        queries, points = queries._replace(wide=None), points._replace(wide=None)
    columns, step = _points(points, mask)
    code_dim = queries.codes.shape[1]
    plan = plan_scan(m, min(n, step), code_dim, k, _card(cupy.cuda.Device().id))
    each = plan.list_bytes(k) + code_dim + 12 + 40 * k
    most = m if m * each <= LITTLE else rows_per_tile(each, most=m)
    found = xp.empty((m, k), np.int64)
    for start, stop, some in uploaded(tuple(queries), most if most < plan.rows else most - most % plan.rows):
        here = found[start:stop] if xp is cupy else cupy.empty((stop - start, k), np.int64)
        search(CodeRows(*some), columns, step, plan, here)
        if xp is np:
            found[start:stop] = cupy.asnumpy(here)
    return found  # type: ignore[no-any-return]


def _points(points: CodeRows, mask: Any) -> tuple[tuple[Any, ...], int]:
    """The columns of the points and the mask, on the device if they fit, and how many rows are taken at a time."""
    columns = (*points, mask)
    n = len(points.codes)
    away = sum(column.nbytes for column in columns if column is not None and not on_device(column))
    if on_device(points.codes) or away <= SHARE * free_bytes():
        return tuple(map(put, columns)), n
    each = sum(column[:1].nbytes for column in columns if column is not None)
    # Only a mask can be on the device where the points are too many for it: it is cut with them.
    here = tuple(cupy.asnumpy(column) if on_device(column) else column for column in columns)
    return here, min(n, rows_per_tile(4 * (each + 8)))


def search(queries: CodeRows, columns: tuple[Any, ...], step: int, plan: Plan, out: Any) -> None:
    """`nearest` into out (m, k), queries on the device. columns: codes, norms, wide, mask, `step` rows at a time.

    plan: for all queries and `step` rows; the parts of smaller launches are no more than it has.
    """
    (m, k), n, whole = out.shape, len(columns[0]), plan
    code_dim, card = queries.codes.shape[1], _card(cupy.cuda.Device().id)
    limits = cupy.full(m, INT32_MAX, np.int32) if plan.parts > 1 or step < n else None
    for start, stop, (codes, norms, wide, mask) in uploaded(columns, step):
        plan = plan_scan(m, stop - start, code_dim, k, card, whole.parts)
        found = out if start == 0 else cupy.empty((m, k), np.int64)
        lists, counts = scan(queries, CodeRows(codes, norms, wide), mask, start, k, plan, limits)
        smallest_of_parts(lists, counts, limits, found)
        if start:
            out[...] = smallest(cupy.concatenate([out, found], axis=1), k)


def scan(
    queries: CodeRows, points: CodeRows, mask: Any, origin: int, k: int, plan: Plan, limits: Any
) -> tuple[Any, Any]:
    """int64 (m, parts, capacity) lists and how many keys are in each; ids begin at `origin`. limits: see nearest.cu."""
    m, n = len(queries.codes), len(points.codes)
    lists = cupy.empty((m, plan.parts, plan.capacity), np.int64)
    counts = cupy.empty((m, plan.parts), np.int32)
    ids, total = (NULL, NULL) if mask is None else allowed_ids(mask)
    minima = cupy.full((m, plan.bins), INT32_MAX, np.int32) if plan.parts > 1 and plan.bins else NULL
    sizes = (n, origin, queries.codes.shape[1], k, plan.capacity, plan.bins, plan.resident)
    launch(
        "nearest.cu", "scan_points", (-(-m // plan.rows), plan.parts), BLOCK,
        queries.codes, queries.norms, NULL if queries.wide is None else queries.wide, np.int32(m),
        points.codes, points.norms, NULL if points.wide is None else points.wide,
        ids, total, *map(np.int32, sizes), minima, NULL if limits is None else limits, lists, counts,
        shared=plan.shared, defines=plan.defines,
    )  # fmt: skip
    return lists, counts
