"""lengths and encode: teams of eight threads a row, and rows in shared memory (encode.cu); those of the host as they come."""

from __future__ import annotations

from typing import Any, NamedTuple

import cupy
import numpy as np

from ...arrays import VECTOR_KINDS, Rows
from ...codec import padded_dim, rotation_blocks
from ...contract import LANES, Float32s, Float64s, Int8s, Int32s
from ._device import MOST_SHARED, NULL, launch, on_device, op, put, rows_per_tile, uploaded

CU, THREADS = "encode.cu", 256  # of a block
WORD = 4  # bytes that a thread loads at a time
FEW, PER_THREAD = 4096, (4, 12)  # up to so many rows; values of a row for a thread, of few rows and of many
STATIC = 256  # bytes of shared memory that a kernel may have beside those it is launched with
MOST_BLOCKS = 512  # whose rows lie in global memory
UPLOAD = 2**26  # bytes of rows that come from the host at a time, while those before are worked on


class EncodePlan(NamedTuple):
    """A launch. group: threads of a row; room: float64 that a row takes; shared: bytes of a block, none if in scratch."""

    blocks: int
    group: int
    room: int
    shared: int

    @property
    def scratch(self) -> int:
        """float64 of global memory that rows are worked on in."""
        return 0 if self.shared else self.blocks * self.room


def plan_encode(n: int, dim: int) -> EncodePlan:
    """The launch for n > 0 rows."""
    each = PER_THREAD[n > FEW]
    group = min(THREADS, max(LANES, 1 << (-(-dim // each) - 1).bit_length()))
    room, together = -(-dim // 16) * 16, THREADS // group
    shared = 8 * room * together
    if shared > MOST_SHARED - STATIC:
        return EncodePlan(min(n, MOST_BLOCKS), THREADS, room, 0)
    return EncodePlan(-(-n // together), group, room, shared)


def read_as(rows: Rows) -> tuple[str, ...]:
    """What kernels that read these rows are compiled with."""
    return (f"KIND={VECTOR_KINDS.index(rows.kind)}",)


def whole_words(rows: Rows) -> np.int32:
    """Whether every row, all on the device, begins and ends at a word."""
    data: Any = rows.data
    return np.int32((data.data.ptr | rows.dim * data.itemsize) % WORD == 0)


def rows_at_once(rows: Rows, bytes_per_row: int) -> int:
    """How many rows are worked on at a time: as many as find room, of the host's no more than need be to be busy."""
    most = 2**31 - 1 if on_device(rows.data) else max(1, UPLOAD // (rows.dim * rows.data.itemsize))
    return rows_per_tile(bytes_per_row, most=most)


@op
def lengths(rows: Rows, *, threads: int) -> Float64s:
    """See contract.py."""
    return lengths_by(measure, rows)


def lengths_by(measure: Any, rows: Rows) -> Float64s:
    """`lengths` with the kernel of measure(rows, out), as the one below."""
    n, here = len(rows), on_device(rows.data)
    out: Float64s = (cupy if here else np).empty(n, np.float64)
    step = rows_at_once(rows, 2 * rows.dim * rows.data.itemsize + 8)
    for start, stop, (data,) in uploaded((rows.data,), step) if n else ():
        found = out[start:stop] if here else cupy.empty(stop - start, np.float64)
        measure(Rows(data, rows.kind), found)
        if not here:
            out[start:stop] = cupy.asnumpy(found)
    return out


def measure(rows: Rows, out: Any) -> None:
    """`lengths` into out, all on the device."""
    n, blocks = len(rows), -(-len(rows) * LANES // THREADS)
    args = (rows.data, np.int32(n), np.int32(rows.dim), whole_words(rows), out)
    launch(CU, "lengths", blocks, THREADS, *args, defines=read_as(rows))


@op
def encode(
    rows: Rows, lengths: Float64s | None, offset: Float32s, signs: Int8s | None, scales: Float64s, *, threads: int
) -> tuple[Int8s, Int32s, Float64s]:
    """See contract.py."""
    return encode_by(_encode, rows, lengths, offset, signs, scales)


def encode_by(
    encoded: Any, rows: Rows, lengths: Any, offset: Float32s, signs: Int8s | None, scales: Float64s
) -> tuple[Int8s, Int32s, Float64s]:
    """`encode` with the kernel of encoded(rows, lengths, (offset, signs), scales, out), as `_encode` below."""
    n, dim, here = len(rows), rows.dim, on_device(rows.data)
    xp: Any = cupy if here else np
    out = (xp.empty((n, padded_dim(dim)), np.int8), xp.empty(n, np.int32), xp.empty(n, np.float64))
    if not n:
        return out
    codec = (put(offset, np.float32), put(signs))
    own = len(scales) > 1
    columns = (rows.data, lengths, scales if own else None)
    if any(map(on_device, columns)):
        columns = tuple(map(put, columns))
    common = None if own else put(scales)
    for start, stop, (data, sizes, scale) in uploaded(columns, rows_at_once(rows, 2 * dim * rows.data.itemsize + dim + 64)):
        part = tuple(whole[start:stop] if here else cupy.empty((stop - start, *whole.shape[1:]), whole.dtype) for whole in out)
        encoded(Rows(data, rows.kind), sizes, codec, scale if own else common, part)
        if not here:
            for whole, found in zip(out, part, strict=True):
                whole[start:stop] = cupy.asnumpy(found)
    return out


def _encode(rows: Rows, sizes: Any, codec: tuple[Any, Any], scales: Any, out: tuple[Any, ...]) -> None:
    """`encode` into codes, norms and errors, all on the device."""
    plan, (offset, signs), (codes, norms, errors) = plan_encode(len(rows), rows.dim), codec, out
    size, passes = (0, [[], []]) if signs is None else rotation_blocks(rows.dim)
    cuts = (count for starts in passes for count in (starts[0] if starts else 0, len(starts)))
    launch(
        CU, "encode", plan.blocks, THREADS,
        rows.data, np.int32(len(rows)), np.int32(rows.dim), whole_words(rows), np.int32(plan.group), np.int32(plan.room),
        NULL if sizes is None else sizes, offset, signs if size else NULL, np.int32(size),
        np.float64(size**-0.5 if size else 1.0), *map(np.int32, cuts), scales, np.int32(len(scales) > 1),
        cupy.empty(plan.scratch, np.float64) if plan.scratch else NULL, codes.view(np.uint32), norms, errors,
        shared=plan.shared, defines=(*read_as(rows), f"SCRATCH={int(not plan.shared)}"),
    )  # fmt: skip
