"""lengths and encode: eight threads or a warp a row (encode.cu), the rows of the host in tiles."""

from __future__ import annotations

from typing import Any, NamedTuple

import cupy
import numpy as np

from ...arrays import VECTOR_KINDS, Rows
from ...codec import padded_dim, rotation_blocks
from ...contract import LANES, Float32s, Float64s, Int8s, Int32s
from ._device import MOST_SHARED, give, launch, op, put, rows_per_tile, uploaded

BLOCK = 256
NULL = np.intp(0)


class EncodePlan(NamedTuple):
    """A launch of `encode`: rows of a block, one a warp, and its shared bytes; none where rows lie in global memory."""

    rows: int
    shared: int


def plan_encode(dim: int) -> EncodePlan:
    """As many rows as shared memory holds as doubles, eight at most."""
    rows = min(BLOCK // 32, MOST_SHARED // (8 * dim))
    return EncodePlan(rows, rows * 8 * dim) if rows else EncodePlan(BLOCK // 32, 0)


def kind_of(rows: Rows) -> tuple[str, ...]:
    """What kernels that read these rows are compiled with."""
    return (f"KIND={VECTOR_KINDS.index(rows.kind)}",)


def stored(rows: Any) -> Any:
    """The array as such kernels want it: float16 by its bits."""
    return rows.view(np.uint16) if rows.dtype == np.float16 else rows


@op
def lengths(rows: Rows, *, threads: int) -> Float64s:
    """See contract.py."""
    n, dim = rows.data.shape
    out = cupy.empty(n, np.float64)
    for start, stop, (data,) in uploaded((rows.data,), rows_per_tile(dim * rows.data.itemsize)) if n else ():
        grid = -(-(stop - start) * LANES // BLOCK)
        args = (stored(data), np.int64(stop - start), np.int32(dim), out[start:stop])
        launch("encode.cu", "lengths", grid, BLOCK, *args, defines=kind_of(rows))
    return give(out, rows.data)  # type: ignore[no-any-return]


@op
def encode(
    rows: Rows, lengths: Float64s | None, offset: Float32s, signs: Int8s | None, scales: Float64s, *, threads: int
) -> tuple[Int8s, Int32s, Float64s]:
    """See contract.py."""
    n, dim = rows.data.shape
    code_dim, plan = padded_dim(dim), plan_encode(dim)
    codes, norms, errors = cupy.empty((n, code_dim), np.int8), cupy.empty(n, np.int32), cupy.empty(n, np.float64)
    size, (first, second) = rotation_blocks(dim) if signs is not None else (0, [[], []])
    turn = (
        *(NULL if signs is None else put(signs), np.int32(size), np.float64(size**-0.5 if size else 1.0)),
        *(np.int32(count) for starts in (first, second) for count in (starts[0] if starts else 0, len(starts))),
    )
    offset, lengths, scales = put(offset), put(lengths), put(scales)
    own = len(scales) > 1
    step = rows_per_tile(dim * (rows.data.itemsize + (0 if plan.shared else 8)))
    for start, stop, (data,) in uploaded((rows.data,), step) if n else ():
        here, count = slice(start, stop), stop - start
        scratch = cupy.empty(1 if plan.shared else count * dim, np.float64)
        launch(
            "encode.cu", "encode", -(-count // plan.rows), 32 * plan.rows,
            stored(data), np.int64(count), np.int32(dim), NULL if lengths is None else lengths[here], offset, *turn,
            scales[here] if own else scales, np.int32(own), scratch, np.int32(not plan.shared), np.int32(code_dim),
            codes[here], norms[here], errors[here], shared=plan.shared, defines=kind_of(rows),
        )  # fmt: skip
    return tuple(give(part, rows.data) for part in (codes, norms, errors))  # type: ignore[return-value]
