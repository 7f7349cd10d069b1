"""The lane sum of contract.py over arrays of rows: elementwise NumPy operations only, so the order is what is written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...contract import LANES, Float32s, Float64s

Term = Callable[[Float64s, Float64s], Float64s]


def lane_sum(a: Float64s, b: Float64s, term: Term) -> Float64s:
    """float64 (n,): the lane sum of term(a, b) along axis 1 of two (n, d) arrays."""
    n, d = a.shape
    lanes = np.zeros((LANES, n))
    for j in range(0, d, LANES):
        width = min(LANES, d - j)
        lanes[:width] += term(a[:, j : j + width], b[:, j : j + width]).T
    lanes = lanes[:4] + lanes[4:]
    lanes = lanes[:2] + lanes[2:]
    total: Float64s = lanes[0] + lanes[1]
    return total


def product(a: Float64s, b: Float64s) -> Float64s:
    """A term of a dot product."""
    return a * b


def squared_difference(a: Float64s, b: Float64s) -> Float64s:
    """A term of a squared Euclidean distance."""
    difference = a - b
    return difference * difference


def final_distances(queries: Float64s, points: Float64s, metric: int, lengths: Float64s | None = None) -> Float32s:
    """float32 (n,): the final distance of each pair of rows, (n, d) and (n, d). lengths: the points', if known."""
    if metric == 0:
        return lane_sum(queries, points, squared_difference).astype(np.float32)
    dot = lane_sum(queries, points, product)
    if metric == 2:
        return (0.0 - dot).astype(np.float32) + np.float32(0)  # never -0.0, which would sort before 0.0
    query_lengths = np.sqrt(lane_sum(queries, queries, product))
    if lengths is None:
        lengths = np.sqrt(lane_sum(points, points, product))
    return np.maximum(0.0, 1.0 - dot / (query_lengths * lengths)).astype(np.float32)
