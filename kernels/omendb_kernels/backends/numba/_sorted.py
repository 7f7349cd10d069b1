"""Short ascending lists of keys, NO_KEY behind: insertion without a branch.

A list is passed over once, eight keys an instruction: what is smaller stays, the rest moves up by one, the key falls between.
No branch depends on where the key belongs, so none is mispredicted. Long lists are halved first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ...contract import NO_KEY
from ._rows import JIT

_LANES = 8
_SHORT = 8  # vectors that are passed over rather than halved
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_KEYS = ir.VectorType(_I64, _LANES)


@intrinsic
def _shift_in(typingctx, keys, key, first, last):  # type: ignore[no-untyped-def]
    """Put `key` into keys[8 * first : 8 * last], ascending, the last one leaving; intp: how many of them are up to `key`.

    The list stays as it is where it holds the key.
    """

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        undefined = ir.Constant(_KEYS, ir.Undefined)
        lane = builder.insert_element(undefined, arguments[1], _I32(0))
        new = builder.shuffle_vector(lane, undefined, ir.Constant(ir.VectorType(_I32, _LANES), [0] * _LANES))
        bits = ir.IntType(_LANES)
        count = cgutils.get_or_insert_function(builder.module, ir.FunctionType(bits, [bits]), f"llvm.ctpop.i{_LANES}")
        before, loop, after = builder.block, builder.append_basic_block("keys"), builder.append_basic_block("in")
        builder.branch(loop)
        builder.position_at_end(loop)
        step, below, smaller = builder.phi(_I64), builder.phi(_KEYS), builder.phi(_I64)
        step.add_incoming(arguments[2], before)
        smaller.add_incoming(_I64(0), before)
        below.add_incoming(ir.Constant(_KEYS, [-(2**63)] * _LANES), before)
        place = builder.bitcast(builder.gep(data, [builder.mul(step, _I64(_LANES))]), _KEYS.as_pointer())
        own = builder.load(place)
        own.align = 8
        # Each lane beside the key before it: a lane keeps its own, takes the one before, or is where the new key belongs.
        shuffle = ir.Constant(ir.VectorType(_I32, _LANES), [_LANES - 1, *range(_LANES, 2 * _LANES - 1)])
        previous = builder.shuffle_vector(below, own, shuffle)
        here = builder.icmp_signed(">=", new, previous)
        moved = builder.select(here, new, previous)
        stays = builder.icmp_signed("<=", own, new)
        builder.store(builder.select(stays, own, moved), place).align = 8
        counted = builder.add(smaller, builder.zext(builder.call(count, [builder.bitcast(stays, bits)]), _I64))
        following = builder.add(step, _I64(1))
        for phi, value in ((step, following), (below, own), (smaller, counted)):
            phi.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed("<", following, arguments[3]), loop, after)
        builder.position_at_end(after)
        return counted

    return types.intp(keys, types.int64, types.intp, types.intp), codegen


@njit(**JIT)
def insert_sorted(keys: Any, key: Any) -> None:
    """Put `key` into the ascending `keys`, int64 (width,), unless it is there or beyond them; the last one leaves."""
    width = len(keys)
    if key >= keys[width - 1]:
        return
    whole = width // 8 * 8
    carried = key
    if whole and key <= keys[whole - 1]:
        if _holds(keys, key, whole):
            return
        carried = keys[whole - 1]
        _shift_in(keys, key, 0, whole // 8)
    for i in range(whole, width):
        if carried == keys[i]:
            return
        if carried < keys[i]:
            keys[i], carried = carried, keys[i]


@njit(**JIT)
def _holds(keys: Any, key: Any, count: Any) -> Any:
    found = False
    for i in range(count):
        found |= keys[i] == key
    return found


@njit(**JIT)
def place_in(keys: Any, key: Any) -> Any:
    """Put `key`, which is not there, into the ascending `keys` of whole vectors of eight; the last one leaves. Its place."""
    first, left = 0, len(keys) // 8
    last = left
    while left > _SHORT:
        half = left >> 1
        if keys[(first + half) * 8 - 1] < key:
            first += half
        left -= half
    return first * 8 + _shift_in(keys, key, first, last)


@njit(**JIT)
def append_sorted(keys: Any, count: Any, key: Any) -> Any:
    """`insert_sorted` for keys that mostly come in order; `count` are there already, and their new number comes back."""
    if count < len(keys) and (count == 0 or key > keys[count - 1]):
        keys[count] = key
        return count + 1
    insert_sorted(keys, key)
    return count + np.int64(count < len(keys) and keys[min(count, len(keys) - 1)] != NO_KEY)
