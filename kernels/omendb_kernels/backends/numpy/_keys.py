"""Lists of keys of many rows at once: sort, drop repeats, cut."""

from __future__ import annotations

import numpy as np

from ...contract import NO_KEY, Int32s, Int64s


def smallest_of_groups(rows: Int32s, keys: Int64s, n: int, width: int) -> Int64s:
    """int64 (n, width): of the pairs (row, key) the `width` smallest different keys of each row, NO_KEY behind."""
    order = np.lexsort((keys, rows))
    rows, keys = rows[order], keys[order]
    first = np.ones(len(rows), np.bool_)
    first[1:] = (rows[1:] != rows[:-1]) | (keys[1:] != keys[:-1])
    rows, keys = rows[first], keys[first]
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)
    out = np.full((n, width), NO_KEY, np.int64)
    fits = place < width
    out[rows[fits], place[fits]] = keys[fits]
    return out
