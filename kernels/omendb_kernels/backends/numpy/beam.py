"""beam: all queries of a block take their steps together; what each has scored is a bitmap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...contract import NO_KEY, CodeRows, Int32s, Int64s
from ...keys import pack
from ...parallel import blocks, run

BLOCK_VALUES = 1 << 24  # flags of what was scored


def beam(
    queries: CodeRows, points: CodeRows, neighbours: Int32s, entries: Int32s, beam: int, width: int, *, threads: int
) -> Int64s:
    """See contract.py."""
    m, n = len(queries.codes), len(points.codes)
    pool = np.full((m, beam), NO_KEY, np.int64)
    step = max(1, min(BLOCK_VALUES // max(1, n), -(-m // threads)))

    def part(bounds: tuple[int, int]) -> None:
        here = np.arange(*bounds)
        pool[here] = _search(queries.take(here), points, neighbours, entries[here], beam, width)

    run(part, blocks(m, step), threads)
    return pool


def _search(queries: CodeRows, points: CodeRows, neighbours: Int32s, entries: Int32s, beam: int, width: int) -> Int64s:
    m = len(queries.codes)
    scored = np.zeros((m, len(points.codes)), np.bool_)
    pool = np.full((m, beam), NO_KEY, np.int64)
    expanded = np.zeros((m, beam), np.bool_)
    active, fresh = np.arange(m), entries
    while True:
        keys = _score(queries, points, active, fresh, scored)
        both = np.concatenate([pool[active], keys], axis=1)
        order = np.argsort(both, axis=1, kind="stable")[:, :beam]
        done = np.concatenate([expanded[active], np.zeros(keys.shape, np.bool_)], axis=1)
        pool[active] = np.take_along_axis(both, order, 1)
        expanded[active] = np.take_along_axis(done, order, 1)
        ready = ~expanded[active] & (pool[active] != NO_KEY)
        chosen = ready & (np.cumsum(ready, axis=1) <= width)
        going = chosen.any(axis=1)
        active, chosen = active[going], chosen[going]
        if not len(active):
            return pool
        expanded[active] |= chosen
        line, place = np.nonzero(chosen)
        nodes = pool[active[line], place] & 0xFFFFFFFF
        turn = np.cumsum(chosen, axis=1)[line, place] - 1
        fresh = np.full((len(active), width, neighbours.shape[1]), -1, np.int32)
        fresh[line, turn] = neighbours[nodes]
        fresh = fresh.reshape(len(active), -1)


def _score(
    queries: CodeRows, points: CodeRows, active: NDArray[np.int64], fresh: Int32s, scored: NDArray[np.bool_]
) -> Int64s:
    """Keys (active, fresh) of the nodes not scored before, NO_KEY for the others."""
    keys = np.full(fresh.shape, NO_KEY, np.int64)
    ordered = np.sort(fresh, axis=1)
    new = ordered >= 0
    new[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
    line, place = np.nonzero(new)
    nodes = ordered[line, place]
    unseen = ~scored[active[line], nodes]
    line, place, nodes = line[unseen], place[unseen], nodes[unseen]
    own = active[line]
    scored[own, nodes] = True
    dots = np.einsum("ij,ij->i", queries.codes[own], points.codes[nodes], dtype=np.int32)
    if queries.wide is not None and points.wide is not None:
        dots += queries.wide[own] * points.wide[nodes]
    keys[line, place] = pack(queries.norms[own] + points.norms[nodes] - np.int32(2) * dots, nodes)
    return keys
