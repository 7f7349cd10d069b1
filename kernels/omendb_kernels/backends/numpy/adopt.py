"""adopt: score, link and prune, the neighbours of old marked by their keys."""

from __future__ import annotations

import numpy as np

from ...contract import CodeRows, Int32s, Int64s
from ...keys import unpack
from ...parallel import blocks, run, single_threaded_blas
from .link import link, score
from .prune import BLOCK_VALUES, pruned


def adopt(
    points: CodeRows, rows: Int32s, lists: Int32s, sources: Int32s, kept: Int64s, width: int, alpha: tuple[int, int], *,
    threads: int,
) -> Int32s:  # fmt: skip
    """See contract.py."""
    degree = lists.shape[1]
    own = score(points, rows, lists, max(1, degree), threads=threads)
    candidates = link(rows, own, sources, kept, width, threads=threads)
    out = np.empty((len(rows), degree), np.int32)

    def part(bounds: tuple[int, int]) -> None:
        here = slice(*bounds)
        settled = (candidates[here, :, None] == own[here, None, :]).any(axis=2)
        out[here] = unpack(pruned(points, candidates[here], degree, alpha, settled))[1]

    with single_threaded_blas():
        run(part, blocks(len(rows), max(1, BLOCK_VALUES // max(1, width * points.codes.shape[1]))), threads)
    return out
