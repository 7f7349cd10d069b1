"""Integer matrix products of codes, a register tile at a time: ROWS left rows by COLUMNS right rows, int32, exact.

The right rows are packed into panels so that one vector load brings GROUP consecutive coordinates of LANES rows; a left row
brings its GROUP coordinates broadcast. Each vector instruction then adds GROUP products to each of LANES sums, nothing is
ever summed across lanes, and all sums of a tile stay in registers (the scheme of BLIS, Van Zee and van de Geijn, TOMS 2015):

            panel: COLUMNS rows            k = 0, GROUP, 2 GROUP, ... D
          +---------------------+
    left  |  tile: ROWS sums    |          sums[r][c] += left[r][k : k + GROUP] . panel[k / GROUP][c]
          |  by COLUMNS         |
          +---------------------+

Two dialects, the same sums. Quads (x86 with AVX-512 VNNI): uint8 times int8, four products a lane (`vpdpbusd`); the left
codes are shifted by 128, which `shift_of` takes back. Pairs (anywhere else): int16 times int16, two products a lane, plain
LLVM that becomes vpmaddwd, vpdpwssd or smlal. Measured on one core of a Zen 5 at 128-d and 384-d: quads 520 billion
products a second, pairs 266, float32 BLAS 37 to 85.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import config
from numba.extending import intrinsic

from ._rows import JIT


def _features() -> set[str]:
    """What the compiled code may use: the host's features, or those that Numba was told to compile for."""
    if config.CPU_NAME or config.CPU_FEATURES:
        words = (config.CPU_FEATURES or "").split(",")
        return {word[1:] for word in words if word.startswith("+")}
    return {name for name, there in llvm.get_host_cpu_features().items() if there}


_HAS = _features()
QUADS = {"avx512f", "avx512bw", "avx512vnni"} <= _HAS
if {"avx512f", "avx512bw"} <= _HAS:
    LANES, VECTORS, ROWS = 16, 4, 6
elif "avx2" in _HAS:
    LANES, VECTORS, ROWS = 8, 2, 4
else:
    LANES, VECTORS, ROWS = 4, 4, 4
COLUMNS = LANES * VECTORS
GROUP = 4 if QUADS else 2
LEFT = np.uint8 if QUADS else np.int16
RIGHT = np.int8 if QUADS else np.int16
SHIFT = 128 if QUADS else 0  # what was added to every left code

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_SUMS = ir.VectorType(_I32, LANES)
_PAIRS = ir.VectorType(ir.IntType(16), 2 * LANES)
_PRODUCTS = ir.VectorType(_I32, 2 * LANES)


def _multiply_add(builder: ir.IRBuilder, total: Any, left: Any, right: Any) -> Any:
    """total + the products of the GROUP coordinates of each lane; left and right as vectors of int32."""
    if QUADS:
        kind = ir.FunctionType(_SUMS, [_SUMS] * 3)
        name = "llvm.x86.avx512.vpdpbusd.512"
        known = builder.module.globals.get(name)
        return builder.call(known or ir.Function(builder.module, kind, name), [total, left, right])
    wide = [builder.sext(builder.bitcast(side, _PAIRS), _PRODUCTS) for side in (left, right)]
    products, undefined = builder.mul(*wide), ir.Constant(_PRODUCTS, ir.Undefined)
    halves = [
        builder.shuffle_vector(products, undefined, ir.Constant(_SUMS, list(range(first, 2 * LANES, 2)))) for first in (0, 1)
    ]
    return builder.add(total, builder.add(*halves))


@intrinsic
def _tile(typingctx, left, panel, out, column):  # type: ignore[no-untyped-def]
    """out[:ROWS, column : column + COLUMNS] = products of left (ROWS, D) and panel (D / GROUP, COLUMNS * GROUP)."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kinds = zip(signature.args[:3], arguments[:3], strict=True)
        views = [context.make_array(kind)(context, builder, value) for kind, value in kinds]
        lefts, rights, sums = (builder.bitcast(view.data, _I32.as_pointer()) for view in views)
        strides = [builder.udiv(builder.extract_value(view.strides, 0), _I64(4)) for view in views]
        steps = builder.extract_value(views[1].shape, 0)

        def vector(base: Any, offset: Any) -> Any:
            value = builder.load(builder.bitcast(builder.gep(base, [offset]), _SUMS.as_pointer()))
            value.align = 4
            return value

        before, loop, after = builder.block, builder.append_basic_block("k"), builder.append_basic_block("sums")
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(_I64)
        k.add_incoming(_I64(0), before)
        totals = [[builder.phi(_SUMS) for _ in range(VECTORS)] for _ in range(ROWS)]
        right = [vector(rights, builder.add(builder.mul(k, strides[1]), _I64(LANES * v))) for v in range(VECTORS)]
        grown = []
        for row in range(ROWS):
            word = builder.load(builder.gep(lefts, [builder.add(builder.mul(strides[0], _I64(row)), k)]))
            word.align = 1
            lane = builder.insert_element(ir.Constant(_SUMS, ir.Undefined), word, _I32(0))
            word = builder.shuffle_vector(lane, ir.Constant(_SUMS, ir.Undefined), ir.Constant(_SUMS, [0] * LANES))
            grown.append([_multiply_add(builder, totals[row][v], word, right[v]) for v in range(VECTORS)])
        following = builder.add(k, _I64(1))
        k.add_incoming(following, loop)
        for row in range(ROWS):
            for v in range(VECTORS):
                totals[row][v].add_incoming(ir.Constant(_SUMS, None), before)
                totals[row][v].add_incoming(grown[row][v], loop)
        builder.cbranch(builder.icmp_signed("<", following, steps), loop, after)
        builder.position_at_end(after)
        for row in range(ROWS):
            for v in range(VECTORS):
                offset = builder.add(builder.mul(strides[2], _I64(row)), builder.add(arguments[3], _I64(LANES * v)))
                place = builder.bitcast(builder.gep(sums, [offset]), _SUMS.as_pointer())
                builder.store(grown[row][v], place).align = 4
        return context.get_dummy_value()

    return types.void(left, panel, out, types.intp), codegen


@njit(**JIT)
def new_left(rows: Any, dim: Any) -> Any:
    """Room for `rows` left rows, a multiple of ROWS."""
    return np.zeros(((rows + ROWS - 1) // ROWS * ROWS, dim), LEFT)


@njit(**JIT)
def new_panels(rows: Any, dim: Any) -> Any:
    """Room for `rows` right rows, whole panels."""
    return np.zeros(((rows + COLUMNS - 1) // COLUMNS, dim // GROUP, COLUMNS * GROUP), RIGHT)


@njit(**JIT)
def set_left(left: Any, place: Any, code: Any) -> None:
    """Put one code row into the left operand."""
    line = left[place]
    for j in range(len(code)):
        line[j] = LEFT(np.int32(code[j]) + SHIFT)


@njit(**JIT)
def set_right(panels: Any, place: Any, code: Any) -> Any:
    """Put one code row into the right operand; gives int32 SHIFT * sum(code), to be taken from its products."""
    panel, column = panels[place // COLUMNS], place % COLUMNS
    if QUADS:
        words, room = code.view(np.int32), panel.view(np.int32)
        for k in range(len(words)):
            room[k, column] = words[k]
        total = np.int32(0)
        for j in range(len(code)):
            total = np.int32(total + np.int32(code[j]))
        return np.int32(total * SHIFT)
    for k in range(len(code) // GROUP):
        for g in range(GROUP):
            panel[k, column * GROUP + g] = code[k * GROUP + g]
    return np.int32(0)


@njit(**JIT)
def products(left: Any, first: Any, panels: Any, count: Any, out: Any) -> None:
    """out[:ROWS, : count * COLUMNS] = products of left rows first..first + ROWS with the first `count` panels, shifted."""
    rows = left[first : first + ROWS]
    for p in range(count):
        _tile(rows, panels[p], out, p * COLUMNS)
