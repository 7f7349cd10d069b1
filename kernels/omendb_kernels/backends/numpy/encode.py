"""lengths and encode, a block of rows at a time."""

from __future__ import annotations

import numpy as np

from ...arrays import Rows
from ...codec import padded_dim, rotate
from ...contract import Float32s, Float64s, Int8s, Int32s
from ...parallel import blocks, run
from ._lanes import lane_sum, product

BLOCK_VALUES = 1 << 18  # values of a block: a few float64 temporaries of it stay in the outer caches


def lengths(rows: Rows, *, threads: int) -> Float64s:
    """See contract.py."""
    out = np.empty(len(rows))

    def part(bounds: tuple[int, int]) -> None:
        values = rows[bounds[0] : bounds[1]].float32().astype(np.float64)
        out[bounds[0] : bounds[1]] = np.sqrt(lane_sum(values, values, product))

    run(part, blocks(len(rows), _block(rows.dim)), threads)
    return out


def encode(
    rows: Rows, lengths: Float64s | None, offset: Float32s, signs: Int8s | None, scales: Float64s, *, threads: int
) -> tuple[Int8s, Int32s, Float64s]:
    """See contract.py."""
    n, dim = len(rows), rows.dim
    codes = np.zeros((n, padded_dim(dim)), np.int8)
    norms = np.empty(n, np.int32)
    errors = np.empty(n)

    def part(bounds: tuple[int, int]) -> None:
        here = slice(*bounds)
        y = rows[here].float32().astype(np.float64)
        if lengths is not None:
            y /= lengths[here, None]
        y -= offset
        if signs is not None:
            y = rotate(y, signs)
        scale = scales[here, None] if len(scales) > 1 else scales[0]
        code = np.clip(np.rint(y / scale), -128, 127)
        codes[here, :dim] = code
        norms[here] = np.einsum("ij,ij->i", code, code)  # small integers in float64: exact in any order
        y -= scale * code
        errors[here] = lane_sum(y, y, product)

    run(part, blocks(n, _block(dim)), threads)
    return codes, norms, errors


def _block(dim: int) -> int:
    return max(1, BLOCK_VALUES // dim)
