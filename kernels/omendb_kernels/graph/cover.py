"""cover: nodes drawn by hash, and more of them where none is near. A search that may begin at a few nodes only finds a cluster
apart from all others where one of these stands in it; drawn evenly, small clusters would go without."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..contract import Int32s
from ..parallel import blocks

STEP = 16  # a step of the graph leads to about so many nodes that shorter walks do not
NEAR = 4  # nodes drawn that a walk to the nearest is expected to pass
BLOCK = 1 << 16  # nodes whose lists are looked at together
ALL = 1 << 64  # hashes there are


def covering(lists: Int32s, hashes: NDArray[np.uint64], limit: int, most: int) -> NDArray[np.bool_]:
    """bool (n,): the nodes whose hash is below the limit, and more until walks of a few steps lead from every node to one.

    lists: int32 (n, width) places, -1 = none. The limit doubles among nodes that are not covered yet; it stops where more than
    `most` would be chosen. Cost: a look at every edge, and another for what one step does not cover.
    """
    chosen = hashes < np.uint64(min(limit, ALL - 1))
    steps, count = 1, int(np.count_nonzero(chosen))
    while count and len(lists) > NEAR * count * STEP ** (steps - 1):
        steps += 1
    while count and limit < ALL:
        far = ~within(lists, chosen, steps)
        limit *= 2
        more = far & (hashes <= np.uint64(min(limit, ALL) - 1))
        count += int(np.count_nonzero(more))
        if not far.any() or count > most:
            break
        chosen |= more
    return chosen


def within(lists: Int32s, chosen: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """bool (n,): nodes from which at most so many steps lead to one that is chosen."""
    near = chosen
    for _ in range(steps):
        ahead, near = near, near.copy()
        rest = np.flatnonzero(~ahead)
        for start, stop in blocks(len(rest), BLOCK):
            line = lists[rest[start:stop]]
            near[rest[start:stop]] = (ahead[line] & (line >= 0)).any(axis=1)
    return near
