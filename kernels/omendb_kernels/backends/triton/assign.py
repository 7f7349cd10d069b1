"""assign: the nearest leaders of every member of every item, by the kernel that finds the nearest of leaves (pick.py).

    members of an item x its leaders, tiles of products and pools as there; keys hold places among the leaders; select.cu puts
    the few of each member in order, and a place is the low word of a key: that of NO_KEY is -1.

Operations and bytes of t members with l leaders each: 2 t l D on the tensor cores, 3 integer results a pair; 16 bytes a place
found. A level of the partition of a million rows among 1,000 leaders, D = 128, H100: 256 G operations, .13 ms at peak; 10^9
scores, .36 ms of integer work at half the rate: the limiter. Peers run k-means' assignment of one centre (cuVS, fastkmeans).
"""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from ...contract import CodeRows
from ..cupy import assign as wide_assign
from ..cupy._device import give, on_device, op, put, put_codes
from ..cupy.pick import tiles_of
from ..cupy.select import smallest
from .pick import POOLS, Others, find_nearest


@op
def assign(points: CodeRows, members: Any, offsets: Any, leaders: Any, starts: Any, fanout: int, *, threads: int) -> Any:
    """See contract.py."""
    if fanout > POOLS[-1]:
        return wide_assign(points, members, offsets, leaders, starts, fanout, threads=threads)
    ends = cupy.asnumpy(offsets) if on_device(offsets) else np.asarray(offsets)  # the programs are laid out on the host
    keys = cupy.empty((len(members), fanout), np.int64)
    if keys.size:
        sets, firsts = tiles_of(ends)
        others = Others(put(leaders), put(starts), True)
        find_nearest(put_codes(points), put(members), put(offsets), others, (put(sets), put(firsts[:-1])), keys)
        keys = smallest(keys, fanout)
    return give(cupy.ascontiguousarray(keys.view(np.int32)[:, ::2]), members)
