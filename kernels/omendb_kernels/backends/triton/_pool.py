"""The k best of a stream of scores, inside a kernel: a pool for each line, into which goes what is better than its worst.

    scores (LINES, COLS), a tile        pool (LINES, POOL), int64 keys (score, column) in no order
    +---------------------------+       +-------------+
    | . . 7 . . . . . . . . 3 . |  -->  | 5 9 4 8 - - |    k = 4 places of 6; the others can never be the worst
    | . . . . . . . . . . . . . |       | 2 3 1 6 - - |    limit: the worst's score; newcomers must be below it
    +---------------------------+       +-------------+

A tile none of whose scores is below its line's limit costs a minimum, one instruction a score. Else the smallest of each line
goes in, again and again until none is below. Columns come in ascending order and a newcomer must be *below* the limit, so of
equal scores the first column stays: ties go to the smaller id.

Of n scores in random order k (1 + ln(n / k)) go into a line's pool, nearly all of them early; a tile takes as many rounds as
the busiest of its lines. Threshold and insert is FlashLib's default (primitives/knn); a sort-merge of tiles compiles for 13 to
19 s and has three times the shuffles. WarpSelect of FAISS (arXiv 1702.08734) collects newcomers and sorts them in lots.
"""

import triton
import triton.language as tl

from ._launch import INT32_MAX, INT64_MIN, NO_KEY


@triton.jit
def empty_pool(k, LINES: tl.constexpr, POOL: tl.constexpr):
    """k places worse than any score and all different, so that the worst is always one place."""
    place = tl.arange(0, POOL)[None, :].to(tl.int64)
    return tl.broadcast_to(tl.where(place < k, NO_KEY - place, INT64_MIN), (LINES, POOL))


@triton.jit
def insert(pool, limit, scores, column):
    """Pool and limit (LINES,) once `scores` (LINES, COLS) of the columns from `column` on were offered. INT32_MAX: none."""
    best = tl.min(scores, axis=1)
    while tl.max((best < limit).to(tl.int32), axis=0) > 0:
        places = tl.arange(0, scores.shape[1])[None, :]
        place = tl.min(tl.where(scores == best[:, None], places, scores.shape[1]), axis=1)
        key = (best.to(tl.int64) << 32) | (column + place).to(tl.int64)
        worst = tl.max(pool, axis=1)
        pool = tl.where((pool == worst[:, None]) & (best < limit)[:, None], key[:, None], pool)
        limit = tl.minimum(limit, (tl.max(pool, axis=1) >> 32).to(tl.int32))
        scores = tl.where(places == place[:, None], INT32_MAX, scores)
        best = tl.min(scores, axis=1)
    return pool, limit


@triton.jit
def found_in(pool):
    """Which places of a pool hold what was inserted, and the scores and columns of all."""
    score = (pool >> 32).to(tl.int32)
    return (pool != INT64_MIN) & (score < INT32_MAX), score, pool.to(tl.int32)
