"""The codec: residuals and bounds against exact rational arithmetic, rotation, samples, and codes that lose nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from contract_check import USABLE, in_force
from contract_rows import KINDS, as_kind, final64, make_rows, wide
from hypothesis import given
from hypothesis import strategies as st

from omendb_kernels import METRICS, PointSet, codec
from omendb_kernels.arrays import Rows
from omendb_kernels.backends import reference

Exact = list[Fraction]
HASHES = [
    [14964040422258873631, 13929104303331815346, 874757552665134250, 4685793414116506466],
    [13566950595270969013, 3210039038339788521, 12547700921915563167, 4278215505929894128],
    [11079839581357308033, 14241079671835244557],
]
SAMPLE = [76642, 92817, 60139, 14680, 58236, 25848, 7233, 22637]
SAMPLE_OF_TEN = [0, 4, 6, 7]
SIGNS = [
    [-1, 1, -1, 1, -1, 1, 1, -1, -1, -1, 1, -1, -1, -1, 1, 1],
    [1, -1, -1, 1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, 1],
]


def exact_row(rows: Rows, i: int) -> Exact:
    return [Fraction(float(value)) for value in wide(rows)[i]]


def root(square: Fraction) -> Fraction:
    """The square root to 200 bits beyond the size of the number."""
    bits = 200 + max(0, square.denominator.bit_length() - square.numerator.bit_length())
    return Fraction(math.isqrt((square.numerator << 2 * bits) // square.denominator), 1 << bits)


def norm(row: Exact) -> Fraction:
    return root(sum((value * value for value in row), Fraction(0)))


def rotated(row: Exact, signs: np.ndarray | None) -> Exact:
    """The rotation of codec.rotate without any rounding: additions and powers of two only."""
    if signs is None:
        return row
    size, passes = codec.rotation_blocks(len(row))
    out = list(row)
    for flips, starts in zip(signs, passes, strict=True):
        out = [value * int(flip) for value, flip in zip(out, flips, strict=True)]
        for start in starts:
            step = 1
            while step < size:
                for low in (place for place in range(start, start + size) if not (place - start) & step):
                    out[low], out[low + step] = out[low] + out[low + step], out[low] - out[low + step]
                step *= 2
            out[start : start + size] = [value / math.isqrt(size) for value in out[start : start + size]]
    return out


def error_of(points: PointSet, i: int) -> Fraction:
    """|e| of row i: the exact distance between the row (cosine: of length 1) and what its code stands for."""
    row = exact_row(points.vectors, i)
    if points.metric == "cosine":
        length = norm(row)
        row = [value / length for value in row]
    away = [value - Fraction(float(shift)) for value, shift in zip(row, points.codec.offset, strict=True)]
    turned, scale = rotated(away, points.codec.signs), Fraction(points.codec.scale)
    return norm([value - scale * int(code) for value, code in zip(turned, points.codes[i], strict=False)])


def constant_columns(rng, kind, n, d):
    rows = make_rows(rng, kind, n, d)
    rows.data[:, ::2] = rows.data[0, ::2]
    return rows


def outlier_dimensions(rng, kind, n, d):
    values = rng.standard_normal((n, d))
    values[:, :1] *= 1000
    return as_kind(values, kind)


HOSTILE = {
    **{style: lambda rng, kind, n, d, style=style: make_rows(rng, kind, n, d, style)
       for style in ("plain", "ties", "duplicates", "offset", "spread", "denormal")},
    "constant columns": constant_columns,
    "outlier dimensions": outlier_dimensions,
    "rows of equals": lambda rng, kind, n, d: make_rows(rng, kind, 1, d)[np.zeros(n, np.int64)],
    "one row far out": lambda rng, kind, n, d: as_kind(
        np.r_[rng.standard_normal((n - 1, d)), np.full((1, d), 1e9 if kind != "float16" else 6e4)], kind
    ),
}  # fmt: skip
CASES = [(name, metric, d) for name in HOSTILE for metric in METRICS for d in (1, 2, 3, 4, 17, 33)]


def hostile(rng: np.random.Generator, name: str, kind: str, n: int, d: int) -> Rows:
    rows = HOSTILE[name](rng, kind, n, d)
    rows.data[~rows.float32().any(axis=1), 0] = as_kind([[1.0]], kind).data[0, 0]
    return rows


@pytest.mark.parametrize("name", HOSTILE)
def test_residuals_bound_the_exact_error(rng, name):
    for place, (_, metric, d) in enumerate(case for case in CASES if case[0] == name):
        points = PointSet.encode(hostile(rng, name, KINDS[place % 3], 60, d), metric)
        assert points.codec.scale > 0
        assert points.codec.scale == np.float32(points.codec.scale)
        for i in (*range(8), 59):
            assert Fraction(float(points.residuals[i])) >= error_of(points, i), f"{metric}, d={d}, row {i}"


def test_residuals_of_many_dimensions(rng):
    for metric in METRICS:
        points = PointSet.encode(outlier_dimensions(rng, "float32", 300, 256), metric)
        assert points.codec.signs is not None
        assert all(Fraction(float(points.residuals[i])) >= error_of(points, i) for i in range(3))


def test_residuals_are_close_to_the_error(rng):
    """A bound of infinity would be true and useless."""
    points = PointSet.encode(make_rows(rng, "float32", 60, 17), "l2")
    assert all(float(points.residuals[i]) <= float(error_of(points, i)) * 1.001 for i in range(20))


def test_residuals_of_queries(rng):
    for metric in METRICS:
        points = PointSet.encode(make_rows(rng, "float32", 60, 17), metric)
        queries = as_kind(rng.standard_normal((12, 17)) * 10.0 ** rng.uniform(-6, 6, (12, 1)), "float32")
        coded = points.encode_queries(queries)
        for i in range(12):
            row = exact_row(queries, i)
            row = [value / norm(row) for value in row] if metric == "cosine" else row
            shift = points.codec.offset if metric != "ip" else np.zeros(17)
            scale = Fraction(float(coded.scales[i]))
            turned = rotated([value - Fraction(float(s)) for value, s in zip(row, shift, strict=True)], points.codec.signs)
            error = norm([value - scale * int(code) for value, code in zip(turned, coded.codes[i], strict=False)])
            assert Fraction(float(coded.residuals[i])) >= error


@given(
    name=st.sampled_from(list(HOSTILE)),
    metric=st.sampled_from(list(METRICS)),
    kind=st.sampled_from(KINDS),
    query_kind=st.sampled_from(KINDS),
    d=st.sampled_from([1, 2, 3, 5, 16, 33]),
    power=st.floats(-17, 17),
    seed=st.integers(0, 2**32 - 1),
)
def test_lower_bounds_are_below_every_distance(name, metric, kind, query_kind, d, power, seed):
    rng = np.random.default_rng(seed)
    points = PointSet.encode(hostile(rng, name, kind, 40, d), metric)
    far = as_kind(rng.standard_normal((2, d)) * 10.0**power, "float32")
    near = as_kind(wide(points.vectors)[:2] * (1 + 1e-6), "float32")
    for queries in (far, near, make_rows(rng, query_kind, 2, d), points.vectors[:2]):
        if metric == "cosine" and not wide(queries).any(axis=1).all():
            continue
        assert_bounded(points, queries)


def assert_bounded(points: PointSet, queries: Rows, share: float = 1.0) -> None:
    """`share` of the residuals is told to the bound."""
    coded = points.encode_queries(queries)
    coded = replace(coded, residuals=coded.residuals * share)
    dots = coded.codes.astype(np.int64) @ points.codes.astype(np.int64).T
    scores = coded.norms[:, None] + points.scanned.norms.astype(np.int64) - 2 * dots
    residuals = points.residuals.astype(np.float64) * share
    bounds = codec.lower_bounds(points.codec, coded, scores, residuals, points.max_length)
    computed = final64(wide(queries), wide(points.vectors), METRICS[points.metric].code)
    assert bounds.dtype == np.float64
    assert (bounds <= computed).all()
    for i, j in ((0, 0), (1, 0), (0, len(points) - 1)):
        distance = exact_distance(exact_row(queries, i), exact_row(points.vectors, j), points.metric)
        assert Fraction(float(bounds[i, j])) <= distance


def exact_distance(query: Exact, row: Exact, metric: str) -> Fraction:
    if metric == "l2":
        return sum(((a - b) ** 2 for a, b in zip(query, row, strict=True)), Fraction(0))
    dot = sum((a * b for a, b in zip(query, row, strict=True)), Fraction(0))
    return -dot if metric == "ip" else max(Fraction(0), 1 - dot / (norm(query) * norm(row)))


@pytest.mark.parametrize("metric", METRICS)
def test_a_bound_that_forgets_the_residuals_is_seen(rng, metric):
    """assert_bounded can fail."""
    points = PointSet.encode(make_rows(rng, "float32", 200, 17), metric)
    assert_bounded(points, points.vectors[:20])
    with pytest.raises(AssertionError):
        assert_bounded(points, points.vectors[:20], share=0.0)


@pytest.mark.parametrize("metric", METRICS)
def test_bounds_are_tight_enough_to_be_of_use(rng, metric):
    rows = make_rows(rng, "float32", 500, 32)
    points = PointSet.encode(rows, metric)
    coded = points.encode_queries(rows[:3])
    dots = coded.codes.astype(np.int64) @ points.codes.astype(np.int64).T
    scores = coded.norms[:, None] + points.scanned.norms - 2 * dots
    bounds = codec.lower_bounds(points.codec, coded, scores, points.residuals.astype(np.float64), points.max_length)
    computed = final64(wide(rows[:3]), wide(rows), METRICS[metric].code)
    assert np.median(computed - bounds) < 0.1 * np.ptp(computed)


# ---- rotation, samples, rounding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [4, 5, 15, 16, 17, 63, 64, 100, 257])
def test_rotation_is_orthogonal_and_the_oracles(rng, d):
    signs = codec.rotation_signs(d)
    assert signs.shape == (2, d)
    assert set(np.unique(signs)) <= {-1, 1}
    rows = rng.standard_normal((5, d))
    turned = codec.rotate(rows, signs)
    for row, found in zip(rows, turned, strict=True):
        assert reference._rotate(row, signs).tobytes() == found.tobytes()
    matrix = codec.rotate(np.eye(d), signs)  # every entry exact: sums of few powers of two
    np.testing.assert_array_equal(matrix @ matrix.T, np.eye(d))
    row = as_kind(rows[:1], "float32")
    exact = [float(value) for value in rotated(exact_row(row, 0), signs)]
    np.testing.assert_allclose(exact, codec.rotate(wide(row), signs)[0], atol=1e-13)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_few_dimensions_are_not_rotated(d):
    assert codec.rotation_signs(d) is None
    assert codec.rotation_blocks(d) == (0, [[], []])


def test_rotation_blocks_cover_every_coordinate():
    for d in range(4, 700):
        size, (first, second) = codec.rotation_blocks(d)
        assert size <= d < size * 4
        assert {place for start in (*first, *second) for place in range(start, start + size)} == set(range(d))
        assert first[0] == 0
        assert d == size or second[-1] + size == d or d % size == 0
        assert not set(first) & set(second)
        assert all(start >= 0 and start + size <= d for start in (*first, *second))


def test_hashes_never_change():
    """Snapshots of other machines and versions rest on these numbers."""
    assert codec.SEED == 0x6F6D656E
    assert codec.hash_order(codec.SEED, 0, 4).tolist() == HASHES[0]
    assert codec.hash_order(codec.SEED, 1, 4).tolist() == HASHES[1]
    assert codec.hash_order(codec.SEED, 0, 1000)[-2:].tolist() == HASHES[2]
    assert codec.sample_rows(100_000, 8).tolist() == SAMPLE
    assert codec.sample_rows(10, 4, item=7).tolist() == SAMPLE_OF_TEN
    assert codec.rotation_signs(16).tolist() == SIGNS
    order = codec.hash_order(codec.SEED, 3, 999)
    assert codec.sample_rows(999, 20, item=3).tolist() == np.argsort(order)[:20].tolist()


def test_sample_is_of_distinct_rows_and_grows_from_its_front():
    small, large = codec.sample_rows(5_000, 100), codec.sample_rows(5_000, 300)
    assert len(set(large.tolist())) == 300
    assert large[:100].tolist() == small.tolist()
    assert sorted(codec.sample_rows(50, 100).tolist()) == list(range(50))


@given(st.lists(st.floats(0, 1e37), min_size=1, max_size=20))
def test_up32_is_the_next_float_above(values):
    found = codec.up32(np.array(values))
    for value, up in zip(values, found, strict=True):
        assert float(up) >= value
        assert float(np.nextafter(up, np.float32(-np.inf))) < value


# ---- lossless ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "metric", "shift"), [("uint8", "l2", 128), ("int8", "l2", 0), ("int8", "ip", 0)])
def test_integer_rows_are_their_own_codes(rng, kind, metric, shift):
    limits = np.iinfo(kind)
    rows = Rows(rng.integers(limits.min, limits.max + 1, (50, 37)).astype(kind), kind)
    points = PointSet.encode(rows, metric)
    assert points.codec.lossless
    assert (points.codec.scale, points.codec.signs) == (1.0, None)
    assert not points.residuals.any()
    np.testing.assert_array_equal(points.codes[:, :37].astype(int) + shift, rows.data)
    assert not points.codes[:, 37:].any()
    exact = points.encode_queries(as_kind([[0.0] * 37, [0.5] * 37, [100.0] * 37, [300.0] * 37], "float32"))
    assert exact.exact.tolist() == [True, False, True, False]
    assert (exact.residuals == 0).tolist() == [True, False, True, False]


@pytest.mark.parametrize(("kind", "metric"), [("uint8", "ip"), ("uint8", "cosine"), ("int8", "cosine"), ("float32", "l2")])
def test_other_rows_are_not(rng, kind, metric):
    points = PointSet.encode(make_rows(rng, kind, 50, 9), metric)
    assert not points.codec.lossless
    assert points.residuals.all()


@pytest.mark.parametrize("name", HOSTILE)
def test_codes_are_the_same_on_every_backend(rng, name):
    for metric in METRICS:
        rows = hostile(rng, name, "float32", 300, 19)
        states = []
        for backend in USABLE.values():
            for threads in (1, 3):
                with in_force(backend):
                    states.append(PointSet.encode(rows, metric, threads=threads).state())
        for facts, arrays in states[1:]:
            assert facts == states[0][0]
            assert {key: value.tobytes() for key, value in arrays.items()} == {k: v.tobytes() for k, v in states[0][1].items()}
