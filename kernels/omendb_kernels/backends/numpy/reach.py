"""reach: front by front, each the unreached neighbours of the one before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...contract import Int32s


def reach(neighbours: Int32s, start: Int32s, reached: NDArray[np.bool_], *, threads: int) -> NDArray[np.bool_]:
    """See contract.py."""
    out, new = reached.copy(), np.zeros(len(reached), np.bool_)
    new[start] = True
    while len(front := np.flatnonzero(new)):
        out[front] = True
        new[front] = False
        near = neighbours[front].ravel()
        near = near[near >= 0]
        new[near[~out[near]]] = True
    return out
