"""reach: a queue of nodes; the lists of those that will soon have their turn are asked for ahead."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ...contract import Int32s
from ._codes import prefetch
from ._rows import JIT, unlocked

AHEAD = 8  # nodes whose lists are asked for before they are read


def reach(neighbours: Int32s, start: Int32s, reached: NDArray[np.bool_], *, threads: int) -> NDArray[np.bool_]:
    """See contract.py."""
    out = reached.copy()
    queue = np.empty(len(reached) + len(start), np.int32)
    queue[: len(start)] = start
    out[start] = True
    _reach(unlocked(neighbours), len(start), queue, out)
    return out


@njit(**JIT)
def _reach(neighbours: Any, size: Any, queue: Any, out: Any) -> None:
    turn = 0
    while turn < size:
        if turn + AHEAD < size:
            prefetch(neighbours, np.int64(queue[turn + AHEAD]))
        node = queue[turn]
        turn += 1
        for j in range(neighbours.shape[1]):
            other = neighbours[node, j]
            if other >= 0 and not out[other]:
                out[other] = True
                queue[size] = other
                size += 1
