"""lengths and encode: from users' vectors to int8 codes, their norms and their squared errors, in the contract's float64.

    ROWS rows a program, 8 values of each at a time
      y = x [/ length] - offset      c = rint(y / scale) in -128 .. 127      e = y - scale c
      acc (ROWS, 8): e * e, lane by lane (_rows.py)        norm (ROWS, 8): c * c, int32

A code needs y / scale to half a unit only: a product with 1 / scale, and the quotient where that lies within 2^-40 of a half,
for a whole tile if one of its values does. Adding 1.5 * 2^52 and taking it away rounds to even: no library function.

Bytes and operations of a value of float32: 5 bytes; 12 float64 operations, 20 more to divide by the length, and a conversion.
H100: 5 bytes take 1.5 ps, 12 operations at 64 a cycle and multiprocessor .85 ps: memory.

Rotated rows are left to cupy. Triton says a butterfly as reshape, split and join of a whole tile: eight steps over 256 values
compile to 13 barriers (sm_90), where encode.cu has four, two steps in four registers; and the size of the blocks, which depends
on the dimensions, would be a constant of the code, one more compilation for each.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from ...arrays import Rows
from ...contract import Float32s, Float64s, Int8s, Int32s
from ..cupy import encode as rotating_encode
from ..cupy._device import op
from ..cupy.encode import encode_by, lengths_by
from ._launch import capability, jit, launch
from ._rows import LANES, lane_sum, values_at
from ._tuning import ENCODE, tile_for

UNITS = (8, 4, 1)  # values that the dimensions may be a multiple of: what is known of it makes loads wide
ROUNDER = tl.constexpr(1.5 * 2.0**52)
NEARLY_HALF = tl.constexpr(0.5 - 2.0**-40)


@triton.jit
def rounded(x):
    """The nearest integer, the even one of two, of |x| < 2^50."""
    return (x + ROUNDER) - ROUNDER


@jit("rows")
def row_lengths(rows, n, units, out, ROWS: tl.constexpr, UNIT: tl.constexpr):
    """out float64 (n,)."""
    dim, line = units * UNIT, tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    here = line < n
    squares = tl.zeros((ROWS, LANES), tl.float64)
    for start in tl.range(0, dim, LANES, loop_unroll_factor=4):
        x = values_at(rows + (line * dim)[:, None], start, dim, here)
        squares += x * x
    tl.store(out + line, tl.sqrt(lane_sum(squares)), mask=here)


@jit("rows", "codes")
def row_codes(
    rows, n, units, pieces, lengths, offset, scales, stride, codes, norms, errors,
    ROWS: tl.constexpr, UNIT: tl.constexpr, DIVIDED: tl.constexpr,
):  # fmt: skip
    """codes int8 (n, 32 pieces), norms int32 (n,), errors float64 (n,). stride: 0 for one scale, 1 for one a row."""
    dim, line = units * UNIT, tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    here = line < n
    scale = tl.load(scales + line * stride, mask=here, other=1.0)[:, None]
    inverse = 1.0 / scale
    if DIVIDED:
        length = tl.load(lengths + line, mask=here, other=1.0)[:, None]
    squares, norm = tl.zeros((ROWS, LANES), tl.float64), tl.zeros((ROWS, LANES), tl.int32)
    for start in range(0, pieces * 32, LANES):
        column = start + tl.arange(0, LANES)[None, :]
        y = values_at(rows + (line * dim)[:, None], start, dim, here)
        if DIVIDED:
            y = y / length
        y = y - tl.load(offset + column, mask=column < dim, other=0).to(tl.float64)
        exact = tl.minimum(tl.maximum(y * inverse, -128.0), 127.0)
        doubtful = tl.abs(exact - rounded(exact)) > NEARLY_HALF
        if tl.max(tl.max(doubtful.to(tl.int32), axis=1), axis=0) > 0:
            exact = tl.minimum(tl.maximum(y / scale, -128.0), 127.0)
        code = rounded(exact)
        error = y - scale * code
        squares += error * error
        code = code.to(tl.int32)
        norm += code * code
        tl.store(codes + (line * (pieces * 32))[:, None] + column, code.to(tl.int8), mask=here[:, None])
    tl.store(norms + line, tl.sum(norm, axis=1), mask=here)
    tl.store(errors + line, lane_sum(squares), mask=here)


@op
def lengths(rows: Rows, *, threads: int) -> Float64s:
    """See contract.py."""
    return lengths_by(measure, rows)


def measure(rows: Rows, out: Any) -> None:
    """`lengths` into out, all on the device."""
    tile, unit = tile_for(ENCODE, "rows", capability()), unit_of(rows.dim)
    grid = (-(-len(rows) // tile.rows),)
    launch(row_lengths, grid, rows.data, len(rows), rows.dim // unit, out, ROWS=tile.rows, UNIT=unit, options=tile.options)


def unit_of(dim: int) -> int:
    """The largest of UNITS that the dimensions are a multiple of."""
    return next(unit for unit in UNITS if dim % unit == 0)


@op
def encode(
    rows: Rows, lengths: Float64s | None, offset: Float32s, signs: Int8s | None, scales: Float64s, *, threads: int
) -> tuple[Int8s, Int32s, Float64s]:
    """See contract.py."""
    if signs is not None:
        return rotating_encode(rows, lengths, offset, signs, scales, threads=threads)
    return encode_by(_encode, rows, lengths, offset, signs, scales)


def _encode(rows: Rows, sizes: Any, codec: tuple[Any, Any], scales: Any, out: tuple[Any, ...]) -> None:
    """`encode` into codes, norms and errors, all on the device."""
    (n, code_dim), tile, unit = out[0].shape, tile_for(ENCODE, "rows", capability()), unit_of(rows.dim)
    launch(
        row_codes, (-(-n // tile.rows),), rows.data, n, rows.dim // unit, code_dim // 32, scales if sizes is None else sizes,
        codec[0], scales, int(len(scales) > 1), *out,
        ROWS=tile.rows, UNIT=unit, DIVIDED=sizes is not None, options=tile.options,
    )  # fmt: skip
