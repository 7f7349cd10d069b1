"""From a line of products to the rows that may be among the k nearest: two passes over the line, all in vector registers.

`settle` turns products into scores and bounds the k-th smallest: of 64 strided minima, kept in registers, the k-th smallest
different one. `below` lists the places at or under a bound, 16 comparisons an instruction. Written as LLVM vectors because
loops over minima do not stay in registers otherwise: 447 ns against 80 for a line of 280 and k = 3.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

WIDTH = 64  # scores a step; lines are padded to a multiple of it
NO_SCORE = 2147483647  # of no row
_LANES = 16
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_I32, _LANES)
_NONE = ir.Constant(_VECTOR, [NO_SCORE] * _LANES)


class _Code:
    """The few vector operations that the two passes need."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def load(self, base: Any, offset: Any) -> Any:
        value = self.builder.load(self.builder.bitcast(self.builder.gep(base, [offset]), _VECTOR.as_pointer()))
        value.align = 4
        return value

    def store(self, value: Any, base: Any, offset: Any) -> None:
        place = self.builder.bitcast(self.builder.gep(base, [offset]), _VECTOR.as_pointer())
        self.builder.store(value, place).align = 4

    def spread(self, value: Any) -> Any:
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        lane = self.builder.insert_element(undefined, value, _I32(0))
        return self.builder.shuffle_vector(lane, undefined, ir.Constant(_VECTOR, [0] * _LANES))

    def smaller(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)

    def smallest(self, vector: Any) -> Any:
        name = f"llvm.vector.reduce.smin.v{_LANES}i32"
        known = self.builder.module.globals.get(name)
        function = known or ir.Function(self.builder.module, ir.FunctionType(_I32, [_VECTOR]), name)
        return self.builder.call(function, [vector])

    def loop(self, count: Any, states: list[Any], body: Any) -> list[Any]:
        """states after `count` (at least 0) rounds of body(number, states) -> states."""
        builder = self.builder
        before, head = builder.block, builder.append_basic_block("head")
        inside, after = builder.append_basic_block("inside"), builder.append_basic_block("after")
        builder.branch(head)
        builder.position_at_end(head)
        number = builder.phi(_I64)
        number.add_incoming(_I64(0), before)
        held = [builder.phi(state.type) for state in states]
        for phi, state in zip(held, states, strict=True):
            phi.add_incoming(state, before)
        builder.cbranch(builder.icmp_signed("<", number, count), inside, after)
        builder.position_at_end(inside)
        for phi, state in zip(held, body(number, held), strict=True):
            phi.add_incoming(state, builder.block)
        number.add_incoming(builder.add(number, _I64(1)), builder.block)
        builder.branch(head)
        builder.position_at_end(after)
        return held


def _data(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return builder.bitcast(context.make_array(kind)(context, builder, value).data, _I32.as_pointer())


@intrinsic
def settle(typingctx, dots, bias, scores, steps, rounds, limit):  # type: ignore[no-untyped-def]
    """int32: a bound of the `rounds` smallest scores, at most `limit`; scores[j] = bias[j] - 2 dots[j] on the way.

    dots, bias, scores: int32 (steps * WIDTH,). A bias of NO_SCORE gives NO_SCORE: no row. rounds < 1: the limit itself.
    At least `rounds` rows have scores up to the bound, unless fewer rows are there: then it is the limit.
    """

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        code = _Code(builder)
        lines = [_data(context, builder, kind, value) for kind, value in zip(signature.args[:3], arguments[:3], strict=True)]
        _, _, _, steps, rounds, limit = arguments

        def step(number: Any, minima: list[Any]) -> list[Any]:
            out = []
            for v, least in enumerate(minima):
                offset = builder.add(builder.mul(number, _I64(WIDTH)), _I64(v * _LANES))
                own = code.load(lines[1], offset)
                dot = code.load(lines[0], offset)
                score = builder.sub(own, builder.add(dot, dot))
                score = builder.select(builder.icmp_signed("==", own, _NONE), _NONE, score)
                code.store(score, lines[2], offset)
                out.append(code.smaller(least, score))
            return out

        minima = code.loop(steps, [_NONE] * (WIDTH // _LANES), step)

        def above(number: Any, state: list[Any]) -> list[Any]:
            floor, found = code.spread(state[0]), _NONE
            for vector in minima:
                found = code.smaller(
                    found, builder.select(builder.icmp_signed(">", vector, floor), vector, _NONE)
                )
            return [code.smallest(found)]

        (kth,) = code.loop(rounds, [_I32(-(2**31))], above)
        bounded = builder.icmp_signed(">", rounds, _I64(0))
        return builder.select(bounded, code.smaller(kth, limit), limit)

    return types.int32(dots, bias, scores, types.intp, types.intp, types.int32), codegen


@intrinsic
def below(typingctx, scores, steps, bound, places):  # type: ignore[no-untyped-def]
    """intp: how many of the scores (steps * WIDTH,) are at most `bound`; their places, ascending, go to `places` int32."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        code = _Code(builder)
        line = _data(context, builder, signature.args[0], arguments[0])
        places = _data(context, builder, signature.args[3], arguments[3])
        bound = code.spread(arguments[2])
        bits_type = ir.IntType(_LANES)
        name = f"llvm.cttz.i{_LANES}"
        kind = ir.FunctionType(bits_type, [bits_type, ir.IntType(1)])
        trailing = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)

        def step(number: Any, state: list[Any]) -> list[Any]:
            start = builder.mul(number, _I64(_LANES))
            hits = builder.bitcast(builder.icmp_signed("<=", code.load(line, start), bound), bits_type)
            before = builder.block
            head, drain = builder.append_basic_block("hits"), builder.append_basic_block("drain")
            done = builder.append_basic_block("drained")
            builder.branch(head)
            builder.position_at_end(head)
            left, count = builder.phi(bits_type), builder.phi(_I64)
            left.add_incoming(hits, before)
            count.add_incoming(state[0], before)
            builder.cbranch(builder.icmp_signed("==", left, bits_type(0)), done, drain)
            builder.position_at_end(drain)
            place = builder.zext(builder.call(trailing, [left, ir.IntType(1)(1)]), _I64)
            builder.store(builder.trunc(builder.add(start, place), _I32), builder.gep(places, [count])).align = 4
            left.add_incoming(builder.and_(left, builder.sub(left, bits_type(1))), drain)
            count.add_incoming(builder.add(count, _I64(1)), drain)
            builder.branch(head)
            builder.position_at_end(done)
            return [count]

        (count,) = code.loop(builder.mul(arguments[1], _I64(WIDTH // _LANES)), [_I64(0)], step)
        return count

    return types.intp(scores, types.intp, types.int32, places), codegen
