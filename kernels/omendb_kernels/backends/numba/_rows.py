"""How Numba kernels read rows of any kind, and the lane sums every float of the contract is made of.

The eight lanes of a lane sum are one vector of eight float64, written as LLVM vectors: LLVM may not reorder float sums by
itself, and so would add them one by one. 16-bit kinds have no type in Numba: float16 travels as uint16, bfloat16 as int16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from ...arrays import Rows
from ...contract import LANES

JIT: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}  # never fastmath: see contract.py


_I32, _I64 = ir.IntType(32), ir.IntType(64)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_DOUBLES = ir.VectorType(ir.DoubleType(), LANES)
_INTS = ir.VectorType(_I32, LANES)


def unlocked(array: NDArray[Any]) -> NDArray[Any]:
    """The same memory, typed writable: else every kernel would be compiled once more for read-only arrays."""
    if array.flags.writeable:
        return array
    return np.asarray(_Unlocked(array))


class _Unlocked:
    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array  # keeps the memory alive
        self.__array_interface__ = dict(array.__array_interface__, data=(array.__array_interface__["data"][0], False))


def readable(rows: Rows) -> NDArray[Any]:
    """The rows' data as kernels take them."""
    data = unlocked(rows.data)
    if rows.kind == "float16":
        return data.view(np.uint16)
    return data.view(np.int16) if rows.kind == "bfloat16" else data


def _widened(builder: Any, kind: Any, values: Any) -> Any:
    """float64 of eight stored values; exact for every kind."""

    def all_(value: int) -> Any:
        return ir.Constant(_INTS, [value] * LANES)

    if kind == types.float64:
        return values
    if kind == types.float32:
        return builder.fpext(values, _DOUBLES)
    if kind in (types.int8, types.uint8):
        return (builder.sitofp if kind.signed else builder.uitofp)(values, _DOUBLES)
    bits = builder.zext(values, _INTS)
    if kind == types.int16:  # bfloat16: the upper half of a float32
        return builder.fpext(builder.bitcast(builder.shl(bits, all_(16)), _FLOATS), _DOUBLES)
    # float16: its bits in float32's places, the exponent mended by a power of two (right for subnormals too)
    small = builder.bitcast(builder.shl(builder.and_(bits, all_(0x7FFF)), all_(13)), _FLOATS)
    scaled = builder.fmul(small, ir.Constant(_FLOATS, [2.0**112] * LANES))
    sign = builder.shl(builder.and_(bits, all_(0x8000)), all_(16))
    return builder.fpext(builder.bitcast(builder.or_(builder.bitcast(scaled, _INTS), sign), _FLOATS), _DOUBLES)


def _lane_sum(context: Any, builder: Any, signature: Any, arguments: Any, term: Any) -> Any:
    """The lane sum of term(a, b) over two rows of equal length."""
    kinds = [kind.dtype for kind in signature.args]
    views = [context.make_array(kind)(context, builder, value) for kind, value in zip(signature.args, arguments, strict=True)]
    stored = [view.data.type.pointee for view in views]
    length = builder.extract_value(views[0].shape, 0)
    whole = builder.and_(length, _I64(-LANES))

    def terms(places: list[Any]) -> Any:
        values = []
        for kind, element, place in zip(kinds, stored, places, strict=True):
            loaded = builder.load(builder.bitcast(place, ir.VectorType(element, LANES).as_pointer()))
            loaded.align = element.get_abi_size(context.target_data)
            values.append(_widened(builder, kind, loaded))
        return term(builder, *values)

    before, head = builder.block, builder.append_basic_block("lanes")
    body, rest = builder.append_basic_block("eight"), builder.append_basic_block("rest")
    tail, done = builder.append_basic_block("tail"), builder.append_basic_block("folded")
    builder.branch(head)
    builder.position_at_end(head)
    start, lanes = builder.phi(_I64), builder.phi(_DOUBLES)
    start.add_incoming(_I64(0), before)
    lanes.add_incoming(ir.Constant(_DOUBLES, [0.0] * LANES), before)
    builder.cbranch(builder.icmp_signed("<", start, whole), body, rest)
    builder.position_at_end(body)
    summed = builder.fadd(lanes, terms([builder.gep(view.data, [start]) for view in views]))
    start.add_incoming(builder.add(start, _I64(LANES)), body)
    lanes.add_incoming(summed, body)
    builder.branch(head)
    builder.position_at_end(rest)
    builder.cbranch(builder.icmp_signed("<", whole, length), tail, done)
    builder.position_at_end(tail)
    # The last few values, zeros behind them: a lane is never -0.0, so adding 0.0 changes nothing.
    padded = [_padded(builder, element, view.data, whole, length) for element, view in zip(stored, views, strict=True)]
    ended = builder.fadd(lanes, terms(padded))
    after_tail = builder.block
    builder.branch(done)
    builder.position_at_end(done)
    total = builder.phi(_DOUBLES)
    total.add_incoming(lanes, rest)
    total.add_incoming(ended, after_tail)
    parts = [builder.extract_element(total, _I32(lane)) for lane in range(LANES)]
    while len(parts) > 1:
        half = len(parts) // 2
        parts = [builder.fadd(low, high) for low, high in zip(parts[:half], parts[half:], strict=True)]
    return parts[0]


def _padded(builder: Any, element: Any, data: Any, start: Any, stop: Any) -> Any:
    """A pointer to eight values: data[start:stop], then zeros."""
    with builder.goto_entry_block():
        room = builder.alloca(element, LANES)
    for lane in range(LANES):
        builder.store(ir.Constant(element, 0), builder.gep(room, [_I64(lane)]))
    before, loop, after = builder.block, builder.append_basic_block("copy"), builder.append_basic_block("copied")
    builder.branch(loop)
    builder.position_at_end(loop)
    place = builder.phi(_I64)
    place.add_incoming(start, before)
    builder.store(builder.load(builder.gep(data, [place])), builder.gep(room, [builder.sub(place, start)]))
    following = builder.add(place, _I64(1))
    place.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, stop), loop, after)
    builder.position_at_end(after)
    return room


@intrinsic
def lane_dot(typingctx, a, b):  # type: ignore[no-untyped-def]
    """Lane sum of a * b over two rows."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return _lane_sum(context, builder, signature, arguments, lambda code, x, y: code.fmul(x, y))

    return types.float64(a, b), codegen


@intrinsic
def lane_l2(typingctx, a, b):  # type: ignore[no-untyped-def]
    """Lane sum of (a - b) * (a - b) over two rows."""

    def squared(builder: Any, x: Any, y: Any) -> Any:
        difference = builder.fsub(x, y)
        return builder.fmul(difference, difference)

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return _lane_sum(context, builder, signature, arguments, squared)

    return types.float64(a, b), codegen


@intrinsic
def widen(typingctx, row, out):  # type: ignore[no-untyped-def]
    """out[j] = float64 of row[j]; `out` float64, its length a multiple of eight, at least the row's; zeros behind."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kinds = zip(signature.args, arguments, strict=True)
        source, target = (context.make_array(kind)(context, builder, value) for kind, value in kinds)
        element, kind = source.data.type.pointee, signature.args[0].dtype
        length = builder.extract_value(source.shape, 0)
        whole = builder.and_(length, _I64(-LANES))

        def move(place: Any, start: Any) -> None:
            values = builder.load(builder.bitcast(place, ir.VectorType(element, LANES).as_pointer()))
            values.align = element.get_abi_size(context.target_data)
            room = builder.bitcast(builder.gep(target.data, [start]), _DOUBLES.as_pointer())
            builder.store(_widened(builder, kind, values), room).align = 8

        before, head = builder.block, builder.append_basic_block("head")
        body, rest = builder.append_basic_block("body"), builder.append_basic_block("rest")
        tail, done = builder.append_basic_block("tail"), builder.append_basic_block("done")
        builder.branch(head)
        builder.position_at_end(head)
        start = builder.phi(_I64)
        start.add_incoming(_I64(0), before)
        builder.cbranch(builder.icmp_signed("<", start, whole), body, rest)
        builder.position_at_end(body)
        move(builder.gep(source.data, [start]), start)
        start.add_incoming(builder.add(start, _I64(LANES)), body)
        builder.branch(head)
        builder.position_at_end(rest)
        builder.cbranch(builder.icmp_signed("<", whole, length), tail, done)
        builder.position_at_end(tail)
        move(_padded(builder, element, source.data, whole, length), whole)
        builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(row, out), codegen


@njit(**JIT)
def distance(query: Any, point: Any, metric: Any, query_length: Any, point_length: Any) -> Any:
    """float32 final distance; query is float64 (d,). Lengths are read by cosine only."""
    if metric == 0:
        return np.float32(lane_l2(query, point))
    dot = lane_dot(query, point)
    if metric == 2:
        return np.float32(0.0 - dot) + np.float32(0.0)  # -0.0 would sort before 0.0
    return np.float32(max(0.0, 1.0 - dot / (query_length * point_length)))
