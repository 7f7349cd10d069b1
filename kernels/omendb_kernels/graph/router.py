"""router: the nodes by which a search may enter, of which it takes the nearest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..codec import SEED, hash_order
from ..contract import Backend, CodeRows, Int32s
from ..keys import unpack
from ..parallel import blocks
from .cover import covering
from .place import fetched, taken
from .settings import Settings

ROUTER_ITEM = 2  # numbers the hash that chooses the router
MOST_COVER = 4  # times the nodes it was to have: more would cost every search
BEAM = 20  # with which a node must find itself
BLOCK = 1 << 16  # nodes that look for themselves together


def router_of(
    points: CodeRows, neighbours: Int32s, nodes: Int32s, count: int, settings: Settings, ops: Backend, threads: int
) -> Int32s:
    """`count` nodes chosen by hash, ascending, and more where searches would not find a node that has none of them near by: a
    small cluster may have got none.

    Cost: what `covering` costs, and a search for each node from which no few steps lead to one of the router.
    """
    if count >= len(nodes):
        return nodes
    hashes = hash_order(SEED, ROUTER_ITEM, len(nodes))
    known = points.take(slice(0, len(neighbours)))

    def lost(some: Int32s, router: Int32s) -> NDArray[np.bool_]:
        entrance, told = taken(points, router, ops), np.empty(len(some), np.bool_)
        for start, stop in blocks(len(some), BLOCK):
            queries = taken(points, some[start:stop], ops)
            entries = nearest_of(router, queries, entrance, ops, threads)
            pools = fetched(ops.beam(queries, known, neighbours, entries, BEAM, settings.width, threads=threads))
            told[start:stop] = unpack(pools[:, 0])[1] != some[start:stop]
        return told

    limit = int(np.partition(hashes, count)[count])
    return nodes[covering(neighbours, nodes, hashes, limit, MOST_COVER * count, lost)]


def nearest_of(router: Int32s, queries: CodeRows, entrance: CodeRows, ops: Backend, threads: int) -> Int32s:
    """int32 (m, 1): the node of the router nearest to each query; entrance: their rows."""
    keys = fetched(ops.nearest(queries, entrance, 1, None, threads=threads))
    return router[unpack(keys)[1]]
