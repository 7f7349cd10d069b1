"""prune: the rule of relative neighbours, a warp a line; longer lines than 64 candidates a group of 64 after another."""

from __future__ import annotations

from typing import Any, NamedTuple

import cupy
import numpy as np

from ...contract import CodeRows
from ._device import NULL, give, launch, on_device, op, put, put_codes, rows_per_tile, uploaded

GROUP, WARPS, WORDS = 64, 2, 10  # of a group: candidates and words of memory; of a block: lines (prune.cu)
MOST_LINES = 2**30  # of a launch
UPLOAD = 2**26  # bytes of candidates that come from the host at a time, while those before are pruned


class Shape(NamedTuple):
    """How lines of some length are decided: kernel, blocks, threads of one, uint64 words of memory that it works in."""

    kernel: str
    blocks: int
    threads: int
    words: int


def shape_of(rule: str, lines: int, most: int) -> Shape:
    """The shape for `lines` lines of at most `most` candidates. rule: prune or adopt."""
    blocks, groups = -(-lines // WARPS), -(-most // GROUP)
    if groups <= 1:
        return Shape(f"{rule}_lines", blocks, 32 * WARPS, 0)
    return Shape(f"{rule}_long", blocks, 32 * WARPS, lines * groups * WORDS)


@op
def prune(points: CodeRows, candidates: Any, degree: int, alpha: tuple[int, int], *, threads: int) -> Any:
    """See contract.py."""
    (lines, most), here = candidates.shape, on_device(candidates)
    kept = (cupy if here else np).empty((lines, degree), np.int64)
    if kept.size:
        device = put_codes(points)
        each = 2 * 8 * most + 8 * degree + 8 * shape_of("prune", 1, most).words
        step = rows_per_tile(each, most=MOST_LINES if here else max(1, UPLOAD // (8 * max(1, most))))
        for start, stop, (some,) in uploaded((candidates,), step):
            part = kept[start:stop] if here else cupy.empty((stop - start, degree), np.int64)
            decide("prune", device, put(some), degree, alpha, part)
            if not here:
                kept[start:stop] = give(part, candidates)
    return kept


def decide(rule: str, points: CodeRows, candidates: Any, degree: int, alpha: tuple[int, int], out: Any, *known: Any) -> None:
    """What is kept of the candidates into `out` (lines, degree), all on the device. known: the lists of old, for adopt."""
    lines, most = candidates.shape
    shape = shape_of(rule, lines, most)
    words = (cupy.empty(shape.words, np.uint64),) if shape.words else ()
    launch(
        "prune.cu", shape.kernel, shape.blocks, shape.threads,
        points.codes, points.norms, NULL if points.wide is None else points.wide, np.int32(points.codes.shape[1]),
        candidates, np.int32(lines), np.int32(most), np.int32(degree), np.int64(alpha[0]), np.int64(alpha[1]),
        *known, *words, out,
    )  # fmt: skip
