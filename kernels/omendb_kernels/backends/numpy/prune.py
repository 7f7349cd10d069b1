"""prune: the distances among all candidates of a few lines at once, then one candidate of every line a step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...contract import NO_KEY, CodeRows, Int64s
from ...parallel import blocks, run, single_threaded_blas
from .nearest import code_distances

BLOCK_VALUES = 1 << 20  # code coordinates of the candidates in flight


def prune(points: CodeRows, candidates: Int64s, degree: int, alpha: tuple[int, int], *, threads: int) -> Int64s:
    """See contract.py."""
    kept = np.full((len(candidates), degree), NO_KEY, np.int64)
    step = max(1, BLOCK_VALUES // max(1, candidates.shape[1] * points.codes.shape[1]))

    def part(bounds: tuple[int, int]) -> None:
        kept[slice(*bounds)] = pruned(points, candidates[slice(*bounds)], degree, alpha)

    with single_threaded_blas():
        run(part, blocks(len(candidates), step), threads)
    return kept


def pruned(
    points: CodeRows, lines: Int64s, degree: int, alpha: tuple[int, int], settled: NDArray[np.bool_] | None = None
) -> Int64s:
    """`prune` of a few lines; of those that are settled, bool (r, c), none strikes out another."""
    r, c = lines.shape
    there = lines != NO_KEY
    rows = np.where(there, lines & 0xFFFFFFFF, 0).astype(np.int64)
    reach = alpha[1] * (lines >> 32)
    among = np.stack([code_distances(line, line) for line in (points.take(row) for row in rows)]) if r else np.empty((0, c, c))
    close = alpha[0] * among.astype(np.int64) <= reach[:, None, :]  # [line, y, c]: y strikes out c
    if settled is not None:
        close &= ~(settled[:, :, None] & settled[:, None, :])
    struck: NDArray[np.bool_] = ~there
    sizes = np.zeros(r, np.int64)
    kept = np.full((r, degree), NO_KEY, np.int64)
    for place in range(c):
        chosen = np.flatnonzero(~struck[:, place] & (sizes < degree))
        kept[chosen, sizes[chosen]] = lines[chosen, place]
        sizes[chosen] += 1
        struck[chosen] |= close[chosen, place]
    return kept
