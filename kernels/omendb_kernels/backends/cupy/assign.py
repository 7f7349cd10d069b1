"""assign: all items of a call in one launch of the kernel that finds the nearest of leaves (pick.cu).

Its keys hold places, and a place is the low word of a key: that of NO_KEY is -1.
"""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from ...contract import CodeRows
from ._device import give, on_device, op, put, put_codes
from .pick import Others, find_nearest, tiles_of


@op
def assign(points: CodeRows, members: Any, offsets: Any, leaders: Any, starts: Any, fanout: int, *, threads: int) -> Any:
    """See contract.py."""
    ends = cupy.asnumpy(offsets) if on_device(offsets) else np.asarray(offsets)  # the blocks are laid out on the host
    keys = cupy.empty((len(members), fanout), np.int64)
    if keys.size:
        others = Others(put(leaders), put(starts), True)
        find_nearest(put_codes(points), put(members), put(offsets), others, tiles_of(ends), keys)
    return give(cupy.ascontiguousarray(keys.view(np.int32)[:, ::2]), members)
