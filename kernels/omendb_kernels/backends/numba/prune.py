"""prune: the relative-neighbour rule over candidates in order, each kept one striking out the later ones it is close to.

The distances among a row's candidates come from tiles of integer products; the tiles of candidates that are all struck out
already are not computed. c^2 D multiply-adds a row at most, for c candidates, and c codes gathered.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from ...contract import NO_KEY, CodeRows, Int64s
from ...parallel import blocks, run
from ._codes import prefetch, readable_codes
from ._rows import JIT, unlocked
from ._scores import NO_SCORE, WIDTH, below, settle
from ._tile import COLUMNS, ROWS, new_panels, pack, products, shift_of

BLOCK = 512


def prune(points: CodeRows, candidates: Int64s, degree: int, alpha: tuple[int, int], *, threads: int) -> Int64s:
    """See contract.py."""
    codes, norms, wide = readable_codes(points)
    candidates = unlocked(candidates)
    kept = np.full((len(candidates), degree), NO_KEY, np.int64)

    def part(bounds: tuple[int, int]) -> None:
        here = slice(*bounds)
        _prune(codes, norms, wide, candidates[here], alpha[0], alpha[1], kept[here])

    run(part, blocks(len(candidates), BLOCK), threads)
    return kept


@njit(**JIT)
def _prune(codes: Any, norms: Any, wide: Any, candidates: Any, numerator: Any, denominator: Any, kept: Any) -> None:
    rows, most = candidates.shape
    degree = kept.shape[1]
    padded = (most + WIDTH - 1) // WIDTH * WIDTH
    panels, ids = new_panels(padded, codes.shape[1]), np.empty(most, np.int32)
    dots = np.empty((ROWS, padded), np.int32)
    bias, scores, places = np.empty(padded, np.int32), np.empty(padded, np.int32), np.empty(padded, np.int32)
    struck = np.empty(padded, np.bool_)
    for row in range(rows):
        line = candidates[row]
        count = 0
        while count < most and line[count] != NO_KEY:
            ids[count] = line[count] & 0xFFFFFFFF
            count += 1
        if row + 1 < rows:  # the codes of the next line arrive while this one is computed
            for place in range(most):
                if candidates[row + 1, place] == NO_KEY:
                    break
                prefetch(codes, np.int64(candidates[row + 1, place] & 0xFFFFFFFF))
        steps = (count + WIDTH - 1) // WIDTH
        bias[count : steps * WIDTH] = NO_SCORE
        pack(codes, ids, 0, count, panels)
        for j in range(count):
            node = ids[j]
            # Struck out by y where D(y, j) <= floor(D(p, j) / alpha): all but D's products goes into the bias.
            reach = np.int32(denominator * (line[j] >> 32) // numerator)
            bias[j] = np.int32(norms[node] - reach + np.int32(2) * shift_of(codes[node]))
            struck[j] = False
        size = 0
        for start in range(0, count, ROWS):
            stop = min(start + ROWS, count)
            if struck[start:stop].all():
                continue
            products(codes, ids, start, count, panels, steps * WIDTH // COLUMNS, dots)
            for own in range(start, stop):
                if struck[own] or size == degree:
                    continue
                kept[row, size] = line[own]
                size += 1
                node = ids[own]
                if len(wide):
                    for j in range(count):
                        dots[own - start, j] += wide[node] * wide[ids[j]]
                settle(dots[own - start], bias, scores, steps, 0, np.int32(0))
                for i in range(below(scores, steps, np.int32(-norms[node]), places)):
                    struck[places[i]] = True
            if size == degree:
                break
