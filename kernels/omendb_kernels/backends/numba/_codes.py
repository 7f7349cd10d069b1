"""Distances of codes inside kernels, exact integers that LLVM vectorises from the plain loop; prefetching."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from ...contract import CodeRows, Int32s
from ._rows import JIT, unlocked
from ._tile import QUADS, quads_dot, shift_of

LINE = 64  # bytes a prefetch brings
_NO_WIDE = np.zeros(0, np.int32)


def readable_codes(rows: CodeRows) -> tuple[NDArray[np.int8], Int32s, Int32s]:
    """(codes, norms, wide) for kernels; wide is empty where there is none."""
    return unlocked(rows.codes), unlocked(rows.norms), _NO_WIDE if rows.wide is None else unlocked(rows.wide)


@intrinsic
def prefetch(typingctx, array, row):  # type: ignore[no-untyped-def]
    """Bring row `row` of a C-contiguous (n, D) array towards the first cache, all its lines."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        view = context.make_array(signature.args[0])(context, builder, arguments[0])
        stride, zero = builder.extract_value(view.strides, 0), context.get_constant(types.intp, 0)
        bytes_ = ir.IntType(8).as_pointer()
        start = builder.gep(builder.bitcast(view.data, bytes_), [builder.mul(arguments[1], stride)])
        kind = ir.FunctionType(ir.VoidType(), [bytes_, *[ir.IntType(32)] * 3])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        with cgutils.for_range_slice(builder, zero, stride, context.get_constant(types.intp, LINE)) as (offset, _):
            flags = (ir.Constant(ir.IntType(32), value) for value in (0, 3, 1))  # to read, keep it, data
            builder.call(function, [builder.gep(start, [offset]), *flags])
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


@njit(**JIT)
def code_dot(a: Any, b: Any) -> Any:
    """int32 <a, b> of two code rows."""
    dot = np.int32(0)
    for j in range(len(a)):
        dot = np.int32(dot + np.int32(a[j]) * np.int32(b[j]))
    return dot


@intrinsic
def _quads_dot(typingctx, a, b):  # type: ignore[no-untyped-def]
    """int32 <a, b + 128> of two code rows, 64 coordinates an instruction, in two sums: neither waits for the other."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kinds = zip(signature.args, arguments, strict=True)
        views = [context.make_array(kind)(context, builder, value) for kind, value in kinds]
        left, right = (builder.bitcast(view.data, ir.IntType(32).as_pointer()) for view in views)
        words = builder.sdiv(builder.extract_value(views[0].shape, 0), ir.Constant(ir.IntType(64), 4))
        return quads_dot(builder, left, right, words)

    return types.int32(a, b), codegen


@njit(**JIT)
def query_shift(query: Any) -> Any:
    """int32: what `shifted_dot` of this query is too large by, whatever the row."""
    return shift_of(query)


if QUADS:

    @njit(**JIT)
    def shifted_dot(query: Any, code: Any) -> Any:
        """int32 <query, code> + query_shift(query)."""
        return _quads_dot(query, code)

else:
    shifted_dot = code_dot
