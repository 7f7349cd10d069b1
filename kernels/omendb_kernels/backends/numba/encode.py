"""lengths and encode: the float64 steps from rows to codes, in the order contract.py states. About 15 operations a value."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ...arrays import Rows
from ...codec import padded_dim, rotation_blocks
from ...contract import LANES, Float32s, Float64s, Int8s, Int32s
from ...parallel import blocks, run
from ._rows import JIT, lane_dot, readable, unlocked, widen

BLOCK = 4096


def lengths(rows: Rows, *, threads: int) -> Float64s:
    """See contract.py."""
    data = readable(rows)
    out = np.empty(len(rows))
    run(lambda part: _lengths(data, part[0], part[1], out), blocks(len(rows), BLOCK), threads)
    return out


@njit(**JIT)
def _lengths(data: Any, start: Any, stop: Any, out: Any) -> None:
    for i in range(start, stop):
        out[i] = np.sqrt(lane_dot(data[i], data[i]))


def encode(
    rows: Rows, lengths: Float64s | None, offset: Float32s, signs: Int8s | None, scales: Float64s, *, threads: int
) -> tuple[Int8s, Int32s, Float64s]:
    """See contract.py."""
    data = readable(rows)
    n, dim = data.shape
    codes = np.zeros((n, padded_dim(dim)), np.int8)
    norms = np.empty(n, np.int32)
    errors = np.empty(n)
    divisors = np.empty(0) if lengths is None else unlocked(lengths)
    size, passes = rotation_blocks(dim) if signs is not None else (0, [[], []])
    starts = [np.array(part, np.int64) for part in passes]
    flips = np.empty((2, 0), np.int8) if signs is None else unlocked(signs)
    offset, scales = unlocked(offset), unlocked(scales)

    def part(bounds: tuple[int, int]) -> None:
        here = slice(*bounds)
        own = scales[here] if len(scales) > 1 else scales
        encode_rows(data[here], divisors[here], offset, flips, size, *starts, own, codes[here], norms[here], errors[here])

    run(part, blocks(n, BLOCK), threads)
    return codes, norms, errors


@njit(**JIT)
def encode_rows(
    data: Any, divisors: Any, offset: Any, signs: Any, size: Any, starts0: Any, starts1: Any, scales: Any,
    codes: Any, norms: Any, errors: Any,
) -> None:  # fmt: skip
    """`encode` into codes full of zeros, norms, errors. divisors: lengths, or none of them."""
    dim = data.shape[1]
    padded = np.zeros((dim + LANES - 1) // LANES * LANES)
    y, error = padded[:dim], np.empty(dim)
    for i in range(len(data)):
        divisor = divisors[i] if len(divisors) else 1.0
        widen(data[i], padded)
        for j in range(dim):
            y[j] = y[j] / divisor - np.float64(offset[j])
        if size:
            rotate(y, signs[0], starts0, size)
            rotate(y, signs[1], starts1, size)
        scale = scales[i] if len(scales) > 1 else scales[0]
        norm = np.int32(0)
        for j in range(dim):
            code = min(max(np.rint(y[j] / scale), -128.0), 127.0)
            error[j] = y[j] - scale * code
            codes[i, j] = np.int8(code)
            norm = np.int32(norm + np.int32(code) * np.int32(code))
        norms[i] = norm
        errors[i] = lane_dot(error, error)


@njit(**JIT)
def rotate(y: Any, signs: Any, starts: Any, size: Any) -> None:
    """One pass of codec.rotate, in place."""
    for j in range(len(y)):
        y[j] *= np.float64(signs[j])
    shrink = size**-0.5
    for start in starts:
        step = 1
        while step < size:
            for pair in range(start, start + size, 2 * step):
                for j in range(pair, pair + step):
                    a, b = y[j], y[j + step]
                    y[j], y[j + step] = a + b, a - b
            step *= 2
        for j in range(start, start + size):
            y[j] *= shrink
