"""assign: the members of an item with its leaders by a matrix product, the few nearest by partition; a block of rows a task."""

from __future__ import annotations

import itertools

import numpy as np

from ...contract import CodeRows, Int32s, Int64s
from ...keys import pack
from ...parallel import blocks, run, single_threaded_blas
from .nearest import code_distances

TILE_VALUES = 1 << 20  # scores of a task


def assign(
    points: CodeRows, members: Int32s, offsets: Int64s, leaders: Int32s, starts: Int64s, fanout: int, *, threads: int
) -> Int32s:
    """See contract.py."""
    out = np.full((len(members), fanout), -1, np.int32)
    ends, bounds = offsets.tolist(), starts.tolist()
    tasks = []
    for item, (begin, end) in enumerate(itertools.pairwise(ends)):
        count = bounds[item + 1] - bounds[item]
        step = max(1, min(TILE_VALUES // max(1, count), -(-(end - begin) // threads)))
        tasks += [(item, begin + low, begin + high) for low, high in blocks(end - begin, step) if count]

    def find(task: tuple[int, int, int]) -> None:
        item, low, high = task
        own = leaders[bounds[item] : bounds[item + 1]]
        keys = pack(code_distances(points.take(members[low:high]), points.take(own)), np.arange(len(own)))
        near = min(fanout, len(own))
        if near < len(own):
            keys = np.partition(keys, near - 1, axis=1)[:, :near]
        keys.sort(axis=1)
        out[low:high, :near] = keys & 0xFFFFFFFF

    with single_threaded_blas():
        run(find, tasks if fanout else [], threads)
    return out
