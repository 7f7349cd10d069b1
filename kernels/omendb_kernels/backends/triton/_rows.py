"""Rows of users' vectors in kernels: eight values at a time in float64, added up in the contract's order.

    row    v0 v1 v2 v3 v4 v5 v6 v7 | v8 v9 ...      acc (R, 8): lane l adds v_l, v_(l+8), ... one after another
            \\                    /                   lanes 4 apart, then 2, then 1: reshape, permute, split, add
             32 bytes of float32: a sector, two lanes of a warp with 16 bytes each

Triton's own sum of floats (tl.sum) has no order that is stated and is not used; nor are fused multiply-adds (_launch.py).
"""

import triton
import triton.language as tl

LANES = tl.constexpr(8)


@triton.jit
def values_at(rows, start, dim, there):
    """float64 (R, 8): the values of each row from `start` on; 0 beyond its end and where no row is. rows: (R, 1) pointers."""
    column = start + tl.arange(0, LANES)[None, :]
    values = tl.load(rows + column, mask=there[:, None] & (column < dim), other=0)
    if values.dtype == tl.uint16:  # the bits of bfloat16
        values = (values.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return values.to(tl.float64)


@triton.jit
def lane_sum(lanes):
    """float64 (R,) of (R, 8): contract.py."""
    count: tl.constexpr = lanes.shape[0]
    low, high = tl.split(tl.permute(tl.reshape(lanes, (count, 2, 4)), (0, 2, 1)))
    low, high = tl.split(tl.permute(tl.reshape(low + high, (count, 2, 2)), (0, 2, 1)))
    low, high = tl.split(low + high)
    return low + high
