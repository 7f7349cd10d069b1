"""reach: front by front, a launch each; a few are asked for before the host looks whether the walk has ended."""

from __future__ import annotations

import cupy
import numpy as np
from numpy.typing import NDArray

from ...contract import Int32s
from ._device import give, launch, op, put

THREADS, MOST_BLOCKS = 256, 1024
FRONTS = 8  # asked for at once: an empty one costs less than a look


@op
def reach(neighbours: Int32s, start: Int32s, reached: NDArray[np.bool_], *, threads: int) -> NDArray[np.bool_]:
    """See contract.py."""
    n, degree = neighbours.shape
    flags = cupy.zeros(-(-n // 4) * 4, np.bool_)  # whole words
    flags[:n] = put(reached)
    if n and len(start):
        starts = put(start, np.int32)
        flags[starts] = True
        if degree:
            _walk(put(neighbours, np.int32), starts, flags)
    return give(flags[:n], neighbours)  # type: ignore[no-any-return]


def team_of(degree: int) -> int:
    """The lanes that read a list together."""
    return min(32, 1 << (degree - 1).bit_length())


def _walk(lists: cupy.ndarray, starts: cupy.ndarray, flags: cupy.ndarray) -> None:
    n, degree = lists.shape
    team = team_of(degree)
    queue = cupy.empty(n + len(starts), np.int32)
    queue[: len(starts)] = starts
    blocks = max(1, min(MOST_BLOCKS, n * team // THREADS))
    place, size = 0, len(starts)
    while size:
        sizes = put(np.array([size] + [0] * FRONTS, np.uint64))
        for level in range(FRONTS):
            launch(
                "reach.cu", "reach", blocks, THREADS,
                lists, np.int32(n), np.int32(degree), np.int32(team), flags.view(np.uint32), queue, np.int64(place), sizes,
                np.int32(level),
            )  # fmt: skip
        found = cupy.asnumpy(sizes)  # the one look: how far the walk goes is not known before
        place, size = place + int(found[:-1].sum()), int(found[-1])
