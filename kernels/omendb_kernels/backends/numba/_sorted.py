"""Short ascending lists of keys, NO_KEY behind: insertion without a branch.

A list is passed over once, eight keys an instruction: what is smaller stays, the rest moves up by one, the key falls between.
No branch depends on where the key belongs, so none is mispredicted.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from ._rows import JIT

_LANES = 8
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_KEYS = ir.VectorType(_I64, _LANES)


@intrinsic
def _shift_in(typingctx, keys, key, steps):  # type: ignore[no-untyped-def]
    """Put `key` into keys[: 8 * steps], ascending, the last one leaving; the list stays as it is where it holds the key."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        undefined = ir.Constant(_KEYS, ir.Undefined)
        lane = builder.insert_element(undefined, arguments[1], _I32(0))
        new = builder.shuffle_vector(lane, undefined, ir.Constant(ir.VectorType(_I32, _LANES), [0] * _LANES))
        before, loop, after = builder.block, builder.append_basic_block("keys"), builder.append_basic_block("in")
        builder.branch(loop)
        builder.position_at_end(loop)
        step, below = builder.phi(_I64), builder.phi(_KEYS)
        step.add_incoming(_I64(0), before)
        below.add_incoming(ir.Constant(_KEYS, [-(2**63)] * _LANES), before)
        place = builder.bitcast(builder.gep(data, [builder.mul(step, _I64(_LANES))]), _KEYS.as_pointer())
        own = builder.load(place)
        own.align = 8
        # Each lane beside the key before it: a lane keeps its own, takes the one before, or is where the new key belongs.
        shuffle = ir.Constant(ir.VectorType(_I32, _LANES), [_LANES - 1, *range(_LANES, 2 * _LANES - 1)])
        previous = builder.shuffle_vector(below, own, shuffle)
        here = builder.icmp_signed(">=", new, previous)
        moved = builder.select(here, new, previous)
        builder.store(builder.select(builder.icmp_signed("<=", own, new), own, moved), place).align = 8
        following = builder.add(step, _I64(1))
        step.add_incoming(following, loop)
        below.add_incoming(own, loop)
        builder.cbranch(builder.icmp_signed("<", following, arguments[2]), loop, after)
        builder.position_at_end(after)
        return context.get_dummy_value()

    return types.void(keys, types.int64, types.intp), codegen


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
        _shift_in(keys, key, whole // 8)
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
