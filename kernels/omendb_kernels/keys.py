"""Packed keys: a score or distance and a row id in one int64 that sorts by (score, id). See contract.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contract import Float32s, Int32s, Int64s


def pack(scores: NDArray[Any], ids: NDArray[Any]) -> Int64s:
    """int64 keys of int32 scores and row ids."""
    return (scores.astype(np.int64) << 32) | ids.astype(np.int64)


def unpack(keys: Int64s) -> tuple[Int32s, Int32s]:
    """int32 scores and ids of keys; NO_KEY gives (INT32_MAX, -1)."""
    return (keys >> 32).astype(np.int32), (keys & 0xFFFFFFFF).astype(np.uint32).view(np.int32)


def ordered(distances: Float32s) -> Int32s:
    """float32 as int32 of the same order (no NaN): the bits, those of negative numbers turned round."""
    bits = distances.view(np.int32)
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))


def distances_of(keys: Int64s) -> tuple[Float32s, Int64s]:
    """float32 distances and int64 ids of keys packed from `ordered` distances; NO_KEY gives (inf, -1)."""
    scores, ids = unpack(keys)
    distances = (scores ^ ((scores >> 31) & np.int32(0x7FFFFFFF))).view(np.float32)
    return np.where(ids < 0, np.float32(np.inf), distances), ids.astype(np.int64)
