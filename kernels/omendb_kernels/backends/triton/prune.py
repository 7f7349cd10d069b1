"""prune: RobustPrune of lines of up to 64 candidates, several lines a program: all their distances at once, then few rounds.

    a line's candidates, by key       distances, int8 tensor cores      who may strike whom: a word a candidate
    c0 c1 c2 ... c63                       c0  c1  c2  c3                     c0 | .
     |  |  |      |   codes gathered   c0   .   9   4   7    D <= reach[c]    c1 | c0? no          -> kept
     v  v  v      v   128 bits a lane  c1       .   3   8    and y before c   c2 | c0, c1          -> struck
    (64, D) int8, BK at a time         c2           .   5   ------------->    c3 | c2? it is gone  -> kept

The rule is sequential: c is kept unless one kept before it is close. But what is asked of the order is only that the earlier
decide first: it is the greedy maximal independent set of "close", and its rounds are few (Blelloch, Fineman, Shun, "Greedy
sequential maximal independent set and matching are parallel on average", SPAA 2012). In a round each candidate is kept that no
kept or undecided one before it is close to, and what it is close to is struck. What is known of a line is two words of 64 bits.
Those kept are cut to `degree` at the end: later ones do not change who came before.

"Close" is alpha[0] D(y, c) <= alpha[1] D(p, c) in 64 bits: D(y, c) <= reach[c], a quotient rounded down, one comparison a pair.

Operations and bytes of a line of 64, D = 128: 1 M on the tensor cores; 4,096 pairs of 6 integer results, two rounds of words a
candidate; 8 KiB of codes, 2 KiB of sectors for norms, 1 KiB of keys and answer. H100: 3.3 ns of memory, the limiter; 0.5 ns of
tensor cores at their peak, 1.5 ns of integer work. prune.cu decides 8 candidates at a time by dp4a and computes half of the
products, 1,900 of 4,096; its limiter is memory too. Longer codes than BK are read once here, there once for each 8 rows.
Longer lines are left to it. cuVS prunes by ranks alone; FlashLib and Jasper one candidate after another.
"""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
import triton
import triton.language as tl

from ...contract import NO_KEY, CodeRows
from ..cupy import prune as long_prune
from ..cupy._device import give, on_device, op, put, put_codes, rows_per_tile, uploaded
from ..cupy.prune import MOST_LINES, UPLOAD
from ._launch import INT32_MAX, capability, jit, launch
from ._launch import NO_KEY as NONE
from ._tuning import PRUNE, tile_for

WIDTH = tl.constexpr(64)  # candidates of a line: bits of a word


@jit("points")
def prune_lines(
    points, norms, wide, pieces, candidates, lines, most, degree, numerator, denominator, out,
    LINES: tl.constexpr, BK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """out (lines, degree), its first 64 columns: the keys that are kept, ascending, NO_KEY behind."""
    line = tl.program_id(0).to(tl.int64) * LINES + tl.arange(0, LINES)
    place = tl.arange(0, WIDTH)
    keys = tl.load(
        candidates + line[:, None] * most + place[None, :], mask=(line < lines)[:, None] & (place < most)[None, :], other=NONE
    )
    there = keys != NONE
    ids = tl.where(there, keys & 0xFFFFFFFF, 0)
    dim = pieces * 32
    rows = points + (ids * dim)[:, :, None]
    dots = tl.zeros((LINES, WIDTH, WIDTH), tl.int32)
    for piece in range(tl.cdiv(dim, BK)):
        byte = piece * BK + tl.arange(0, BK)[None, None, :]
        codes = tl.load(rows + byte, mask=there[:, :, None] & (byte < dim), other=0)
        dots = tl.dot(codes, tl.permute(codes, (0, 2, 1)), dots, out_dtype=tl.int32)
    if WIDE:
        own = tl.load(wide + ids, mask=there, other=0)
        dots += own[:, :, None] * own[:, None, :]
    norm = tl.load(norms + ids, mask=there, other=0)
    distances = norm[:, :, None] + norm[:, None, :] - 2 * dots
    reach = tl.minimum(denominator.to(tl.int64) * (keys >> 32) // numerator, INT32_MAX).to(tl.int32)
    close = (distances <= reach[:, None, :]) & (place[:, None] < place[None, :])[None, :, :]
    bit = tl.full((WIDTH,), 1, tl.int64) << place
    strikers = tl.sum(tl.where(close, bit[None, :, None], 0), axis=1)
    kept = greedy(strikers, there, bit)
    stays = (kept[:, None] & bit[None, :]) != 0
    rank = tl.cumsum(stays.to(tl.int32), axis=1)
    count = tl.sum(stays.to(tl.int32), axis=1)
    column = tl.where(stays, rank - 1, count[:, None] + place[None, :] - rank)
    mask = (line < lines)[:, None] & (column < degree)
    tl.store(out + line[:, None] * degree + column, tl.where(stays, keys, NONE), mask=mask)


@triton.jit
def greedy(strikers, there, bit):
    """A word of who is kept for each line. strikers: of each candidate, a word of those before it that it is close to."""
    waiting = tl.sum(tl.where(there, bit[None, :], 0), axis=1)
    kept = tl.zeros_like(waiting)
    while tl.max((waiting != 0).to(tl.int32), axis=0) > 0:
        undecided = (waiting[:, None] & bit[None, :]) != 0
        free = undecided & ((strikers & (kept | waiting)[:, None]) == 0)
        kept += tl.sum(tl.where(free, bit[None, :], 0), axis=1)
        struck = undecided & ((strikers & kept[:, None]) != 0)
        waiting -= tl.sum(tl.where(free | struck, bit[None, :], 0), axis=1)
    return kept


@op
def prune(points: CodeRows, candidates: Any, degree: int, alpha: tuple[int, int], *, threads: int) -> Any:
    """See contract.py."""
    (lines, most), here = candidates.shape, on_device(candidates)
    if most > WIDTH.value:
        return long_prune(points, candidates, degree, alpha, threads=threads)
    kept = (cupy if here else np).empty((lines, degree), np.int64)
    kept[:, WIDTH.value :] = NO_KEY
    if kept.size:
        device = put_codes(points)
        step = rows_per_tile(16 * most + 8 * degree, most=MOST_LINES if here else max(1, UPLOAD // (8 * max(1, most))))
        for start, stop, (some,) in uploaded((candidates,), step):
            part = kept[start:stop] if here else cupy.empty((stop - start, degree), np.int64)
            _decide(device, put(some), degree, alpha, part)
            if not here:
                kept[start:stop, : WIDTH.value] = give(part, candidates)[:, : WIDTH.value]
    return kept


def _decide(points: CodeRows, candidates: Any, degree: int, alpha: tuple[int, int], out: Any) -> None:
    (lines, most), tile = candidates.shape, tile_for(PRUNE, "64", capability())
    wide = points.norms if points.wide is None else points.wide
    launch(
        prune_lines, (-(-lines // tile.rows),), points.codes, points.norms, wide, points.codes.shape[1] // 32,
        candidates, lines, most, degree, *map(int, alpha), out,
        LINES=tile.rows, BK=tile.bytes, WIDE=points.wide is not None, options=tile.options,
    )  # fmt: skip
