"""adopt: score, link, and the rule of prune with newcomers alone as rows: neighbours of old strike out none of old."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from ...contract import CodeRows
from ...parallel import blocks
from ._device import give, op, put, put_codes, rows_per_tile
from .link import link, score
from .prune import MOST_LINES, decide, shape_of


@op
def adopt(
    points: CodeRows, rows: Any, lists: Any, sources: Any, kept: Any, width: int, alpha: tuple[int, int], *, threads: int
) -> Any:
    """See contract.py."""
    lines, degree = lists.shape
    out = cupy.empty((lines, degree), np.int32)
    if out.size:
        device, targets, known = put_codes(points), put(rows), put(lists)
        each = 2 * 8 * (degree + width) + 8 * shape_of("adopt", 1, width).words
        for start, stop in blocks(lines, rows_per_tile(each, most=MOST_LINES)):
            some, old = targets[start:stop], known[start:stop]
            own = score(device, some, old, degree, threads=threads)
            candidates = link(some, own, sources, kept, width, threads=threads)
            decide("adopt", device, candidates, degree, alpha, out[start:stop], old)
    return give(out, rows)
