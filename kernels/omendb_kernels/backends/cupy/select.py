"""The k smallest keys of lines, ascending: by a warp or a block a line, and by a sort where k is large."""

from __future__ import annotations

from typing import Any, NamedTuple

import cupy
import numpy as np

from ...contract import NO_KEY
from ._device import NULL, launch

CU = "select.cu"
BLOCK, BIG_BLOCK = 256, 512
BY_WARP = 96  # the largest k that a warp serves: its pool of 128 has room for 32 more
MANY_LINES, SHORT_LINE = 2048, 1024  # lines that fill the device by warps; keys that a warp passes over as fast as a block
LEAST_POOL, MOST_POOL = 512, 4096  # keys of a block's pool in shared memory


class Selection(NamedTuple):
    """How it is done: "warp", "block" or "sort", and the keys of a block's pool."""

    way: str
    pool: int = 0


def selection(lines: int, keys: int, k: int) -> Selection:
    """The way for so many lines of so many keys.

    A warp passes over 128 keys in the 0.6 us that memory takes; a block has 16 warps at it, and sorts more slowly.
    """
    if k <= BY_WARP and (lines >= MANY_LINES or keys <= SHORT_LINE):
        return Selection("warp")
    pool = max(LEAST_POOL, 1 << (2 * k - 1).bit_length())
    return Selection("block", pool) if pool <= MOST_POOL else Selection("sort")


def smallest(keys: Any, k: int) -> Any:
    """int64 (m, k): of device keys (m, c), all different but NO_KEY, the k smallest of each line, NO_KEY behind."""
    out = cupy.empty((len(keys), k), np.int64)
    smallest_of_parts(keys[:, None, :], None, None, out)
    return out


def smallest_of_parts(lists: Any, counts: Any, limits: Any, out: Any) -> None:
    """out (m, k): of the first counts[i, j] keys (None: all) of each lists[i, j], as `smallest`.

    lists (m, parts, c). limits: int32 (m,), scores above them are not among the k; None if nothing is known.
    """
    lines, k = out.shape
    _, parts, width = lists.shape
    if not lines or not k:
        return
    if not parts * width:
        out.fill(NO_KEY)
        return
    way = selection(lines, parts * width, k)
    data = (cupy.ascontiguousarray(lists), NULL if counts is None else counts, NULL if limits is None else limits)
    sizes = (np.int32(parts), np.int32(width), np.int32(k))
    if way.way == "warp":
        launch(CU, "select_warp", -(-lines * 32 // BLOCK), BLOCK, *data, np.int32(lines), *sizes, out)
    elif way.way == "block":
        launch(CU, "select_block", lines, BIG_BLOCK, *data, *sizes, np.int32(way.pool), out, shared=8 * way.pool)
    else:
        _sort(lists, counts, out)


def _sort(lists: Any, counts: Any, out: Any) -> None:
    lines, parts, width = lists.shape
    if counts is not None:
        lists = cupy.where(cupy.arange(width) < counts[:, :, None], lists, NO_KEY)
    ordered = cupy.sort(lists.reshape(lines, parts * width), axis=1)
    found = min(out.shape[1], parts * width)
    out[:, :found] = ordered[:, :found]
    out[:, found:] = NO_KEY


def sort_bytes(keys: int, k: int) -> int:
    """Bytes beside the keys themselves that a line of so many takes to be sorted, 0 where kernels do it."""
    return 0 if selection(1, keys, k).way != "sort" else 4 * 8 * keys


def allowed_ids(mask: Any) -> tuple[Any, Any]:
    """The rows that a device mask allows, ascending, as the first of int32 (n,); and how many, int32 (1,), on the device."""
    ends, count = cupy.cumsum(mask, dtype=np.int32), len(mask)
    ids = cupy.empty(count, np.int32)
    launch(CU, "allowed_ids", -(-count // BLOCK), BLOCK, mask.view(np.uint8), ends, np.int32(count), ids)
    return ids, ends[count - 1 :]
