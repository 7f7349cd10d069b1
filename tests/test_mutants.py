"""The checker of the contract table is itself tested: backends that are wrong in one small way must not pass it."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from contract_cases import TABLE
from contract_check import Mismatch, check, mutant
from contract_rows import IP, L2, wide

from omendb_kernels.backends import reference
from omendb_kernels.contract import INT32_MAX, LANES, NO_KEY, CodeRows

Op = Callable[..., Any]
LaneSum = Callable[[np.ndarray], np.ndarray]


def first_caught(backend: Any, op: str, seed: int) -> str | None:
    """What the table says of this backend; None when it finds nothing."""
    for place, case in enumerate(sorted(TABLE, key=lambda case: case.name == "plain")):
        if case.op == op and case.dim <= 300:
            try:
                check(backend, case.make(np.random.default_rng([seed, place])), case, threads=(1,))
            except Mismatch as mismatch:
                return str(mismatch)
    return None


# ---- nearest -------------------------------------------------------------------------------------------------------


def scores_of(queries: CodeRows, points: CodeRows, mask: Any, width: Any = np.int64) -> np.ndarray:
    """int64 (m, n), INT32_MAX where the mask refuses. width: of the sums."""
    dots = (queries.codes.astype(width) @ points.codes.astype(width).T).astype(np.int64)
    if queries.wide is not None and points.wide is not None:
        dots += np.outer(queries.wide, points.wide).astype(width)
    scores = queries.norms[:, None].astype(np.int64) + points.norms - 2 * dots
    return scores if mask is None else np.where(mask, scores, INT32_MAX)


def first_of(scores: np.ndarray, k: int, ids: np.ndarray | None = None) -> np.ndarray:
    """The k first of each line; equals in the order of `ids`, else of their places."""
    out = np.full((len(scores), k), NO_KEY, np.int64)
    for line, row in zip(out, scores, strict=True):
        order = np.lexsort((np.arange(len(row)) if ids is None else ids, row))[:k]
        order = order[row[order] < INT32_MAX]
        line[: len(order)] = row[order] * 2**32 + order
    return out


def ties_to_the_larger_id(queries, points, k, mask, *, threads):
    return first_of(scores_of(queries, points, mask), k, -np.arange(len(points.codes)))


def a_sound_nearest(queries, points, k, mask, *, threads):
    return first_of(scores_of(queries, points, mask), k)


def changed_nearest(change: Callable[..., tuple[Any, ...]]) -> Op:
    def nearest(queries, points, k, mask, *, threads):
        return a_sound_nearest(*change(queries, points, k, mask), threads=threads)

    return nearest


def without_rows_from(count: Callable[[int], int]) -> Op:
    def change(queries, points, k, mask):
        stop = count(len(points.codes))
        return queries, points.take(np.arange(stop)), k, None if mask is None else mask[:stop]

    return changed_nearest(change)


def one_less(queries, points, k, mask, *, threads):
    keys = a_sound_nearest(queries, points, k, mask, threads=threads)
    keys[:, -1] = NO_KEY
    return keys


def narrow_sums(queries, points, k, mask, *, threads):
    return first_of(scores_of(queries, points, mask, np.int16), k)


def unsorted_keys(queries, points, k, mask, *, threads):
    return a_sound_nearest(queries, points, k, mask, threads=threads)[:, ::-1]


# ---- sums ----------------------------------------------------------------------------------------------------------


def one_after_the_other(terms: np.ndarray) -> np.ndarray:
    return np.add.accumulate(np.c_[np.zeros(len(terms)), terms], axis=1)[:, -1]


def lanes_of(terms: np.ndarray, count: int = LANES, dtype: Any = np.float64) -> list[np.ndarray]:
    lanes = [np.zeros(len(terms), dtype) for _ in range(count)]
    for j in range(terms.shape[1]):
        lanes[j % count] = lanes[j % count] + terms[:, j].astype(dtype)
    return lanes


def folded(lanes: list[np.ndarray]) -> np.ndarray:
    fours = [lanes[lane] + lanes[lane + 4] for lane in range(4)]
    return (fours[0] + fours[2]) + (fours[1] + fours[3])


def neighbours_first(terms: np.ndarray) -> np.ndarray:
    s = lanes_of(terms)
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]))


def four_lanes(terms: np.ndarray) -> np.ndarray:
    s = lanes_of(terms, 4)
    return (s[0] + s[2]) + (s[1] + s[3])


def in_float32(terms: np.ndarray) -> np.ndarray:
    return folded(lanes_of(terms, dtype=np.float32)).astype(np.float64)


def tail_in_lane_zero(terms: np.ndarray) -> np.ndarray:
    whole = terms.shape[1] // LANES * LANES
    lanes = lanes_of(terms[:, :whole])
    for j in range(whole, terms.shape[1]):
        lanes[0] = lanes[0] + terms[:, j]
    return folded(lanes)


def without_the_tail(terms: np.ndarray) -> np.ndarray:
    return folded(lanes_of(terms[:, : terms.shape[1] // LANES * LANES]))


def summed(lane_sum: LaneSum, op: str) -> Op:
    """The oracle's op with another sum."""

    def changed(*args: Any, **kwargs: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reference, "_lane_sum", lane_sum)
            return getattr(reference, op)(*args, **kwargs)

    return changed


def fused(factors: np.ndarray, others: np.ndarray) -> float:
    """The lane sum of factors * others, each product added by one fused multiply-add."""
    lanes = [0.0] * LANES
    for j, (a, b) in enumerate(zip(factors.tolist(), others.tolist(), strict=True)):
        lanes[j % LANES] = float(Fraction(a) * Fraction(b) + Fraction(lanes[j % LANES]))
    fours = [lanes[lane] + lanes[lane + 4] for lane in range(4)]
    return (fours[0] + fours[2]) + (fours[1] + fours[3])


def fused_distances(query: np.ndarray, points: np.ndarray, metric: int) -> np.ndarray:
    if metric != L2:
        return SOUND_DISTANCES(query, points, metric)
    return np.array([fused(query - point, query - point) for point in points], np.float64).astype(np.float32)


SOUND_DISTANCES = reference._distances


def with_distances(op: str, distances: Op) -> Op:
    def changed(*args: Any, **kwargs: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reference, "_distances", distances)
            return getattr(reference, op)(*args, **kwargs)

    return changed


# ---- encode --------------------------------------------------------------------------------------------------------


def fused_encode(rows, lengths, offset, signs, scales, *, threads):
    codes, norms, errors = reference.encode(rows, lengths, offset, signs, scales)
    if signs is None:
        y = (wide(rows) / lengths[:, None] if lengths is not None else wide(rows)) - offset
        gaps = y - np.reshape(scales, (-1, 1)) * codes[:, : rows.dim]
        errors = np.array([fused(gap, gap) for gap in gaps], np.float64).reshape(len(rows))
    return codes, norms, errors


def padded_with_ones(rows, lengths, offset, signs, scales, *, threads):
    codes, norms, errors = reference.encode(rows, lengths, offset, signs, scales)
    codes[:, rows.dim :] = 1
    return codes, norms, errors


def norm_in_the_padding(rows, lengths, offset, signs, scales, *, threads):
    codes, norms, errors = padded_with_ones(rows, lengths, offset, signs, scales, threads=1)
    norms = (codes.astype(np.int32) ** 2).sum(axis=1).astype(np.int32)
    codes[:, rows.dim :] = 0
    return codes, norms, errors


def divided_by_a_reciprocal(rows, lengths, offset, signs, scales, *, threads):
    codes, norms, errors = reference.encode(rows, lengths, offset, signs, scales)
    if signs is None and lengths is None:
        code = np.clip(np.rint((wide(rows) - offset) * (1 / np.reshape(scales, (-1, 1)))), -128, 127)
        codes[:, : rows.dim] = code
        norms = (code**2).sum(axis=1).astype(np.int32)
    return codes, norms, errors


def rounded_half_up(rows, lengths, offset, signs, scales, *, threads):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "rint", lambda values: np.floor(values + 0.5))
        return reference.encode(rows, lengths, offset, signs, scales)


# ---- rerank and pairwise -------------------------------------------------------------------------------------------


def one_step_off(*args: Any, **kwargs: Any) -> Any:
    distances, ids = reference.rerank(*args, **kwargs)
    if len(distances) and np.isfinite(distances[-1, 0]):
        distances[-1, 0] = np.nextafter(distances[-1, 0], np.float32(np.inf))
    return distances, ids


def minus_zero(query: np.ndarray, points: np.ndarray, metric: int) -> np.ndarray:
    if metric != IP:
        return SOUND_DISTANCES(query, points, metric)
    return (-reference._lane_sum(query * points)).astype(np.float32)


def larger_row_first(queries, points, candidates, k, metric, *, lengths, lower, threads):
    distances, ids = reference.rerank(queries, points, candidates, candidates.shape[1] or 1, metric)
    for line, names in zip(distances, ids, strict=True):
        order = np.lexsort((-names, line))
        line[:], names[:] = line[order], names[order]
    room = max(0, k - distances.shape[1])
    pad = ((0, 0), (0, room))
    return np.pad(distances, pad, constant_values=np.inf)[:, :k], np.pad(ids, pad, constant_values=-1)[:, :k]


def believing_rounded_bounds(queries, points, candidates, k, metric, *, lengths, lower, threads):
    """Skips a row whose bound is above the k-th distance, though it may round down to it and have the smaller id."""
    if lower is not None:
        limit = reference.rerank(queries, points, candidates, k, metric)[0][:, -1:]
        candidates = np.where(lower > limit, -1, candidates)
    return reference.rerank(queries, points, candidates, k, metric)


def holes_as_rows(queries, points, candidates, k, metric, *, lengths, lower, threads):
    return reference.rerank(queries, points, np.where(candidates < 0, len(points) - 1, candidates), k, metric)


MUTANTS: dict[str, tuple[str, Op]] = {
    "nearest, ties to the larger id": ("nearest", ties_to_the_larger_id),
    "nearest, mask off by one": ("nearest", changed_nearest(lambda *a: (*a[:3], None if a[3] is None else np.roll(a[3], 1)))),
    "nearest, mask ignored": ("nearest", changed_nearest(lambda *a: (*a[:3], None))),
    "nearest, wide ignored": ("nearest", changed_nearest(lambda queries, *a: (queries._replace(wide=None), *a))),
    "nearest, last row skipped": ("nearest", without_rows_from(lambda n: max(0, n - 1))),
    "nearest, last tile skipped": ("nearest", without_rows_from(lambda n: n // 64 * 64)),
    "nearest, k-1 results": ("nearest", one_less),
    "nearest, sums in 16 bits": ("nearest", narrow_sums),
    "nearest, not sorted": ("nearest", unsorted_keys),
    "encode, padding not zero": ("encode", padded_with_ones),
    "encode, norm in the padding": ("encode", norm_in_the_padding),
    "encode, reciprocal": ("encode", divided_by_a_reciprocal),
    "encode, half up": ("encode", rounded_half_up),
    "encode, fused": ("encode", fused_encode),
    "rerank, one step off": ("rerank", one_step_off),
    "rerank, larger row first": ("rerank", larger_row_first),
    "rerank, bound not rounded": ("rerank", believing_rounded_bounds),
    "rerank, holes as rows": ("rerank", holes_as_rows),
    "rerank, fused": ("rerank", with_distances("rerank", fused_distances)),
    "pairwise, fused": ("pairwise", with_distances("pairwise", fused_distances)),
    "rerank, -0.0": ("rerank", with_distances("rerank", minus_zero)),
    "pairwise, -0.0": ("pairwise", with_distances("pairwise", minus_zero)),
}
SUMS = (one_after_the_other, neighbours_first, four_lanes, in_float32, tail_in_lane_zero, without_the_tail)
SUMMING = ("lengths", "encode", "rerank", "pairwise")
for change in SUMS:
    for name in SUMMING:
        MUTANTS[f"{name}, {change.__name__.replace('_', ' ')}"] = (name, summed(change, name))


SOUND: dict[str, tuple[str, Op]] = {  # the same scaffolding with nothing wrong in it
    "nearest": ("nearest", a_sound_nearest),
    "nearest, changed": ("nearest", changed_nearest(lambda *a: a)),
    "rerank, distances": ("rerank", with_distances("rerank", SOUND_DISTANCES)),
    **{f"{op}, sum": (op, summed(lambda terms: folded(lanes_of(terms)), op)) for op in SUMMING},
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(pytestconfig, name):
    op, function = MUTANTS[name]
    assert first_caught(mutant(name, **{op: function}), op, pytestconfig.option.seed) is not None


@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_caught_where_nothing_is_wrong(pytestconfig, name):
    op, function = SOUND[name]
    assert first_caught(mutant(name, **{op: function}), op, pytestconfig.option.seed) is None


def test_rough_matrix_product_is_caught(rng):
    """The bound of the float32 pairwise is no licence: float16 products do not pass."""

    def rough(queries, points, metric, precision, *, threads):
        return -(queries.float32().astype(np.float16) @ points.float32().T.astype(np.float16)).astype(np.float32)

    case = next(case for case in TABLE if case.op == "pairwise float32" and case.metric == "ip" and case.dim == 300)
    with pytest.raises(Mismatch, match="not within"):
        check(mutant("rough", pairwise=rough), case.make(rng), case, threads=(1,))
