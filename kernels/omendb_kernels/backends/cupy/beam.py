"""beam: one block of threads a query, its pool in shared memory or, where that is too small, in global (beam.cu)."""

from __future__ import annotations

from typing import Any, NamedTuple

import cupy
import numpy as np

from ...contract import NO_KEY, CodeRows, Int32s, Int64s
from ._device import MOST_SHARED, launch, on_device, op, power_of_two, put, put_codes, rows_per_tile, uploaded

ROOM = 256  # places of lists that a block looks at together, at most
THREADS = (64, 256)  # of a block, the fewest and the most
WAYS = 4  # places of a set of the table of what was seen
TABLE = 16  # places of the table for each of the pool
SETS = (128, 1 << 20)
WITH_SCRATCH = 2048  # queries at once, at most, where each holds global memory: several times what the device runs at a time


class BeamPlan(NamedTuple):
    """A launch. team: lanes that score a node; room, capacity: places of a step and of the pool; shared, scratch: bytes of a
    block in shared and in global memory. Without scratch, pool and table are shared."""

    threads: int
    team: int
    room: int
    capacity: int
    width: int
    set_bits: int
    shared: int
    scratch: int


def plan_beam(n: int, code_dim: int, degree: int, starts: int, beam: int, width: int) -> BeamPlan:
    """The launch for n > 0 points of so many codes, lists of `degree` and `starts` entries a query."""
    capacity = min(beam, n)
    width = min(width, capacity)
    team = min(32, power_of_two(code_dim // 32))  # two loads a lane
    step = min(ROOM, max(1, width * degree))
    room = -(-min(ROOM, max(step, starts)) // 32) * 32
    # Half of a list is new as a rule, and a team scores two nodes at once.
    threads = min(max(THREADS[0], power_of_two(max(step * team, capacity) // 4)), THREADS[1])
    useful = max(TABLE * capacity // WAYS, SETS[0])
    sets = min(power_of_two(useful), power_of_two(max(n // 2, SETS[0])), SETS[1])
    own, state = code_dim + 24 * room, 8 * capacity + 4 * width
    for tried in (sets, sets // 2):
        if own + state + 4 * WAYS * tried <= MOST_SHARED - 64:
            shared = own + state + 4 * WAYS * tried
            return BeamPlan(threads, team, room, capacity, width, tried.bit_length() - 1, shared, 0)
    scratch = -(-(state + 4 * WAYS * sets) // 16) * 16
    return BeamPlan(threads, team, room, capacity, width, sets.bit_length() - 1, own, scratch)


def rows_at_once(plan: BeamPlan, bytes_per_row: int) -> int:
    """The queries of a tile that each need so many bytes beside the scratch memory."""
    return rows_per_tile(bytes_per_row + plan.scratch, most=WITH_SCRATCH if plan.scratch else 2**31 - 1)


@op
def beam(
    queries: CodeRows, points: CodeRows, neighbours: Int32s, entries: Int32s, beam: int, width: int, *, threads: int
) -> Int64s:
    """See contract.py."""
    m, like = len(queries.codes), queries.codes
    xp: Any = cupy if on_device(like) else np
    if not m or not len(points.codes):
        return xp.full((m, beam), NO_KEY, np.int64)  # type: ignore[no-any-return]
    points, lists, columns = put_codes(points), put(neighbours, np.int32), (*queries, entries)
    if any(map(on_device, columns)):
        columns = tuple(map(put, columns))
    n, code_dim = points.codes.shape
    plan = plan_beam(n, code_dim, lists.shape[1], entries.shape[1], beam, width)
    step = min(m, rows_at_once(plan, code_dim + 8 + 4 * entries.shape[1] + 8 * beam))
    pools = xp.empty((m, beam), np.int64)
    for start, stop, (codes, norms, wide, starts) in uploaded(columns, step):
        here = pools[start:stop] if xp is cupy else cupy.empty((stop - start, beam), np.int64)
        search_lists(CodeRows(codes, norms, wide), points, lists, starts, plan, here)
        if xp is np:
            pools[start:stop] = cupy.asnumpy(here)
    return pools  # type: ignore[no-any-return]


def search_lists(queries: CodeRows, points: CodeRows, lists: Any, entries: Any, plan: BeamPlan, pools: Any) -> None:
    """`beam` into pools; all arrays are on the device."""
    m, beam = pools.shape
    has_wide = queries.wide is not None and points.wide is not None
    query_wide, wide = (queries.wide, points.wide) if has_wide else (queries.norms, points.norms)  # norms: not read
    n, code_dim = points.codes.shape
    scratch = cupy.empty(max(1, m * plan.scratch), np.int8)
    sizes = (
        *(n, code_dim // 16, lists.shape[1], entries.shape[1], beam),
        *(plan.capacity, plan.width, plan.room, plan.set_bits, plan.team),
    )
    launch(
        "beam.cu", "beam", m, plan.threads,
        queries.codes, queries.norms, query_wide, points.codes, points.norms, wide, np.int32(has_wide), lists, entries,
        *map(np.int32, sizes), scratch, np.int64(plan.scratch), pools,
        shared=plan.shared, defines=(f"SCRATCH={int(plan.scratch > 0)}",),
    )  # fmt: skip
