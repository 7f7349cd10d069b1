"""repair: every node can be reached from one root, which nearly all can reach: a search enters at one node of the router, so
that being one of them is not enough to be found.

What a walk from the root does not reach is linked to its nearest reached node: each proposes, a node takes its best proposal
into its one reserved slot, and the walk goes on from there. A node that was just linked has its own slot free, so a round
always links at least one, and the rounds end.
"""

from __future__ import annotations

import numpy as np

from ..contract import Backend, CodeRows, Int32s
from ..keys import unpack
from .place import fetched, taken

ROUND = 256  # unreached nodes that propose in one round: a link to one usually reaches its neighbours too


def repair(points: CodeRows, neighbours: Int32s, router: Int32s, nodes: Int32s, ops: Backend, threads: int) -> int:
    """Fill slots (the last column of `neighbours`, in place) until all `nodes` are reached; gives the number of links made.

    Proposals are decided by (distance, id). Cost: a walk over the edges, and a scan of the codes for each proposing node.
    """
    root, nobody = _root(neighbours, router), np.zeros(len(neighbours), np.bool_)
    reached = ops.reach(neighbours, root, nobody, threads=threads)
    slots, links = neighbours[:, -1], 0
    while True:
        missing = nodes[~reached[nodes]]
        if not len(missing):
            return links
        asking = missing[:ROUND]
        free = reached & (slots < 0)
        if not free.any():  # slots of earlier repairs, by now needless: begin anew, each link then brings a free slot
            slots[:] = -1
            reached = ops.reach(neighbours, root, nobody, threads=threads)
            continue
        keys = ops.nearest(taken(points, asking, ops), points.take(slice(0, len(neighbours))), 1, free, threads=threads)
        distances, targets = (column[:, 0] for column in unpack(fetched(keys)))
        order = np.lexsort((asking, distances))  # the best proposal to each target first
        _, first = np.unique(targets[order], return_index=True)
        chosen = order[first]
        slots[targets[chosen]] = asking[chosen]
        links += len(chosen)
        reached = ops.reach(neighbours, asking[chosen], reached, threads=threads)


def _root(neighbours: Int32s, router: Int32s) -> Int32s:
    """The node where most walks of two steps from the router end, the smallest of equals."""
    ends = router
    for _ in range(2):
        ends = neighbours[ends, :-1].ravel()
        ends = ends[ends >= 0]
    if not len(ends):
        return router[:1]
    return np.array([np.bincount(ends).argmax()], np.int32)
