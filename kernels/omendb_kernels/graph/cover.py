"""cover: nodes drawn by hash, and more of them where none is near. A search that may begin at a few nodes only finds a cluster
apart from all others where one of these stands in it; drawn evenly, small clusters would go without."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..contract import Int32s
from ..parallel import blocks

STEP = 16  # a step of the graph leads to about so many nodes that shorter walks do not
NEAR = 4  # nodes drawn that a walk to the nearest is expected to pass
BLOCK = 1 << 16  # nodes whose lists are looked at together
ALL = 1 << 64  # hashes there are


def covering(
    lists: Int32s, nodes: Int32s, hashes: NDArray[np.uint64], limit: int, most: int,
    lost: Callable[[Int32s, Int32s], NDArray[np.bool_]] | None = None,
) -> NDArray[np.bool_]:  # fmt: skip
    """bool (v,): the nodes whose hash is below the limit, and more until walks of a few steps lead from every node to one.

    lists: int32 (n, width) rows that each row leads to, -1 = none; nodes: int32 (v,) rows, ascending; hashes: uint64 (v,). The
    limit doubles among nodes that are not covered yet; it stops where more than `most` would be chosen. lost(some, chosen),
    bool, tells which of the nodes that are in question are covered no better than that. Cost: a look at every edge, and
    another for what one step does not cover.
    """
    chosen = hashes < np.uint64(limit)
    steps, count = 1, int(np.count_nonzero(chosen))
    while count and len(nodes) > NEAR * count * STEP ** (steps - 1):
        steps += 1
    while 0 < count < len(nodes):
        there = np.zeros(len(lists), np.bool_)
        there[nodes[chosen]] = True
        far = np.flatnonzero(~within(lists, nodes, there, steps))
        if lost is not None and len(far):
            far = far[lost(nodes[far], nodes[chosen])]
        limit = min(2 * limit, ALL)
        more = far[hashes[far] <= np.uint64(limit - 1)]
        count += len(more)
        if not len(far) or count > most:
            break
        chosen[more] = True
    return chosen


def within(lists: Int32s, nodes: Int32s, chosen: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """bool (v,): the nodes from which at most so many steps lead to a row that is chosen, bool (n,)."""
    near = chosen
    for _ in range(steps):
        ahead, near = near, near.copy()
        rest = nodes[~ahead[nodes]]
        for start, stop in blocks(len(rest), BLOCK):
            line = lists[rest[start:stop]]
            near[rest[start:stop]] = (ahead[line] & (line >= 0)).any(axis=1)
    return near[nodes]
