"""int8 codes of vectors, their proven errors, and the certificate that makes a scan of codes exact.

    x = offset + R^T (scale * c) + e        c int8 in [-128, 127], |e| <= residual

A row's *residual* is an upper bound of |e|, so the distance of two codes bounds the distance of their vectors from both
sides, and a scan that kept the k' best codes can prove that no row outside them belongs to the k nearest (the VA-file's
idea, Weber, Schek, Blott, VLDB 1998, on integer dot products). `lower_bounds` and
the three functions it is made of are that proof's only formulas.

R is the identity, or a rotation by seeded sign flips and Walsh-Hadamard butterflies where that lowers the error
(outlier dimensions). Fitting runs on the host, on a sample chosen by hash; every float operation has one fixed order, so
the codec is the same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Rows
from .contract import CODE_ALIGN, CodeRows, Float32s, Float64s, Int8s
from .guests import picked
from .metrics import METRICS

SEED = 0x6F6D656E  # "omen"
SAMPLE_ROWS = 16_384  # rows the offset is taken from
SCALE_ROWS = 2_048  # rows that scale and rotation are chosen on
CAP_RANK = 0.995  # the order statistic of residuals above which a row is an outlier
CAP_SLACK = 1.25  # no outliers at all while the worst residual is within this factor of that order statistic
ROTATION_GAIN = 0.9  # rotate only where the error falls below this share
MAX_WIDE = 2**14 - 1
EPS = 2.0**-40  # covers every relative rounding of distances and bounds (d <= 16,384)
ROUNDING = 2.0**-44  # rounding of x - offset, rotation and y - scale * c, relative to the magnitudes involved


@dataclass(frozen=True)
class Codec:
    """How rows become codes. `scale` is a float32 number; `signs` is None where nothing is rotated.

    lossless: integer rows coded as they are, residual 0. residual_cap: what the certificate assumes of rows that are not
    outliers. max_length: the longest row at fit (ip's wide coordinate is measured against it).
    """

    metric: str
    dim: int
    offset: Float32s
    scale: float
    signs: Int8s | None
    lossless: bool
    residual_cap: float = 0.0
    max_length: float = 0.0

    @property
    def code_dim(self) -> int:
        return padded_dim(self.dim)


def padded_dim(dim: int) -> int:
    """The number of code coordinates of a row of `dim` dimensions."""
    return -(-dim // CODE_ALIGN) * CODE_ALIGN


def hash_order(seed: int, item: int, n: int) -> NDArray[np.uint64]:
    """uint64 (n,): the hash of (seed, item, id) for id 0..n-1. Philox raw output only: its stream never changes."""
    return np.random.Philox(key=np.array([seed, item], np.uint64)).random_raw(n)


def sample_rows(n: int, m: int, item: int = 0) -> NDArray[np.int64]:
    """The m rows of n with the smallest (hash, id), in that order."""
    order = hash_order(SEED, item, n)
    ids = np.flatnonzero(order <= np.partition(order, m - 1)[m - 1]) if m < n else np.arange(n)
    chosen: NDArray[np.int64] = ids[np.argsort(order[ids], kind="stable")][:m]
    return chosen


def up32(values: Float64s) -> Float32s:
    """float32, rounded up: never below the float64 value."""
    rounded = values.astype(np.float32)
    low = rounded.astype(np.float64) < values
    rounded[low] = np.nextafter(rounded[low], np.float32(np.inf))
    return rounded


def rotation_blocks(dim: int) -> tuple[int, list[list[int]]]:
    """Block size (a power of four, so that 1/sqrt(size) is a power of two) and the block starts of both passes.

    Pass 0 lays blocks from the first coordinate on, pass 1 up to the last one, shifted by half a block where the two would
    coincide: together they cover every coordinate and mix neighbours. Size 0: too few dimensions to rotate.
    """
    if dim < 4:
        return 0, [[], []]
    size = 4
    while size * 4 <= dim:
        size *= 4
    shift = dim % size or size // 2
    return size, [list(range(0, dim - size + 1, size)), list(range(shift, dim - size + 1, size))]


def rotate(rows: Float64s, signs: Int8s) -> Float64s:
    """float64 (n, d) rotated: per pass the signs, then each block's butterflies h = 1, 2, 4, ... and 1/sqrt(size).

    A butterfly takes (a, b) at distance h to (a + b, a - b). Additions and powers of two only: exact order everywhere.
    """
    size, passes = rotation_blocks(rows.shape[1])
    out = rows.copy()
    for sign, starts in zip(signs, passes, strict=True):
        out *= sign
        for start in starts:
            block = out[:, start : start + size]
            step = 1
            while step < size:
                pairs = block.reshape(len(out), size // (2 * step), 2, step)
                block = np.stack((pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]), axis=2)
                block = block.reshape(len(out), size)
                step *= 2
            out[:, start : start + size] = block * size**-0.5
    return out


def rotation_signs(dim: int) -> Int8s | None:
    """The seeded signs int8 (2, d); None where there are too few dimensions to rotate."""
    if dim < 4:
        return None
    bits = hash_order(SEED, 1, 2 * dim) >> np.uint64(63)
    return (1 - 2 * bits.astype(np.int8)).reshape(2, dim).astype(np.int8)


def fit(rows: Rows, metric: str, lengths: Float64s | None, max_length: float) -> Codec:
    """The codec of these rows (n >= 1), but for the residual cap, which needs the codes. Cost: a sample of <= 16,384 rows.

    lengths: the rows' lengths (cosine), else None. max_length: the longest row (ip).
    """
    dim, traits = rows.dim, METRICS[metric]
    lossless = _lossless(rows, metric, max_length)
    if lossless is not None:
        return lossless
    chosen = sample_rows(len(rows), SAMPLE_ROWS)
    sample = Rows(picked(rows.data, chosen), rows.kind).float32().astype(np.float64)
    if traits.normalise:
        assert lengths is not None
        sample /= lengths[chosen, None]
    offset = np.zeros(dim, np.float32)
    if traits.centre:
        offset = (_tree_sum(sample) / len(sample)).astype(np.float32)
    sample = sample[:SCALE_ROWS] - offset
    floor = max_length / MAX_WIDE if metric == "ip" else 0.0
    scale, error = _best_scale(sample, floor)
    signs = rotation_signs(dim)
    if signs is not None:
        turned_scale, turned_error = _best_scale(rotate(sample, signs), floor)
        if turned_error < ROTATION_GAIN * error:
            return Codec(metric, dim, offset, turned_scale, signs, False, max_length=max_length)
    return Codec(metric, dim, offset, scale, None, False, max_length=max_length)


def _lossless(rows: Rows, metric: str, max_length: float) -> Codec | None:
    """Integer rows as their own codes, where the metric allows it."""
    shift = 128 if rows.kind == "uint8" else 0
    fits = metric == "l2" or (metric == "ip" and shift == 0 and max_length <= MAX_WIDE)
    if not rows.integer or not fits:
        return None
    return Codec(metric, rows.dim, np.full(rows.dim, shift, np.float32), 1.0, None, True, max_length=max_length)


def _tree_sum(values: Float64s) -> Float64s:
    """The sum over axis 0 by halving: elementwise additions in one fixed order, whatever the machine."""
    while len(values) > 1:
        half = len(values) // 2
        rest = values[2 * half :]
        values = values[:half] + values[half : 2 * half]
        if len(rest):
            values = np.concatenate([values, rest])
    total: Float64s = values[0]
    return total


def _best_scale(sample: Float64s, floor: float) -> tuple[float, float]:
    """The scale, of a few order statistics of max |y|, with the smallest high residual; and that residual."""
    peaks = np.sort(np.abs(sample).max(axis=1))
    best = (0.0, np.inf)
    for rank in (0.5, 0.9, 0.99, 1.0):
        peak = peaks[int(rank * (len(peaks) - 1))]
        scale = float(up32(np.array([max(peak / 127, floor, 2.0**-126)]))[0])
        error = float(np.sqrt(np.sort(_squared_errors(sample, scale))[_cap_index(len(sample))]))
        if error < best[1]:
            best = (scale, error)
    return best


def _squared_errors(sample: Float64s, scale: float) -> Float64s:
    error = np.clip(np.rint(sample / scale), -128, 127)
    error *= -scale
    error += sample
    error *= error
    return _tree_sum(np.ascontiguousarray(error.T))


def _cap_index(n: int) -> int:
    return int(CAP_RANK * (n - 1))


def residual_cap(residuals: Float32s) -> float:
    """The residual that the certificate assumes: the largest where the tail is short, else the 99.5 % order statistic."""
    largest = float(residuals.max())
    ranked = float(np.partition(residuals, _cap_index(len(residuals)))[_cap_index(len(residuals))])
    return largest if largest <= CAP_SLACK * ranked else ranked


def residuals(codec: Codec, errors: Float64s, lengths: Float64s | None, scales: Float64s) -> Float32s:
    """float32 (n,) bounds of |e| from the computed squared errors, every rounding on the way covered.

    lengths: |x| of the rows as they are coded; None for unit rows (cosine).
    """
    if codec.lossless:
        return np.zeros(len(errors), np.float32)
    unit_error = EPS if METRICS[codec.metric].normalise else 0.0  # of x / |x|, whose length is 1
    sizes = np.ones(len(errors)) if lengths is None else lengths
    return up32(residual_bound(errors, sizes, scales, float(codec.dim), float(np.abs(codec.offset).max()), unit_error))


# The three below are plain arithmetic, so that kernels compile the very same formulas for one pair at a time.


def residual_bound(error: Any, length: Any, scale: Any, dim: Any, furthest: Any, unit_error: Any) -> Any:
    """|e| from a computed squared error. furthest: the largest |offset|; unit_error: of dividing by the length (cosine)."""
    magnitude = length + np.sqrt(dim) * (furthest + 128.0 * scale)
    return np.sqrt(error) * (1 + EPS) + ROUNDING * magnitude + unit_error


def first_keep(k: int) -> int:
    """Rows that a scan keeps at first: enough to prove about 99 of 100 queries on the sets measured (docs/decisions.md)."""
    return 2 * k + 32


def l2_bound(scale: Any, score: Any, query_residual: Any, row_residual: Any) -> Any:
    """A lower bound of the squared distance."""
    near = np.maximum(scale * np.sqrt(score) * (1 - EPS) - (query_residual + row_residual) * (1 + EPS), 0.0)
    return near * near * (1 - EPS)


def ip_bound(
    scale: Any, query_scale: Any, score: Any, query_residual: Any, row_residual: Any, length: Any, max_length: Any
) -> Any:
    """A lower bound of the negated inner product. length: the query's."""
    estimate = query_scale * (scale * score) * 0.5
    slack = (length + query_residual) * row_residual + query_residual * max_length
    return estimate - slack * (1 + EPS) - EPS * (np.abs(estimate) + length * max_length)


def wide_coordinate(codec: Codec, lengths: Float64s) -> NDArray[np.int32]:
    """ip: int32 (n,) w = round(sqrt(M^2 - |x|^2) / scale), the coordinate that turns ip into l2; 0 for rows beyond M."""
    inside = np.maximum(codec.max_length * codec.max_length - lengths * lengths, 0.0)
    return np.minimum(np.rint(np.sqrt(inside) / codec.scale), MAX_WIDE).astype(np.int32)


@dataclass(frozen=True)
class QueryCodes:
    """Queries as a scan sees them. norms are zero for ip, which ranks by the dot; exact: coded without any error."""

    codes: Int8s
    norms: NDArray[np.int32]
    scales: Float64s
    residuals: Float64s
    lengths: Float64s
    exact: NDArray[np.bool_]

    @property
    def rows(self) -> CodeRows:
        """As the integer ops take them."""
        return CodeRows(self.codes, self.norms)

    def __getitem__(self, rows: NDArray[np.int64]) -> QueryCodes:
        return QueryCodes(
            self.codes[rows], self.norms[rows], self.scales[rows], self.residuals[rows], self.lengths[rows], self.exact[rows]
        )


def query_scales(codec: Codec, queries: Rows, whole: NDArray[np.bool_]) -> Float64s:
    """ip: each query's own scale, float64 (m,), so that it fills the code range; 1 for those that are codes already."""
    values = queries.float32().astype(np.float64)
    if codec.signs is not None:
        values = rotate(values, codec.signs)
    peaks = np.abs(values).max(axis=1, initial=0.0)
    scales: Float64s = np.maximum(up32(peaks / 127), 2.0**-126).astype(np.float64)
    scales[whole] = 1.0
    return scales


def exactly_coded(codec: Codec, queries: Rows) -> NDArray[np.bool_]:
    """bool (m,): queries that a lossless codec reproduces without error."""
    if not codec.lossless:
        return np.zeros(len(queries), np.bool_)
    values = queries.float32()
    shift = codec.offset[0]
    inside = (values == np.rint(values)) & (values >= shift - 128) & (values <= shift + 127)
    return np.asarray(inside.all(axis=1))


def lower_bounds(codec: Codec, queries: QueryCodes, scores: NDArray[Any], row_residuals: Any, max_length: float) -> Float64s:
    """Proven lower bounds, float64 (m, c), of final distances before their rounding to float32.

    scores: int (m, c) of `nearest`. row_residuals: a number or (m, c), the residual bound of the row. max_length: of any
    point. With D the code distance and r the residuals, |q - x| >= scale sqrt(D) - r_q - r_x; for ip
    |<q,x> - s_q s <c_q,c_x>| <= s_q |c_q| r_x + r_q |x|. EPS covers the rounding of this formula and of the distance.
    """
    scores = scores.astype(np.float64)
    query_residuals = queries.residuals[:, None]
    if codec.metric == "ip":
        scales, lengths = queries.scales[:, None], queries.lengths[:, None]
        return np.asarray(ip_bound(codec.scale, scales, scores, query_residuals, row_residuals, lengths, max_length))
    squared = l2_bound(codec.scale, scores, query_residuals, row_residuals)
    if codec.metric == "cosine":
        return np.asarray(np.maximum(squared / 2 - EPS, 0.0))
    return np.asarray(squared)
